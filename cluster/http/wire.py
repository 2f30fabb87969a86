"""The side of a connection that its request's greenlet uses: waiting for the body, and sending with back-pressure."""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.hub import Waiter

from .. import counters as index
from .errors import ClientGone
from .limits import UNLIMITED

if TYPE_CHECKING:
    from .engine import Engine
    from .exchange import Exchange

#: the states of a connection; see `connection`
IDLE, HEAD, COLLECT, RUNNING, UNREAD, LINGER, CLOSED = range(7)

_READ = 1
_WRITE = 2
#: how much the kernel is given at once: small enough that a slow client's progress shows, and that others get a turn
_AT_ONCE = 1 << 20
#: how long a response may keep the hub, in seconds, while its client takes all that it is sent
_TURN = 0.001


class Wire:
    """A socket with a read watcher that can be paused, and the calls that block the application."""

    __slots__ = (
        "_body_until",
        "_reading",
        "_resumed",
        "_waiting_body",
        "_waiting_write",
        "_watcher",
        "_write_until",
        "deadline",
        "engine",
        "eof",
        "exchange",
        "peer",
        "sending",
        "since",
        "sock",
        "state",
    )

    #: whether the socket's own bytes are HTTP's, so that the kernel may copy files into it
    plain = True

    def __init__(self, engine: Engine, sock: Any, peer: str) -> None:
        self.engine = engine
        #: the client's address
        self.peer = peer
        #: anything with recv, send, shutdown, close as of a non-blocking socket
        self.sock = sock
        self.state = IDLE
        #: since when it has been idle, while it is, by the monotonic clock
        self.since = monotonic()
        #: when `on_deadline` is to be called
        self.deadline = self.since + engine.limits.timeouts.head
        #: the client has closed its side
        self.eof = False
        self.exchange: Exchange | None = None
        #: a greenlet is in the middle of sending: what another one sent now would end up inside of that
        self.sending = False
        self._waiting_body: Any = None
        self._waiting_write: Any = None
        # one greenlet may read the body while another one sends; `deadline` is the earlier of these meanwhile
        self._body_until: float = UNLIMITED
        self._write_until: float = UNLIMITED
        #: when the greenlet that sends last came back from waiting
        self._resumed = 0.0
        self._watcher: Any = engine.loop.io(sock.fileno(), _READ)
        self._reading = True
        self._watcher.start(self.on_readable)
        engine.add(self)

    def on_readable(self) -> None:
        raise NotImplementedError

    def on_deadline(self) -> None:
        raise NotImplementedError

    def end_idle(self) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what belongs to the request."""
        self.exchange = None

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._watcher.stop()

    def _resume(self) -> None:
        if not self._reading and not self.eof and self.state != CLOSED:
            self._reading = True
            self._watcher.start(self.on_readable)

    def wait_body(self) -> None:
        """Block until more of the streamed body has come, or it failed. Asks for it first when the client waits."""
        exchange = self.exchange
        if exchange is None or exchange.body is None or self.state != RUNNING:
            raise ClientGone("the request is over")
        if exchange.continues:
            exchange.continues = False
            if not exchange.head_sent:
                self.engine.counters[index.RESPONSES_1XX] += 1
                exchange.transmit(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._waiting_body is not None:
            raise RuntimeError("another greenlet is reading this request's body")
        self._resume()
        self._waiting_body = waiter = Waiter(self.engine.hub)
        self._body_until = monotonic() + self.engine.limits.timeouts.body
        self._set_deadline()
        try:
            waiter.get()
        finally:
            if self._waiting_body is waiter:  # else the request has ended meanwhile
                self._waiting_body = None
                self._body_until = UNLIMITED
                self._set_deadline()

    def _set_deadline(self) -> None:
        """What the greenlets of the request wait for; the other states have deadlines of their own."""
        if self.state == RUNNING:
            self.deadline = min(self._body_until, self._write_until)

    def _wake_body(self) -> None:
        """Let the greenlet that waits for the body look again. Call it in the hub."""
        if self._waiting_body is not None:
            self._waiting_body.switch(None)

    def _end_body(self, exchange: Exchange, why: str) -> None:
        """Let whoever still reads the body know that no more of it comes, and the next request not know of him."""
        if exchange.body is not None:
            exchange.body.fail(ClientGone(why))
        waiter, self._waiting_body = self._waiting_body, None
        if waiter is not None:
            self._body_until = UNLIMITED
            self.engine.loop.run_callback(waiter.switch, None)

    def _body_taken(self) -> None:
        exchange = self.exchange
        if self._reading or self.state != RUNNING or exchange is None or exchange.body is None:
            return
        if not exchange.body.ended and exchange.body.available < self.engine.limits.body_ahead // 2:
            self._resume()

    def send_rest(self, data: memoryview) -> None:
        """Send all of it, blocking while the client does not read. Raises `ClientGone`."""
        self.sending = True
        try:
            while data:
                self.take_turn()
                try:
                    sent = self.sock.send(data[:_AT_ONCE])
                except BlockingIOError:
                    self._wait_writable()
                except OSError as error:
                    raise ClientGone(str(error)) from error
                else:
                    data = data[sent:]
        finally:
            self.sending = False

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send a part of a file; returns how much there was. Raises `ClientGone`."""
        total = 0
        self.sending = True
        try:
            while total < count:
                self.take_turn()
                try:
                    # the number anew each time: closed meanwhile, the old one may be another connection's
                    own = self.sock.fileno()
                    sent = os.sendfile(own, descriptor, offset + total, min(count - total, _AT_ONCE))
                except BlockingIOError:
                    self._wait_writable()
                    continue
                except OSError as error:
                    raise ClientGone(str(error)) from error
                if not sent:
                    break
                total += sent
        finally:
            self.sending = False
        return total

    def take_turn(self) -> None:
        """Let others have theirs when this response has kept the hub for long.

        Nothing else does so while the client is as fast as the application, because no send ever blocks.
        """
        exchange = self.exchange
        now = monotonic()
        if exchange is None or now - exchange.started < _TURN or now - self._resumed < _TURN:
            return
        self.engine.turns.wait()
        self._resumed = monotonic()

    def _wait_writable(self) -> None:
        if self.state == CLOSED:
            raise ClientGone("the connection is closed")
        watcher = self.engine.loop.io(self.sock.fileno(), _WRITE)
        waiter: Waiter[None] = Waiter(self.engine.hub)
        self._waiting_write = waiter
        self._write_until = monotonic() + self.engine.limits.timeouts.write
        self._set_deadline()
        try:
            watcher.start(self._on_writable, watcher, waiter)
            waiter.get()
        finally:
            self._waiting_write = None
            self._write_until = UNLIMITED
            self._set_deadline()
            self._resumed = monotonic()
            watcher.stop()
            watcher.close()

    def _on_writable(self, watcher: Any, waiter: Waiter[None]) -> None:
        watcher.stop()
        self._write_until = UNLIMITED  # what it waits for now is our affair
        self._set_deadline()
        self.engine.turns.queue(waiter)

    def is_gone(self) -> bool:
        """Whether nothing can reach the client any more."""
        exchange = self.exchange
        return self.state == CLOSED or (exchange is not None and exchange.broken)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Close so that the client can read what was sent although it may still be sending.

        Closing with unread data makes the kernel send a reset, and that can overtake the answer.
        """
        self.forget()
        if self.eof or self.state == CLOSED:
            self.close()
            return
        self.state = LINGER
        self.deadline = monotonic() + self.engine.limits.timeouts.linger
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._resume()

    def _abort(self) -> None:
        """Make the close that follows a reset."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass

    def close(self) -> None:
        """Close at once. Whoever waits on this connection gets `ClientGone`."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self.deadline = UNLIMITED
        self._watcher.stop()
        self._watcher.close()
        exchange = self.exchange
        self.forget()
        if exchange is not None:
            exchange.broken = True
            if exchange.could_pass_for_whole():
                self._abort()
            self._end_body(exchange, "the connection is closed")
        if self._waiting_write is not None:
            self.engine.loop.run_callback(self._waiting_write.throw, ClientGone("the connection is closed"))
        self.sock.close()
        self.engine.remove(self)

    def let_go(self) -> None:
        """In a process forked from the server's: close its copy."""
        self.sock.close()
