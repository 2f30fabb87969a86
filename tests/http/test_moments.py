"""H4, H10, H11: what becomes of a request when two things happen to its connection in one moment.

A worker that was busy finds them together: a timer and the client's end-of-file, a deadline and what it waited for.
`busy` is such a worker: the hub runs nothing meanwhile, and the kernel gathers what comes.
"""

from __future__ import annotations

import socket
import time

import gevent
import http_helpers as helpers
import pytest
from gevent import socket as gsocket

from cluster.http import Limits, Timeouts
from cluster.http.wire import HEAD, IDLE, RUNNING

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


def busy(seconds: float) -> None:
    """Use the processor so long, with the hub standing still."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def only_connection(served, state):
    """The server's connection, once it is in that state."""
    connections = served.server._engine.connections
    helpers.until(lambda: [connection.state for connection in connections] == [state])
    return next(iter(connections))


def test_a_request_sent_ahead_is_answered_although_the_end_of_file_comes_between_two_exchanges(serve, connect):
    """The first answer and the end-of-file in one turn of the loop: the second request was dropped unanswered."""

    def app(environ, start_response):
        gevent.sleep(0.02)
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    served = serve(app)
    sock = connect(served)
    sock.sendall(GET % 1 + GET % 2 + GET % 3)
    only_connection(served, RUNNING)
    sock.shutdown(socket.SHUT_WR)
    busy(0.05)
    bodies = [answer.body for answer in helpers.responses(helpers.read_all(sock))]
    assert bodies == [b"/1", b"/2", b"/3"]


@pytest.mark.parametrize("first, rest", [
    (b"GET / HTTP/1.1\r\nHo", b"st: a\r\n\r\n"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", b"llo"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"hello"),
], ids=["head", "small body", "streamed body"])  # fmt: skip
def test_a_busy_worker_blames_no_client_for_what_came_meanwhile(serve, connect, first, rest):
    """The rest of the request lies in the kernel when its deadline is looked at: it was answered 408."""

    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"got %d" % len(body)]

    served = serve(app, limits=Limits(timeouts=Timeouts(head=0.2, body=0.2)))
    sock = connect(served)
    sock.sendall(first)
    helpers.until(lambda: any(c.state > IDLE for c in served.server._engine.connections))
    if b"Expect" in first:
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
    sock.sendall(rest)
    busy(0.5)
    assert helpers.Reader(sock).next().body == (b"got 5" if b"POST" in first else b"got 0")


def test_who_drips_gets_no_more_time_by_that(serve, connect):
    """A last look is no extension: half a head, and another byte just before the deadline."""
    served = serve(helpers.Recorder(), limits=Limits(timeouts=Timeouts(head=0.2)))
    sock = connect(served)
    sock.sendall(b"GET / HT")
    only_connection(served, HEAD)
    sock.sendall(b"T")
    busy(0.5)
    assert helpers.Reader(sock).next().status == 408


def test_a_drain_does_not_wait_for_an_empty_line(serve, connect):
    """Old clients send one behind a body; it kept the drain until the keep-alive time-out."""
    goes_on = gevent.event.Event()

    def app(environ, start_response):
        start_response("200 OK", [])(b"head is out")
        goes_on.wait()
        return []

    served = serve(app, limits=Limits(timeouts=Timeouts(keep_alive=1000, head=1000)))
    sock = connect(served)
    sock.sendall(GET % 1)
    only_connection(served, RUNNING)
    sock.sendall(b"\r\n")
    drained = gevent.spawn(served.server.drain, 0)
    helpers.until(lambda: served.server._engine.ending)
    goes_on.set()
    assert helpers.read_all(sock).endswith(b"0\r\n\r\n")
    sock.close()
    drained.get(timeout=10)


@pytest.mark.parametrize("moment", ["end_idle", "on_deadline"])
def test_a_request_that_waits_behind_a_proxys_header_is_answered(serve, moment):
    """Header and request had come, and nobody had looked: the connection was closed unanswered."""
    served = serve(helpers.Recorder(), binding={"proxy_protocol": True})
    connections = served.server._engine.connections
    with gsocket.create_connection(served.address) as sock:
        helpers.until(lambda: connections)
        (preface,) = connections
        sock.sendall(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n" + GET % 1)
        served.server._engine.loop.run_callback(getattr(preface, moment))  # before the hub looks at any socket
        assert helpers.Reader(sock).next().status == 200
