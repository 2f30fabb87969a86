"""gevent's own servers (StreamServer, WSGIServer and subclasses), and TCP handlers, on the shared sockets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
from gevent.server import StreamServer
from gevent.socket import socket as gevent_socket

from .. import counters as index
from ..listeners import Listener
from .accepting import Accepting
from .context import Context

#: a gevent server, the listeners it serves, and what ends its idle connections when it drains
Served = tuple[Any, list[Listener], "Callable[[float], None]"]


def tcp_servers(handler: Callable[[Any, Any], Any], context: Context) -> list[Served]:
    """*handler* on all listeners."""

    def handle(connection: Any, address: Any) -> None:
        token = context.in_flight.begin(f"connection from {address}".encode("latin-1", "replace"))
        try:
            handler(connection, address)
        finally:
            context.in_flight.end(token)

    return [(StreamServer(context.listeners[0].socket, handle), list(context.listeners), lambda grace: None)]


def own(server: Any, context: Context) -> list[Served]:
    """The server object that the user made, on all listeners."""
    server.loop = gevent.get_hub().loop  # it was made in the master, whose hub is gone
    if server.pool is not None and hasattr(server.pool, "_semaphore"):
        server.pool._semaphore._at_fork_reinit()
    if "gevent.pywsgi" in sys.modules:
        from gevent.pywsgi import WSGIServer

        from .wsgi import track

        if isinstance(server, WSGIServer):
            return [(server, list(context.listeners), track(server, context, context.listeners[0]))]
    return [(server, list(context.listeners), lambda grace: None)]


def _remote(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else "unix"


class GeventAdapter:
    """Accepts for gevent servers, hands them their connections, and waits for these to end."""

    def __init__(self, context: Context, served: list[Served]) -> None:
        self._context = context
        self._served = served
        self._accepting = Accepting(context.scoreboard, context.row)
        self._counters: Any = context.scoreboard.counters(context.row)
        self._all_closed = gevent.event.Event()
        self._draining = False
        #: who is connected, while observers want to know: id of the socket → address
        self._remotes: dict[int, str] = {}
        for server, listeners, _ in served:
            self._take(server, listeners)

    def _take(self, server: Any, listeners: list[Listener]) -> None:
        close_one = server.do_close

        def do_close(*args: Any) -> None:
            try:
                close_one(*args)
            finally:
                self._released()
                if self._context.observers:
                    self._context.observe("client disconnection", {"remote": self._remotes.pop(id(args[0]), "-")})

        server.set_listener(listeners[0].socket)
        server.do_close = do_close
        # the server's own accept loop is replaced: it knows nothing of the other workers
        server.start_accepting = self._accepting.resume
        server.stop_accepting = self._accepting.hold
        for listener in listeners:
            self._accepting.add(listener.socket, self._handler(server, listener.socket))

    def _handler(self, server: Any, listening: Any) -> Callable[[int, Any], None]:
        family, kind, protocol = listening.family, listening.type, listening.proto

        def handle(descriptor: int, address: Any) -> None:
            self._counters[index.CONNECTIONS_ACTIVE] += 1
            self._counters[index.CONNECTIONS_TOTAL] += 1
            connection = gevent_socket(family, kind, protocol, fileno=descriptor)
            if self._context.observers:
                remote = self._remotes[id(connection)] = _remote(address)
                self._context.observe("client connection", {"remote": remote})
            try:
                server.do_handle(connection, address)
            except Exception as error:  # noqa: BLE001 - do_handle has closed the connection; others go on
                self._context.report(error, f"connection from {address}")
            if server.full():
                server.stop_accepting()
                if server.pool is not None:  # links of a semaphore are called once
                    server.pool._semaphore.rawlink(server._start_accepting_if_started)

        return handle

    def _contained(self, handle: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """*handle*, of which nothing comes out: no connection may end the others, also by a Timeout or SystemExit."""

        def contained(connection: Any, address: Any) -> None:
            try:
                handle(connection, address)
            except gevent.GreenletExit:
                pass
            except BaseException as error:  # noqa: BLE001 - see above
                self._context.report(error, f"connection from {address}")

        return contained

    def _released(self) -> None:
        self._counters[index.CONNECTIONS_ACTIVE] -= 1
        if self._draining and not self.connections():
            self._all_closed.set()

    def start(self) -> None:
        """Begin to accept."""
        for server, _, _ in self._served:
            server.start()
            server._handle = self._contained(server._handle)
        self._accepting.start()

    def connections(self) -> int:
        """How many are open."""
        return int(self._counters[index.CONNECTIONS_ACTIVE])

    def drain(self, grace: float) -> None:
        """Stop accepting and block until all connections have ended."""
        self._draining = True
        for _, _, end_idle in self._served:
            end_idle(grace)
        self._accepting.stop()
        self._accepting.empty(self._context.scoreboard.emptying)
        if self.connections():
            self._all_closed.wait()
        # a close of the whole cluster may have been asked for after this worker had begun to drain
        self._accepting.empty(self._context.scoreboard.emptying)
        while self.connections():
            self._all_closed.clear()
            self._all_closed.wait()

    def let_go(self) -> None:
        """Connections are left open: a handler may have forked a process to serve its own there."""
        self._counters = list(self._counters)

    def reopen_logs(self) -> None:
        """gevent's servers log where the user told them to."""

    def set_tls(self, index: int, material: Any) -> None:
        """They have their own TLS."""
