"""pidfiles(): the pids of master and workers in files, and beside them the socket that takes commands."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent

from .. import remote
from ..errors import ConfigurationError
from . import _answers, _options
from ._gate import Gate, answers

if TYPE_CHECKING:
    from ..master import Master

#: seconds until a file that could not be written is tried again
_AGAIN = 1.0
#: a file that is not yet renamed, with the pid of the master that writes it
_HALF = re.compile(r"\.(?:master|worker\.[0-9]+)\.([0-9]+)").fullmatch


def pidfiles(directory: str | os.PathLike[str] = "pids") -> Callable[[Master], None]:
    """The plugin. *directory*: taken against the script's; made when missing.

    Provides ``m.pidfiles`` (the directory), ``m.pidof("master")``, ``m.pidof("worker.0")`` and ``m.workerpids()``.
    A directory that cannot be written, or that another cluster uses, is an error when the cluster starts.
    """

    folder = _options.path("pidfiles", "directory", directory)

    def plugin(master: Master) -> None:
        path = os.path.normpath(os.path.join(master.base, folder))
        with contextlib.suppress(ConfigurationError):  # who only asks for the status may not write here
            _make(path)
        _PidFiles(master, path)

    return plugin


def _make(directory: str) -> None:
    """Make the directory. Raises `ConfigurationError` when that cannot be done, or nothing can be written in it."""
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"pidfiles: cannot make {directory}: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(f"pidfiles: cannot write in {directory}: permission denied")


class _PidFiles:
    """Writes the files. A new master writes none before it has taken over: until then the old one is the master."""

    def __init__(self, master: Master, directory: str) -> None:
        self._master = master
        self._directory = directory
        self._ours = False
        self._retry: Any = None
        self._failing = False
        self._gate = Gate(master, os.path.join(directory, remote.SOCKET),
                          lambda connection, client: _answers.converse(master, connection))
        master.at_start(self._check)
        master.provide("pidfiles", directory)
        master.provide("pidof", lambda name: remote.read_pid(os.path.join(directory, f"{name}.pid")))
        master.provide("workerpids", self._workerpids)
        master.on("listening", lambda: None if master.predecessor else self._begin())
        master.on("restart", lambda data: self._begin(take_over=True))
        master.on("worker", lambda worker: self._write_worker(worker) if self._ours else None)
        master.on("worker removed", self._removed)
        master.on("reload failed", lambda generation, reason: self._write_workers())
        master.on("closing", self._end)
        master.on("resumed", lambda: self._begin(take_over=True))
        # a socket that a new master took over is not ours to remove, and it may be about to rename its own over ours
        master.on("close", lambda: self._gate.close(remove=master.successor is None))

    def _workerpids(self) -> list[int]:
        """Pids of the workers by slot, as the files have them."""
        try:
            found = remote.processes(self._directory)
        except remote.NotRunning:
            return []
        return [process.pid for process in found if process.worker is not None]

    def _check(self, replacing: bool) -> None:
        _make(self._directory)
        if not replacing and self._used():
            pid = remote.read_pid(os.path.join(self._directory, "master.pid")) or "of an unknown pid"
            raise ConfigurationError(f"pidfiles: {self._directory} is used by a cluster that runs (master {pid}); "
                                     "each cluster needs a directory of its own")

    def _used(self) -> bool:
        """Whether another master has its files in our directory: one that listens lives, whatever the files say."""
        try:
            return answers(self._gate.address)
        except OSError:
            return False

    def _begin(self, take_over: bool = False) -> None:
        self._ours = True
        self._write("master", os.getpid())
        self._master.emit("pidfile", os.path.join(self._directory, "master.pid"), os.getpid())
        self._write_workers()
        self._forget_others()
        try:
            self._gate.open(take_over)
        except OSError as error:
            self._master.complain(f"pidfiles: no socket for commands at {self._gate.address}: "
                                  f"{error.strerror or error}; signals work all the same")

    def _end(self) -> None:
        self._ours = False  # from now on the files are history, or another master's
        if self._master.successor is not None:
            self._gate.close(remove=False)

    def _write_workers(self) -> None:
        for worker in self._master.workers:
            if not worker.retiring and self._ours:
                self._write_worker(worker)

    def _write_worker(self, worker: Any) -> None:
        if self._write(f"worker.{worker.id}", worker.pid):
            self._master.emit("worker pidfile", worker, os.path.join(self._directory, f"worker.{worker.id}.pid"))

    def _write(self, name: str, pid: int) -> bool:
        """Whoever reads sees the old pid or the new one, never half of it."""
        path = os.path.join(self._directory, f"{name}.pid")
        fresh = os.path.join(self._directory, f".{name}.{os.getpid()}")
        try:
            with open(fresh, "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
            os.rename(fresh, path)
        except OSError as error:
            self._remove(os.path.basename(fresh))
            if remote.read_pid(path) != pid:
                self._remove(f"{name}.pid")  # it names a process that has gone: no file is better than a stranger's pid
            if not self._failing:
                self._failing = True
                self._master.complain(f"pidfiles: cannot write {path}: {error.strerror}; trying again until it can be")
            if self._retry is None:
                self._retry = gevent.spawn_later(_AGAIN, self._write_again)
            return False
        return True

    def _write_again(self) -> None:
        """The disk was full, say: all files anew, as long as they are ours."""
        self._retry = None
        if not self._ours:
            return
        if self._write("master", os.getpid()):
            self._master.emit("pidfile", os.path.join(self._directory, "master.pid"), os.getpid())
        self._write_workers()
        self._failing = self._retry is not None

    def _removed(self, worker: Any) -> None:
        """Forget a slot that was given up; after the end of the cluster the files stay, and status says dead."""
        if self._ours and worker.id >= self._master.status()["target"] and not any(
            other.id == worker.id for other in self._master.workers
        ):
            self._remove(f"worker.{worker.id}.pid")

    def _forget_others(self) -> None:
        """Files of an earlier run that had more workers, and halves that a master left which was killed."""
        for entry in os.listdir(self._directory):
            half = _HALF(entry)
            if half is not None and int(half[1]) != os.getpid():
                self._remove(entry)
            number = entry.removeprefix("worker.").removesuffix(".pid")
            if entry == f"worker.{number}.pid" and number.isdecimal() and (
                int(number) >= self._master.status()["target"]
            ):
                self._remove(entry)

    def _remove(self, entry: str) -> None:
        try:
            os.unlink(os.path.join(self._directory, entry))
        except OSError:
            pass
