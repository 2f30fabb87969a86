"""Reads one HTTP/1.1 response from bytes as they arrive, and says exactly when it is complete.

Written by hand, and stricter than a client need be: a parser that forgives would hide the very failures that the
strict client is there to count. It is independent of the libraries that the measured servers use.
"""

from __future__ import annotations

import re

MAXIMUM_HEAD = 65536
"""Bytes of status line and headers after which a response counts as malformed."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Malformed(ValueError):
    """What arrived is not one complete HTTP/1.1 response whose end can be told."""


class Response:
    """One response.

    :ivar status: the three-digit status, 0 until the head has arrived.
    :ivar close: whether the server announced that it will close the connection.
    :ivar body: the decoded body as far as it has arrived.
    :ivar started: whether any byte has arrived.
    """

    __slots__ = ("_buffer", "_chunked", "_in_head", "_length", "_trailers", "body", "close", "started", "status")

    def __init__(self) -> None:
        self.status = 0
        self.close = False
        self.body = b""
        self.started = False
        self._buffer = b""
        self._in_head = True
        self._length = 0
        self._chunked = False
        self._trailers = False

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes; returns True once the response is complete.

        :raises Malformed: when they cannot belong to it, and when bytes follow its end: nobody asked for those.
        """
        self.started = True
        self._buffer = self._buffer + data if self._buffer else data
        while self._in_head:
            if not self._read_head():
                return False
        return self._read_chunks() if self._chunked else self._read_counted()

    def _read_head(self) -> bool:
        """Reads one head, if it is all there; an interim one (1xx) is dropped and the next one begins."""
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            # Said at once rather than after the time-out.
            if not self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]):
                raise Malformed(f"not an HTTP/1.1 response: {self._buffer[:40]!r}")
            if len(self._buffer) > MAXIMUM_HEAD:
                raise Malformed(f"a head of more than {MAXIMUM_HEAD} bytes")
            return False
        self._buffer = rest
        line, *fields = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"not a status line: {line[:80]!r}")
        self.status = int(match[2])
        if self.status == 101:
            raise Malformed("switched protocols, which nobody asked for")
        if self.status < 200:
            return True
        self._read_fields(fields, old=match[1] == b"0")
        self._in_head = False
        return True

    def _read_fields(self, fields: list[bytes], old: bool) -> None:
        """Takes from the headers what decides where the body and the connection end.

        :param old: whether this is HTTP/1.0, where a connection closes unless the server says otherwise.
        """
        length: bytes | None = None
        coding: bytes | None = None
        options: set[bytes] = set()
        for field in fields:
            name, colon, value = field.partition(b":")
            if not colon or not _NAME.fullmatch(name):
                raise Malformed(f"not a header: {field[:80]!r}")
            name, value = name.lower(), value.strip(b" \t")
            if name == b"content-length":
                if not _DECIMAL.fullmatch(value) or length not in (None, value):
                    raise Malformed(f"not a length, or two different ones: {value[:80]!r}")
                length = value
            elif name == b"transfer-encoding":
                if coding is not None or value.lower() != b"chunked":
                    raise Malformed(f"an unknown transfer coding: {value[:80]!r}")
                coding = value
            elif name == b"connection":
                options.update(option.strip(b" \t").lower() for option in value.split(b","))
        self.close = b"close" in options or (old and b"keep-alive" not in options)
        if self.status in (204, 304):
            return
        if coding is not None and length is not None:
            raise Malformed("both a length and a transfer coding")
        if coding is None and length is None:
            # Its end would be the end of the connection, which cannot be told from a connection that was cut off.
            raise Malformed("neither a length nor chunks, so nobody can tell whether it is complete")
        self._chunked = coding is not None
        self._length = int(length or b"0")

    def _read_counted(self) -> bool:
        if len(self._buffer) < self._length:
            return False
        if len(self._buffer) > self._length:
            raise Malformed(f"{len(self._buffer) - self._length} bytes after the end of the response")
        self.body = self._buffer
        return True

    def _read_chunks(self) -> bool:
        while True:
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                if len(line) > MAXIMUM_HEAD:
                    raise Malformed("a chunk size or trailer without an end")
                return False
            if self._trailers:
                self._buffer = rest
                if line:
                    continue
                if rest:
                    raise Malformed(f"{len(rest)} bytes after the end of the response")
                return True
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise Malformed(f"not a chunk size: {line[:40]!r}")
            size = int(match[1], 16)
            if size == 0:
                self._buffer, self._trailers = rest, True
                continue
            if len(rest) < size + 2:
                return False
            if rest[size : size + 2] != b"\r\n":
                raise Malformed(f"a chunk that does not end after its {size} bytes")
            self.body += rest[:size]
            self._buffer = rest[size + 2 :]
