"""The ways to use the strict client: load for a time, load beside a test, arriving clients, the command."""

from __future__ import annotations

import threading

import pytest

from benchmarks import strict
from benchmarks.arrivals import arrive, wait_for_answer
from tests.unit.scripted_server import Peer, scripted


def good(peer: Peer) -> None:
    while peer.request():
        peer.answer()


def close_under_request(peer: Peer) -> None:
    peer.request()
    peer.close()


def reset_under_request(peer: Peer) -> None:
    peer.request()
    peer.reset()


def test_think_time_keeps_connections() -> None:
    with scripted(good) as server:
        report = strict.run(server.address, 8, 0.5, think=0.02)
    assert report.clean, report
    assert report.connections == 8
    assert 8 < report.requests <= 8 * 26


def test_load_beside_a_test_that_ends_the_server() -> None:
    with scripted(good) as server:
        with strict.load(server.address, 4) as traffic:
            traffic.wait_answered(50)
        assert traffic.report.clean, traffic.report
        assert traffic.report.answered >= 54
        server.refuse()
        with pytest.raises(TimeoutError, match="0 answered on 0"), strict.load(server.address, 2, timeout=0.2):
            pytest.fail("the block must not begin")


def test_connections_by_worker() -> None:
    lock = threading.Lock()
    accepted = 0

    def script(peer: Peer) -> None:
        nonlocal accepted
        with lock:
            accepted += 1
            pid = b"11" if accepted <= 3 else b"22"
        while peer.request():
            peer.answer(pid)

    with scripted(script) as server:
        report = strict.run(server.address, 4, 0.3, pids=True)
    assert report.by_worker == {11: 3, 22: 1}
    assert report.unevenness(2) == 1.5
    # Workers that got none count in the mean.
    assert report.unevenness(4) == 3.0


@pytest.mark.parametrize(("at_once", "hold"), [(1, True), (20, True), (1, False)])
def test_arrivals(at_once: int, hold: bool) -> None:
    peers: list[Peer] = []
    gone: list[bool] = []
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        # Singly, those before must have left by now, or be there still.
        gone.extend(before.ended() for before in peers)
        peers.append(peer)
        peer.answer(b"33")
        assert over.wait(10)

    with scripted(script) as server:
        report = arrive(server.address, 20, at_once, hold=hold)
        over.set()
    assert report.clean, report
    assert report.by_worker == {33: 20}
    assert len(report.latencies) == report.connections == len(server.requests) == 20
    assert set(gone) == {not hold}


def test_arrivals_that_fail() -> None:
    with scripted(close_under_request, reset_under_request, good) as server:
        report = arrive(server.address, 5, 1)
    assert report.failures == {"closed": 1, "reset": 1}
    assert report.answered == 3


def test_wait_for_answer_skips_failures_and_unwanted_workers() -> None:
    def old(peer: Peer) -> None:
        peer.request()
        peer.answer(b"1")

    def new(peer: Peer) -> None:
        peer.request()
        peer.answer(b"2")

    with scripted(reset_under_request, old, new) as server:
        wait_for_answer(server.address, 5.0, unlike=frozenset({1}))
        assert len(server.requests) == 3
        server.refuse()
        with pytest.raises(TimeoutError):
            wait_for_answer(server.address, 0.05)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(good) as server:
        address = f"{server.address[0]}:{server.address[1]}"
        assert strict.main([address, "--seconds", "0.1", "--connections", "2"]) == 0
        assert "failures     0 (none)" in capsys.readouterr().out
        server.refuse()
        assert strict.main([address, "--seconds", "0.1", "--connections", "2"]) == 1
        assert "refused" in capsys.readouterr().out
