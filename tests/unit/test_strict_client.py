"""The strict client must count every failure, each as what it is, and call nothing a failure that is none."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import strict
from benchmarks.client import KINDS, Client, Report, State, resolve
from tests.unit.scripted_server import Peer, Script, ScriptedServer, scripted

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def ask(
    address: tuple[str, int], requests: int, meanwhile: Callable[[], None] = lambda: None, blind: bool = False
) -> Report:
    """So many requests one after the other on one keep-alive client, with `meanwhile` between them."""
    client = Client(address, lambda connection, good: None, timeout=0.5, blind=blind)
    connection = client.open()
    for number in range(requests):
        if number:
            meanwhile()
        client.begin(connection)
        while client.pending:
            client.turn(1.0)
    return client.close()


def good(peer: Peer) -> None:
    while peer.request():
        peer.answer()


def raw(*parts: bytes) -> Script:
    """Sends these bytes in answer to the first request, and closes."""

    def script(peer: Peer) -> None:
        peer.request()
        for part in parts:
            peer.send(part)

    return script


def raw_and_stall(data: bytes) -> Script:
    """The same, but the connection stays open until the client ends it."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.wait_closed()

    return script


def reset_after(data: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.reset()

    return script


def reset_under_second(peer: Peer) -> None:
    """Answers once, and closes with the second request unread: a reset, as by a server that times out too early."""
    peer.request()
    peer.answer()
    peer.wait_unread()
    peer.close()


def close_under_second(peer: Peer) -> None:
    peer.request()
    peer.answer()
    peer.request()
    peer.close()


def reset_at_once(peer: Peer) -> None:
    peer.reset()


FAILURES: dict[str, tuple[Script, str]] = {
    "reset when accepted": (reset_at_once, "reset"),
    "reset under the request": (reset_after(b""), "reset"),
    "reset in the head": (reset_after(b"HTTP/1.1 200 OK\r\n"), "reset"),
    "reset in the body": (reset_after(COUNTED + b"12345"), "reset"),
    "closed under the request": (raw(), "closed"),
    "cut in the status line": (raw(b"HTTP/1."), "cut"),
    "cut in the head": (raw(b"HTTP/1.1 200 OK\r\nContent-Len"), "cut"),
    "cut after the head": (raw(COUNTED), "cut"),
    "cut one byte before the end": (raw(COUNTED + b"123456789"), "cut"),
    "cut in a chunk": (raw(CHUNKED + b"5\r\nabc"), "cut"),
    "cut before the last chunk": (raw(CHUNKED + b"3\r\nabc\r\n"), "cut"),
    "cut after the last chunk": (raw(CHUNKED + b"3\r\nabc\r\n0\r\n"), "cut"),
    "cut after an interim response": (raw(b"HTTP/1.1 100 Continue\r\n\r\n"), "cut"),
    "cut though the close was announced": (
        raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n1"),
        "cut",
    ),
    "no length": (raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it?"), "malformed"),
    "no HTTP": (raw(b"hello\r\n"), "malformed"),
    "more than promised": (raw(COUNTED + b"0123456789A"), "malformed"),
    "never answers": (raw_and_stall(b""), "timeout"),
    "stalls in the body": (raw_and_stall(COUNTED + b"12345"), "timeout"),
}


@pytest.mark.parametrize(("script", "kind"), FAILURES.values(), ids=FAILURES)
def test_failure_counts_once_and_is_not_tried_again(script: Script, kind: str) -> None:
    with scripted(script, good) as server:
        report = ask(server.address, 1)
    assert report.failures == {kind: 1}
    assert (report.requests, report.answered, report.reconnects, report.closed_idle) == (1, 0, 0, 0)
    assert not report.clean
    assert kind in report.details[0]
    # The second script would have answered a retry.
    assert len(server.requests) <= 1


@pytest.mark.parametrize(("script", "kind"), FAILURES.values(), ids=FAILURES)
def test_next_request_after_a_failure_is_a_new_one(script: Script, kind: str) -> None:
    with scripted(script, good) as server:
        report = ask(server.address, 3)
    assert report.failures == {kind: 1}
    assert (report.requests, report.answered) == (3, 2)
    # A reset may come so early that the first one never counted as established.
    assert report.connections in ((1, 2) if script is reset_at_once else (2,))


@pytest.mark.parametrize(("script", "kind"), [(reset_under_second, "reset"), (close_under_second, "closed")])
def test_connection_that_ends_under_a_later_request(script: Script, kind: str) -> None:
    with scripted(script, good) as server:
        report = ask(server.address, 3)
    assert report.failures == {kind: 1}
    assert (report.answered, report.closed_idle) == (2, 0)


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_status(status: int) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"no", status)
        good(peer)

    with scripted(script) as server:
        report = ask(server.address, 2)
    assert report.failures == {"status": 1}
    # The connection is as good as before.
    assert (report.answered, report.connections) == (1, 1)


def test_refused() -> None:
    with scripted(good) as server:
        server.refuse()
        report = ask(server.address, 3)
    assert report.failures == {"refused": 3}
    assert report.requests == 3
    assert report.connections == 0


def test_failure_to_connect_that_is_known_at_once() -> None:
    report = ask(("255.255.255.255", 9), 2)
    assert report.failures == {"refused": 2}


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = ScriptedServer((good,), socket.AF_UNIX, path)
    report = strict.run(f"unix:{path}", 4, 0.1)
    server.finish()
    assert report.clean, report
    assert report.connections == 4
    assert strict.run(path, 1, 0.01).failures == {"refused": 1}


def test_announced_close_is_no_failure() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"bye", 200, b"Connection: close")

    with scripted(script) as server:
        report = ask(server.address, 3)
    assert report.clean, report
    assert (report.answered, report.reconnects, report.connections, report.closed_idle) == (3, 3, 3, 0)


class Idle:
    """A script that answers once, and does something to the idle connection when the test says so.

    The client has then read the whole answer, and what was done has happened before it goes on.
    """

    def __init__(self, act: Callable[[Peer], None]) -> None:
        self._act = act
        self._go = threading.Event()
        self._done = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.request()
        peer.answer()
        assert self._go.wait(10)
        self._act(peer)
        self._done.set()

    def now(self) -> None:
        self._go.set()
        assert self._done.wait(10)


def send_unasked(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")


def test_closed_idle_is_no_failure() -> None:
    idle = Idle(Peer.close)
    with scripted(idle, good) as server:
        report = ask(server.address, 2, idle.now)
    assert report.clean, report
    assert (report.answered, report.closed_idle, report.reconnects, report.connections) == (2, 1, 0, 2)
    assert len(server.requests) == 2


def test_closed_idle_is_a_failure_of_a_blind_client() -> None:
    idle = Idle(Peer.close)
    with scripted(idle, good) as server:
        report = ask(server.address, 3, idle.now, blind=True)
    assert report.failures == {"closed": 1}
    assert (report.requests, report.answered, report.closed_idle) == (3, 2, 0)
    assert len(server.requests) == 2


def test_blind_client_that_is_done_has_not_failed() -> None:
    idle = Idle(Peer.close)
    with scripted(idle) as server:
        client = Client(server.address, lambda connection, good: idle.now(), blind=True)
        client.begin(client.open())
        while client.pending:
            client.turn(1.0)
        report = client.close()
    assert report.clean, report
    assert report.closed_idle == 1


@pytest.mark.parametrize(("act", "kind"), [(Peer.reset, "reset"), (send_unasked, "malformed")])
def test_reset_or_unasked_bytes_while_idle_are_a_failure(act: Callable[[Peer], None], kind: str) -> None:
    idle = Idle(act)
    with scripted(idle, good) as server:
        report = ask(server.address, 3, idle.now)
    assert report.failures == {kind: 1}
    assert (report.requests, report.answered) == (3, 2)


@pytest.mark.parametrize(("act", "failed", "closed"), [(Peer.reset, 1, 0), (send_unasked, 1, 0), (Peer.close, 0, 1)])
def test_what_happens_between_requests_counts(act: Callable[[Peer], None], failed: int, closed: int) -> None:
    idle = Idle(act)
    with scripted(idle) as server:
        client = Client(server.address, lambda connection, good: idle.now())
        connection = client.open()
        client.begin(connection)
        while connection.state is not State.SHUT:
            client.turn(1.0)
        report = client.close()
    assert (report.answered, report.failed, report.closed_idle) == (1, failed, closed)
    # The spoilt next request is counted as begun, so that the sum stays right.
    assert report.requests == 1 + failed


def test_end_of_the_run_still_looks_at_idle_connections() -> None:
    idle = Idle(Peer.reset)
    with scripted(idle) as server:
        client = Client(server.address, lambda connection, good: idle.now())
        client.begin(client.open())
        while client.pending:
            client.turn(1.0)
        report = client.close()
    assert report.failures == {"reset": 1}


def test_good_responses_of_all_shapes() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        for byte in CHUNKED + b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nTrailer: x\r\n\r\n":
            peer.send(bytes([byte]))
        peer.request()
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        peer.request()
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        peer.answer(b"x" * 1_000_000)
        good(peer)

    with scripted(script) as server:
        report = ask(server.address, 4)
    assert report.clean, report
    assert (report.answered, report.connections, len(report.latencies)) == (4, 1, 4)


def test_report_adds_up_or_raises() -> None:
    with scripted(raw_and_stall(b"")) as server:
        client = Client(server.address, lambda connection, good: None)
        client.begin(client.open())
        with pytest.raises(RuntimeError, match="1 requests have no outcome"):
            client.close()


def test_no_requests_are_not_clean() -> None:
    assert not Report().clean


@pytest.mark.parametrize("with_idle", [False, True])
def test_count_equals_what_the_server_did(with_idle: bool) -> None:
    """A server that fails at random and keeps count: the client must have counted the very same."""
    did: Counter[str] = Counter()
    lock = threading.Lock()
    dice = random.Random(7)
    outcomes = ["good"] * 6 + ["chunked", "announced", "reset", "closed", "cut", "status", "malformed"]

    def script(peer: Peer) -> None:
        while peer.request():
            with lock:
                outcome = dice.choice(outcomes + ["idle"] * with_idle)
                did[outcome] += 1
            if outcome == "good":
                peer.answer()
            elif outcome == "chunked":
                peer.send(CHUNKED + b"2\r\nok\r\n0\r\n\r\n")
            elif outcome == "status":
                peer.answer(b"", 500)
            elif outcome == "reset":
                return peer.reset()
            elif outcome == "announced":
                return peer.answer(b"", 200, b"Connection: close")
            elif outcome == "idle":
                return peer.answer()
            elif outcome == "cut":
                return peer.send(COUNTED)
            elif outcome == "malformed":
                return peer.send(b"oh\r\n")
            else:
                return None
        return None

    with scripted(script) as server:
        report = strict.run(server.address, 16, 1.0)
    assert report.requests > 100
    assert report.answered == did["good"] + did["chunked"] + did["announced"] + did["idle"]
    for kind in ("cut", "status", "malformed"):
        assert report.failures[kind] == did[kind]
    assert report.reconnects == did["announced"]
    assert report.failures["refused"] == report.failures["timeout"] == 0
    if with_idle:
        # Whether the client saw the end before it sent the next request is a matter of chance; both count.
        noticed = report.failures["reset"] + report.failures["closed"] + report.closed_idle
        # Those that the server ends after the run has ended nobody sees: at most one for each connection.
        ended = did["reset"] + did["closed"] + did["idle"]
        assert ended - 16 <= noticed <= ended
    else:
        assert (report.failures["reset"], report.failures["closed"]) == (did["reset"], did["closed"])
        assert report.closed_idle == 0
        assert report.requests == len(server.requests)


def test_addresses() -> None:
    assert resolve("127.0.0.1:80") == resolve(("127.0.0.1", 80)) == (socket.AF_INET, ("127.0.0.1", 80), "127.0.0.1:80")
    assert resolve("[::1]:80") == (socket.AF_INET6, ("::1", 80), "[::1]:80")
    assert resolve("unix:/run/x")[:2] == resolve("/run/x")[:2] == (socket.AF_UNIX, "/run/x")
    for wrong in ("", "80", "localhost", "localhost:http"):
        with pytest.raises(ValueError, match="is no address"):
            resolve(wrong)


def test_every_kind_is_shown() -> None:
    report = Report(requests=len(KINDS), failures=Counter(KINDS))
    assert all(f"1 {kind}" in str(report) for kind in KINDS)
    assert report.failed == len(KINDS)
