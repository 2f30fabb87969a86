"""How a worker serves what the user handed to ``cluster()``: one adapter per kind."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError
from ..kinds import Kind, Tcp, check_wsgi, classify
from .context import Adapter, Context

__all__ = ["Adapter", "Context", "adapt", "prepare"]


def prepare(server: Any) -> None:
    """Import in the master what *server* (None: not known yet) will need in the workers: once, and in shared memory."""
    if server is None or classify(server) is Kind.WSGI:
        from . import wsgi  # noqa: F401
    elif classify(server) in (Kind.GEVENT, Kind.TCP):
        from . import stream  # noqa: F401


def adapt(server: Any, context: Context) -> Adapter:
    """The adapter that serves *server* (not a string any more) on the context's listeners.

    Raises `ConfigurationError` when it cannot be served.
    """
    kind = classify(server)
    if kind is Kind.GEVENT:
        from .stream import GeventAdapter, own

        return GeventAdapter(context, own(server, context))
    if kind is Kind.TCP:
        from .stream import GeventAdapter, tcp_servers

        assert isinstance(server, Tcp)
        return GeventAdapter(context, tcp_servers(server.handler, context))
    if kind is Kind.WSGI:
        from .stream import GeventAdapter
        from .wsgi import wsgi_servers

        check_wsgi(server)
        return GeventAdapter(context, wsgi_servers(server, context))
    raise ConfigurationError(f"cannot serve {server!r} on a socket")
