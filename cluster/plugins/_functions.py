"""Functions that plugins and users add to the REPL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError


@dataclass(frozen=True)
class Function:
    """``run(master, socket, *args)``, and what `help()` says about it."""

    name: str
    run: Callable[..., Any]
    description: str


#: all that were defined, by name
functions: dict[str, Function] = {}


def define(name: str, function: Callable[..., Any], description: str = "") -> None:
    """Add ``name(*args)`` to the REPL: it calls ``function(master, socket, *args)``.

    *socket* is the session: ``socket.title(text)``, ``socket.row(key, value)``, ``socket.write(text)``. What *function*
    returns is printed, unless it is None. A second definition takes the place of the first.
    Raises `ConfigurationError` for a name that Python cannot call.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigurationError(f"repl.define: {name!r} is no name of a function")
    if not callable(function):
        raise ConfigurationError(f"repl.define: {function!r} is not callable")
    functions[name] = Function(name, function, description)
