"""How a worker serves what the user handed to ``cluster()``: one adapter per kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..kinds import Kind, Tcp, classify
from ..listeners import Listener
from .context import Adapter, Context

__all__ = ["Adapter", "Context", "adapt", "check_tls", "prepare"]


def prepare(server: Any, options: Mapping[str, Any], base: str, listeners: Iterable[Listener]) -> None:
    """In the master: import what *server* (None: not known yet) will need in the workers, once and in shared memory,
    and find out what is wrong with its settings (paths in them are taken against *base*) and those of the *listeners*.

    Raises `ConfigurationError`.
    """
    if server is not None and classify(server) in (Kind.GEVENT, Kind.TCP):
        from . import stream  # noqa: F401

        for listener in listeners:
            if {"tls", "proxy_protocol"} & set(listener.options):
                raise ConfigurationError("listener options 'tls' and 'proxy_protocol' are for WSGI applications")
        return
    from . import http

    http.check(options, base)
    for listener in listeners:
        http.check_listener(listener.options)


def fitting_connections(server: Any, wanted: int, descriptors: int) -> int:
    """How many connections a worker takes of as many as are *wanted*, when it may have so many descriptors."""
    if server is not None and classify(server) is not Kind.WSGI:
        return wanted
    from ..http.room import fitting

    return fitting(wanted, descriptors)


def check_tls(material: Any) -> None:
    """Whether loaded certificates can be used. Raises `ConfigurationError`."""
    from . import http

    http.check_listener({"tls": material})


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
        from .http import HTTPAdapter

        return HTTPAdapter(context, server)
    raise ConfigurationError(f"cannot serve {server!r} on a socket")
