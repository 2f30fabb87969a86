"""From the bytes of a head to a WSGI environ. Part of the hot path.

The whole head is there before llhttp sees any of it. So one parser serves all connections of a server (an idle
connection needs none), nothing depends on where the network cut the message, and sizes are checked before work is done.
llhttp never sees bodies: `body` reads those, because the end of a message inside a piece of data is not to be had
from httptools.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import httptools

from . import grammar
from .errors import Refused
from .limits import Limits

Environ = dict[str, Any]

_KEYS = grammar.KEYS
_METHODS = grammar.METHODS
_REQUEST_LINE = grammar.REQUEST_LINE
_HOST = grammar.HOST
_PLAIN_HOST = grammar.PLAIN_HOST


#: of a Content-Length; more is nonsense, whatever the number
_DIGITS = 19


class HeadParser:
    """Parses one head at a time into an environ; after `parse` the attributes tell how to go on."""

    __slots__ = (
        "_complete", "_environ", "_feed", "_host", "_limits", "_merged", "_most", "_short",
        "body", "chunked", "continues", "head_only", "keep_alive", "length", "old", "unusual",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # a head no longer than this cannot hold a line that is too long
        self._short = min(limits.request_line, limits.field, limits.head)
        self._most = limits.fields
        self._merged = 0  # fields that did not become keys of their own
        self._environ: Environ = {}
        self._complete = False
        self._host: str | None = None  # the last one that was in order
        #: the request has a Content-Length or a Transfer-Encoding; the next three are of use only then
        self.body = False
        #: size of the body in bytes by Content-Length, 0 without one
        self.length = 0
        #: whether the body comes in chunks
        self.chunked = False
        #: whether the client lets us keep the connection
        self.keep_alive = True
        #: whether the client waits for "100 Continue" before it sends the body
        self.continues = False
        #: the method is HEAD
        self.head_only = False
        #: the version is 1.0
        self.old = False
        #: one of the two: what follows from them need not be looked at otherwise
        self.unusual = False
        self.renew()

    def renew(self) -> None:
        """Forget whatever llhttp knows. It keeps state after a refusal, and the parser serves all connections."""
        self._feed = httptools.HttpRequestParser(self).feed_data

    # --- called by llhttp -----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        try:
            key = _KEYS[name]
        except KeyError:
            learned = grammar.environ_key(name)
            if learned is None:
                self._merged += 1
                return
            key = learned
        environ = self._environ
        # llhttp leaves spaces and tabs at the end. rstrip() would take more than those, but llhttp let nothing else in.
        if key in environ:
            self._repeated(key, value.rstrip().decode("latin-1"))
        else:
            environ[key] = value.rstrip().decode("latin-1")

    def on_headers_complete(self) -> None:
        self._complete = True

    def _repeated(self, key: str, value: str) -> None:
        self._merged += 1
        if key == "HTTP_HOST" or key == "CONTENT_LENGTH" or key == "CONTENT_TYPE":
            raise Refused(400, "repeated header field")
        separator = "; " if key == "HTTP_COOKIE" else ", "
        self._environ[key] += separator + value

    # --- called by the connection ---------------------------------------------------------------------------------

    def parse(self, head: bytes, environ: Environ) -> None:
        """Fill in `environ` from a head that ends with its empty line; raises `Refused`, then call `renew`."""
        match = _REQUEST_LINE(head)
        if match is None:
            raise self._fault(head)
        method, target, minor = match.groups()
        try:
            environ["REQUEST_METHOD"] = _METHODS[method]
        except KeyError:
            raise self._fault(head) from None
        if len(head) > self._short:
            fault = grammar.first_fault(head, self._limits)[0]
            if fault is not None:
                raise fault

        uri = target.decode("latin-1")
        environ["REQUEST_URI"] = uri
        self._environ = environ
        self._complete = False
        self._merged = 0
        others = len(environ)
        try:
            self._feed(head)
        except httptools.HttpParserUpgrade:
            pass  # an offer that we decline by not answering it; llhttp goes on with the next message
        except httptools.HttpParserError as error:
            self.renew()
            cause = error.__context__
            raise self._fault(head, cause if isinstance(cause, Refused) else None) from None
        if not self._complete:
            self.renew()
            raise self._fault(head)
        if len(environ) - others + self._merged > self._most:
            raise self._fault(head)

        try:
            host = environ["HTTP_HOST"]
        except KeyError:
            if minor == b"1":
                raise Refused(400, "missing Host") from None
        else:
            if host != self._host:  # clients ask for the same one again and again, and a look is 0.12 µs
                if _PLAIN_HOST(host) is None and _HOST(host) is None:
                    raise Refused(400, "malformed Host")
                self._host = host
        if uri[0] != "/":
            uri = self._other_target(uri, environ)
        if "%" in uri or "?" in uri:
            uri, _, environ["QUERY_STRING"] = uri.partition("?")
            if "%" in uri:
                uri = unquote_to_bytes(uri).decode("latin-1")
        environ["PATH_INFO"] = uri

        # Told from the message and not later from the environ, which the application may change.
        self.unusual = method == b"HEAD" or minor == b"0"
        if self.unusual:
            self.head_only, self.old = method == b"HEAD", minor == b"0"
        if minor == b"1":
            self.keep_alive = True
            if environ.get("HTTP_CONNECTION", "keep-alive") != "keep-alive":
                self.keep_alive = "close" not in _tokens(environ["HTTP_CONNECTION"])
        else:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
            self.keep_alive = "HTTP_CONNECTION" in environ and "keep-alive" in _tokens(environ["HTTP_CONNECTION"])
            self.renew()  # llhttp may take the connection for closed
        if self.body:
            self.body = self.chunked = self.continues = False
            self.length = 0
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            self.body = True
            self._body(environ, minor)
        if "HTTP_EXPECT" in environ:
            if environ["HTTP_EXPECT"].lower() != "100-continue":
                raise Refused(417, "unknown expectation")
            self.continues = minor == b"1" and (self.chunked or self.length > 0)
        if not self.keep_alive or "HTTP_PROXY_CONNECTION" in environ:
            self.renew()  # llhttp reads that field as it does Connection

    def _body(self, environ: Environ, minor: bytes) -> None:
        # llhttp now expects a body that it will not be given
        self.renew()
        if "HTTP_TRANSFER_ENCODING" in environ:
            if minor == b"0":
                raise Refused(400, "Transfer-Encoding in HTTP/1.0")
            coding = environ["HTTP_TRANSFER_ENCODING"].lower()
            if coding != "chunked":
                # the exact word, although a list may have empty places: not every reader of lists skips them
                codings = [part.strip(" \t") for part in coding.split(",")]
                known = codings[-1] == "chunked" and codings.count("chunked") == 1 and "" not in codings
                raise Refused(501 if known else 400, "unknown transfer coding")
            if "CONTENT_LENGTH" in environ:
                raise Refused(400, "Content-Length with Transfer-Encoding")
            self.chunked = True
            return
        length = environ["CONTENT_LENGTH"]
        # int() alone takes signs, underscores and other digits; llhttp has refused those already
        # and an int() of thousands of digits raises
        if not (length.isascii() and length.isdigit()) or len(length) > _DIGITS:
            raise Refused(400, "malformed Content-Length")
        self.length = int(length)
        if self.length > self._limits.max_body:
            raise Refused(413, "body too large")

    def _other_target(self, target: str, environ: Environ) -> str:
        """The path with query of a target that does not begin with a slash."""
        if target == "*":
            if environ["REQUEST_METHOD"] != "OPTIONS":
                raise Refused(400, "target * without OPTIONS")
            # PEP 3333 wants a path with a slash; REQUEST_URI tells "*" from "/"
            return "/"
        match = grammar.ABSOLUTE(target)
        if match is None:
            raise Refused(400, "malformed target")
        host, path = match.groups()
        # the target wins over the Host field (RFC 9112, 3.2.2)
        environ["HTTP_HOST"] = host
        if path is None:
            return "/"
        return "/" + path if path.startswith("?") else path

    def _fault(self, head: bytes, otherwise: Refused | None = None) -> Refused:
        """What to answer: the first fault by its place, as it would be had the head come byte by byte."""
        return grammar.first_fault(head, self._limits)[0] or otherwise or Refused(400, "malformed request")


def _tokens(value: str) -> list[str]:
    return [token.strip(" \t").lower() for token in value.split(",") if token.strip(" \t")]
