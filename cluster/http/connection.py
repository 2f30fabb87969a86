"""One connection: a state machine that the read watcher, the deadlines and the end of an exchange move along.

Everything here runs in the hub and must not block, but for what it inherits from `Wire`, which the application's
greenlet calls. `Receiving` takes the bodies. Part of the hot path: `on_readable`, `_on_head`, `exchange_over`.

    IDLE      between requests, or before the first: holds no greenlet, and no parser
    HEAD      part of a head has come
    COLLECT   a small body is on its way; the application is not called yet
    RUNNING   the application runs; what comes belongs to its streamed body, or waits as the next request
    UNREAD    answered, while the rest of the body is read away
    LINGER    answered and shut for writing; what comes is thrown away, so that no reset overtakes the answer
    CLOSED
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import counters as index
from . import response
from .errors import BodyError, ClientGone, Refused, WriteStalled
from .exchange import Exchange
from .grammar import first_fault
from .limits import UNLIMITED
from .receiving import Receiving
from .refusals import HANDSHAKE, REQUEST
from .request import Environ
from .tls import NOT_TLS, Transport
from .wire import CLOSED, COLLECT, HEAD, IDLE, RUNNING, UNREAD

if TYPE_CHECKING:
    from .binding import Binding
    from .engine import Engine

#: between requests; a larger buffer makes the allocator tidy up after each (measured: 2 % of a request)
_RECEIVE_HEAD = 16384
_RECEIVE = 65536


class Connection(Receiving):
    """A connection from its accept to its close."""

    __slots__ = ("_idle_until", "_scanned", "binding", "port")

    def __init__(self, engine: Engine, binding: Binding, sock: Any, peer: str, port: str) -> None:
        self.binding = binding
        self.port = port
        self._scanned: tuple[int, ...] = ()
        # the deadline before a head began, should it turn out that none has
        self._idle_until: float = UNLIMITED
        super().__init__(engine, sock, peer)

    # --- receiving (in the hub) -----------------------------------------------------------------------------------

    def on_readable(self) -> None:
        try:
            data = self.sock.recv(_RECEIVE_HEAD if self.state == IDLE or self.chunked else _RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.broken()
            return
        if not data:
            self._on_eof()
            return
        self.engine.counters[index.BYTES_RECEIVED] += len(data)
        try:
            if self.state == IDLE and not self.buffer:
                self._on_head(data)
            else:
                self.received(data)
        except Exception:  # noqa: BLE001 - as in `take`, without another call
            self.engine.report(None)
            self.close()

    def take(self, data: bytes) -> None:
        """`received`, called by the loop: a fault of ours must cost this connection only."""
        try:
            self.received(data)
        except Exception:  # noqa: BLE001 - whatever it is
            self.engine.report(None)
            self.close()

    def received(self, data: bytes) -> None:
        state = self.state
        if state == IDLE:
            self._on_head(self.buffer + data if self.buffer else data)
        elif state == HEAD:
            self._on_head(self.buffer + data, max(len(self.buffer) - 3, 0))
        elif state == RUNNING:
            self._on_data(data)
        elif state == COLLECT:
            self._collect(data)
        elif state == UNREAD:
            self._read_away(data)

    def _on_head(self, data: bytes, start: int = 0) -> None:
        """A head has come, or a part of it; its end is not before `start`."""
        end = data.find(b"\r\n\r\n", start) + 4
        if end == 3 or data[0] < 32:
            if data[0] == 13:
                data = _without_empty_lines(data)
                if not data:
                    self.buffer = b""
                    if self.state == HEAD:  # it came in two halves, and has not begun a request
                        self._idle(monotonic())
                        self.deadline = min(self.deadline, self._idle_until)
                    return
                end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._on_partial_head(data)
                return
        engine = self.engine
        environ = self.binding.environ.copy()
        environ["REMOTE_ADDR"] = self.peer
        environ["REMOTE_PORT"] = self.port
        size = len(data)
        parser = engine.parser
        try:
            parser.parse(data if end == size else data[:end], environ)
        except Refused as refused:
            parser.renew()
            self.refuse(refused, environ)
            return
        except BaseException:
            parser.renew()  # it serves others, too
            raise
        if engine.proxies is not None:
            engine.proxies.apply(environ)
        self.deadline = UNLIMITED
        if parser.body and (parser.length or parser.chunked):
            self._on_body(environ, data[end:])
            return
        if end == size:
            self.buffer = b""
        else:
            self.buffer = data[end:]
            if size - end > engine.limits.pipelined:
                self._pause()
        self.state = RUNNING
        environ["wsgi.input"] = engine.empty_body
        self.exchange = exchange = Exchange(self, engine, environ, parser.keep_alive)
        if parser.unusual:
            exchange.bodiless, exchange.old = parser.head_only, parser.old
        engine.pool.run(exchange.run)

    def _on_partial_head(self, data: bytes) -> None:
        if self.state == IDLE:
            self.state = HEAD
            self._idle_until = self.deadline
            self.deadline = monotonic() + self.engine.limits.timeouts.head
            self._scanned = ()
        fault, *scanned = first_fault(data, self.engine.limits, *self._scanned)
        if fault is not None:
            self.refuse(fault)
            return
        self._scanned = tuple(scanned)
        self.buffer = data

    def _on_eof(self) -> None:
        self.eof = True
        self._pause()
        state = self.state
        if state == RUNNING:
            # It may only have closed its sending side, and still wait for the answer.
            exchange = self.exchange
            if exchange is not None and exchange.body is not None and not exchange.body.ended:
                exchange.body.fail(BodyError(400, "the body ended early"))
                self._wake_body()
        elif state == COLLECT:
            self.refuse(Refused(400, "the body ended early"), self.exchange.environ if self.exchange else None)
        elif state != IDLE or not self.buffer:  # else a request waits in there for `_on_buffered`
            self.close()

    def broken(self) -> None:
        """The connection broke."""
        self.eof = True
        self._pause()
        if self.state != RUNNING:
            self.close()
            return
        exchange = self.exchange
        if exchange is not None:
            exchange.keep_alive = False
            if exchange.body is not None and not exchange.body.ended:
                exchange.broken = True
                exchange.body.fail(ClientGone("the client reset the connection"))
                self._wake_body()

    # --- the end of an exchange -----------------------------------------------------------------------------------

    def exchange_over(self, exchange: Exchange, now: float) -> None:
        """Called by the exchange when its response is out, or cannot be."""
        body = exchange.body
        unread = body is not None and not body.ended
        if body is not None and unread:
            if body.fault is not None:
                exchange.keep_alive = False  # nothing that follows a fault is looked at
            # whoever still reads it must neither wait for ever nor get at the next request's
            self._end_body(exchange, "the request is over")
        if exchange.broken or not exchange.complete:
            self.close()
            return
        self.exchange = None
        if not exchange.keep_alive:
            if exchange.expects_more or self.buffer or unread:
                self._linger()
            else:
                self.close()  # a client that asked for the end sends nothing more
        elif unread:
            self._read_rest(now)
        elif self.buffer or self.eof or self.engine.ending or not self._reading:
            self._idle(now)
        else:
            self.state = IDLE
            self.since = now
            self.deadline = now + self.engine.keep_alive

    def _idle(self, now: float) -> None:
        """Wait for the next request, or take the one that has come already."""
        self.state = IDLE
        self._reader = None
        self.since = now
        self.deadline = now + self.engine.keep_alive
        if self.buffer:
            # later and not at once: others have waited for longer
            self.engine.loop.run_callback(self._on_buffered)
        elif self.eof:
            self.close()
        else:
            self._resume()
            if self.engine.ending:
                self.engine.loop.run_callback(self.end_idle)

    def _on_buffered(self) -> None:
        if self.state == IDLE and self.buffer:
            data, self.buffer = self.buffer, b""
            self._resume()
            self.take(data)
            if self.eof:
                self._on_eof()  # it came before anybody looked at this
            elif self.engine.ending:
                self.end_idle()  # it was no more than an empty line

    def end_idle(self) -> None:
        """Close an idle connection, unless a request has come at the last moment."""
        if self.state == IDLE and not self.buffer:
            if self._reading:
                self.on_readable()
            if self.state == IDLE and not self.buffer:
                self._linger()

    def give_way(self) -> None:
        """Close an idle connection so that another one gets its place.

        A request that has come at the last moment is answered, as the last one.
        """
        if self._reading:
            self.on_readable()
        if self.state == IDLE and not self.buffer:
            self.close()
        elif self.exchange is not None and not self.exchange.head_sent:
            self.exchange.keep_alive = False

    def on_deadline(self) -> None:
        """The deadline has passed."""
        if self._reading and self.state != IDLE:  # an idle one is looked at anyway
            # The worker may have been busy for so long, and what was waited for have come meanwhile.
            self.on_readable()
            if self.deadline > monotonic():
                return
        self.deadline = UNLIMITED
        if self._waiting_write is not None and self._write_until <= monotonic():
            self._waiting_write.throw(WriteStalled("the client does not read"))
        elif self.state == RUNNING:
            self.deadline = self._write_until
            exchange = self.exchange
            if exchange is not None and exchange.body is not None:
                exchange.body.fail(BodyError(408, "the body did not come"))
                self._wake_body()
        elif self.state == IDLE:
            self.end_idle()
        elif self.state == HEAD:
            self.refuse(Refused(408, "the request did not come"))
        elif self.state == COLLECT:
            self.refuse(Refused(408, "the body did not come"), self.exchange.environ if self.exchange else None)
        elif self.state == UNREAD:
            self._linger()
        else:
            self.close()

    def refuse(self, refused: Refused, environ: Environ | None = None) -> None:
        """Answer a request that the application does not get to see, and close."""
        engine = self.engine
        counters = engine.counters
        counters[index.REQUESTS_TOTAL] += 1
        counters[index.RESPONSES + refused.status // 100] += 1
        engine.refusals.count(REQUEST, f"{refused.status} {refused.reason}")
        head, body = response.refusal(refused, engine.date())
        if environ is not None and environ.get("REQUEST_METHOD") == "HEAD":
            body = b""
        try:
            # Once: a client that does not even take this gets nothing.
            counters[index.BYTES_SENT] += self.sock.send(head + body)
        except OSError:
            self.close()
            return
        if engine.access_log is not None:
            engine.access_log.add_refused(self, refused, environ, len(body))
        self._linger()


class TLSConnection(Connection):
    """A connection whose socket is a `tls.Transport`."""

    __slots__ = ()
    plain = False

    def broken(self) -> None:
        transport = self.sock
        if not isinstance(transport, Transport) or transport.trouble not in NOT_TLS:
            super().broken()
            return
        # Whoever it is can be told, in its own words; what else it sends is read away as what it is.
        self.sock = transport.given_up()
        self.refuse(Refused(400, transport.trouble))

    def on_deadline(self) -> None:
        if isinstance(self.sock, Transport):
            self.sock.too_late()
        super().on_deadline()

    def close(self) -> None:
        if self.state != CLOSED and isinstance(self.sock, Transport) and self.sock.trouble is not None:
            self.engine.refusals.count(HANDSHAKE, self.sock.trouble)
        super().close()

    def _abort(self) -> None:
        self.sock.skip_goodbye()
        super()._abort()


def _without_empty_lines(data: bytes) -> bytes:
    """Leave out empty lines before a request line (RFC 9112, 2.2)."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return data[start:]
