"""What differs between systems, with the facts of each handed in."""

from __future__ import annotations

import os
import socket
import struct
import sys
import types
from typing import Any

import pytest

from cluster.plugins import _gate
from cluster.system import peer, set_title


class Asked:
    """A connection of another system: answers to getsockopt by level and option."""

    def __init__(self, answers: dict[tuple[int, int], bytes]) -> None:
        self.answers = answers

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """As the kernel does."""
        if (level, option) not in self.answers:
            raise OSError(92, "Protocol not available")
        return self.answers[level, option][:size]


def test_who_is_at_the_other_end_here() -> None:
    """On this very system."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer(ours) == (os.getpid(), os.geteuid())


@pytest.mark.parametrize("version, expected", [(0, (4711, 501)), (1, (4711, None))])
def test_who_is_at_the_other_end_on_macos(version: int, expected: Any) -> None:
    """The kernel tells it in a structure whose version is 0; of another nothing is believed."""
    xucred = struct.pack("=IIhxx16I", version, 501, 1, 20, *[0] * 15)
    assert peer(Asked({(0, 1): xucred, (0, 2): struct.pack("=i", 4711)}), "darwin") == expected


@pytest.mark.parametrize("platform", ["linux", "darwin", "freebsd14"])
def test_nobody_is_known_where_the_system_does_not_tell(platform: str) -> None:
    """No answer, or none of a right form."""
    assert peer(Asked({}), platform) == (None, None)
    assert peer(Asked({(0, 1): b"", (1, 17): b"x"}), platform) == (None, None)


def test_a_check_that_is_missing_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: where the peer could not be told, everybody was let into the REPL."""
    gate = object.__new__(_gate.Gate)
    gate._address = "/run/repl.sock"
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    for answer, welcome in ((None, False), (os.geteuid() + 1, False), (os.geteuid(), True), (0, True)):
        monkeypatch.setattr(_gate, "peer", lambda connection, answer=answer: (None, answer), raising=False)
        assert gate._welcome(Asked({})) is welcome


def test_titles_are_left_alone_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting them on both sides of a fork is known to crash there."""
    titles: list[str] = []
    monkeypatch.setitem(sys.modules, "setproctitle", types.SimpleNamespace(setproctitle=titles.append))
    set_title("a", "darwin")
    assert titles == []
    set_title("b", "linux")
    assert titles == ["b"]
