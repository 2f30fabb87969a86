"""The registry of commands: what every surface (signals, the program, later REPL and REST) can ask a master to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .errors import ConfigurationError, did_you_mean
from .events import normal

#: from where a command may be asked for, the farther the later: code in the master's process (and its REPL), this
#: machine's user, the network
ACCESS = ("inproc", "local", "remote")

#: names that mean something else on one of the surfaces, which would hide a command: surface → names
TAKEN = {
    "the REPL": {"help", "pids", "select", "echo", "shutdown", "stop", "exit", "quit", "m", "master", "workers", "size",
                 "ages", "states", "version"},
    "the command line": {"help", "version", "serve", "check", "repl", "shutdown", "stop"},
}


def yes_or_no(word: str) -> bool:
    """What *word* says. Raises ValueError for anything but yes, true, on, 1, no, false, off, 0."""
    lower = word.lower()
    if lower not in ("yes", "true", "on", "1", "no", "false", "off", "0"):
        raise ValueError(word)
    return lower in ("yes", "true", "on", "1")


def key(name: str) -> str:
    """The one spelling of a command's name, in which underscores, hyphens and spaces mean the same."""
    return normal(name).replace("-", " ")


class Argument(NamedTuple):
    """A typed argument of a command; ``required`` ones have no default."""

    name: str
    type: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    help: str = ""


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", yes_or_no: "yes or no"}


class Command(NamedTuple):
    """A named operation. ``workers``: a worker may ask for it with ``m.call(name)``. ``access``: one of `ACCESS`."""

    name: str
    run: Callable[..., Any]
    help: str
    arguments: tuple[Argument, ...] = ()
    workers: bool = False
    access: str = "local"

    def accept(self, words: Sequence[str], through: str = "local") -> list[Any]:
        """The arguments to run it with, given as *words*, when it is asked for from *through* (one of `ACCESS`).

        Raises `ConfigurationError` when it may not be asked for from there, or for wrong arguments.
        """
        if ACCESS.index(self.access) < ACCESS.index(through):
            raise ConfigurationError(f"{self.name} cannot be asked for from here")
        return self.parse(words)

    def parse(self, words: Sequence[Any]) -> list[Any]:
        """Typed arguments from *words*. What is no text has its type already, and so has what is the default.

        Raises `ConfigurationError` that says how it is used.
        """
        if len(words) > len(self.arguments):
            raise ConfigurationError(f"{self.name} takes no more arguments than these: {self.usage}")
        values = []
        for argument, word in zip(self.arguments, words, strict=False):
            typed = not isinstance(word, str) or word == argument.default
            try:
                values.append(word if typed else argument.type(word))
            except ValueError:
                kind = _KINDS.get(argument.type, "something else")
                raise ConfigurationError(f"{self.name}: {argument.name} is {kind}, not {word!r}") from None
        for argument in self.arguments[len(words):]:
            if argument.required:
                raise ConfigurationError(f"{self.name} needs {argument.name}: {self.usage}")
            values.append(argument.default)
        return values

    @property
    def usage(self) -> str:
        """Name and arguments, as in ``resize N``; those with a default in brackets."""
        words = [name.name.upper() if name.required else f"[{name.name.upper()}]" for name in self.arguments]
        return " ".join([self.word, *words])

    @property
    def word(self) -> str:
        """Its name as one word of a command line, as in ``reopen-logs``."""
        return key(self.name).replace(" ", "-")


class Commands:
    """Commands by name; underscores, hyphens and spaces mean the same."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        """Register *command*. Raises `ConfigurationError` when its name is taken, here or on a surface, or its function
        not callable."""
        if not callable(command.run):
            raise ConfigurationError(f"command {command.name!r} needs a function, not {command.run!r}")
        if command.access not in ACCESS:
            raise ConfigurationError(f"access of command {command.name!r} is one of {', '.join(ACCESS)}, "
                                     f"not {command.access!r}")
        if command.name in self:
            raise ConfigurationError(f"there is a command {command.name!r} already")
        for surface, names in TAKEN.items():
            if key(command.name) in names:
                raise ConfigurationError(f"no command can be called {command.name!r}: "
                                         f"{surface} has something else of that name")
        self._commands[key(command.name)] = command

    def get(self, name: str) -> Command:
        """The command *name*. Raises `ConfigurationError` that says which there are."""
        command = self._commands.get(key(name)) if isinstance(name, str) else None
        if command is None:
            hint = did_you_mean(str(name), self._commands, "; there are " + ", ".join(sorted(self._commands)))
            raise ConfigurationError(f"no command {name!r}{hint}")
        return command

    def stands_alone(self, name: str) -> bool:
        """Whether *name* is a command that can be run without arguments, as by a signal."""
        return name in self and not any(argument.required for argument in self.get(name).arguments)

    def __contains__(self, name: str) -> bool:
        return key(name) in self._commands

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())
