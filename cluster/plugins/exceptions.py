"""exceptions(): a report for each exception in a worker, with the environment and the last log lines."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import __version__, narration
from ..errors import ConfigurationError
from ..reported import LINES, as_lines
from . import _options, _subject

if TYPE_CHECKING:
    from ..master import Master

_WORDS = "secret|pass|pwd|token|key|auth|credential|cookie|session|private|signature|salt|dsn|jwt|webhook"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
#: up to the last @, as a password may have / and @ in it
_IN_URL = re.compile(r"(?<=://)\S*(?=@)")
#: ``password=…``, ``"password": …``, ``--password …``, and all that follows: where it ends, only its reader knows.
#: Not ``key:/``, as in a list of directories
_PAIR = re.compile(rf"""((?:{_WORDS})\w*[\\"']*(?:[\s=]|:(?!/))).+""", re.IGNORECASE | re.DOTALL)
#: the shell's, directories
_HARMLESS = ("PWD", "OLDPWD")
MASK = "********"
#: names of reports, as `Reports` makes them
_OURS = re.compile(r"\d{8}-\d{6}-\d+-\d{4,}-[A-Za-z0-9_]*\.txt")
#: seconds in which a report of the same traceback is not written again
_SAME = 60.0


def exceptions(directory: str | os.PathLike[str] = "exceptions", lines: int = 20, keep: int = 100,
               subject: str = "{summary}") -> Callable[[Master], None]:
    """The plugin.

    *directory*: a file for each report, taken against the script's directory; made when missing. *lines*: of `m.log` in
    a report. *keep*: how many reports are kept; the oldest go, and no other files. *subject*: the first line of a
    report, with placeholders as those of `mail()`. In the environment, values of variables whose names look like
    secrets are masked, and so is what follows such a name in another value, and user and password in an address.
    Provides ``m.exceptions.report(worker, error)``, the text. Emits `exception report(path)`. Raises
    `ConfigurationError` for wrong options. A directory that cannot be made is an error when the cluster starts.
    """
    folder = _options.path("exceptions", "directory", directory)
    for name, value, least in (("lines", lines, 0), ("keep", keep, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigurationError(f"exceptions: {name} is a whole number, {least} or more, not {value!r}")

    _subject.check("exceptions", subject)

    def plugin(master: Master) -> None:
        path = os.path.normpath(os.path.join(master.base, folder))
        with contextlib.suppress(ConfigurationError):  # who only asks for the status may not write here
            _make(path)
        master.at_start(lambda replacing: _make(path))
        master.provide("exceptions", Reports(master, path, lines, keep, subject))

    return plugin


def _make(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"exceptions: cannot make {directory}: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(f"exceptions: cannot write in {directory}: permission denied")


def masked(environment: dict[str, str]) -> dict[str, str]:
    """*environment* without secrets, sorted by name."""
    return {name: MASK if _SECRET.search(name) and name not in _HARMLESS else _without_secrets(value)
            for name, value in sorted(environment.items())}


def _without_secrets(value: str) -> str:
    return _PAIR.sub(rf"\g<1>{MASK}", _IN_URL.sub(MASK, value))


def _process(pid: int) -> list[str]:
    """Of a process, which may have ended: its user and what it has in memory."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            facts = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:  # it has gone, or the system has no such files
        facts = {}
    uid = facts.get("Uid", "").split()[1:2]  # the effective one
    used = facts.get("VmRSS", "").split()[:1]
    return [f"uid {uid[0] if uid else 'unknown'}, "
            f"memory {narration.size(int(used[0]) * 1024) if used else 'unknown'}"]


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        return f"none: {error.strerror}"


def _load() -> str:
    try:
        return " ".join(f"{number:.2f}" for number in os.getloadavg())
    except OSError:
        return "unknown"


class _Memory(logging.Handler):
    """Keeps the last log lines."""

    #: whoever looks for a handler that shows what is logged has to look further
    writes_nothing = True

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines: collections.deque[str] = collections.deque(maxlen=lines)
        self.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)s] %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record)[:2000])


class Reports:
    """Writes reports."""

    def __init__(self, master: Master, directory: str, lines: int, keep: int, subject: str) -> None:
        self._master = master
        self._directory = directory
        self._keep = keep
        self._subject = subject
        self._host = socket.gethostname()
        self._memory = _Memory(lines)
        self._written: dict[str, float] = {}
        self._count = 0
        master.log.addHandler(self._memory)
        master.on("worker exception", self._exception)
        master.on("after fork", lambda worker: self._memory.lines.clear())  # from now on, those of this worker

    def last_lines(self) -> list[str]:
        """In a worker: what it logged last."""
        return list(self._memory.lines)[-LINES:]

    def report(self, worker: Any, error: dict[str, Any]) -> str:
        """The report of one exception, as text."""
        flying = [f"{what} for {age:.1f} s" for age, what in worker.in_flight()]
        sections = {
            "Worker": [f"id {worker.id}, pid {worker.pid}, generation {worker.generation}, {worker.state.value}",
                       *_process(worker.pid),
                       f"up {narration.duration(worker.uptime)}", f"in flight: {'; '.join(flying) or 'nothing noted'}"],
            "Master": [f"pid {os.getpid()}, {self._master.state}, {len(self._master.workers)} workers",
                       f"listening on {', '.join(self._master.addresses)}",
                       *_process(os.getpid()),
                       f"command: {narration.printable(_without_secrets(shlex.join(sys.orig_argv)))}",
                       f"directory: {narration.printable(_directory())}",
                       f"host {self._host}, load {_load()}",
                       f"cluster {__version__}, Python {platform.python_version()}, {platform.platform()}"],
            "Log": list(self._memory.lines) or ["nothing was logged"],
            "Environment": [f"{name}={value}" for name, value in masked(dict(os.environ)).items()],
        }
        first = _subject.fill(self._subject, self._host, self._master.options["title"], worker, error, longest=None)
        parts = [first, time.strftime("%Y-%m-%d %H:%M:%S %z")]
        if error["doing"]:  # what is in flight may be over by now
            parts.append(f"while: {error['doing']}")
        parts += ["", error["text"].rstrip()]
        if error.get("log"):
            sections = {"Log of the worker": error["log"], **sections}
        if error.get("data"):
            sections = {"Data": as_lines(error["data"]), **sections}
        for title, content in sections.items():
            parts += ["", title, "-" * len(title), *content]
        return "\n".join(parts) + "\n"

    def _exception(self, worker: Any, error: dict[str, str]) -> None:
        now = time.monotonic()
        if now - self._written.get(error["text"], -_SAME) < _SAME:
            return
        if len(self._written) > 1000:
            self._written.clear()
        self._written[error["text"]] = now
        self._count += 1
        kind = re.sub(r"\W", "", error["type"], flags=re.ASCII)[:40]
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = os.path.join(self._directory, f"{stamp}-{os.getpid()}-{self._count:04d}-{kind}.txt")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(self.report(worker, error))
            self._forget_old()
        except OSError as failure:
            self._master.complain(f"exceptions: cannot write {path}: {failure.strerror}")
            return
        self._master.emit("exception report", path)

    def _forget_old(self) -> None:
        reports = sorted(entry for entry in os.listdir(self._directory) if _OURS.fullmatch(entry))
        for entry in reports[: -self._keep]:
            with contextlib.suppress(FileNotFoundError):  # while there are two masters, both look
                os.unlink(os.path.join(self._directory, entry))
