"""Request bodies: where they end on the wire (`LengthReader`, `ChunkReader`), and ``wsgi.input`` for the large ones.

Small bodies are collected before the application is called and given to it as an `io.BytesIO`.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from . import grammar
from .errors import BodyError, Refused
from .limits import Limits


class LengthReader:
    """Takes a body of known size off a stream of bytes."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = not length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split data into what belongs to the body and what follows it."""
        left = self.left
        size = len(data)
        if size < left:
            self.left = left - size
            return data, b""
        self.left = 0
        self.done = True
        return (data, b"") if size == left else (data[:left], data[left:])


_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)
_TOO_LONG = {
    _SIZE: (400, "chunk-size line too long"), _DATA_END: (400, "chunk longer than its size"),
    _TRAILERS: (431, "trailers too large"),
}


class ChunkReader:
    """Takes a chunked body off a stream of bytes. Extensions and trailers are checked and dropped."""

    __slots__ = ("_extensions", "_left", "_limits", "_pending", "_state", "_total", "_trailers", "done")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _SIZE
        self._pending = b""
        self._left = 0
        self._total = 0
        self._extensions = 0
        self._trailers = 0
        self.done = False

    @property
    def left(self) -> int | None:
        """How many bytes are still to come: not known."""
        return 0 if self.done else None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split data into the joined chunks in it and what follows the body; raises `Refused`."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        pieces = []
        position = 0
        size = len(data)
        while True:
            if self._state == _DATA:
                if position == size:
                    break
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                if data.startswith(b"\r\n", position):  # as nearly always: the line that ends it is here, too
                    position += 2
                    self._state = _SIZE
                else:
                    self._state = _DATA_END
                continue
            line = self._line(data, position)
            if line is None:
                self._pending = data[position:]
                break
            position += len(line) + 2
            if self._accept(line):
                self.done = True
                return b"".join(pieces), data[position:]
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), b""

    def _line(self, data: bytes, position: int) -> bytes | None:
        """The line at a position without its end, or None when it has not come as a whole."""
        state = self._state
        if state == _SIZE:
            limit = self._limits.chunk_line
        else:
            limit = 0 if state == _DATA_END else self._limits.trailers - self._trailers
        newline = data.find(b"\n", position, position + limit + 2)
        if newline < 0:
            waiting = len(data) - position
            if waiting > limit + 1 or (waiting == limit + 1 and not data.endswith(b"\r")):
                raise Refused(*_TOO_LONG[state])
            return None
        if data[newline - 1 : newline] != b"\r" or newline == position:
            raise Refused(400, "bare line feed in a chunked body")
        return data[position : newline - 1]

    def _accept(self, line: bytes) -> bool:
        """Take a line of the framing; whether it was the last one."""
        if self._state == _DATA_END:
            self._state = _SIZE
        elif self._state == _SIZE:
            match = grammar.CHUNK_LINE(line)
            if match is None:
                raise Refused(400, "malformed chunk size")
            digits = match[1]
            self._left = int(digits, 16)
            if len(digits) != len(line):
                self._extensions += len(line) - len(digits)
                if self._extensions > self._limits.chunk_extensions:
                    raise Refused(400, "too many chunk extensions")
            self._total += self._left
            if self._total > self._limits.max_body:
                raise Refused(413, "body too large")
            self._state = _DATA if self._left else _TRAILERS
        elif not line:
            return True
        else:
            if grammar.TRAILER(line) is None:
                raise Refused(400, "malformed trailer")
            self._trailers += len(line) + 2
        return False


Reader = LengthReader | ChunkReader


class EmptyBody(io.BufferedIOBase):
    """``wsgi.input`` of a request without a body. It keeps no state, so that one serves all requests."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return b""

    def readline(self, size: int | None = -1) -> bytes:
        return b""

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return []

    def read1(self, size: int | None = -1) -> bytes:
        return b""

    def readinto(self, buffer: Any) -> int:
        return 0

    def close(self) -> None:
        # shared: what one request closes must stay open for the others
        pass

    def __next__(self) -> bytes:
        raise StopIteration


class StreamedBody(io.BufferedIOBase):
    """``wsgi.input`` of a request whose body comes while the application runs.

    A reader like any other of the standard library, as small bodies are one, too.

    `wait` is called with nothing to block the caller until `put`, `end` or `fail` was called; `taken` is called after
    each read, so that the connection can go on receiving.
    """

    def __init__(self, wait: Callable[[], None], taken: Callable[[], None]) -> None:
        self._wait = wait
        self._taken = taken
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # of the first byte not yet read in the first chunk
        self._fault: Exception | None = None
        #: received and not yet read, in bytes
        self.available = 0
        #: whether the whole body has come
        self.ended = False

    # --- the connection's side ------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self.available += len(data)

    def end(self) -> None:
        self.ended = True

    def fail(self, error: Exception) -> None:
        """Let this and every further read raise the error, once what came before it is read."""
        if self._fault is None:
            self._fault = error

    @property
    def fault(self) -> Exception | None:
        return self._fault

    # --- the application's side -----------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, less only at the end; raises like `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read1(self, size: int | None = -1) -> bytes:
        """What has come, at most `size` bytes; waits for some. Raises like `read`."""
        while not self.available and not self.ended:
            self._more()
        return self._take(self.available if size is None or size < 0 else min(size, self.available))

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end; all with -1 or None. Raises `BodyError` or `ClientGone`."""
        if size is None or size < 0:
            while not self.ended:
                self._more()
            size = self.available
        else:
            while self.available < size and not self.ended:
                self._more()
        return self._take(min(size, self.available))

    def readline(self, size: int | None = -1) -> bytes:
        """Up to and with the next line feed, at most `size` bytes; raises like `read`."""
        limit = None if size is None or size < 0 else size
        passed = 0  # bytes of the chunks already looked through
        index = 0
        while True:
            while index < len(self._chunks):
                chunk = self._chunks[index]
                start = self._offset if index == 0 else 0
                found = chunk.find(b"\n", start)
                if found >= 0:
                    length = passed + found + 1 - start
                    return self._take(length if limit is None else min(length, limit))
                passed += len(chunk) - start
                if limit is not None and passed >= limit:
                    return self._take(limit)
                index += 1
            if self.ended:
                return self._take(self.available)
            self._more()

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines that are left; stops after `hint` bytes when that is positive."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def close(self) -> None:
        """Does nothing: what is left unread is the server's business, and so is a body that nobody refers to."""

    def _more(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._wait()

    def _take(self, size: int) -> bytes:
        pieces = []
        left = size
        while left:
            chunk = self._chunks[0]
            start = self._offset
            if len(chunk) - start <= left:
                pieces.append(chunk[start:] if start else chunk)
                left -= len(chunk) - start
                self._chunks.popleft()
                self._offset = 0
            else:
                pieces.append(chunk[start : start + left])
                self._offset = start + left
                left = 0
        self.available -= size
        if size:
            self._taken()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def body_error(refusal: Refused) -> BodyError:
    """What the application sees of a fault in a body that it reads."""
    return BodyError(refusal.status, refusal.reason)


