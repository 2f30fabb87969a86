"""Starting, events, ending: rows E1, E2, K3, O2, O3."""

from __future__ import annotations

import re
import signal

import pytest

from ..harness import Workshop, connect, fetch

SERVER = """
trace(cluster("app:app").set("workers", 3)).listen(0, "127.0.0.1", callback=lambda: say("CALLBACK"))
say("OVER")
"""


def test_e1_boot_events_in_order(shop: Workshop) -> None:
    """E1: the order of events; K3: the application is imported in the workers only; O2: exit code 0."""
    server = shop.script(SERVER).ready()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    events = [event for event in server.events() if event != "before fork"]
    assert events == [
        "start", *["worker"] * 3, "listening", *["worker connected"] * 3, *["worker ready"] * 3, "ready",
        "closing", "kill", *["worker removed"] * 3, "close",
    ]
    assert server.lines.index("CALLBACK") < server.lines.index(next(
        line for line in server.lines if " worker " in line and line.startswith("EVENT")))
    assert server.lines[-1] == "OVER"
    importers = {int(match[1]) for line in server.lines if (match := re.match(r"IMPORTED (\d+)", line))}
    assert len(importers) == 3 and server.pid not in importers


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM, signal.SIGINT])
def test_o3_signals_that_end(shop: Workshop, number: int) -> None:
    """O3: QUIT closes, TERM and INT destroy; exit code 0 each time."""
    server = shop.script(SERVER).ready()
    assert server.get().isdigit()
    server.signal(number)
    assert server.wait_exit() == 0
    assert server.events()[-1] == "close"


def test_o2_close_finishes_what_is_in_flight(shop: Workshop) -> None:
    """O2: a request of 1 s that is in flight at the close is answered with 200."""
    server = shop.script(SERVER).ready()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /sleep/1 HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(server.address())  # the first one was accepted before this one
        server.signal(signal.SIGQUIT)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer.lower()
    assert server.wait_exit() == 0
