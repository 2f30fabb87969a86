"""cli(): the server script is its own control program, as in ``python server.py status``."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .. import __version__, operating, remote, signals
from ..commands import key
from ..errors import EXIT_FAILED, EXIT_USAGE, ClusterError, ConfigurationError

if TYPE_CHECKING:
    from ..master import Master


@dataclass(frozen=True)
class _Entry:
    """One thing that can be asked for: its spellings, what runs (given the master and the other words), and help."""

    spellings: tuple[str, ...]
    run: Callable[..., Any]
    help: str
    shown: str


class _Cli:
    """What ``cluster.cli`` is: call it for the plugin, `define` adds entries."""

    def __init__(self) -> None:
        self._defined: list[_Entry] = []

    def __call__(self) -> Callable[[Master], None]:
        """The plugin. Use it after `pidfiles()` and after plugins that add commands.

        When the script's first argument is one of its words, that is done and the process ends: nothing is bound or
        forked. Else the cluster starts as ever. Raises `ConfigurationError` without ``pidfiles()`` before it.
        """
        return self._plugin

    def define(self, spellings: str, function: Callable[..., Any], description: str = "") -> None:
        """Add an entry. *spellings*: as in ``"-x, --xx, xx"``. *function* is called with the master, and with the
        words that follow as far as it takes any; what it returns is printed, unless it is None.

        Raises `ConfigurationError` for a spelling that is taken or has a space.
        """
        words = tuple(word.strip() for word in spellings.split(","))
        taken = {word for entry in (*_ENTRIES, *self._defined) for word in entry.spellings}
        for word in words:
            if not word or " " in word or word in taken:
                raise ConfigurationError(f"cli.define: {word!r} is {'taken' if word in taken else 'no word'}")
        if not callable(function):
            raise ConfigurationError(f"cli.define: {function!r} is not callable")
        self._defined.append(_Entry(words, function, description, ", ".join(words)))

    def _plugin(self, master: Master) -> None:
        if not master.has_attribute("pidfiles"):
            raise ConfigurationError("cli() needs pidfiles() before it: use(pidfiles(), cli())")
        words = sys.argv[1:]
        entry = self._find(master, words[0]) if words else None
        if entry is None:
            return
        master.prevent_default = True
        try:
            value = _call(entry, master, words[1:])
        except ConfigurationError as error:
            click.echo(error, err=True)
            raise SystemExit(EXIT_USAGE) from None
        except ClusterError as error:
            click.echo(error, err=True)
            raise SystemExit(EXIT_FAILED) from None
        if value is not None:
            click.echo(value if isinstance(value, str) else json.dumps(value, indent=2, default=repr))
        raise SystemExit(0)

    def entries(self, master: Master) -> list[_Entry]:
        """All there are: defined ones first, then ours, then the commands of the registry."""
        entries = [*self._defined, *_ENTRIES]
        known = {word for entry in entries for word in entry.spellings}
        for command in master.commands:
            word = command.word
            if command.access != "inproc" and word not in known:
                entries.append(_Entry((word,), _operation(command.name), command.help, command.usage))
        return entries

    def _find(self, master: Master, word: str) -> _Entry | None:
        words = (word, key(word).replace(" ", "-"))  # as a command's name is one word here
        return next((entry for entry in self.entries(master) if set(words) & set(entry.spellings)), None)


def _call(entry: _Entry, master: Master, words: list[str]) -> Any:
    try:
        inspect.signature(entry.run).bind(master, *words)
    except TypeError:
        raise ConfigurationError(f"usage: {_program()} {entry.shown}") from None
    return entry.run(master, *words)


def _program() -> str:
    return os.path.basename(sys.argv[0]) or "python"


def _operation(name: str, word: str | None = None) -> Callable[..., Any]:
    def run(master: Master, *words: str) -> Any:
        master.commands.get(name).parse(words)  # a wrong argument is found without asking anybody
        meanings = signals.meaning(master.options["signals"], master.commands.__contains__)
        by_signal = {key(command): number for command, number in signals.by_command(meanings).items()}
        return operating.shown(word or name, operating.operate(master.pidfiles, name, words, by_signal))

    return run


def _status(master: Master) -> None:
    found = operating.look(master.pidfiles)
    for process in found:
        click.echo(process)
    if not found[0].alive or found[0].worker is not None:
        raise remote.NotRunning("the master is not running")


def _help(master: Master) -> None:
    click.echo(f"usage: {_program()} [command]\n\nWithout a command the cluster starts.\n")
    entries = cli.entries(master)
    width = max(len(entry.shown) for entry in entries)
    for entry in entries:
        click.echo(f"  {entry.shown.ljust(width)}  {entry.help}")


_ENTRIES = (
    _Entry(("-s", "--status", "status"), _status, "Say which processes are alive.", "-s, --status, status"),
    _Entry(("-r", "--restart", "restart"), _operation("restart"), "Replace the master and its workers by new ones.",
           "-r, --restart, restart"),
    _Entry(("--reload", "reload"), _operation("reload"), "Replace the workers by a new generation.",
           "--reload, reload"),
    _Entry(("-g", "--shutdown", "shutdown"), _operation("close", "shutdown"), "End gracefully.",
           "-g, --shutdown, shutdown"),
    _Entry(("-S", "--stop", "stop"), _operation("close", "stop"), "The same.", "-S, --stop, stop"),
    _Entry(("-h", "--help", "help"), _help, "Show this.", "-h, --help, help"),
    _Entry(("-v", "--version", "version"), lambda master: __version__, "Show the version of cluster.",
           "-v, --version, version"),
)

cli = _Cli()
