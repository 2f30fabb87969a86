"""A connection from a proxy before its PROXY protocol header has come."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from .errors import Refused
from .limits import UNLIMITED
from .proxies import Introduction, proxy_header
from .refusals import CONNECTION

if TYPE_CHECKING:
    from .engine import Engine


class Preface:
    """Reads the header, then gives the socket away; to the engine it is a connection like others.

    `done` is called with the socket, what the header says, and what came behind it.
    """

    __slots__ = ("_data", "_done", "_sock", "_watcher", "deadline", "engine", "state")

    def __init__(self, engine: Engine, sock: Any, done: Callable[[Any, Introduction, bytes], None]) -> None:
        self.engine = engine
        self.deadline = monotonic() + engine.limits.timeouts.head
        #: of its own kind; see `connection` for the others
        self.state = -1
        self._sock = sock
        self._done = done
        self._data = b""
        self._watcher: Any = engine.loop.io(sock.fileno(), 1)
        self._watcher.start(self._on_readable)
        engine.hold(self)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._refuse("the PROXY protocol header ended early")
            return
        self._data += data
        try:
            found = proxy_header(self._data)
        except Refused as refused:
            # Whoever it is, it does not speak the protocol of this listener: nothing to say to it.
            self._refuse(refused.reason)
            return
        if found is not None:
            sock, rest = self._sock, self._data[found.size :]
            self._stop()
            try:
                self._done(sock, found, rest)
            finally:
                self.engine.release(self)  # after the connection has begun: the server must not look empty in between

    def on_deadline(self) -> None:
        if self._sock is not None:
            self._on_readable()  # it may have come at the last moment
        if self._sock is not None:
            self._refuse("the PROXY protocol header did not come")

    def _refuse(self, reason: str) -> None:
        if self._data:  # else it is a look whether somebody listens, as load balancers have
            self.engine.refusals.count(CONNECTION, reason)
        self.close()

    def end_idle(self) -> None:
        """Close, unless the header has come at the last moment."""
        if self._sock is not None:
            self._on_readable()
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            sock = self._sock
            self._stop()
            sock.close()
            self.engine.release(self)

    def let_go(self) -> None:
        """In a process forked from the server's: close its copy."""
        if self._sock is not None:
            self._sock.close()

    def _stop(self) -> None:
        self.deadline = UNLIMITED
        self._watcher.stop()
        self._watcher.close()
        self._sock = None
