"""gevent's WSGIServer, as the user made it: its connections counted, drained and noted while in flight."""

from __future__ import annotations

import select
import socket as constants
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.monkey
from gevent.pywsgi import WSGIHandler

from .. import counters as index
from ..listeners import Listener
from .context import Context, describe

_poll = gevent.monkey.get_original("select", "poll")


def _server_name(listener: Listener) -> dict[str, str]:
    """pywsgi would ask the domain name system for it."""
    name = listener.socket.getsockname()
    if not isinstance(name, tuple):
        return {"SERVER_NAME": constants.gethostname(), "SERVER_PORT": ""}
    host = constants.gethostname() if name[0] in ("0.0.0.0", "::") else name[0]
    return {"SERVER_NAME": host, "SERVER_PORT": str(name[1])}


class Tracker:
    """The connections of one server: which are idle, and whether they have to end."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.counters = context.scoreboard.counters(context.row)
        self.durations = context.scoreboard.durations(context.row)
        self.closing = False
        self._grace = 0.0
        self._handlers: set[TrackedHandler] = set()

    def opened(self, handler: TrackedHandler) -> None:
        """A connection came."""
        self._handlers.add(handler)

    def closed(self, handler: TrackedHandler) -> None:
        """It went."""
        self._handlers.discard(handler)

    def idle(self, handler: TrackedHandler) -> None:
        """A connection waits for its next request; when we drain, not for ever."""
        if self.closing:
            gevent.spawn_later(self._grace, self._end, handler)

    def drain(self, grace: float) -> None:
        """From now on answer with ``Connection: close``, and end what is idle after *grace* seconds."""
        self.closing = True
        self._grace = grace
        if self._handlers:
            gevent.spawn_later(grace, self._end_all)

    def _end_all(self) -> None:
        for handler in list(self._handlers):
            self._end(handler)

    def _end(self, handler: TrackedHandler) -> None:
        if not handler.idle or handler not in self._handlers or handler.socket is None:
            return
        try:
            poller = _poll()
            poller.register(handler.socket.fileno(), select.POLLIN)
            if poller.poll(0):  # a request has arrived; it is answered, and the answer says close
                return
            handler.socket.shutdown(constants.SHUT_RD)
        except (OSError, ValueError):
            pass


class TrackedHandler(WSGIHandler):  # type: ignore[misc]  # gevent is not typed
    """pywsgi's handler, with what a worker needs: counters, in-flight notes, draining, reports of exceptions."""

    tracker: Tracker
    response_headers: list[tuple[bytes, bytes]]
    idle = True

    def handle(self) -> None:
        """Serve one connection."""
        self.tracker.opened(self)
        try:
            super().handle()
        finally:
            self.tracker.closed(self)

    def read_requestline(self) -> Any:
        """Wait for the next request."""
        self.idle = True
        self.tracker.idle(self)
        line = super().read_requestline()
        self.idle = False
        return line

    def handle_one_response(self) -> None:
        """Run the application."""
        tracker = self.tracker
        counters = tracker.counters
        token = tracker.context.in_flight.begin(describe(self.environ))
        counters[index.REQUESTS_ACTIVE] += 1
        counters[index.REQUESTS_TOTAL] += 1
        if tracker.context.observers:
            tracker.context.observe("client request", self._about())
        began = time.monotonic()
        try:
            super().handle_one_response()
        finally:
            now = time.monotonic()
            tracker.durations.add(now - began, now)
            counters[index.REQUESTS_ACTIVE] -= 1
            counters[index.BYTES_SENT] += self.response_length or 0
            category = abs(getattr(self, "code", 0) or 0) // 100
            if 1 <= category <= 5:
                counters[index.RESPONSES + category] += 1
            tracker.context.in_flight.end(token)
            if tracker.context.observers:
                tracker.context.observe("client request complete", {
                    **self._about(), "status": abs(getattr(self, "code", 0) or 0), "bytes": self.response_length or 0,
                    "seconds": now - began,
                })

    def _about(self) -> dict[str, Any]:
        environ = self.environ
        return {"method": environ.get("REQUEST_METHOD", "-"), "path": environ.get("PATH_INFO", ""),
                "query": environ.get("QUERY_STRING", ""), "remote": environ.get("REMOTE_ADDR", "-")}

    def finalize_headers(self) -> None:
        """Announce the end of the connection when we drain. Once the head is out it is too late to do so."""
        super().finalize_headers()
        if self.tracker.closing and self.code != 101:
            self.close_connection = True
            kept = [pair for pair in self.response_headers if pair[0].lower() != b"connection"]
            self.response_headers = [*kept, (b"Connection", b"close")]

    def _log_error(self, kind: Any, error: Any, trace: Any) -> None:
        if not issubclass(kind, gevent.GreenletExit):
            self.tracker.context.report(error, describe(self.environ).decode("latin-1"))


def track(server: Any, context: Context, listener: Listener) -> Callable[[float], None]:
    """Have *server* handle its connections with `TrackedHandler`, below whatever handler class the user chose.

    Returns what starts the end of its idle connections.
    """
    tracker = Tracker(context)
    for name, value in _server_name(listener).items():
        server.environ.setdefault(name, value)
    bases = (TrackedHandler,) if server.handler_class is WSGIHandler else (TrackedHandler, server.handler_class)
    server.handler_class = type("Handler", bases, {"tracker": tracker})
    return tracker.drain


