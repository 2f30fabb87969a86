"""The server: its listeners, accepting, and the drain."""

from __future__ import annotations

import _socket
from collections.abc import Iterable, MutableSequence, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from .. import counters as index
from . import response
from . import tls as _tls
from .binding import Binding
from .connection import Connection, TLSConnection
from .engine import Engine, InFlight, Observer, OnError, WSGIApplication
from .errors import Refused
from .limits import Limits
from .preface import Preface
from .proxies import Introduction, TrustedProxies, as_networks
from .refusals import CONNECTION
from .request import Environ
from .room import OUT_OF, Room
from .wire import IDLE

if TYPE_CHECKING:
    from .access_log import AccessLog

#: no room for a connection: how long to leave a listener alone, in seconds
_REST = 0.1


class HTTPServer:
    """An HTTP/1.1 server for a WSGI application, on the hub of the thread that makes it.

    :param listener: a bound and listening stream socket (the standard library's or gevent's); more can be added with
        `add_listener`, and with None all are
    :param app: the WSGI application
    :param limits: what clients may send, and how slowly
    :param counters: a mutable sequence of at least `counters.SIZE` integers to count in, for instance shared memory
        cast to ``Q``; a list by default
    :param durations: what counts how long requests take; default: a `counters.Durations` of *counters*
    :param in_flight: where to note requests while they run
    :param on_error: called with ``sys.exc_info()`` and the environ (None outside a request) when the application
        raised; prints the traceback by default. Must not block.
    :param access_log: where to log requests; nowhere by default
    :param trusted_proxies: peers whose `forwarded_headers` are believed: addresses, networks, ``unix`` or ``*``, in a
        list or one string; none by default
    :param forwarded_headers: what of these is believed, as for `proxies.TrustedProxies`: ``for`` and ``proto`` by
        default
    :param observers: each is called with an event (``client connection`` …) and its data; looked at anew for each one,
        so that it costs next to nothing while the sequence is empty. Must not raise or block.

    Raises `ConfigurationError` for peers that are no addresses and words that are no headers, ValueError for too few
    counters.
    """

    def __init__(
        self,
        listener: Any,
        app: WSGIApplication,
        limits: Limits | None = None,
        *,
        counters: MutableSequence[int] | None = None,
        durations: index.Durations | None = None,
        in_flight: InFlight | None = None,
        on_error: OnError | None = None,
        access_log: AccessLog | None = None,
        trusted_proxies: str | Iterable[str] | None = None,
        forwarded_headers: str | Iterable[str] | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        counters = [0] * index.SIZE if counters is None else counters
        if len(counters) < index.SIZE:
            raise ValueError(f"counters must have at least {index.SIZE} items, not {len(counters)}")
        self.limits = limits or Limits()
        self.counters = counters
        networks = as_networks(trusted_proxies)
        proxies = TrustedProxies(networks, forwarded_headers) if networks is not None else None
        self._engine = Engine(app, self.limits, counters, in_flight, on_error, access_log, proxies, durations)
        self._engine.on_closed = self._on_closed
        self._engine.observers = observers
        #: for new connections, and how some is made
        self.room = Room(self._engine, self.limits.connections)
        self._bindings: list[Binding] = []
        self._watchers: list[Any] = []
        self._accepting = False
        self._retry: Any = None
        self._all_closed = Event()
        self._stopped = Event()
        if listener is not None:
            self.add_listener(listener)

    # --- listeners ------------------------------------------------------------------------------------------------

    def add_listener(
        self, listener: Any, *, tls: Any = None, proxy_protocol: Any = None, environ: Environ | None = None
    ) -> Binding:
        """Serve connections of one more listener; returns what `accepted` wants to be given with them.

        :param listener: a bound and listening stream socket, TCP or unix; made non-blocking
        :param tls: an `ssl.SSLContext`, ``(certificate, key)`` as paths or PEM bytes, or a mapping of the arguments
            of `cluster.http.tls.context`; plain by default. `Binding.set_tls` replaces it later
        :param proxy_protocol: peers that must begin with a PROXY protocol header (version 1 or 2), as for
            `trusted_proxies`; True for all. Other peers must not
        :param environ: entries for the environs of this listener's requests

        Raises `ConfigurationError` for certificates or peers that cannot be used.
        """
        binding = Binding(listener, _tls.as_context(tls), as_networks(proxy_protocol), environ or {})
        listener.setblocking(False)
        self._bindings.append(binding)
        if self._accepting:
            self._watch(binding)
        return binding

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """The listeners added so far."""
        return tuple(self._bindings)

    # --- accepting ------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many connections are open."""
        return len(self._engine.connections)

    @property
    def full(self) -> bool:
        """Whether as many connections are open as `Limits.connections` and the process's descriptors allow."""
        return self.room.full

    @property
    def closing(self) -> bool:
        """Whether responses tell clients that the connection ends."""
        return self._engine.draining

    @closing.setter
    def closing(self, closing: bool) -> None:
        self._engine.drain(closing)

    def accepted(self, sock: Any, address: Any, binding: Binding) -> None:
        """Take over a freshly accepted connection. Never blocks and never raises; call it in the hub or anywhere else.

        :param sock: the socket, or (cheaper) its descriptor, which the server then owns
        :param address: the peer as accept() gave it
        :param binding: what `add_listener` returned for the listener it came from
        """
        descriptor = sock if isinstance(sock, int) else sock.detach()
        # The C type instead of the class over it: nothing here needs the class, and it saves memory and time.
        connected = _socket.socket(binding.family, binding.type, 0, descriptor)
        try:
            connected.setblocking(False)
            peer, port = (address[0], str(address[1])) if binding.has_port else ("", "")
            if not self.room.make():
                if binding.tls is None:
                    refused = Refused(503, "too many connections")
                    connected.send(b"".join(response.refusal(refused, self._engine.date())))
                connected.close()
                self._engine.refusals.count(CONNECTION, "too many connections")
                return
            if binding.proxy_protocol is not None and peer in binding.proxy_protocol:
                Preface(self._engine, connected, partial(self._introduced, binding, peer, port))
            elif binding.tls is not None:
                self._begin(TLSConnection(self._engine, binding, _tls.Transport(connected, binding.tls), peer, port))
            else:
                self._begin(Connection(self._engine, binding, connected, peer, port))
            self.room.taken(descriptor)
        except Exception:  # noqa: BLE001 - an acceptor must survive whatever one connection does
            connected.close()
            self._engine.report(None)

    def _begin(self, connection: Connection) -> None:
        if self._engine.ending:
            # it was waiting in the backlog, most likely with its request sent
            connection.deadline = monotonic() + self.limits.timeouts.linger

    def _introduced(
        self, binding: Binding, peer: str, port: str, sock: Any, said: Introduction, rest: bytes
    ) -> None:
        """A proxy has said for whom it speaks."""
        if said.client is not None:
            peer, port = said.client
        if said.secure:
            binding = binding.behind_tls()
        if binding.tls is None:
            connection = Connection(self._engine, binding, sock, peer, port)
        else:
            transport = _tls.Transport(sock, binding.tls)
            connection = TLSConnection(self._engine, binding, transport, peer, port)
            try:
                rest = transport.fed(rest) if rest else b""
            except BlockingIOError:
                rest = b""
            except OSError:
                connection.broken()
                return
        self._begin(connection)
        if rest:
            connection.take(rest)

    def start_accepting(self) -> None:
        """Accept on all listeners: one connection per wake-up, so that other processes get theirs."""
        if not self._accepting:
            self._accepting = True
            self._stopped.clear()
            for binding in self._bindings:
                self._watch(binding)

    def _watch(self, binding: Binding) -> None:
        watcher = self._engine.loop.io(binding.listener.fileno(), 1)
        watcher.start(self._accept, binding)
        self._watchers.append(watcher)

    def _accept(self, binding: Binding) -> None:
        if not self.room.make():
            self._rest()  # they wait in the backlog, where another process may take them
            return
        try:
            descriptor, address = binding.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno in OUT_OF:
                self.room.out_of_descriptors(error)
            self._rest()
            return
        self.accepted(descriptor, address, binding)

    def _rest(self) -> None:
        """Leave the listeners alone for a moment, or until a connection has ended: now nothing would have changed."""
        self._pause()
        if self._retry is None:
            self._retry = self._engine.loop.timer(_REST)
            self._retry.start(self._unpause)

    def _pause(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()

    def _unpause(self) -> None:
        if self._retry is not None:
            self._retry.stop()
            self._retry.close()
            self._retry = None
        if self._accepting and not self._watchers:
            for binding in self._bindings:
                self._watch(binding)

    def stop_accepting(self) -> None:
        """Leave the listeners alone. They stay open, and open connections are served."""
        self._accepting = False
        self._pause()
        if self._retry is not None:
            self._unpause()

    def serve_forever(self) -> None:
        """Accept and serve until `stop` is called, from another greenlet or a signal handler."""
        self.start_accepting()
        try:
            self._stopped.wait()
        finally:
            self.stop_accepting()

    # --- the end --------------------------------------------------------------------------------------------------

    def drain(self, grace: float = 1.0) -> None:
        """Stop accepting, finish what is in flight, close what is idle; blocks until no connection is open.

        Responses carry ``Connection: close`` from now on. An idle connection on which a request comes within `grace`
        seconds still gets it answered. Put a `gevent.Timeout` around it to bound it, and `close` afterwards.
        """
        engine = self._engine
        self.stop_accepting()
        engine.drain()
        try:
            if engine.connections:
                self._all_closed.clear()
                self._all_closed.wait(grace)
            engine.ending = True
            for connection in list(engine.connections):
                if connection.state <= IDLE:
                    # in the hub: one on which a request comes at this moment runs the application
                    engine.loop.run_callback(connection.end_idle)
            while engine.connections:
                self._all_closed.clear()
                self._all_closed.wait()
        finally:
            if engine.access_log is not None:
                engine.access_log.flush()
            self.tell_refused()
            self._stopped.set()

    def stop(self, grace: float = 1.0) -> None:
        """Let `serve_forever` return; drains first."""
        self.drain(grace)

    def close(self) -> None:
        """Close all connections at once, whatever they are doing. The listeners stay open."""
        self.stop_accepting()
        for connection in list(self._engine.connections):
            connection.close()
        self.tell_refused()
        self._stopped.set()

    def let_go(self) -> None:
        """In a process that the application has forked: leave connections, counters and logs to the one that serves."""
        self._engine.let_go()

    def tell_refused(self) -> None:
        """Say now, on standard error, what was refused since it was said last; nothing when that is nothing."""
        self._engine.refusals.tell()

    def _on_closed(self) -> None:
        active = len(self._engine.connections)
        if not active:
            self._all_closed.set()
        self.room.left()
        if self._accepting and not self._watchers:
            self._unpause()
