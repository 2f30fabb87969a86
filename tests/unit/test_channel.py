"""Framed messages: row E4."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.event
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.channel import FRAME_LIMIT, Channel, encode, pair
from cluster.errors import ChannelError, RemoteError


class End:
    """One end with what it got."""

    def __init__(self, connection: Any) -> None:
        self.got: list[Any] = []
        self.reasons: list[str] = []
        self.news = gevent.event.Event()
        self.channel = Channel(connection, self._message, self._closed)
        self.channel.start()

    def _message(self, message: Any) -> None:
        self.got.append(message)
        self.news.set()

    def _closed(self, reason: str) -> None:
        self.reasons.append(reason)
        self.news.set()

    def wait(self, reached: Any) -> None:
        with gevent.Timeout(20):
            while not reached():
                self.news.clear()
                self.news.wait()


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    """Two ends."""
    left, right = pair()
    made = End(left), End(right)
    yield made
    for end in made:
        end.channel.close()


def test_messages_arrive_in_order_also_large_ones(ends: tuple[End, End]) -> None:
    """A megabyte does not overtake, nor is it overtaken."""
    left, right = ends
    for number in range(100):
        left.channel.send({"t": "x", "n": number, "data": "y" * (1_000_000 if number == 50 else 10)})
    right.wait(lambda: len(right.got) == 100)
    assert [message["n"] for message in right.got] == list(range(100))


def test_calls_and_replies(ends: tuple[End, End]) -> None:
    """A reply goes to its call; an error raises there; calls fail when the peer goes."""
    left, right = ends
    first, second, third = (left.channel.call("f", (n,)) for n in range(3))
    right.wait(lambda: len(right.got) == 3)
    right.channel.reply(right.got[1]["id"], "two")
    right.channel.reply(right.got[0]["id"], error="broken")
    assert second.get(timeout=20) == "two"
    with pytest.raises(RemoteError, match="broken"):
        first.get(timeout=20)
    right.channel.close()
    with pytest.raises(ChannelError, match="no answer"):
        third.get(timeout=20)
    with pytest.raises(ChannelError, match="has gone"):
        left.channel.send({"t": "x"})
    assert left.reasons == ["end of file"]


def test_a_result_that_is_not_json_is_answered_as_an_error(ends: tuple[End, End]) -> None:
    """The caller learns it, instead of waiting for ever."""
    left, right = ends
    answer = left.channel.call("f", ())
    right.wait(lambda: right.got)
    right.channel.reply(right.got[0]["id"], object())
    with pytest.raises(RemoteError, match="cannot be sent as JSON"):
        answer.get(timeout=20)


@pytest.mark.parametrize("garbage", [
    b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"abc", struct.pack(">I", 2) + b"[]",
    struct.pack(">I", 9) + b'{"t": 1} ',
    struct.pack(">I", 0), struct.pack(">I", 100_000) + b"[" * 100_000,
])
def test_garbage_closes(garbage: bytes) -> None:
    """Anything but a message ends the channel, with a reason that says so."""
    left, right = pair()
    end = End(left)
    right.sendall(garbage)
    end.wait(lambda: end.reasons)
    assert end.reasons[0].startswith("garbage") and end.got == []
    right.close()


def test_what_cannot_be_sent() -> None:
    """Not JSON, or too large: an error for the sender."""
    for message in ({"t": "x", "v": object()}, {"t": "x", "v": "y" * FRAME_LIMIT}):
        with pytest.raises(ChannelError):
            encode(message)


def test_tell_is_refused_while_the_peer_does_not_read(ends: tuple[End, End]) -> None:
    """What may be lost adds to what waits up to a limit, and does not end the channel; the rest is queued behind it."""
    left, right = ends
    with pytest.raises(ChannelError, match="does not read"):
        for _ in range(100):
            left.channel.tell("note", ("x" * 100_000,))
    left.channel.send({"t": "last"})
    right.wait(lambda: right.got and right.got[-1] == {"t": "last"})
    assert {message["name"] for message in right.got[:-1]} == {"note"} and left.channel.open


def test_peer_that_does_not_read_does_not_block(ends: tuple[End, End]) -> None:
    """What does not fit into the socket waits in memory, and is flushed when the peer reads."""
    left, right = pair()
    end = End(left)
    for _ in range(50):
        end.channel.send({"t": "x", "data": "y" * 100_000})
    right.setblocking(True)
    received = 0
    while received < 50 * 100_000:
        end.channel.flush(0.01)
        received += len(right.recv(1_000_000))
    end.channel.close()
    right.close()


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_in_any_pieces_never_raise(data: bytes, size: int) -> None:
    """Whatever comes, in whatever pieces: messages, or the end; never an exception in the hub."""
    left, right = pair()
    end = End(left)
    good = encode({"t": "ok"})
    for start in range(0, len(good + data), size):
        if end.channel.open:
            right.sendall((good + data)[start : start + size])
        end.channel.read_rest()
    with contextlib.suppress(OSError):
        right.shutdown(socket.SHUT_WR)
    end.channel.read_rest()
    assert end.got[0] == {"t": "ok"} and len(end.reasons) == 1
    right.close()


def test_no_descriptor_is_left() -> None:
    """Closing both ends closes their descriptors at once."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        left, right = pair()
        one, two = End(left), End(right)
        one.channel.close()
        two.channel.close()
    assert len(os.listdir("/proc/self/fd")) == before
