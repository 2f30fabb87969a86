"""H4, H6, H7, H11: responses that are wrong, or that nobody gets as a whole."""

from __future__ import annotations

import http_helpers as helpers
import pytest

TEXT = [("Content-Type", "text/plain")]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answering(status="200 OK", headers=None, body=(b"x",)):
    def app(environ, start_response):
        start_response(status, TEXT if headers is None else headers)
        return body() if callable(body) else body

    return app


# --- H4: a body shorter than its Content-Length -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [lambda: iter([]), lambda: iter([b"", b""]), list, lambda: [b""], lambda: (b"",)],
    ids=["nothing", "empty pieces", "empty list", "list of an empty piece", "tuple"],
)
def test_h4_no_body_at_all_where_a_length_was_declared(serve, body):
    """Nothing has gone out yet, so the client is told; the next response must not be read as this one's body."""
    served = serve(answering(headers=[*TEXT, ("Content-Length", "5")], body=body))
    (answer,) = helpers.responses(served.talk(REQUEST * 2))
    assert (answer.status, answer.header("Connection"), answer.whole) == (500, "close", True)
    assert ["5 bytes shorter" in str(error) for error in served.errors] == [True]


def test_h4_head_may_declare_the_length_of_a_body_that_is_not_made(serve):
    served = serve(answering(headers=[*TEXT, ("Content-Length", "5")], body=lambda: iter([])))
    data = served.talk(REQUEST.replace(b"GET", b"HEAD") * 2)
    first, second = helpers.responses(data, ["HEAD", "HEAD"])
    assert first.header("Content-Length") == second.header("Content-Length") == "5" and not served.errors


# --- H7, H11: a body that nobody gets ---------------------------------------------------------------------------------


class Endless:
    """A body without an end, which never blocks; notes how much of it was taken and that it was closed."""

    def __init__(self):
        self.taken = self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        assert not self.closed
        self.taken += 1
        assert self.taken < 1000, "it is iterated although nobody gets it"
        return b"x"

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [("HEAD", "200 OK", TEXT), ("HEAD", "200 OK", [*TEXT, ("Content-Length", "7")]), ("GET", "204 No Content", []),
     ("GET", "304 Not Modified", [])],
)
def test_h7_a_body_that_nobody_gets_is_not_iterated(serve, method, status, headers):
    """Nothing is sent, so nothing would ever block, or tell that the client has gone."""
    made: list[Endless] = []

    def app(environ, start_response):
        start_response(status, headers)
        made.append(Endless())
        return made[-1]

    served = serve(app)
    data = served.talk(REQUEST.replace(b"GET", method.encode()) * 2)
    answers = helpers.responses(data, [method, method])
    assert [answer.status for answer in answers] == [int(status[:3])] * 2
    assert {answer.header("Content-Length") for answer in answers} == {dict(headers).get("Content-Length")}
    assert [(body.taken, body.closed) for body in made] == [(1, 1)] * 2 and not served.errors


# --- H6: what is wrong is said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "header", "said"),
    [
        ("600 x", ("X", "a"), "ResponseError: not a status that an application can answer with: '600 x'"),
        (200, ("X", "a"), "ResponseError: not a status that an application can answer with: 200"),
        ("200 OK", ("X Y", "a"), "ResponseError: not a header name: 'X Y'"),
        ("200 OK", ("X", 5), "ResponseError: a header value must be text, not 5"),
        ("200 OK", ("X", b"a"), "ResponseError: a header value must be text, not b'a'"),
        ("200 OK", ("X", "a\x0bb"), r"ResponseError: a header value with a control character in it: 'a\x0bb'"),
    ],
)
def test_h6_one_exception_says_what_is_wrong(serve, capsys, status, header, said):
    """And no other one before it, from how we look things up."""
    assert serve(answering(status, [*TEXT, header]), on_error=None).get().status == 500
    text = capsys.readouterr().err
    assert said in text and text.count("Traceback") == 1


# --- H4: files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_h4_file_wrapper_of_a_file_whose_size_is_not_told(serve, method):
    """The files of /proc are regular ones of size 0."""
    path = "/proc/self/limits"

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](open(path, "rb"))

    answer = serve(app).get(method=method)
    with open(path, "rb") as file:
        assert answer.body == (file.read() if method == "GET" else b"")
    assert answer.header("Content-Length") is None


def test_h4_file_wrapper_of_an_empty_file(serve, tmp_path):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](open(tmp_path / "empty", "rb"))

    (tmp_path / "empty").touch()
    assert serve(app).get().header("Content-Length") == "0"
