"""What can go wrong with one message or one connection. None of these stops the server."""

from __future__ import annotations


class Refused(Exception):
    """A request that is answered with `status` and a closed connection; the application never sees it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ClientGone(ConnectionError):
    """The client closed or reset the connection while the application was reading from or writing to it."""


class WriteStalled(ClientGone):
    """The client took nothing of the response for the `write` time-out."""


class BodyError(OSError):
    """Raised by ``wsgi.input`` when the rest of the body cannot be had; the request is answered with `status`.

    400 for a body that breaks the rules, 408 when nothing came for the `body` time-out, 413 beyond `max_body`.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ResponseError(Exception):
    """The application's response cannot be put on the wire as it is (a header with a line break, a wrong length …)."""
