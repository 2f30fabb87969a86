"""Subjects of mails and reports: placeholders, and nothing that gets into a header."""

from __future__ import annotations

import types
from email.message import EmailMessage

import pytest

import cluster
from cluster import ConfigurationError
from cluster.plugins import _subject

WORKER = types.SimpleNamespace(id=3, pid=4711, generation=2)
ERROR = {"type": "ValueError", "message": "bad", "text": "", "doing": "GET /boom", "fatal": False, "count": 1}


def filled(subject: str, **error: object) -> str:
    """A subject for such an error."""
    return _subject.fill(_subject.check("mail", subject), "box", "shop", WORKER, {**ERROR, **error})


def test_placeholders() -> None:
    """Each is what it says; a brace is written twice."""
    assert filled("{{{host}}} {title} w{worker} {pid} g{generation} {count}") == "{box} shop w3 4711 g2 1"
    assert filled("{type}: {message} ({doing})") == "ValueError: bad (GET /boom)"
    assert filled("{summary}", count=4) == "worker 3 uncaught exception ValueError: bad (4 times)"
    assert {name for name in _subject.NAMES if filled("{" + name + "}")} == set(_subject.NAMES)


@pytest.mark.parametrize("said", ["x\r\nBcc: evil@example.com", "x\rBcc: evil@example.com", "x\nBcc: a@b",
                                  "x\x0bBcc: a@b", "x\x85Bcc: a@b", "x\u2028Bcc: a@b", "x\0Bcc: a@b",
                                  "x\x1b[31mBcc: a@b"])
def test_what_a_worker_says_begins_no_header(said: str) -> None:
    """Line ends of all kinds become blanks, other control characters are shown."""
    for name in ("type", "message", "doing"):
        line = filled("{" + name + "}", **{name: said})
        assert line.splitlines() == [line] and all(sign.isprintable() for sign in line)
        mail = EmailMessage()
        mail["Subject"] = line
        assert "\nBcc" not in mail.as_string()


def test_a_value_is_no_subject_of_its_own() -> None:
    """Placeholders in a message are not filled."""
    assert filled("{message} {host}", message="{pid} {no") == "{pid} {no box"


def test_a_long_message_leaves_room_for_what_follows() -> None:
    """A subject is cut after 200 characters by who sends it."""
    assert filled("{message} on {host}", message="x" * 1000) == "x" * 149 + "… on box"


@pytest.mark.parametrize("subject, reason", [
    ("{hots}", "unknown placeholder {hots}; did you mean 'host'?"), ("{}", "unknown placeholder"),
    ("{0}", "unknown placeholder"), ("{worker.pid}", "unknown placeholder {worker.pid}"),
    ("{host[0]}", "unknown placeholder"), ("{host!r}", "its name only"), ("{host:>99999999}", "its name only"),
    ("{type:{host}}", "its name only"), ("{host", "written twice"), ("100}", "written twice"),
    ("a\nBcc: a@b", "one line"), ("", "one line"), (7, "one line"),
])
def test_wrong_subjects_are_refused_at_once(subject: object, reason: str) -> None:
    """In the script, in one line that says what would be right."""
    for plugin in (lambda: cluster.mail("a@example.com", subject=subject),  # type: ignore[arg-type]
                   lambda: cluster.exceptions(subject=subject)):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError) as raised:
            plugin()
        assert reason in str(raised.value) and "\n" not in str(raised.value)
