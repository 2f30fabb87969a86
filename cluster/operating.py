"""Operating a running cluster from a command line: what ``cluster status`` and a script with ``cli()`` share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from . import narration
from .commands import key
from .counters import BUCKETS, LATENCY, NAMES, quantile
from .errors import RemoteError
from .remote import SOCKET, NotRunning, Process, Remote, processes
from .signals import by_command, meaning
from .signals import name as signal_name
from .signals import number as signal_number

#: seconds within which a new master listens for commands after the old one has stopped doing so
CHANGING_HANDS = 0.4
#: seconds within which a command has to be taken where nothing is lost by sending a signal instead, or by looking at
#: the pid files
HASTE = 0.4
#: what a worker whose master is dead is sent
_TO_ORPHANS = {"close": "SIGQUIT", "destroy": "SIGTERM", "restart": "SIGQUIT"}


def operate(
    directory: str, name: str, words: Sequence[str] = (), by_signal: Mapping[str, int] | None = None, wait: float = 0.0
) -> Any:
    """Have the cluster whose pid files are in *directory* run the command *name*.

    Over its socket; when nobody takes it there, by the signal in *by_signal* (default: the default map); when only
    workers are left, by a signal to these. *wait*: seconds to wait until it is done. Returns the command's value, or
    what was done in words. Raises `NotRunning`, `ConfigurationError` when it is used wrongly, `RemoteError` when it is
    refused, fails, or cannot be asked for by a signal.
    """
    if by_signal is None:
        by_signal = by_command(meaning("auto", lambda command: True))
    signal = None if words else by_signal.get(key(name))
    # a signal tells nobody how it went: who wants to wait for that gives the master more time
    patience = HASTE if signal is not None and not wait else None
    listening = None
    try:
        with _connected(directory) as connection:
            listening = connection.pid
            return connection.command(name, words, wait, patience)
    except NotRunning:
        alive = [process for process in processes(directory, listening) if process.alive]
    if not alive:
        raise NotRunning(f"not running: all processes named in {directory} are dead")
    if alive[0].worker is not None:
        return _to_orphans(alive, name)
    if signal is None:
        raise RemoteError(f"{name}: the master ({alive[0].pid}) does not answer, and no signal means that")
    return _send(alive[:1], signal)


def shown(name: str, value: Any) -> str:
    """What a command line shows of the *value* that a command gave."""
    if value is None:
        return f"{name}: done"
    return f"{name}: {value}" if isinstance(value, str) else json.dumps(value, indent=2, default=repr)


def look(directory: str) -> list[Process]:
    """Master and workers, as the master says; as the pid files in *directory* have them where it does not answer.

    The master comes first, then a line per slot. Raises `NotRunning` when there is nothing to tell.
    """
    listening = None
    try:
        with _connected(directory) as connection:
            listening = connection.pid
            status = connection.command("status", patience=HASTE)
    except NotRunning:
        return processes(directory, listening)
    found = {process.worker: process for process in processes(directory, status["pid"])}
    found.update({worker["id"]: Process(worker["id"], worker["pid"], True) for worker in status["workers"]})
    return [found[slot] for slot in sorted(found, key=lambda slot: -1 if slot is None else slot)]


def _connected(directory: str) -> Remote:
    """Connect; for a moment during a restart neither master may listen."""
    deadline = time.monotonic() + CHANGING_HANDS
    while True:
        try:
            return Remote.at(os.path.join(directory, SOCKET))
        except NotRunning:
            if time.monotonic() > deadline or not any(process.alive for process in processes(directory)):
                raise
        time.sleep(0.02)


def _to_orphans(workers: Sequence[Process], name: str) -> str:
    if name not in _TO_ORPHANS:
        raise RemoteError(f"{name}: the master is dead; its workers {', '.join(str(w.pid) for w in workers)} live")
    return "the master is dead; " + _send(workers, signal_number(_TO_ORPHANS[name]))


def _send(targets: Sequence[Process], number: int) -> str:
    for target in targets:
        try:
            os.kill(target.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise RemoteError(f"no permission to send {signal_name(number)} to {target.pid}") from None
    return f"sent {signal_name(number)} to " + ", ".join(str(target.pid) for target in targets)


def histogram(counters: Mapping[str, Any]) -> list[int]:
    """The latency histogram among the counters of a worker, or of all."""
    return [counters[name] for name in NAMES[LATENCY : LATENCY + BUCKETS] if name in counters]


def memory(pid: int) -> int | None:
    """Resident bytes of a process; None when it cannot be seen."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


HEADINGS = ("id", "pid", "state", "generation", "uptime", "connections", "requests", "p99", "memory")


def table(status: Mapping[str, Any]) -> list[str]:
    """The status of a cluster as lines for people."""
    totals = status.get("totals", {})

    def row(name: str, of: Mapping[str, Any], active: Mapping[str, Any]) -> list[str]:
        used = memory(of["pid"])
        return [
            name, str(of["pid"]), of["state"], str(of["generation"]), narration.duration(of["uptime"]),
            str(active.get("connections_active", 0)), str(active.get("requests_total", 0)),
            narration.milliseconds(quantile(histogram(active), 0.99)), "-" if used is None else narration.size(used),
        ]

    rows = [list(HEADINGS), row("master", status, totals)]
    rows += [row(str(worker["id"]), worker, worker) for worker in status["workers"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    left = (0, 2)  # the others are numbers
    lines = ["  ".join(cell.ljust(width) if column in left else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return [f"listening on {', '.join(status['listeners']) or 'nothing'}", *lines]
