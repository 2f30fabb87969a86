"""The kinds of servers that a user may hand to ``cluster()``, and telling them apart. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from .errors import ConfigurationError

WHAT = ("a WSGI application, 'package.module:name', './path/app.py', cluster.tcp(handler), cluster.job(function), "
        "a gevent StreamServer or WSGIServer, or nothing")

_TAKES_ANY = 0x04  # CO_VARARGS
_COROUTINE = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR


class Kind(Enum):
    """How a worker serves."""

    ABSTRACT = "abstract"  #: the rest of the script is the worker's job
    NAMED = "named"  #: a string, imported in the workers
    WSGI = "wsgi"  #: a WSGI application
    GEVENT = "gevent"  #: a gevent server object
    TCP = "tcp"  #: a handler per connection
    JOB = "job"  #: a function that runs until it returns


#: what the operator is told about a server that was imported
DESCRIPTIONS = {Kind.WSGI: "a WSGI application", Kind.JOB: "a job", Kind.TCP: "a TCP server",
                Kind.GEVENT: "a gevent server"}


class Tcp(NamedTuple):
    """``handler(socket, address)`` for each connection, each in a greenlet of its own."""

    handler: Callable[[Any, Any], Any]


class Job(NamedTuple):
    """``function(worker)``, run once by each worker; the worker ends and comes back when it returns."""

    function: Callable[[Any], Any]


def tcp(handler: Callable[[Any, Any], Any]) -> Tcp:
    """A TCP server: *handler* gets ``(socket, address)`` per connection, as with gevent's StreamServer.

    Raises `ConfigurationError` when *handler* cannot be called so.
    """
    if not callable(handler) or not _takes(handler, 2):
        raise ConfigurationError(f"tcp() takes a function of (socket, address), not {handler!r}")
    return Tcp(handler)


def job(function: Callable[[Any], Any]) -> Job:
    """A job: each worker calls *function* with its `Worker`.

    Raises `ConfigurationError` when it cannot be called so.
    """
    if not callable(function) or not _takes(function, 1):
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


def check(server: Any, listening: bool) -> Kind:
    """Say how *server*, no string any more, is served in a cluster that listens on addresses, or does not.

    What is called by itself where nothing listens is a job. Raises `ConfigurationError` when it cannot be served.
    """
    kind = classify(server)
    if kind in (Kind.ABSTRACT, Kind.NAMED):
        raise ConfigurationError(f"cannot serve {server!r}; a server is {WHAT}")
    if kind is Kind.WSGI and not listening and (_takes(server, 1) or not _takes(server, 2)):
        job(server)
        return Kind.JOB
    if not listening and kind is not Kind.JOB:
        raise ConfigurationError(f"{server!r} needs an address to listen on")
    if kind is Kind.WSGI:
        check_wsgi(server)
    return kind


def check_wsgi(server: Any) -> None:
    """Raise `ConfigurationError` for what cannot be a WSGI application, as far as can be known without calling it."""
    if _takes(server, 2) and not _is_factory_class(server):
        return
    name = getattr(server, "__name__", None)
    hint = ""
    if name and (isinstance(server, type) or _takes(server, 0)):
        hint = f"; a factory is called in the string, as in 'module:{name}()'"
    elif name and _takes(server, 1):
        hint = f"; to run it as a job use cluster.job({name}), or --job on the command line"
    why = "it does not take (environ, start_response)"
    if _takes(server, 2):
        why = "what it makes is no answer to a request"
    called = f"{name}()" if name else repr(server)
    raise ConfigurationError(f"{called} is not a WSGI application: {why}{hint}")


def _takes(server: Any, count: int) -> bool:
    """Whether *server* can be called with *count* arguments; what is not written in Python gets the benefit of it."""
    bound = 0
    while isinstance(server, partial):
        if server.keywords:
            return True
        bound += len(server.args)
        server = server.func
    if isinstance(server, type):
        if not _is_plain(server):
            return True  # it decides by itself what it makes, and of what
        made = getattr(server, "__init__")  # noqa: B009 - type checkers take it for that of one class
        if made is object.__init__:
            return bound + count == 0
        server, bound = made, bound + 1
    elif isinstance(server, MethodType):
        server, bound = server.__func__, bound + 1
    elif not isinstance(server, FunctionType):
        found = (vars(owner)["__call__"] for owner in type(server).__mro__ if "__call__" in vars(owner))
        server, bound = next(found, None), bound + 1
    if not isinstance(server, FunctionType):
        return True
    code = server.__code__
    if code.co_kwonlyargcount > len(server.__kwdefaults__ or ()):
        return False
    required = code.co_argcount - len(server.__defaults__ or ())
    return required <= bound + count and (bound + count <= code.co_argcount or bool(code.co_flags & _TAKES_ANY))


def _is_factory_class(server: Any) -> bool:
    """Whether *server* is a class whose instances are applications, and no answers."""
    return (isinstance(server, type) and _is_plain(server)
            and not hasattr(server, "__iter__") and not hasattr(server, "__getitem__"))


def _is_plain(made: Any) -> bool:
    """Whether calling the class *made* does no more than make an instance and call its ``__init__``."""
    return type(made).__call__ is type.__call__ and made.__new__ is object.__new__


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
