"""Tables of words that clients choose: bounded, and whoever fills them with junk harms nobody for long (row Z5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.http import grammar, response
from cluster.http.learned import Learned
from cluster.http.limits import Limits
from cluster.http.proxies import Networks, TrustedProxies
from cluster.http.request import Environ, HeadParser

#: as a browser and the proxies in front of us spell them
ORDINARY = (b"Host", b"host", b"User-Agent", b"user-agent", b"Cookie", b"accept-encoding", b"sec-ch-ua", b"Sec-Ch-Ua",
            b"X-Forwarded-For", b"x-request-id", b"X-Request-Id", b"Content-Length", b"content-type", b"TE", b"Te")


def head(names: list[str]) -> bytes:
    return ("GET / HTTP/1.1\r\nHost: a\r\n" + "".join(f"{name}: 1\r\n" for name in names) + "\r\n").encode()


def parsed(data: bytes) -> Environ:
    environ: Environ = {}
    HeadParser(Limits()).parse(data, environ)
    return environ


@pytest.fixture
def attacked() -> Iterator[None]:
    """Twelve requests of 90 names that nobody has, and many more: the tables are as full as they get."""
    for request in range(60):
        parsed(head([f"X-Junk-{request}-{number}" for number in range(90)]))
    yield


@pytest.mark.usefixtures("attacked")
def test_registered_names_are_still_known_after_a_flood_of_junk() -> None:
    keys = {name: grammar.KEYS[name] for name in ORDINARY}
    parsed(head([f"Y-Junk-{number}" for number in range(90)]))
    assert all(grammar.KEYS[name] is key for name, key in keys.items())
    assert grammar.KEYS[b"sec-ch-ua"] == "HTTP_SEC_CH_UA" and grammar.KEYS[b"content-type"] == "CONTENT_TYPE"


@pytest.mark.usefixtures("attacked")
def test_a_name_that_is_used_after_a_flood_of_junk_is_learned() -> None:
    assert b"X-Of-Ours" not in grammar.KEYS
    first, second = (parsed(head(["X-Of-Ours"])) for _ in range(2))
    (one,), (two,) = ([key for key in environ if key.endswith("OURS")] for environ in (first, second))
    assert one == "HTTP_X_OF_OURS" and one is two is grammar.KEYS[b"X-Of-Ours"]


@pytest.mark.usefixtures("attacked")
def test_the_names_are_bounded_and_the_newest_stay() -> None:
    size = len(grammar.KEYS)
    parsed(head([f"Z-Junk-{number}" for number in range(90)]))
    assert len(grammar.KEYS) == size < 2048
    assert all(f"Z-Junk-{number}".encode() in grammar.KEYS for number in range(90))


@pytest.mark.usefixtures("attacked")
def test_what_must_not_become_a_key_is_not_learned() -> None:
    parsed(head(["X_Junk", "X-" + "Long" * 100]))
    assert not any(b"_" in name or len(name) > 64 for name in grammar.KEYS)


def test_known_names_become_the_keys_that_the_rule_says() -> None:
    known = [name for name in grammar.KEYS if not name.startswith((b"X-Junk", b"Y-", b"Z-"))]
    assert len(known) > 400
    for name in known:
        assert grammar.environ_key(name) == grammar.KEYS[name]


def test_addresses_of_clients_do_not_freeze_what_is_known_of_peers() -> None:
    proxies = Networks("10.0.0.0/8, unix")
    trusting = TrustedProxies(proxies)
    for number in range(10_000):
        environ: Environ = {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "1"}
        environ["HTTP_X_FORWARDED_FOR"] = f"192.0.{number >> 8}.{number & 255}"
        trusting.apply(environ)
    assert len(proxies._known) < 5000
    assert "198.51.100.7" not in proxies and proxies._known["198.51.100.7"] is False
    assert "10.1.2.3" in proxies and proxies._known["10.1.2.3"] is True
    assert "" in proxies, "peers on unix sockets were forgotten"
    assert "" not in Networks("10.0.0.0/8")


def test_words_that_an_application_has_from_its_clients_do_not_freeze_its_own() -> None:
    for number in range(3000):
        response.field_meaning(f"X-Junk-{number}")
        response.status_line(f"200 Junk {number}")
    assert len(response.FIELDS) < 2048 and len(response.STATUSES) < 2048
    assert response.FIELDS.get("Date") is None
    assert response.field_meaning("Date") == response.FIELDS["Date"] == response.DATE
    assert response.status_line("299 Of Ours") is response.STATUSES["299 Of Ours"]


def test_a_table_forgets_what_it_learned_first_and_never_what_it_knew() -> None:
    learned: Learned[str, int] = Learned(2, {"known": 0})
    for meaning, word in enumerate(("a", "b", "c"), 1):
        learned.learn(word, meaning)
    assert learned.table == {"known": 0, "b": 2, "c": 3}
    learned.learn("a", 4)
    assert learned.table == {"known": 0, "c": 3, "a": 4}
    learned.learn("known", 5)
    learned.learn("c", 6)
    assert learned.table == {"known": 0, "c": 3, "a": 4}
