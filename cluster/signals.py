"""Which signal means which command, and the watchers that queue signals for the supervisor."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent

from . import host
from .errors import ConfigurationError, did_you_mean
from .system import close_descriptor, undo_in_child

#: seconds after the end of the process whose terminal we have, in which SIGHUP is taken for the terminal's
HANGUP = 2.0

#: signal number → what it asks for: a command, and perhaps another one for who asks again; none: it is ignored
Meanings = dict[int, tuple[str, ...]]

#: what a signal to the master asks for, unless `meaning` knows better. INT comes before TERM: who looks for a signal
#: that destroys without knowing how the master was started takes the first
DEFAULT_MEANING: dict[str, str | tuple[str, ...]] = {
    "SIGQUIT": "close",
    "SIGINT": "destroy",
    "SIGTERM": "destroy",
    "SIGHUP": "restart",
    "SIGUSR2": "restart",
    "SIGTTIN": "spawn",
    "SIGTTOU": "remove",
    "SIGUSR1": "reopen logs",
}

#: ignored by workers, so that a signal to the whole process group acts once, through the master
IGNORED_BY_WORKERS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU")

#: end a worker at once, busy or not; all others let it finish what it is doing
AT_ONCE = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)

_UNCATCHABLE = ("SIGKILL", "SIGSTOP", "SIGCHLD")


def number(name: str | int) -> int:
    """The number of ``"SIGTERM"``, ``"TERM"``, ``"term"`` or ``15``. Raises `ConfigurationError`."""
    if isinstance(name, int) and not isinstance(name, bool):
        try:
            return signal.Signals(name)
        except ValueError:
            pass
    if isinstance(name, str):
        text = name.strip().upper()
        if text.isdecimal():
            return number(int(text))
        text = text if text.startswith("SIG") else "SIG" + text
        found = signal.Signals.__members__.get(text)
        if found is not None:
            return found
        raise ConfigurationError(f"no signal {name!r}{did_you_mean(text, signal.Signals.__members__)}")
    raise ConfigurationError(f"no signal {name!r}; it takes a name such as 'SIGTERM'")


def ending(given: str | int) -> int:
    """The number of a signal by which a worker can be ended. Raises `ConfigurationError` for any other."""
    found = number(given)
    if found not in (signal.SIGQUIT, signal.SIGABRT, *AT_ONCE):
        raise ConfigurationError(
            f"a worker does not end by {name(found)}; it does by SIGQUIT, when it is done with what it has in flight, "
            "and at once by SIGTERM, SIGINT, SIGABRT and SIGKILL"
        )
    return found


def name(signal_number: int) -> str:
    """The name of a signal number, as in ``SIGTERM``; real-time ones by number."""
    try:
        return signal.Signals(signal_number).name
    except ValueError:
        return f"signal {signal_number}"


def meaning(
    setting: Any, is_command: Callable[[str], bool], managed: bool = False, foreground: bool = False
) -> Meanings:
    """What each signal asks for. *setting*: ``"auto"``, a map of what differs from that, or False for none at all.

    *managed*: a service manager, or somebody with `kill`, expects that TERM ends us gracefully. *foreground*: INT is
    Ctrl-C, by somebody who can press it again. Signals that are left to the system are not in it.

    Raises `ConfigurationError` for a name that is no signal, one that cannot be caught, or no command.
    """
    if setting is False:
        return {}
    merged = dict(DEFAULT_MEANING)
    if managed:
        merged["SIGTERM"] = "close"
    if foreground:
        merged["SIGINT"] = ("close", "destroy")
    found = {number(key): (command,) if isinstance(command, str) else command for key, command in merged.items()}
    for key, given in {} if setting == "auto" else setting.items():
        caught = number(key)
        if name(caught) in _UNCATCHABLE:
            raise ConfigurationError(f"{name(caught)} cannot be given a meaning")
        if given == "default":
            found.pop(caught, None)
            continue
        commands = () if given is None else given if isinstance(given, tuple) else (given,)
        for command in commands:
            if not (isinstance(command, str) and is_command(command)):
                raise ConfigurationError(f"{key}: there is no command {command!r} that needs no argument")
        found[caught] = commands
    return found


def by_command(meanings: Meanings) -> dict[str, int]:
    """Command → a signal that asks for it."""
    found: dict[str, int] = {}
    for caught, commands in meanings.items():
        if len(commands) == 1:
            found.setdefault(commands[0], caught)
    return found


class Terminal:
    """The controlling terminal that we were started on, if any: when it goes away, that sends us SIGHUP, too."""

    def __init__(self) -> None:
        self._there = host.has_terminal()
        #: when the process ended whose terminal it is, most often a shell; None while it runs, or nobody can tell
        self._left: float | None = None
        self._descriptor = -1
        self._watcher: Any = None
        if self._there and hasattr(os, "pidfd_open"):
            try:
                self._descriptor = os.pidfd_open(os.getsid(0))
            except ProcessLookupError:
                self._left = -math.inf
            except OSError:
                return  # an old kernel
            else:
                self._watcher = gevent.get_hub().loop.io(self._descriptor, 1)
                self._watcher.start(self._leader_ended)

    def _leader_ended(self) -> None:
        self._left = time.monotonic()
        self.close()

    def hung_up(self) -> bool:
        """Whether a SIGHUP that has just come was sent because the terminal went away.

        Somebody sent it who wants a restart when we have had no terminal for a while, as after a log-out.
        """
        if not self._there or host.has_terminal():
            return False
        self._there = False
        return self._left is None or time.monotonic() - self._left <= HANGUP

    def close(self) -> None:
        """Watch no more."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            close_descriptor(self._descriptor)


class Watchers:
    """Signal watchers of the master: handlers only queue. `close` puts back what was there before."""

    def __init__(self, numbers: Mapping[int, tuple[str, ...]], queue: Callable[[int], None]) -> None:
        self._before: dict[int, Any] = {}
        self._watchers: list[Any] = []
        # whoever started us may have blocked them, and exec keeps that
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {*numbers, signal.SIGCHLD})
        self.terminal = Terminal()
        loop = gevent.get_hub().loop
        #: nohup(1) was asked for: the terminal's going away must not end us
        self.hangup_was_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        for wanted, commands in numbers.items():
            self._before[wanted] = signal.getsignal(wanted)
            if not commands:
                signal.signal(wanted, signal.SIG_IGN)
                continue
            watcher = loop.signal(wanted)
            watcher.start(queue, wanted)
            self._watchers.append(watcher)
        undo_in_child.append(self._stop)

    def _stop(self) -> None:
        # libev keeps one list of watchers per signal for the whole process and installs its handler only with the
        # first: were ours still there, the watchers of a forked child would never fire
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self.terminal.close()

    def close(self) -> None:
        """Stop watching."""
        self._stop()
        undo_in_child.remove(self._stop)
        for wanted, handler in self._before.items():
            if wanted == signal.SIGQUIT and handler == signal.SIG_DFL:
                signal.signal(wanted, signal.SIG_IGN)  # a close asked for again must not dump core
                continue
            signal.signal(wanted, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
