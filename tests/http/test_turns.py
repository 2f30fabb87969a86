"""Many clients of long responses: what they take of the kernel's memory, and of everybody else's time (row F3)."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import http_helpers as helpers
import pytest
from gevent.hub import Waiter

from cluster.http.turns import Turns

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#: bytes that the kernel holds for a socket to send
SIOCOUTQ = 0x5411


def endless(piece: bytes, made: Callable[[], None] = lambda: None):
    def app(environ, start_response):
        start_response("200 OK", [])

        def pieces() -> Iterator[bytes]:
            while True:
                made()
                yield piece

        return pieces()

    return app


def work() -> None:
    end = time.monotonic() + 0.001
    while time.monotonic() < end:
        pass


def all_blocked(served, count: int) -> bool:
    connections = served.server._engine.connections
    return len(connections) == count and all(connection._waiting_write for connection in connections)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's numbers are Linux's")
def test_clients_that_do_not_read_hold_little_of_the_kernels_memory(serve, connect):
    served = serve(endless(b"x" * 65536))
    socks = [connect(served) for _ in range(10)]
    for sock in socks:
        sock.sendall(REQUEST)
    helpers.until(lambda: all_blocked(served, len(socks)))
    for connection in served.server._engine.connections:
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, helpers.NOTSENT_LOWAT) == 32768, "not inherited"
        (held,) = struct.unpack("i", fcntl.ioctl(connection.sock.fileno(), SIOCOUTQ, b"\0" * 4))
        assert held < 500_000


class Looks:
    """Notes, whenever the loop looks at its sockets, how much was done since it did so last."""

    def __init__(self) -> None:
        self.done = self._seen = 0
        self.found: list[int] = []
        self._ends = socket.socketpair()
        self._ends[0].send(b"x")  # never read
        self._watcher: Any = gevent.get_hub().loop.io(self._ends[1].fileno(), 1)

    def __enter__(self) -> Looks:
        self._seen = self.done
        self._watcher.start(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._watcher.stop()
        self._watcher.close()
        for end in self._ends:
            end.close()

    def _look(self) -> None:
        self.found.append(self.done - self._seen)
        self._seen = self.done

    def work(self) -> None:
        work()
        self.done += 1


def test_few_responses_go_on_between_two_looks_at_the_sockets(serve, connect):
    """Each of 30 endless responses makes pieces that take 1 ms, for clients that are always ready for more."""
    looks = Looks()
    served = serve(endless(b"x", looks.work))
    socks = [connect(served) for _ in range(30)]
    for sock in socks:
        sock.sendall(REQUEST)
    helpers.until(lambda: looks.done > 60)
    with looks:
        end = looks.done + 120
        helpers.until(lambda: looks.done > end)
    assert max(looks.found) <= 8


def test_few_responses_go_on_when_many_clients_read_at_once(serve, connect):
    looks = Looks()
    served = serve(endless(b"x" * 400_000, looks.work))
    socks = [connect(served) for _ in range(30)]
    for sock in socks:
        sock.sendall(REQUEST)
    helpers.until(lambda: all_blocked(served, len(socks)))
    with looks:
        end = looks.done + 60
        for _ in range(200):
            for sock in socks:  # without a look at the sockets in between
                try:
                    while sock._sock.recv(1 << 20):
                        pass
                except BlockingIOError:
                    pass
            gevent.sleep(0.001)
            if looks.done > end:
                break
    assert sum(looks.found) > 30
    assert max(looks.found) <= 8


def test_turns_come_in_order_and_whoever_gave_up_is_passed_over():
    turns = Turns(gevent.get_hub())
    order: list[int] = []

    def go_on(number: int) -> None:
        turns.wait()
        order.append(number)

    waiting = [gevent.spawn(go_on, number) for number in range(5)]
    gevent.idle()
    assert order == [0, 1, 2, 3, 4]
    waiting = [gevent.spawn(go_on, number) for number in range(5, 10)]
    waiter: Waiter[None] = Waiter()
    gevent.get_hub().loop.run_callback(waiting[2].kill, gevent.GreenletExit, False)
    gevent.joinall(waiting, timeout=10)
    assert order == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    turns.queue(waiter)
    assert waiter.get() is None, "a queue that was empty goes on"
