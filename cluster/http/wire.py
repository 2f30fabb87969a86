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
#: more than the kernel takes at once anyway, and small enough that a slow client's progress is seen
_SENDFILE = 1 << 20


class Wire:
    """A socket with a read watcher that can be paused, and the calls that block the application."""

    __slots__ = (
        "_body_until",
        "_reading",
        "_waiting_body",
        "_waiting_write",
        "_watcher",
        "_write_until",
        "deadline",
        "engine",
        "eof",
        "exchange",
        "peer",
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
        #: when `on_deadline` is to be called, by the monotonic clock
        self.deadline = monotonic() + engine.limits.timeouts.head
        #: the client has closed its side
        self.eof = False
        self.exchange: Exchange | None = None
        self._waiting_body: Any = None
        self._waiting_write: Any = None
        # one greenlet may read the body while another one sends; `deadline` is the earlier of these meanwhile
        self._body_until = UNLIMITED
        self._write_until = UNLIMITED
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
                self.send_rest(memoryview(b"HTTP/1.1 100 Continue\r\n\r\n"))
        if self._waiting_body is not None:
            raise RuntimeError("another greenlet is reading this request's body")
        self._resume()
        until = monotonic() + self.engine.limits.timeouts.body
        self._waiting_body = waiter = Waiter(self.engine.hub)
        self._body_until = until
        self.deadline = min(until, self._write_until)
        try:
            waiter.get()
        finally:
            self._waiting_body = None
            self._body_until = UNLIMITED
            self.deadline = self._write_until

    def _wake_body(self) -> None:
        if self._waiting_body is not None:
            self._waiting_body.switch(None)

    def _body_taken(self) -> None:
        exchange = self.exchange
        if self._reading or self.state != RUNNING or exchange is None or exchange.body is None:
            return
        if not exchange.body.ended and exchange.body.available < self.engine.limits.body_ahead // 2:
            self._resume()

    def send_rest(self, data: memoryview) -> None:
        """Send all of it, blocking while the client does not read. Raises `ClientGone`."""
        while data:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                self._wait_writable()
            except OSError as error:
                raise ClientGone(str(error)) from error
            else:
                data = data[sent:]

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send a part of a file; returns how much there was. Raises `ClientGone`."""
        total = 0
        own = self.sock.fileno()
        while total < count:
            try:
                sent = os.sendfile(own, descriptor, offset + total, min(count - total, _SENDFILE))
            except BlockingIOError:
                self._wait_writable()
                continue
            except OSError as error:
                raise ClientGone(str(error)) from error
            if not sent:
                break
            total += sent
        return total

    def _wait_writable(self) -> None:
        if self.state == CLOSED:
            raise ClientGone("the connection is closed")
        watcher = self.engine.loop.io(self.sock.fileno(), _WRITE)
        self._waiting_write = waiter = Waiter(self.engine.hub)
        self._write_until = monotonic() + self.engine.limits.timeouts.write
        self.deadline = min(self._write_until, self._body_until)
        try:
            watcher.start(waiter.switch, None)
            waiter.get()
        finally:
            self._waiting_write = None
            self._write_until = UNLIMITED
            self.deadline = self._body_until
            watcher.stop()
            watcher.close()

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

    def _cut(self, exchange: Exchange) -> None:
        """Close in the middle of a response. Where only the close tells its end, a reset says that it is not whole."""
        if exchange.head_sent and not exchange.chunked and exchange.left is None:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            except OSError:
                pass
        self.close()

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
            if exchange.body is not None:
                exchange.body.fail(ClientGone("the connection is closed"))
        if self._waiting_write is not None:
            self.engine.loop.run_callback(self._waiting_write.throw, ClientGone("the connection is closed"))
        if self._waiting_body is not None:
            self.engine.loop.run_callback(self._wake_body)
        self.sock.close()
        self.engine.remove(self)

    def let_go(self) -> None:
        """In a process forked from the server's: close its copy."""
        self.sock.close()
