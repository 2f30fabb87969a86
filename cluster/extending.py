"""What the master offers to plugins beside operations and events: a log, attributes and commands of their own."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .commands import Argument, Command, Commands, yes_or_no
from .complaints import Complaints
from .errors import ConfigurationError
from .events import Emitter, normal


class Extensible:
    """The part of `Master` that plugins extend."""

    _commands: Commands
    _emitter: Emitter
    _complaints: Complaints
    _supervisor: Any
    _calls: Any

    def __init__(self) -> None:
        #: where plugins and users log to; it goes nowhere until a plugin such as ``logger()`` gives it a handler
        self.log = logging.Logger("cluster", logging.INFO)
        self.log.addHandler(logging.NullHandler())
        self._provided: dict[str, Any] = {}
        self._start_checks: list[Callable[[bool], Any]] = []
        self._mended_by: str | None = None

    def provide(self, name: str, value: Any) -> Any:
        """Make *value* an attribute *name* of the master, for users and other plugins; returns the master.

        Raises `ConfigurationError` when the master has such an attribute.
        """
        if name in self._provided or hasattr(type(self), name) or name in self.__dict__:
            raise ConfigurationError(f"the master has an attribute {name!r} already; is the plugin used twice?")
        self._provided[name] = value
        return self

    def has_attribute(self, name: str) -> bool:
        """Whether a plugin provided the attribute *name*."""
        return name in self._provided

    def __getattr__(self, name: str) -> Any:
        provided = self.__dict__.get("_provided", {})
        if name in provided:
            return provided[name]
        raise AttributeError(f"the master has no attribute {name!r}; is the plugin that provides it used?")

    def command(
        self,
        name: str,
        function: Callable[..., Any],
        help: str = "",
        access: str = "local",
        arguments: Sequence[Argument] | None = None,
        workers: bool = False,
    ) -> Any:
        """Add a command to every surface (REPL, command lines, and what is to come); returns the master.

        *arguments*: typed arguments; by default they are read from the function's signature, where a type is taken
        from the annotation or the default. *access*: ``inproc``, ``local`` or ``remote``, the farthest place that may
        ask for it. *workers*: a worker may ask for it, too. What *function* returns is shown; it should be what JSON
        can carry, or a `Result`. Raises `ConfigurationError` when the name is taken, by a command or on a surface.
        """
        found = signature_arguments(function) if arguments is None else tuple(arguments)
        self._commands.add(Command(name, function, help or _first_line(function), found, workers, access))
        return self

    def expose(self, name: str, function: Callable[..., Any], with_worker: bool = False) -> Any:
        """Let workers call *function* by ``worker.call(name, …)``; returns the master.

        *with_worker*: its first argument is the caller.
        Arguments and result are what JSON can carry. Raises `ConfigurationError` when the name is taken.
        """
        self._calls.expose(name, function, with_worker)
        return self

    def at_start(self, check: Callable[[bool], Any]) -> Any:
        """Call ``check(replacing)`` when the cluster is about to start; returns the master.

        That is after its addresses are bound and before anything is forked; what *check* raises, which should be a
        `ConfigurationError`, ends the script. *replacing*: whether this master is to take the place of an old one,
        which still has its files and sockets. Not called in workers, nor where a plugin only operates a cluster, as
        ``cli()`` does.
        """
        self._start_checks.append(check)
        return self

    def mended_by(self, what: str) -> Any:
        """Have a cluster whose application cannot be loaded wait until *what*, instead of ending; returns the master.

        For a plugin that reloads then; *what* is for people, such as ``a file changes``. No worker is forked until
        somebody reloads. A new master that is to take the place of an old one ends all the same.
        """
        self._mended_by = what
        return self

    def dispatch(self, name: str, *args: Any) -> None:
        """Call the handlers of the event *name* here and now, in the caller's greenlet; returns when they are done.

        For what comes in such numbers that its handlers must not hold up those of other events, nor queue up.
        """
        self._emitter.dispatch(name, *args)

    def when_listened(self, names: Iterable[str], change: Callable[[bool], None]) -> None:
        """Call ``change(True)`` once somebody listens to one of the events *names*, ``change(False)`` when nobody does
        any more: what is costly to gather is gathered only then."""
        wanted = {normal(name) for name in names}
        state = False

        def look(name: str) -> None:
            nonlocal state
            if name in wanted and state != any(self._emitter.has(one) for one in wanted):
                state = not state
                change(state)

        self._emitter.on_change.append(look)
        for name in wanted:
            look(name)

    def report_to(self, sink: Callable[[str], None] | None) -> None:
        """Have what the master reports on stderr (failed handlers, fatal tracebacks) go to ``sink(text)`` instead.

        None: to stderr again.
        """
        self._complaints.sink = sink

    def complain(self, text: str) -> None:
        """Report a failure that stops nothing: on stderr, or where a log plugin has it go."""
        self._complaints.say(text)

    @property
    def predecessor(self) -> int | None:
        """The pid of the old master whose place this one takes or has taken; None for one that was started afresh."""
        supervisor = self._supervisor
        return None if supervisor is None else supervisor.predecessor_pid

    @property
    def successor(self) -> int | None:
        """The pid of the new master that has taken over, after which this one ends; None as long as there is none."""
        supervisor = self._supervisor
        return None if supervisor is None else supervisor.successor_pid


def check_plugin(plugin: Any) -> None:
    """Raise `ConfigurationError` for what cannot be called with the master, or makes a plugin instead of being one."""
    if inspect.ismodule(plugin):
        name = plugin.__name__
        raise ConfigurationError(f"use() takes a plugin, and {name} is a module; is it "
                                 f"{name}.{name.rpartition('.')[2]}(…)?")
    if not callable(plugin):
        raise ConfigurationError(f"use() takes plugins, functions of the master; {plugin!r} is none")
    where = getattr(plugin, "__module__", None) or ""
    name = where.rpartition(".")[2]
    if where.startswith(f"{__package__}.plugins.") and getattr(sys.modules.get(where), name, None) is plugin:
        raise _without_parentheses(name)  # ours would say something about an option instead
    try:
        inspect.signature(plugin).bind(None)
    except TypeError:
        name = _name(plugin)
        raise ConfigurationError(f"use() takes plugins, functions of the master; {name} cannot be called with the "
                                 f"master alone. If it makes a plugin, use {name}(), with parentheses") from None
    except ValueError:
        pass  # nobody knows what it takes


def call_plugin(plugin: Callable[[Any], Any], master: Any) -> None:
    """Call it. Raises `ConfigurationError` when it returns a function: then that is the plugin."""
    if inspect.isroutine(plugin(master)):
        raise _without_parentheses(_name(plugin))


def _name(plugin: Any) -> str:
    return str(getattr(plugin, "__name__", None) or repr(plugin))


def _without_parentheses(name: str) -> ConfigurationError:
    return ConfigurationError(f"use() takes plugins, functions of the master, and {name} makes one: "
                              f"use {name}(), with parentheses")


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


_TYPES: dict[Any, Callable[[str], Any]] = {
    int: int, float: float, str: str, bool: yes_or_no, "int": int, "float": float, "str": str, "bool": yes_or_no,
}


def signature_arguments(function: Callable[..., Any]) -> tuple[Argument, ...]:
    """Typed arguments of a command, as its function's parameters say. Raises `ConfigurationError` for one that takes
    keyword arguments that must be given."""
    found = []
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise ConfigurationError(f"a command's arguments are given by position; {parameter.name!r} cannot be")
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        kind = _TYPES.get(parameter.annotation) or _TYPES.get(type(default)) or str
        found.append(Argument(parameter.name, kind, default, required))
    return tuple(found)
