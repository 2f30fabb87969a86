"""What all connections of one server share."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, MutableSequence, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from gevent.hub import get_hub

from .. import counters as index
from ..output import say
from .body import EmptyBody
from .limits import Limits
from .pool import Pool
from .refusals import Refusals
from .request import Environ, HeadParser
from .response import Clock
from .turns import Turns

if TYPE_CHECKING:
    from .access_log import AccessLog
    from .preface import Preface
    from .proxies import TrustedProxies
    from .wire import Wire

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
OnError = Callable[[ExcInfo, Environ | None], None]
#: called with the name of an event and its data
Observer = Callable[[str, dict[str, Any]], None]
WSGIApplication = Callable[..., Any]


class InFlight(Protocol):
    """Where requests are noted while they run, for whoever wants to know what a stuck worker was doing."""

    def begin(self, description: bytes, now: float) -> int:
        """Note a request ("method target peer") that begins *now* by the monotonic clock; returns a token for `end`."""

    def end(self, token: int) -> None:
        """Forget it."""


def print_error(exc_info: ExcInfo, environ: Environ | None) -> None:
    """The default `on_error`: the request and the traceback on standard error."""
    text = "".join(traceback.format_exception(*exc_info))
    if environ is not None:
        uri = environ.get("REQUEST_URI", "?")
        text = f"Exception while answering {environ.get('REQUEST_METHOD', '?')} {uri!r}\n{text}"
    say(text)


class Engine:
    """The application, the limits, the counters, the parser and the greenlets; and who is connected.

    Belongs to one hub and one thread.
    """

    def __init__(
        self,
        app: WSGIApplication,
        limits: Limits,
        counters: MutableSequence[int],
        in_flight: InFlight | None,
        on_error: OnError | None,
        access_log: AccessLog | None,
        proxies: TrustedProxies | None,
        durations: index.Durations | None = None,
    ) -> None:
        self.app = app
        self.limits = limits
        self.counters = counters
        self.durations = index.Durations(counters) if durations is None else durations
        self.in_flight = in_flight
        self.on_error = on_error or print_error
        self.access_log = access_log
        self.proxies = proxies
        self.hub: Any = get_hub()
        self.loop: Any = self.hub.loop
        self.pool = Pool(self.hub)
        self.turns = Turns(self.hub)
        self.refusals = Refusals(self.loop)
        self.parser = HeadParser(limits)
        self.clock = Clock()
        self.empty_body = EmptyBody()
        self.connections: set[Wire | Preface] = set()
        #: responses say "Connection: close", as the server is draining or crowded
        self.closing = False
        self.draining = False
        #: somebody waits for a place, and nobody has been idle for long
        self.crowded = False
        #: connections are closed as soon as they are idle
        self.ending = False
        #: who wants to know of connections and requests
        self.observers: Sequence[Observer] = ()
        #: called when a connection has closed
        self.on_closed: Callable[[], None] | None = None
        times = limits.timeouts
        self.keep_alive = times.keep_alive
        # Time-outs are deadlines that one timer looks at, instead of a timer for each connection. It does not run while
        # there are no connections, so that an idle process sleeps.
        shortest = min(times.head, times.body, times.keep_alive, times.write, times.linger)
        self._resolution = min(1.0, max(0.02, shortest / 4))
        self._sweeper: Any = None

    def date(self) -> str:
        """The current Date field with its line end."""
        now = monotonic()
        if now >= self.clock.expires:
            self.clock.renew(now)
        return self.clock.field

    def add(self, connection: Wire) -> None:
        """A connection has come."""
        self.hold(connection)
        self.counters[index.CONNECTIONS_TOTAL] += 1
        if self.observers:
            self.observe("client connection", {"remote": connection.peer})

    def remove(self, connection: Wire) -> None:
        """It has ended."""
        if self.observers:
            self.observe("client disconnection", {"remote": connection.peer})
        self.release(connection)

    def hold(self, connection: Wire | Preface) -> None:
        """Look at its deadline from now on. One that waits for its proxy's header is held and not counted."""
        self.connections.add(connection)
        self.counters[index.CONNECTIONS_ACTIVE] = len(self.connections)
        if self._sweeper is None:
            self._sweeper = self.loop.timer(self._resolution, self._resolution)
            self._sweeper.start(self._sweep)

    def release(self, connection: Wire | Preface) -> None:
        """The end of `hold`."""
        self.connections.discard(connection)
        active = len(self.connections)
        self.counters[index.CONNECTIONS_ACTIVE] = active
        if not active and self._sweeper is not None:
            self._sweeper.stop()
            self._sweeper.close()
            self._sweeper = None
        if self.on_closed is not None:
            self.on_closed()

    def drain(self, draining: bool = True) -> None:
        """Whether responses tell clients that the connection ends, as the server does."""
        self.draining = draining
        self.closing = draining or self.crowded

    def crowd(self, crowded: bool) -> None:
        """Whether responses do so to make room for other clients."""
        if crowded != self.crowded:
            self.crowded = crowded
            self.closing = self.draining or crowded

    def let_go(self) -> None:
        """In a process forked from the server's: hold no connection open, and count and log nothing for the server."""
        for connection in self.connections:
            connection.let_go()
        self.counters = list(self.counters)
        self.durations = index.Durations(self.counters)
        self.in_flight = None
        self.access_log = None
        self.refusals = Refusals(self.loop)
        self.observers = ()

    def observe(self, event: str, data: dict[str, Any]) -> None:
        """Tell who wants to know."""
        for observer in self.observers:
            observer(event, data)

    def _sweep(self) -> None:
        now = monotonic()
        if now >= self.clock.expires:
            self.clock.renew(now)
        # First find, then act: acting changes the set.
        for connection in [connection for connection in self.connections if connection.deadline <= now]:
            try:
                connection.on_deadline()
            except Exception:  # noqa: BLE001 - one connection must not keep the others from being looked at
                self.report(None)
                connection.close()

    def report(self, environ: Environ | None) -> None:
        """Hand the exception being handled to `on_error`, whose own exceptions go to standard error."""
        kind, error, trace = sys.exc_info()
        if kind is None or error is None:
            return
        try:
            self.on_error((kind, error, trace), environ)
        except Exception:  # noqa: BLE001 - reporting must never make things worse
            say(traceback.format_exc())
        if isinstance(error, KeyboardInterrupt):
            # not the request's: whoever runs the process pressed it
            self.hub.handle_system_error(kind, error, trace)
