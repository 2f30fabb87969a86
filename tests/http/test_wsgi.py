# ruff: noqa: E501
"""H3, H4, H6: what an application sees, and what becomes of what it answers. Run under `wsgiref.validate`."""

from __future__ import annotations

import gc
import io
import os
import socket
import sys
import wsgiref.validate

import gevent
import http_helpers as helpers
import pytest

TEXT = [("Content-Type", "text/plain")]


def validated(app):
    return wsgiref.validate.validator(app)


def answering(status="200 OK", headers=None, body=(b"x",)):
    def app(environ, start_response):
        start_response(status, TEXT if headers is None else headers)
        return body

    return app


# --- H3: environ ------------------------------------------------------------------------------------------------------


def test_h3_environ_is_complete_and_exact(serve):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", TEXT)
        return [b""]

    served = serve(validated(app))
    with gevent.socket.create_connection(served.address) as sock:
        port = sock.getsockname()[1]
        sock.sendall(
            b"POST /caf%C3%A9/x?q=%20 HTTP/1.1\r\nHost: name:81\r\nX-One: 1\r\nX-Two: 2\r\nX-two: 3\r\nX_Bad: no\r\n"
            b"Content-Type: a/b\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        )
        helpers.read_all(sock)
    stream, errors = seen.pop("wsgi.input"), seen.pop("wsgi.errors")
    assert stream is not None and errors is not None
    assert seen.pop("wsgi.file_wrapper")
    assert seen.pop("SERVER_SOFTWARE")
    assert seen == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/caf\xc3\xa9/x",
        "QUERY_STRING": "q=%20",
        "REQUEST_URI": "/caf%C3%A9/x?q=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(served.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(port),
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "2",
        "HTTP_HOST": "name:81",
        "HTTP_X_ONE": "1",
        "HTTP_X_TWO": "2, 3",
        "HTTP_CONNECTION": "close",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def test_h3_environ_belongs_to_one_request(serve, connect):
    def app(environ, start_response):
        left = environ.get("leftover", "none")
        environ["leftover"] = "yes"
        environ["SERVER_NAME"] = "changed"
        start_response("200 OK", TEXT)
        return [left.encode()]

    sock = connect(serve(app))
    reader = helpers.Reader(sock)
    for _ in range(3):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reader.next().body == b"none"


def test_h3_unix_socket(serve, connect, tmp_path):
    served = serve(validated(answering(body=[b"x"])), family=socket.AF_UNIX, address=str(tmp_path / "s"))
    sock = connect(served)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert helpers.Reader(sock).next().status == 200


def test_h3_ipv6(serve, connect):
    seen = []

    def app(environ, start_response):
        seen.append(environ["REMOTE_ADDR"])
        return answering()(environ, start_response)

    try:
        served = serve(app, family=socket.AF_INET6, address=("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with gevent.socket.create_connection(served.address[:2]) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert helpers.Reader(sock).next().status == 200
    assert seen == ["::1"]


def test_h3_options_of_a_listener_reach_the_environ(serve):
    seen = []

    def app(environ, start_response):
        seen.append(environ["cluster.worker"])
        return answering()(environ, start_response)

    serve(app, binding={"environ": {"cluster.worker": 7}}).get()
    assert seen == [7]


# --- H4: responses ----------------------------------------------------------------------------------------------------


def generator():
    yield b"a"
    yield b""
    yield b"bc"


class Closing:
    """An iterable that notes its close."""

    def __init__(self, pieces, fail=None):
        self.pieces = iter(pieces)
        self.closed = 0
        self.fail = fail

    def __iter__(self):
        return self

    def __next__(self):
        piece = next(self.pieces)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self):
        self.closed += 1
        if self.fail:
            raise self.fail


@pytest.mark.parametrize(
    ("body", "expected"),
    [([b"abc"], b"abc"), ([b"a", b"bc"], b"abc"), ((b"a", b"bc"), b"abc"), ([], b""), ([b""], b""), (generator, b"abc"), ([b"x" * 300000], b"x" * 300000),
     ([b"x" * 200000, b"y" * 200000], b"x" * 200000 + b"y" * 200000)],
)  # fmt: skip
@pytest.mark.parametrize("declare", [False, True])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_h4_bodies(serve, body, expected, declare, version, method):
    headers = [*TEXT, ("Content-Length", str(len(expected)))] if declare else TEXT

    def app(environ, start_response):
        start_response("200 OK", headers)
        return body() if callable(body) else body

    served = serve(validated(app) if method == "GET" else app)
    answer = served.get(method=method, version=version)
    assert answer.status == 200 and answer.whole
    assert answer.body == (expected if method == "GET" else b"")
    assert answer.header("Date")
    if declare:
        assert answer.header("Content-Length") == str(len(expected))
    elif callable(body):
        chunked = version == "1.1" and method == "GET"
        assert answer.header("Transfer-Encoding") == ("chunked" if chunked else None)
    assert not served.errors


def test_h4_pieces_are_sent_as_they_come(serve, connect):
    gate = gevent.event.Event()

    def app(environ, start_response):
        start_response("200 OK", TEXT)

        def pieces():
            yield b"first"
            gate.wait()
            yield b"second"

        return pieces()

    sock = connect(serve(app))
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    data = b""
    while b"first" not in data:
        data += sock.recv(1000)
    gate.set()
    while not data.endswith(b"0\r\n\r\n"):
        data += sock.recv(1000)
    assert data.endswith(b"\r\n\r\n5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")


def test_h4_write_callable(serve):
    def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three"]

    assert serve(validated(app)).get().body == b"one two three"


def test_h4_start_response_called_late_or_twice(serve):
    def late(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"x"

    assert serve(late).get().body == b"x"

    def twice(environ, start_response):
        start_response("200 OK", TEXT)
        start_response("201 Created", TEXT)
        return [b"x"]

    served = serve(twice)
    assert served.get().status == 500
    assert isinstance(served.errors[0], AssertionError)

    def never(environ, start_response):
        return [b"x"]

    assert serve(never).get().status == 500

    def empty_and_never(environ, start_response):
        return []

    assert serve(empty_and_never).get().status == 500


def test_h4_exc_info_replaces_the_head_or_raises(serve):
    def replaced(environ, start_response):
        start_response("200 OK", TEXT)
        try:
            raise ValueError("oh")
        except ValueError:
            start_response("503 Sorry", TEXT, sys.exc_info())
        return [b"sorry"]

    answer = serve(replaced).get()
    assert (answer.status, answer.reason, answer.body) == (503, "Sorry", b"sorry")

    def too_late(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"some")
        try:
            raise ValueError("oh")
        except ValueError:
            start_response("503 Sorry", TEXT, sys.exc_info())
        return [b"sorry"]

    served = serve(too_late)
    answer = served.get()
    assert answer.status == 200 and not answer.whole
    assert isinstance(served.errors[0], ValueError)


@pytest.mark.parametrize("where", ["before", "after", "first", "later", "close"])
def test_h4_exceptions_and_close(serve, connect, where):
    made = []

    def app(environ, start_response):
        if where == "before":
            raise ValueError(where)
        start_response("200 OK", TEXT)
        if where == "after":
            raise ValueError(where)
        pieces = {"first": [ValueError(where)], "later": [b"x", ValueError(where)], "close": [b"x"]}[where]
        made.append(Closing(pieces, ValueError(where) if where == "close" else None))
        return made[-1]

    served = serve(app)
    answer = served.get()
    assert answer.status == (200 if where in ("later", "close") else 500)
    assert answer.whole == (where != "later")
    assert [str(error) for error in served.errors] == [where]
    assert all(item.closed == 1 for item in made)
    if where == "close":
        # the response was in good order, so the connection lives on
        sock = connect(served)
        reader = helpers.Reader(sock)
        for _ in range(2):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert reader.next().status == 200


def test_h4_close_is_called_when_the_client_goes(serve, connect):
    made = []

    def app(environ, start_response):
        start_response("200 OK", TEXT)

        def endless():
            while True:
                yield b"x" * 65536

        made.append(Closing(endless()))
        return made[0]

    served = serve(app)
    sock = connect(served)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    sock.recv(1000)
    sock.close()
    helpers.until(lambda: made[0].closed == 1)
    helpers.until(lambda: served.server.active == 0)
    assert not served.errors


def test_h4_result_that_is_no_iterable_of_bytes(serve):
    for body in (["text"], [1], None, 5, "text", [b"x", "text"]):
        served = serve(answering(body=body))
        assert served.get().status == 500, body
        assert isinstance(served.errors[0], TypeError)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_h4_no_body(serve, connect, status):
    sock = connect(serve(answering(status, [("X-A", "b")], [b"must not be seen"])))
    reader = helpers.Reader(sock)
    for _ in range(2):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = reader.next()
        assert (answer.header("Content-Length"), answer.header("Transfer-Encoding")) == (None, None)
    assert reader.data == b""


def test_h4_wrong_content_length(serve):
    short = serve(answering(headers=[*TEXT, ("Content-Length", "10")], body=[b"short"]))
    answer = short.get()
    assert answer.body == b"short" and not answer.whole and "shorter" in str(short.errors[0])
    long = serve(answering(headers=[*TEXT, ("Content-Length", "3")], body=[b"too long"]))
    data = long.talk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert data.count(b"HTTP/1.1 200") == 1 and data.endswith(b"\r\n\r\ntoo") and "longer" in str(long.errors[0])

    def pieces(environ, start_response):
        start_response("200 OK", [*TEXT, ("Content-Length", "3")])
        yield b"ab"
        yield b"cd"

    data = serve(pieces).talk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert data.endswith(b"\r\n\r\nabc")


def test_h4_http10(serve):
    served = serve(answering(body=[b"x"]))
    assert served.talk(b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n").count(b"200 OK") == 1
    data = served.talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    assert data.count(b"200 OK") == 2 and data.count(b"Connection: keep-alive\r\n") == 2
    streamed = serve(answering(body=iter([b"x", b"y"])))
    data = streamed.talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2, half_close=False)
    assert data.endswith(b"Connection: close\r\nDate: " + data.split(b"Date: ")[1])
    assert data.endswith(b"\r\n\r\nxy")


def test_h4_pipelined_requests_are_answered_in_order(serve):
    def app(environ, start_response):
        number = int(environ["PATH_INFO"][1:])
        if number % 3 == 0:
            gevent.sleep(0.01)  # later ones must wait for it
        start_response("200 OK", TEXT)
        return [str(number).encode()] if number % 2 else iter([str(number).encode()])

    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(50))
    answers = helpers.responses(serve(app).talk(data))
    assert [int(answer.body) for answer in answers] == list(range(50))


def test_h4_application_may_close_the_connection(serve):
    served = serve(answering(headers=[*TEXT, ("Connection", "close")], body=[b"x"]))
    data = served.talk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2, half_close=False)
    assert data.count(b"200 OK") == 1 and data.count(b"Connection: close") == 1


def test_h4_framing_fields_are_the_servers(serve):
    headers = [*TEXT, ("Transfer-Encoding", "gzip"), ("Keep-Alive", "timeout=5"), ("Trailer", "X"), ("Date", "then")]
    answer = serve(answering(headers=headers, body=[b"abc"])).get()
    assert answer.header("Transfer-Encoding") is None and answer.header("Content-Length") == "3"
    assert answer.header("Keep-Alive") is None and answer.header("Date") == "then"


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("declare", [False, True])
def test_h4_file_wrapper_uses_sendfile(serve, tmp_path, monkeypatch, offset, declare):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    calls = []
    real = os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda *args: calls.append(args) or real(*args))
    opened = []

    def app(environ, start_response):
        file = open(tmp_path / "file", "rb")  # noqa: SIM115 - the server closes it
        opened.append(file)
        file.read(offset)
        headers = [*TEXT, ("Content-Length", str(len(content) - offset))] if declare else TEXT
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file)

    answer = serve(app).get()
    assert answer.body == content[offset:] and answer.header("Content-Length") == str(len(content) - offset)
    assert calls and opened[0].closed
    assert serve(app).get(method="HEAD").header("Content-Length") == str(len(content) - offset)


def test_h4_file_wrapper_of_something_else(serve):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 100000), 1000)

    assert serve(validated(app)).get().body == b"x" * 100000


def test_h4_expect_continue_is_answered_when_the_body_is_read(serve, connect):
    gate = gevent.event.Event()

    def app(environ, start_response):
        gate.wait()
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [body]

    sock = connect(serve(app))
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.settimeout(20)
    gate.set()
    assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"hello")
    assert helpers.Reader(sock).next().body == b"hello"


def test_h4_expect_continue_that_is_never_asked_for_closes(serve):
    """The client may or may not send the body after this answer, so nothing that follows can be read."""
    served = serve(answering("403 No", TEXT, [b"no"]))
    data = served.talk(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", half_close=False
    )
    assert data.startswith(b"HTTP/1.1 403") and b"Connection: close" in data and b"100 Continue" not in data


# --- H6: what must not go out -----------------------------------------------------------------------------------------

BAD_HEADERS = [
    ("X", "a\r\nSet-Cookie: evil=1"), ("X", "a\nb"), ("X", "a\rb"), ("X", "a\0b"), ("X\r\nY", "a"), ("X: Y", "a"), ("", "a"), ("X Y", "a"),
    ("X", "a\r\n\r\n<html>"), ("X", 5), ("X", b"a"), (b"X", "a"), ("X", None), ("X", "\u20ac"), ("X\u20ac", "a"), ("Content-Length", "+5"),
    ("Content-Length", "abc"), ("Content-Length", "-1"), ("Content-Length", ""), ("Content-Length", "\xb2"), ("Content-Length", 5), ("Content-Length", "5\r\n"),
    ("X", ["a"]), ("X", "\xa0\n"), ("X", "\u2028"), ("X", "a\x01b"), ("X", "a\x0bb"), ("X", "a\x1bb"), ("X", "a\x7fb"), ("Connection", 5),
    ("Connection", b"close"), ("Connection", "close\n"),
]  # fmt: skip


@pytest.mark.parametrize("header", BAD_HEADERS, ids=repr)
def test_h6_bad_headers(serve, header):
    served = serve(answering(headers=[*TEXT, header]))
    answer = served.get()
    assert answer.status == 500 and answer.header("X") is None and answer.header("Set-Cookie") is None
    assert len(served.errors) == 1


@pytest.mark.parametrize(
    "status",
    [
        "100 Continue",
        "101 Switching Protocols",
        "103 Early Hints",
        "200 OK\r\nX: y",
        "200\nOK",
        "20 OK",
        "OK",
        "",
        "2000 OK",
        "200OK",
        200,
        None,
        b"200 OK",
        "600 No",
        "099 No",
        "200 \0",
        "\u0662\u0660\u0660 OK",
    ],
)
def test_h6_bad_status(serve, status):
    served = serve(answering(status))
    assert served.get().status == 500
    assert len(served.errors) == 1
    assert status is None or f"not a status that an application can answer with: {status!r}" in str(served.errors[0])


@pytest.mark.parametrize("value", ["a\tb", "caf\xe9", "\xa0", "\x85", "", "a" * 5000])
def test_h6_values_that_may_go_out(serve, value):
    assert serve(answering(headers=[*TEXT, ("X", value)])).get().header("X") == value


def test_h6_two_different_content_lengths(serve):
    assert serve(answering(headers=[("Content-Length", "1"), ("content-length", "2")])).get().status == 500


def test_h6_default_report_is_a_traceback(serve, capsys):
    def app(environ, start_response):
        raise ValueError("told")

    served = serve(app, on_error=None)
    assert served.get("/where").status == 500
    text = capsys.readouterr().err
    assert "Traceback" in text and "ValueError: told" in text and "/where" in text


def test_h6_error_callback_that_fails(serve, capsys):
    def callback(info, environ):
        raise RuntimeError("callback")

    def app(environ, start_response):
        raise ValueError("told")

    assert serve(app, on_error=callback).get().status == 500
    assert "callback" in capsys.readouterr().err


def test_no_garbage_is_left_for_the_collector(serve, connect):
    """A cycle per request would cost more than anything that the hot path saves."""
    sock = connect(serve(answering()))
    reader = helpers.Reader(sock)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            reader.next()
        before = gc.collect()
    finally:
        gc.enable()
    assert before < 40
