"""What several tests of the HTTP server need: a strict reader of responses, a recording application, split feeding."""

from __future__ import annotations

import dataclasses
import socket
import time
from typing import Any

import gevent
from gevent import socket as gsocket

from cluster.http.wire import CLOSED

#: TCP_NOTSENT_LOWAT on Linux, which not all versions name
NOTSENT_LOWAT = 25


@dataclasses.dataclass
class Served:
    server: Any
    listener: Any
    binding: Any
    errors: list

    @property
    def address(self):
        return self.listener.getsockname()

    @property
    def port(self):
        return self.address[1] if self.listener.family == socket.AF_INET else None

    def talk(self, data: bytes, half_close: bool = True) -> bytes:
        """Send it, close the sending side, and return all that comes back."""
        with gsocket.create_connection(self.address) as sock:
            sock.settimeout(20)
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def get(
        self, path: str = "/", *headers: str, method: str = "GET", body: bytes = b"", version: str = "1.1"
    ) -> Response:
        lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        answers = responses(self.talk("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body), [method])
        assert len(answers) == 1, answers
        return answers[0]


#: stands for a reset in what `read_all` returns
RESET = b"<reset>"


def read_all(sock) -> bytes:
    pieces = []
    while True:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            pieces.append(RESET)
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


@dataclasses.dataclass
class Response:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    #: the body ended as its framing says
    whole: bool = True

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, f"{name} more than once: {found}"
        return found[0] if found else None


class Reader:
    """Reads responses one by one from a socket, strictly."""

    def __init__(self, sock) -> None:
        self.sock = sock
        self.data = b""
        self.ended = False

    def _more(self) -> bool:
        if self.ended:
            return False
        piece = self.sock.recv(65536)
        self.ended = not piece
        self.data += piece
        return bool(piece)

    def next(self, method: str = "GET") -> Response:
        while b"\r\n\r\n" not in self.data:
            assert self._more(), f"the connection ended in a head: {self.data!r}"
        response, self.data, more = _parse(self.data, method)
        while more and self._more():
            response, self.data, more = _parse(response_data(response, self.data), method)
        response.whole = not more or more == "close"
        return response


def response_data(response: Any, rest: bytes) -> bytes:
    return response.raw + rest  # type: ignore[no-any-return]


def _parse(data: bytes, method: str) -> tuple[Any, bytes, str]:
    """A response, what follows, and what is missing: "", "more", or "close" when only the close ends it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    version, code, reason = lines[0].split(" ", 2)
    assert version == "HTTP/1.1", lines[0]
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(": ")
        assert colon and name and "\n" not in line and "\r" not in line, line
        fields.append((name, value))
    response = Response(int(code), reason, fields, b"")
    length = response.header("Content-Length")
    coding = response.header("Transfer-Encoding")
    assert length is None or coding is None
    if response.status < 200 or response.status in (204, 304) or method == "HEAD":
        return response, rest, ""
    if coding:
        assert coding == "chunked"
        body = b""
        while True:
            size, end, after = rest.partition(b"\r\n")
            if not end:
                break
            count = int(size, 16)
            if len(after) < count + 2:
                body += after[:count]
                break
            assert after[count : count + 2] == b"\r\n"
            body += after[:count]
            rest = after[count + 2 :]
            if not count:
                response.body = body
                return response, rest, ""
        response.body = body
        response.raw = data  # type: ignore[attr-defined]
        return response, b"", "more"
    if length is not None:
        response.body = rest[: int(length)]
        response.raw = data  # type: ignore[attr-defined]
        if len(rest) < int(length):
            return response, b"", "more"
        return response, rest[int(length) :], ""
    response.body = rest
    response.raw = data  # type: ignore[attr-defined]
    return response, b"", "close"


def responses(data: bytes, methods: list[str] | None = None) -> list[Response]:
    """All responses in what a connection gave; interim ones are left out."""
    found = []
    methods = list(methods or [])
    while data:
        response, data, missing = _parse(data, methods[0] if methods else "GET")
        response.whole = missing in ("", "close")
        if response.status >= 200:
            found.append(response)
            if methods:
                methods.pop(0)
    return found


class Recorder:
    """An application that notes what it was asked, and answers 200 with the number of body bytes."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read()
        self.requests.append(
            {
                "method": environ["REQUEST_METHOD"],
                "target": environ["REQUEST_URI"],
                "path": environ["PATH_INFO"],
                "query": environ["QUERY_STRING"],
                "version": environ["SERVER_PROTOCOL"],
                "headers": {
                    key: value
                    for key, value in environ.items()
                    if key.startswith(("HTTP_", "CONTENT_"))
                },
                "body": body,
            }
        )
        text = str(len(body)).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        return [text]


def feed(served: Served, pieces: list[bytes], methods: list[str] | None = None) -> list[int]:
    """Give the pieces to a connection so that each is read by itself; returns the statuses of the answers."""
    ours, theirs = gsocket.socketpair()
    server = served.server
    before = set(server._engine.connections)
    server.accepted(theirs.detach(), "", FeedBinding(served.binding))
    (connection,) = set(server._engine.connections) - before
    try:
        ours.settimeout(20)
        for piece in pieces:
            if connection.state == CLOSED:
                break
            try:
                ours.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            step(connection)
        try:
            ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        data = read_all(ours)
        answers = responses(data.removesuffix(RESET), methods)
        # a piece that comes when the connection has just been closed is answered by a reset, behind whole answers
        assert not data.endswith(RESET) or all(answer.whole for answer in answers)
        return [answer.status for answer in answers]
    finally:
        ours.close()


def step(connection) -> None:
    """Let a connection read what has come, and let everything that follows from it happen."""
    loop = connection.engine.loop
    if connection.state != CLOSED and connection._reading:
        loop.run_callback(_read, connection)
    for _ in range(2):
        gevent.sleep(0)


def _read(connection) -> None:
    if connection.state != CLOSED and connection._reading:
        connection.on_readable()


class FeedBinding:
    """A listener's binding for the ends of socket pairs."""

    def __init__(self, binding) -> None:
        self.family = socket.AF_UNIX
        self.type = socket.SOCK_STREAM
        self.has_port = False
        self.environ = binding.environ
        self.tls = binding.tls
        self.proxy_protocol = binding.proxy_protocol


def until(true, seconds: float = 10.0) -> None:
    """Wait for a fact, at most so long."""
    end = time.monotonic() + seconds
    tries = 0
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        tries += 1
        gevent.sleep(0.002 if tries > 5 else 0)
