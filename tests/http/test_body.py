# ruff: noqa: E501
"""H5: ``wsgi.input``, for small bodies and streamed ones."""

from __future__ import annotations

import hashlib
import io
import os
import wsgiref.validate

import gevent
import http_helpers as helpers
import pytest

from cluster.http import BodyError, ClientGone, Limits, Timeouts

TEXT = [("Content-Type", "text/plain")]


def framings(body: bytes) -> list[bytes]:
    """The same body with a length and in chunks of several sizes."""
    found = [b"Content-Length: %d\r\n\r\n%b" % (len(body), body)]
    for size in (1, 7, 1000):
        if len(body) / size < 3000:
            chunks = b"".join(
                b"%x\r\n%b\r\n" % (len(body[i : i + size]), body[i : i + size]) for i in range(0, len(body), size)
            )
            found.append(b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    return found


@pytest.mark.parametrize("size", [0, 10, 5000, 70000])
@pytest.mark.parametrize("limit", [1, 65536])
def test_h5_reading(serve, size, limit):
    """Each way to read gives what a file of the same content gives; `limit` decides what is streamed."""
    body = (b"line one\n\nthird \xff line\r\n" * (size // 20 + 1))[:size]
    import io

    ways = {
        "read": lambda stream: [stream.read()],
        "read -1": lambda stream: [stream.read(-1)],
        "read some": lambda stream: [
            stream.read(3),
            stream.read(0),
            stream.read(4000),
            stream.read(),
            stream.read(),
            stream.read(5),
        ],
        "lines": lambda stream: list(stream),
        "readline": lambda stream: [
            stream.readline(),
            stream.readline(),
            stream.readline(),
            stream.read(2),
            stream.readline(),
        ],
        "readline size": lambda stream: [
            stream.readline(3),
            stream.readline(20),
            stream.readline(0),
            stream.readline(1),
            stream.readline(),
        ],
        "readlines": lambda stream: stream.readlines(),
        "readlines hint": lambda stream: [stream.readlines(10), stream.readlines()],
    }
    seen = {}

    def app(environ, start_response):
        way = environ["PATH_INFO"][1:]
        seen[way] = ways[way](environ["wsgi.input"])
        start_response("200 OK", TEXT)
        return [b"ok"]

    served = serve(app, limits=Limits(buffered_body=limit))
    for way, function in ways.items():
        expected = function(io.BytesIO(body))
        for framed in framings(body):
            data = b"POST /" + way.replace(" ", "%20").encode() + b" HTTP/1.1\r\nHost: a\r\n" + framed
            answers = helpers.responses(served.talk(data + b"GET /read HTTP/1.1\r\nHost: a\r\n\r\n"))
            # what follows an unread body is still a request
            assert [answer.status for answer in answers] == [200, 200], way
            if way != "read":
                assert seen[way] == expected, way
    assert not served.errors


def test_h5_validated(serve):
    def app(environ, start_response):
        stream = environ["wsgi.input"]
        pieces = [stream.read(5), stream.readline(), *stream.readlines()]
        start_response("200 OK", TEXT)
        return [b"".join(pieces)]

    for limit in (1, 65536):
        served = serve(wsgiref.validate.validator(app), limits=Limits(buffered_body=limit))
        assert served.get(method="POST", body=b"one\ntwo\nthree\nfour").body == b"one\ntwo\nthree\nfour"


def test_h5_empty_input_cannot_be_spoiled(serve):
    def app(environ, start_response):
        stream = environ["wsgi.input"]
        assert (
            stream.read() == b""
            and stream.read(5) == b""
            and stream.readline() == b""
            and stream.readlines() == []
            and list(stream) == []
            and stream.read1() == stream.read1(5) == b""
            and stream.readinto(bytearray(2)) == stream.readinto1(bytearray(2)) == 0
            and isinstance(stream, io.BufferedIOBase)
            and io.TextIOWrapper(stream).read() == ""
        )
        stream.close()
        start_response("200 OK", TEXT)
        return [b"ok"]

    served = serve(app)
    assert [served.get().body for _ in range(3)] == [b"ok"] * 3


def test_h5_upload_is_streamed_with_back_pressure(serve, connect):
    """The application reads when it likes; until then the client is held back and memory stays small."""
    gate = gevent.event.Event()
    digest = hashlib.sha1()

    def app(environ, start_response):
        gate.wait()
        while piece := environ["wsgi.input"].read(50000):
            digest.update(piece)
        start_response("200 OK", TEXT)
        return [b"ok"]

    served = serve(app)
    size = 30_000_000
    sock = connect(served)
    wanted = hashlib.sha1()
    sent = 0

    def send():
        nonlocal sent
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        block = os.urandom(100_000)
        for _ in range(size // len(block)):
            sock.sendall(block)
            wanted.update(block)
            sent += len(block)

    sender = gevent.spawn(send)
    helpers.until(
        lambda: served.server._engine.connections and not next(iter(served.server._engine.connections))._reading
    )
    (connection,) = served.server._engine.connections
    assert connection.exchange.body.available < 400_000
    gate.set()
    answer = helpers.Reader(sock).next()
    sender.join()
    assert answer.status == 200 and digest.digest() == wanted.digest()


def test_h5_unread_body_is_read_away_up_to_a_limit(serve):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [b"ok"]

    served = serve(app, limits=Limits(buffered_body=10, unread_body=100_000))
    for size, count in ((90_000, 2), (5_000_000, 1)):
        body = b"x" * size
        data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%bGET / HTTP/1.1\r\nHost: a\r\n\r\n" % (
            size,
            body,
        )
        assert len(helpers.responses(served.talk(data))) == count
        chunked = (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
            % (size, body)
        )
        assert len(helpers.responses(served.talk(chunked))) == count


def reading(errors):
    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except Exception as error:
            errors.append(error)
            if environ["PATH_INFO"] == "/raise":
                raise
        start_response("200 OK", TEXT)
        return [b"ok"]

    return app


HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
FAULT = b"+5\r\nworld\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("path", ["/raise", "/swallow"])
def test_h8_fault_in_a_streamed_body_is_a_400_even_when_swallowed(serve, connect, path):
    errors = []
    served = serve(reading(errors), limits=Limits(buffered_body=1))
    sock = connect(served)
    sock.sendall(HEAD % path.encode())
    helpers.until(lambda: served.server.counters[2] == 1)
    sock.sendall(FAULT)
    answers = helpers.responses(helpers.read_all(sock))
    assert [answer.status for answer in answers] == [400]
    assert isinstance(errors[0], BodyError) and errors[0].status == 400


def test_h8_fault_in_a_streamed_body_after_the_answer_began_cuts(serve, connect):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"begun"
        environ["wsgi.input"].read()
        yield b"never"

    served = serve(app, limits=Limits(buffered_body=1))
    sock = connect(served)
    sock.sendall(HEAD % b"/")
    helpers.until(lambda: served.server.counters[2] == 1)
    sock.sendall(FAULT)
    (answer,) = helpers.responses(helpers.read_all(sock))
    assert answer.body == b"begun" and not answer.whole


@pytest.mark.parametrize("limit", [1, 65536])
def test_h9_max_body(serve, limit):
    errors = []
    served = serve(reading(errors), limits=Limits(buffered_body=limit, max_body=10))
    ok = b"POST / HTTP/1.1\r\nHost: a\r\n"
    assert helpers.responses(served.talk(ok + b"Content-Length: 10\r\n\r\n0123456789"))[0].status == 200
    assert helpers.responses(served.talk(ok + b"Content-Length: 11\r\n\r\n0123456789a"))[0].status == 413
    chunks = b"Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n%x\r\n%b\r\n0\r\n\r\n"
    assert helpers.responses(served.talk(ok + chunks % (4, b"x" * 4)))[0].status == 200
    assert helpers.responses(served.talk(ok + chunks % (5, b"x" * 5)))[0].status == 413


def test_h5_client_that_goes_in_the_middle_of_an_upload(serve, connect):
    errors = []
    served = serve(reading(errors), limits=Limits(buffered_body=1))
    sock = connect(served)
    sock.sendall(b"POST /raise HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello")
    helpers.until(lambda: served.server.counters[2] == 1)
    sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: a reset
    sock.close()
    helpers.until(lambda: served.server.active == 0)
    assert isinstance(errors[0], ClientGone) and not served.errors


def test_h10_body_that_stops_coming(serve, connect):
    errors = []
    limits = Limits(buffered_body=100, timeouts=Timeouts(body=0.1))
    served = serve(reading(errors), limits=limits)
    for length in (50, 500):
        sock = connect(served)
        sock.sendall(b"POST /raise HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nhello" % length)
        assert helpers.Reader(sock).next().status == 408
    assert [error.status for error in errors] == [408]


def test_h5_two_greenlets_may_not_read_at_once(serve, connect):
    problems = []

    def app(environ, start_response):
        def read():
            try:
                environ["wsgi.input"].read()
            except RuntimeError as error:
                problems.append(error)

        gevent.joinall([gevent.spawn(read), gevent.spawn(read)])
        start_response("200 OK", TEXT)
        return [b"ok"]

    sock = connect(serve(app, limits=Limits(buffered_body=1)))
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
    helpers.until(lambda: problems)
    sock.sendall(b"llo")
    assert helpers.Reader(sock).next().status == 200


def test_h5_input_kept_after_the_request_is_dead(serve, connect):
    kept = []

    def app(environ, start_response):
        kept.append(environ["wsgi.input"])
        start_response("200 OK", TEXT)
        return [b"ok"]

    served = serve(app, limits=Limits(buffered_body=1))
    sock = connect(served)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhe")
    assert helpers.Reader(sock).next().status == 200
    with pytest.raises(ClientGone):
        kept[0].read()


@pytest.mark.parametrize("size", [10, 200_000])
def test_h5_the_standard_librarys_readers_take_it(serve, size):
    """Whether a body is small or comes in while it is read makes no difference to who wraps it."""

    def app(environ, start_response):
        body = environ["wsgi.input"]
        assert body.readable() and not body.closed
        first = body.read1(3)
        buffer = bytearray(2)
        assert len(first) == 3 and body.readinto(buffer) == 2
        text = io.TextIOWrapper(body, encoding="latin-1")
        rest = text.read()
        text.close()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [first, bytes(buffer), rest.encode()]

    served = serve(app)
    body = bytes(range(48, 58)) * (size // 10)
    assert served.get(method="POST", body=body).body == body and not served.errors
