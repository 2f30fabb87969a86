"""H4, H7, H10, H11: several greenlets at work on one response, and one response beside others."""

from __future__ import annotations

import os

import gevent
import http_helpers as helpers
import pytest

from cluster import counters as index
from cluster.http import ClientGone, Limits, Timeouts
from cluster.http.wire import CLOSED

TEXT = [("Content-Type", "text/plain")]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#: more than the kernel takes of a response that nobody reads
MUCH = 30_000_000


def post(length, body=b"", *headers):
    lines = [b"POST / HTTP/1.1", b"Host: a", b"Content-Length: %d" % length, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# --- reading ----------------------------------------------------------------------------------------------------------


def reading(outcome, patience=None):
    """An application that answers while another greenlet still reads the body; notes what becomes of that."""

    def app(environ, start_response):
        def read():
            try:
                with gevent.Timeout(patience):
                    environ["wsgi.input"].read()
            except (OSError, gevent.Timeout) as error:
                outcome.append(type(error))

        gevent.spawn(read)
        gevent.sleep(0)
        start_response("200 OK", TEXT)
        return [b"answered"]

    return app


@pytest.mark.parametrize("length", [100_000, 100_000_000], ids=["read away", "too much for that"])
def test_h5_the_end_of_a_request_ends_reads_of_its_body(serve, connect, length):
    """At once, and without an error of the server's own."""
    outcome: list[type] = []
    served = serve(reading(outcome), limits=Limits(timeouts=Timeouts(linger=1000, body=1000)))
    sock = connect(served)
    sock.sendall(post(length, b"x" * 1000))
    assert helpers.Reader(sock).next().body == b"answered"
    helpers.until(lambda: outcome)
    assert outcome == [ClientGone] and not served.errors


def test_h11_a_read_that_ends_late_leaves_the_linger_its_deadline(serve, connect):
    """The reader's clean-up took the deadline away, and with it the end of the connection, and of a drain."""
    outcome: list[type] = []
    served = serve(reading(outcome, 0.01), limits=Limits(timeouts=Timeouts(linger=0.1)))
    sock = connect(served)
    sock.sendall(post(100_000_000, b"x" * 1000))
    assert helpers.Reader(sock).next().body == b"answered"
    helpers.until(lambda: outcome)
    with gevent.Timeout(10):
        served.server.drain(0)
    assert served.server.active == 0 and not served.errors


# --- writing ----------------------------------------------------------------------------------------------------------


def blocked(served):
    return any(connection._waiting_write is not None for connection in served.server._engine.connections)


@pytest.mark.parametrize("headers", [TEXT, [*TEXT, ("Content-Length", str(MUCH + 5))]], ids=["chunked", "length"])
def test_h10_two_greenlets_may_not_write_at_once(serve, connect, headers):
    """What the second one writes would end up inside of the first one's piece; it is told before any of it is sent."""
    problems = []

    def app(environ, start_response):
        write = start_response("200 OK", headers)
        first = gevent.spawn(write, b"x" * MUCH)
        helpers.until(lambda: blocked(served))
        for _ in range(2):
            with pytest.raises(RuntimeError) as caught:
                write(b"other")
            problems.append(caught.value)
        first.get()
        return [b"last!"]

    served = serve(app)
    sock = connect(served)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    helpers.until(lambda: len(problems) == 2)
    (answer,) = helpers.responses(helpers.read_all(sock))
    assert answer.whole and len(answer.body) == MUCH + 5 and answer.body.endswith(b"xlast!")
    assert not served.errors


def test_h10_write_time_out_with_two_writers(serve, connect):
    """The client takes nothing: however many wait for it, the connection ends."""
    ended = []

    def app(environ, start_response):
        write = start_response("200 OK", TEXT)

        def send():
            try:
                write(b"x" * MUCH)
            except (ClientGone, RuntimeError) as error:
                ended.append(type(error))

        gevent.joinall([gevent.spawn(send), gevent.spawn(send)])
        return []

    served = serve(app, limits=Limits(timeouts=Timeouts(write=0.15)))
    connect(served).sendall(REQUEST)
    helpers.until(lambda: len(ended) == 2)
    assert ended[0] is RuntimeError and issubclass(ended[1], ClientGone)
    helpers.until(lambda: served.server.active == 0)


@pytest.mark.parametrize("headers", [TEXT, [*TEXT, ("Content-Length", str(MUCH))]], ids=["chunked", "length"])
def test_h4_a_request_that_ends_while_a_piece_is_on_its_way_is_cut(serve, connect, headers):
    """The next response would end up inside of the piece."""

    def app(environ, start_response):
        write = start_response("200 OK", headers)
        gevent.spawn(write, b"x" * MUCH)
        helpers.until(lambda: blocked(served))
        return []

    served = serve(app)
    sock = connect(served)
    sock.sendall(REQUEST * 2)
    helpers.until(lambda: served.errors and not served.server.active)
    (answer,) = helpers.responses(helpers.read_all(sock).replace(helpers.RESET, b""))
    assert not answer.whole and [type(error) for error in served.errors] == [RuntimeError]


# --- beside others ----------------------------------------------------------------------------------------------------


class Greedy:
    """A socket that takes whatever it is given without blocking, until `others` were answered or it is closed."""

    def __init__(self, sock, others):
        self.sock = sock
        self.others = others
        self.sends = 0

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def send(self, data):
        return self.take(self.sock.fileno(), len(data))

    def take(self, descriptor, size):
        assert descriptor == self.sock.fileno(), "it may be another connection's by now"
        if self.others or descriptor < 0:
            raise ConnectionResetError
        self.sends += 1
        assert self.sends < 100_000, "nobody else gets a turn"
        return min(size, 1000)


class Large:
    """An application with a response that does not end soon, and a short one to /other."""

    def __init__(self, way, folder, stop):
        self.way = way
        self.file = folder / "file"
        self.stop = stop
        with open(self.file, "wb") as file:
            file.truncate(1_000_000_000)

    def __call__(self, environ, start_response):
        write = start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/other":
            return [b"other"]
        if self.way == "write":
            while not self.stop:
                write(b"x" * 500)
        if self.way == "file":
            return environ["wsgi.file_wrapper"](open(self.file, "rb"))
        return [b"x" * 100_000_000] if self.way == "one piece" else self.endless()

    def endless(self):
        while True:
            yield b"x" * 500


@pytest.mark.parametrize(
    ("method", "way"), [("GET", "pieces"), ("GET", "write"), ("GET", "one piece"), ("GET", "file"), ("HEAD", "write")]
)
def test_h7_a_client_as_fast_as_the_application_does_not_keep_others_waiting(
    serve, connect, tmp_path, monkeypatch, method, way
):
    """No send ever blocks then, so nothing else would let the hub look at other connections."""
    answered: list[int] = []
    served = serve(Large(way, tmp_path, answered))
    sock, other = connect(served), connect(served)
    helpers.until(lambda: served.server.active == 2)
    (connection,) = (one for one in served.server._engine.connections if one.port == str(sock.getsockname()[1]))
    connection.sock = greedy = Greedy(connection.sock, answered)
    monkeypatch.setattr(os, "sendfile", lambda target, source, offset, count: greedy.take(target, count))
    sock.sendall(method.encode() + b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    helpers.until(lambda: greedy.sends)
    other.sendall(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
    answered.append(helpers.Reader(other).next().status)
    assert answered == [200] and greedy.sends < 100_000
    helpers.until(lambda: served.server.active == 1)
    assert not served.errors


@pytest.mark.parametrize("way", ["pieces", "write", "one piece", "file"])
def test_h11_a_close_ends_a_response_that_never_blocks(serve, connect, tmp_path, monkeypatch, way):
    """It comes while the response lets others have their turn; nothing is sent to whoever has the descriptor then."""
    served = serve(Large(way, tmp_path, []))
    sock = connect(served)
    helpers.until(lambda: served.server.active == 1)
    (connection,) = served.server._engine.connections
    connection.sock = greedy = Greedy(connection.sock, [])
    monkeypatch.setattr(os, "sendfile", lambda target, source, offset, count: greedy.take(target, count))
    sock.sendall(REQUEST)
    helpers.until(lambda: greedy.sends)
    served.server.close()
    helpers.until(lambda: not served.server.counters[index.REQUESTS_ACTIVE])
    assert greedy.sends < 100_000 and not served.errors and connection.state == CLOSED
