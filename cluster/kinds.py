"""The kinds of servers that a user may hand to ``cluster()``, and telling them apart. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from .errors import ConfigurationError

WHAT = ("a WSGI application, 'package.module:name', './path/app.py', cluster.tcp(handler), cluster.job(function), "
        "a gevent StreamServer or WSGIServer, or nothing")

_COROUTINE = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR


class Kind(Enum):
    """How a worker serves."""

    ABSTRACT = "abstract"  #: the rest of the script is the worker's job
    NAMED = "named"  #: a string, imported in the workers
    WSGI = "wsgi"  #: a WSGI application
    GEVENT = "gevent"  #: a gevent server object
    TCP = "tcp"  #: a handler per connection
    JOB = "job"  #: a function that runs until it returns


class Tcp(NamedTuple):
    """``handler(socket, address)`` for each connection, each in a greenlet of its own."""

    handler: Callable[[Any, Any], Any]


class Job(NamedTuple):
    """``function(worker)``, run once by each worker; the worker ends and comes back when it returns."""

    function: Callable[[Any], Any]


def tcp(handler: Callable[[Any, Any], Any]) -> Tcp:
    """A TCP server: *handler* gets ``(socket, address)`` per connection, as with gevent's StreamServer.

    Raises `ConfigurationError` when *handler* cannot be called.
    """
    if not callable(handler):
        raise ConfigurationError(f"tcp() takes a function of (socket, address), not {handler!r}")
    return Tcp(handler)


def job(function: Callable[[Any], Any]) -> Job:
    """A job: each worker calls *function* with its `Worker`. Raises `ConfigurationError` when it cannot be called."""
    if not callable(function):
        raise ConfigurationError(f"job() takes a function of (worker), not {function!r}")
    return Job(function)


def classify(server: Any) -> Kind:
    """Say what kind of server *server* is. Raises `ConfigurationError` that says what would be right."""
    if server is None:
        return Kind.ABSTRACT
    if isinstance(server, str):
        return Kind.NAMED
    if isinstance(server, Tcp):
        return Kind.TCP
    if isinstance(server, Job):
        return Kind.JOB
    base = sys.modules.get("gevent.baseserver")
    if base is not None and isinstance(server, base.BaseServer):
        datagram = getattr(sys.modules.get("gevent.server"), "DatagramServer", None)
        if datagram is not None and isinstance(server, datagram):
            raise ConfigurationError("a DatagramServer cannot be served: workers share listening stream sockets")
        return Kind.GEVENT
    if isinstance(server, ModuleType):
        raise ConfigurationError(f"{server.__name__} is a module; name what is in it, as in '{server.__name__}:app'")
    if not callable(server):
        raise ConfigurationError(f"cannot serve {server!r}; a server is {WHAT}")
    if is_asynchronous(server):
        raise ConfigurationError("ASGI applications are not supported yet; a server is " + WHAT)
    return Kind.WSGI


def check_wsgi(server: Any) -> None:
    """Raise `ConfigurationError` for a plain function that cannot be a WSGI application."""
    if not isinstance(server, FunctionType):
        return
    code = server.__code__
    takes_any = bool(code.co_flags & 0x04)
    required = code.co_argcount - len(server.__defaults__ or ())
    if (code.co_argcount < 2 and not takes_any) or required > 2:
        hint = f"; a factory is called in the string, as in 'module:{server.__name__}()'" if not required else (
            f"; to run it as a job use cluster.job({server.__name__})" if required == 1 else "")
        raise ConfigurationError(
            f"{server.__name__}() is not a WSGI application: it does not take (environ, start_response){hint}")


def is_asynchronous(server: Any) -> bool:
    """Whether calling *server* makes a coroutine, as ASGI applications do."""
    candidates: list[Any] = [server, type(server).__call__]
    for candidate in candidates:
        while hasattr(candidate, "func"):  # functools.partial
            candidate = candidate.func
        code = getattr(getattr(candidate, "__func__", candidate), "__code__", None)
        if code is not None and code.co_flags & _COROUTINE:
            return True
    return False
