"""The bodies of requests: collected when they are small, streamed to the application when they are not.

The part of a connection that is about them; `connection` has the states and says who calls what.
"""

from __future__ import annotations

import io
from time import monotonic
from typing import TYPE_CHECKING, Any

from .body import ChunkReader, LengthReader, Reader, StreamedBody, body_error
from .errors import Refused
from .exchange import Exchange
from .limits import UNLIMITED
from .request import Environ
from .wire import COLLECT, RUNNING, UNREAD, Wire

if TYPE_CHECKING:
    from .engine import Engine


class Receiving(Wire):
    """A connection as far as the bodies of its requests go."""

    @property
    def chunked(self) -> bool:
        """Whether the body on its way comes in chunks. Tiny ones take long to read, so less is taken at once."""
        return type(self._reader) is ChunkReader

    __slots__ = ("_discarded", "_pieces", "_reader", "buffer")

    def __init__(self, engine: Engine, sock: Any, peer: str) -> None:
        #: received and not yet looked at
        self.buffer = b""
        self._reader: Reader | None = None
        self._pieces: list[bytes] = []
        self._discarded = 0
        super().__init__(engine, sock, peer)

    def received(self, data: bytes) -> None:
        """Take data in whatever state the connection is."""
        raise NotImplementedError

    def refuse(self, refused: Refused, environ: Environ | None = None) -> None:
        """Answer a request that the application does not get to see, and close."""
        raise NotImplementedError

    def exchange_over(self, exchange: Exchange, now: float) -> None:
        """Called by the exchange when its response is out, or cannot be."""
        raise NotImplementedError

    def _idle(self, now: float) -> None:
        """The body is read away: wait for the next request."""
        raise NotImplementedError

    def _on_body(self, environ: Environ, data: bytes) -> None:
        """A head has come that a body follows; `data` is what has come of it."""
        engine = self.engine
        parser = engine.parser
        limits = engine.limits
        self.buffer = b""
        keep_alive = parser.keep_alive
        continues = parser.continues and not data
        self._reader = reader = ChunkReader(limits) if parser.chunked else LengthReader(parser.length)
        exchange = Exchange(self, engine, environ, keep_alive)
        exchange.expects_more = True  # if only the line end that old clients send behind a body
        if parser.unusual:
            exchange.bodiless, exchange.old = parser.head_only, parser.old
        self.exchange = exchange
        if continues or parser.length > limits.buffered_body:
            self._stream(exchange, continues)
            if data:
                self._on_data(data)
            return
        if isinstance(reader, LengthReader) and len(data) >= parser.length:
            # the usual case: all of it came with the head
            body, self.buffer = reader.feed(data)
            self._start(exchange, body)
            return
        self.state = COLLECT
        self._pieces = []
        self._discarded = 0
        self.deadline = monotonic() + limits.timeouts.body
        if data:
            self._collect(data)

    def _collect(self, data: bytes) -> None:
        reader, exchange = self._reader, self.exchange
        assert reader is not None and exchange is not None
        try:
            body, rest = reader.feed(data)
        except Refused as refused:
            self.refuse(refused, exchange.environ)
            return
        limits = self.engine.limits
        if body:
            self._pieces.append(body)
            self._discarded += len(body)
        if reader.done:
            self.buffer = rest
            self._start(exchange, b"".join(self._pieces))
        elif self._discarded > limits.buffered_body:
            pieces, self._pieces = self._pieces, []
            self._stream(exchange, False, pieces)
        else:
            self.deadline = monotonic() + limits.timeouts.body

    def _start(self, exchange: Exchange, body: bytes) -> None:
        """Call the application with a body that is there as a whole."""
        self._reader = None
        self._pieces = []
        self.state = RUNNING
        self.deadline = UNLIMITED
        exchange.environ["wsgi.input"] = io.BytesIO(body)
        self.engine.pool.run(exchange.run)

    def _stream(self, exchange: Exchange, continues: bool, pieces: list[bytes] | None = None) -> None:
        """Call the application with a body that is on its way."""
        self.state = RUNNING
        self.deadline = UNLIMITED
        exchange.continues = continues
        exchange.body = body = StreamedBody(self.wait_body, self._body_taken)
        for piece in pieces or ():
            body.put(piece)
        exchange.environ["wsgi.input"] = body
        self.engine.pool.run(exchange.run)

    def _on_data(self, data: bytes) -> None:
        """Data while the application runs, or while what it left unread is read away."""
        if self.state != RUNNING:
            self.received(data)
            return
        exchange, reader = self.exchange, self._reader
        limits = self.engine.limits
        body = exchange.body if exchange is not None else None
        if body is None or reader is None or body.ended or body.fault is not None:
            if body is not None and body.fault is not None:
                return  # nothing that follows a fault is looked at
            self.buffer += data
            if len(self.buffer) > limits.pipelined:
                self._pause()
            return
        try:
            piece, rest = reader.feed(data)
        except Refused as refused:
            body.fail(body_error(refused))
            self._wake_body()
            return
        body.put(piece)
        if reader.done:
            body.end()
            self.buffer = rest
        elif body.available >= limits.body_ahead:
            self._pause()
        self._wake_body()

    def _read_rest(self, now: float) -> None:
        """The answer is out: read away what is left of the body, to get at the next request."""
        self.state = UNREAD
        self._discarded = 0
        self.deadline = now + self.engine.limits.timeouts.body
        self._resume()

    def _read_away(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        self._discarded += len(data)
        try:
            _, rest = reader.feed(data)
        except Refused:
            self._linger()  # the answer has gone out; what follows cannot be read as a request
            return
        if reader.done:
            self.buffer = rest
            self._idle(monotonic())
        elif self._discarded > self.engine.limits.unread_body:
            self._linger()
        else:
            self.deadline = monotonic() + self.engine.limits.timeouts.body

    def worth_draining(self) -> bool:
        """Whether what the application has not taken of the body is little enough to read it away."""
        reader = self._reader
        if reader is None or reader.done:
            return True
        left = reader.left
        return not self.eof and (left is None or left <= self.engine.limits.unread_body)

    def forget(self) -> None:
        super().forget()
        self._reader = None
        self.buffer = b""
        self._pieces = []
