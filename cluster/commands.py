"""The registry of commands: what every surface (signals, the program, later REPL and REST) can ask a master to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .errors import ConfigurationError, did_you_mean
from .events import normal


@dataclass(frozen=True)
class Argument:
    """A typed argument of a command; ``required`` ones have no default."""

    name: str
    type: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    help: str = ""


@dataclass(frozen=True)
class Command:
    """A named operation. ``workers``: a worker may ask for it with ``m.call(name)``."""

    name: str
    run: Callable[..., Any]
    help: str
    arguments: tuple[Argument, ...] = ()
    workers: bool = False


class Commands:
    """Commands by name; underscores and spaces mean the same."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        """Register *command*. Raises `ConfigurationError` when its name is taken or its function not callable."""
        if not callable(command.run):
            raise ConfigurationError(f"command {command.name!r} needs a function, not {command.run!r}")
        if normal(command.name) in self._commands:
            raise ConfigurationError(f"there is a command {command.name!r} already")
        self._commands[normal(command.name)] = command

    def get(self, name: str) -> Command:
        """The command *name*. Raises `ConfigurationError` that says which there are."""
        command = self._commands.get(normal(name)) if isinstance(name, str) else None
        if command is None:
            hint = did_you_mean(str(name), self._commands, "; there are " + ", ".join(sorted(self._commands)))
            raise ConfigurationError(f"no command {name!r}{hint}")
        return command

    def stands_alone(self, name: str) -> bool:
        """Whether *name* is a command that can be run without arguments, as by a signal."""
        return name in self and not any(argument.required for argument in self.get(name).arguments)

    def __contains__(self, name: str) -> bool:
        return normal(name) in self._commands

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())
