"""Row F1: a server that is full lets new clients in, at the expense of those that do nothing."""

from __future__ import annotations

import errno
import os

import gevent
import http_helpers as helpers
import pytest

from cluster.http import Limits, Timeouts
from cluster.http import room as rooms

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PATIENT = Timeouts(keep_alive=1000, head=1000)


def hello(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]


def ask(sock):
    sock.sendall(GET)
    return helpers.Reader(sock).next()


def test_whoever_has_been_idle_for_longest_goes(serve, connect):
    """Polite clients that keep their connections shut all others out for ever."""
    served = serve(hello, limits=Limits(connections=50, timeouts=PATIENT))
    socks = [connect(served) for _ in range(50)]
    for sock in socks:
        assert ask(sock).status == 200
    assert ask(socks[0]).status == 200  # the one idle for longest is now the second
    new = connect(served)
    with gevent.Timeout(1):
        assert ask(new).status == 200
    assert socks[1].recv(1) == b""
    assert ask(socks[0]).status == 200 and served.server.active == 50


def test_a_request_on_its_way_is_answered_as_the_last_one(serve, connect):
    served = serve(hello, limits=Limits(connections=1, timeouts=PATIENT))
    sock = connect(served)
    assert ask(sock).header("Connection") is None
    (connection,) = served.server._engine.connections
    served.server._engine.crowd(True)
    sock.sendall(GET)
    served.server._engine.loop.run_callback(connection.give_way)  # before the hub looks at the socket
    answer = helpers.Reader(sock).next()
    assert answer.status == 200 and answer.header("Connection") == "close" and sock.recv(1) == b""


def test_who_is_in_progress_is_not_cut_for_others(serve, connect):
    """Its answer says that it is the last one; only then somebody else has its place."""
    goes_on = gevent.event.Event()

    def app(environ, start_response):
        goes_on.wait()
        return hello(environ, start_response)

    served = serve(app, limits=Limits(connections=1, timeouts=PATIENT))
    first, second = connect(served), connect(served)
    first.sendall(GET)
    second.sendall(GET)
    helpers.until(lambda: served.server._engine.crowded)
    goes_on.set()
    answer = helpers.Reader(first).next()
    assert answer.body == b"hello" and answer.header("Connection") == "close"
    first.close()
    answer = helpers.Reader(second).next()
    assert answer.body == b"hello" and answer.header("Connection") is None  # there is room again


def test_descriptors_are_kept_back_for_the_application(serve, connect, monkeypatch):
    """As full as at `max connections` is who would have to take one of the last 16."""
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    monkeypatch.setattr(rooms.resource, "getrlimit", lambda kind: (free + 20 + rooms.KEPT_BACK, 1 << 20))
    served = serve(hello, limits=Limits(timeouts=PATIENT))
    socks = []
    for _ in range(40):
        sock = connect(served)
        assert ask(sock).status == 200
        socks.append(sock)
    assert served.server.active < 20  # our own ends are descriptors of this process, too


def test_no_descriptor_left_is_one_line_and_ends_who_is_idle(serve, connect, capfd):
    served = serve(hello, limits=Limits(timeouts=PATIENT))
    sock = connect(served)
    assert ask(sock).status == 200
    room = served.server.room
    (connection,) = served.server._engine.connections
    connection.since -= 100
    for _ in range(3):
        room.out_of_descriptors(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    assert sock.recv(1) == b""
    assert capfd.readouterr().err.count("cannot take new connections: Too many open files") == 1


@pytest.mark.parametrize("wanted, descriptors, fits", [
    (10000, 1 << 20, 10000), (10000, 1024, 976), (50, 1024, 50), (50, 10, 1),
])  # fmt: skip
def test_connections_that_fit(wanted, descriptors, fits):
    assert rooms.fitting(wanted, descriptors) == fits
