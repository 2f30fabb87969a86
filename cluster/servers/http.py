"""WSGI applications, served by our own HTTP server."""

from __future__ import annotations

import atexit
import errno
import math
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..http import HTTPServer, Limits, Timeouts
from ..http.proxies import as_forwarded, as_networks
from ..http.tls import as_context
from .accepting import Accepting
from .context import Context

if TYPE_CHECKING:
    from ..http.access_log import AccessLog

#: setting → field of `Limits`, and of `Timeouts`; None or 0 means no limit
_LIMITS = {
    "max body": "max_body", "max connections": "connections", "max request line": "request_line",
    "max header": "field", "max headers": "fields", "max head": "head",
}
_TIMEOUTS = {"head timeout": "head", "body timeout": "body", "keep alive": "keep_alive", "write timeout": "write"}


def limits(options: Mapping[str, Any]) -> Limits:
    """What clients may send, and how slowly, from the settings. Raises `ConfigurationError`."""
    seconds = {field: options[name] or math.inf for name, field in _TIMEOUTS.items()}
    sizes: dict[str, Any] = {field: options[name] or math.inf for name, field in _LIMITS.items()}
    return Limits(timeouts=Timeouts(**seconds), **sizes)


def check(options: Mapping[str, Any], base: str) -> None:
    """Find out before anything is bound what is wrong with the settings of our server; *base*: what paths are taken
    against. Raises `ConfigurationError`."""
    limits(options)
    as_networks(options["trusted proxies"])
    as_forwarded(options["forwarded headers"])
    if options["access log format"] is not None:
        from ..http.access_log import compile_format

        try:
            compile_format(options["access log format"])
        except ConfigurationError as error:
            raise ConfigurationError(f"setting 'access log format': {error}") from None
    if options["access log"] not in (None, "-"):
        # Not opened: it would be the master's, and workers that run as another user could not write to it.
        path = os.path.join(base, options["access log"])
        folder = os.path.dirname(path)
        own = options["user"] is None and options["group"] is None
        if os.path.isdir(path):
            raise _unwritable(path, errno.EISDIR)
        if not os.path.isdir(folder):
            raise _unwritable(path, errno.ENOENT)
        if own and not os.access(path if os.path.exists(path) else folder, os.W_OK):
            raise _unwritable(path, errno.EACCES)


def _unwritable(path: str, number: int | None) -> ConfigurationError:
    return ConfigurationError(f"setting 'access log': cannot write {path}: {os.strerror(number or errno.EIO)}")


def check_listener(options: Mapping[str, Any]) -> None:
    """The same for the options of a listener."""
    as_context(options.get("tls"))
    as_networks(options.get("proxy_protocol"))


class _Server(HTTPServer):
    """Tells its adapter when a connection has ended."""

    def __init__(self, adapter: HTTPAdapter, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._adapter = adapter

    def _on_closed(self) -> None:
        super()._on_closed()
        self._adapter.resume()


class HTTPAdapter:
    """Accepts fairly for an `HTTPServer` and hands it the connections."""

    def __init__(self, context: Context, application: Any) -> None:
        options = context.options
        self._context = context
        self._log = self._open_log(options)
        self._server = _Server(
            self, None, application, limits(options), counters=context.scoreboard.counters(context.row),
            durations=context.scoreboard.durations(context.row), in_flight=context.in_flight, on_error=self._report,
            access_log=self._log, trusted_proxies=options["trusted proxies"],
            forwarded_headers=options["forwarded headers"], observers=context.observers,
        )
        atexit.register(self._server.tell_refused)
        self._accepting = Accepting(context.scoreboard, context.row, self._server.room)
        self._bindings = []
        for listener in context.listeners:
            binding = self._server.add_listener(
                listener.socket, tls=listener.options.get("tls"), proxy_protocol=listener.options.get("proxy_protocol")
            )
            self._bindings.append(binding)
            self._accepting.add(listener.socket, partial(self._accepted, binding))

    def _open_log(self, options: Mapping[str, Any]) -> AccessLog | None:
        target = options["access log"]
        if target is None:
            return None
        from ..http.access_log import COMBINED, AccessLog

        if target != "-":
            target = os.path.join(self._context.base, target)
        try:
            log = AccessLog(target, options["access log format"] or COMBINED)
        except OSError as error:
            raise _unwritable(target, error.errno) from None
        atexit.register(log.close)  # lines may wait; a worker that is terminated runs its exit hooks, too
        return log

    def _accepted(self, binding: Any, descriptor: int, address: Any) -> None:
        self._server.accepted(descriptor, address, binding)

    def resume(self) -> None:
        """A connection has ended: there is room again."""
        self._accepting.resume()

    def _report(self, exc_info: Any, environ: Mapping[str, Any] | None) -> None:
        doing = f"{environ.get('REQUEST_METHOD')} {environ.get('REQUEST_URI')}" if environ else "a connection"
        self._context.report(exc_info[1], doing)

    def start(self) -> None:
        """Begin to accept."""
        self._accepting.start()

    def connections(self) -> int:
        """How many are open."""
        return self._server.active

    def drain(self, grace: float) -> None:
        """Stop accepting and block until all connections have ended."""
        self._server.closing = True
        self._accepting.stop()
        while True:
            # again after each round: a close of the whole cluster may have been asked for meanwhile
            self._accepting.empty(self._context.scoreboard.emptying)
            if not self._server.active:
                break
            self._server.drain(grace)

    def let_go(self) -> None:
        """In a process that the application forked."""
        self._server.let_go()

    def reopen_logs(self) -> None:
        """The access log was moved away."""
        if self._log is not None:
            self._log.flush()
            self._log.reopen()

    def set_tls(self, index: int, material: Any) -> None:
        """New certificates for connections that the listener *index* gets from now on."""
        context = as_context(material)
        if context is not None:
            self._bindings[index].set_tls(context)
