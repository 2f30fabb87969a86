"""logger(): master events into a log, and the workers' output into two files."""

from __future__ import annotations

import atexit
import json
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import narration
from ..errors import ChannelError, ConfigurationError
from ..output import dropped
from ..system import close_descriptor
from . import _lines, _options
from ._telling import rarely, teller

if TYPE_CHECKING:
    from ..master import Master

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("text", "json")
#: records that wait for the files to be opened
_EARLY = 1000


def logger(directory: str | os.PathLike[str] = "logs", level: str = "info", format: str = "text"
           ) -> Callable[[Master], None]:
    """The plugin.

    *directory*: where ``master.log``, ``workers.access.log`` (what workers write to stdout) and ``workers.error.log``
    (stderr) are, taken against the script's directory; made when missing. *level*: the lowest that ``master.log``
    holds, ``debug``, ``info``, ``warning`` or ``error``. *format*: ``text``, or ``json`` for one object a line.
    SIGUSR1 opens the files anew. They are opened when the cluster starts, and one that cannot be written is an error
    then; whoever only asks for the status of a cluster leaves no logs behind. What `m.log` is given before waits until
    then. Raises `ConfigurationError` for wrong options.
    """
    folder = _options.path("logger", "directory", directory)
    if not isinstance(level, str) or level not in LEVELS:
        raise ConfigurationError(f"logger: level is one of {', '.join(LEVELS)}, not {level!r}")
    if format not in FORMATS:
        raise ConfigurationError(f"logger: format is one of {', '.join(FORMATS)}, not {format!r}")

    def plugin(master: Master) -> None:
        files = _Files(master, os.path.join(master.base, folder))
        early = logging.handlers.MemoryHandler(_EARLY, flushLevel=logging.CRITICAL + 1, flushOnClose=False)

        def open_files(replacing: bool = False) -> None:
            if files.log >= 0:
                return
            files.open()
            lines = _lines.Lines(files.log)
            handler = logging.StreamHandler(_lines.text_of(lines))
            handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter(
                "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"))
            lines.output.notice = lambda count, reason: _missing(handler, count, reason)
            atexit.register(lines.finish)
            early.setTarget(handler)
            early.flush()
            master.log.removeHandler(early)
            master.log.addHandler(handler)

        def report(text: str) -> None:
            try:
                open_files()  # why a cluster did not get as far as its start is in the log, too
            except ConfigurationError:
                pass
            master.log.error(text)

        master.at_start(open_files)
        master.log.addHandler(early)
        master.log.setLevel(LEVELS[level])
        master.narrated = True
        master.report_to(report)
        _narrate(master)
        master.on("reopen logs", files.reopen)
        master.on("after fork", files.take_output)

    return plugin


def _missing(handler: logging.Handler, count: int, reason: str) -> bytes:
    """The line that stands for lines that were dropped."""
    record = logging.makeLogRecord({
        "levelno": logging.WARNING, "levelname": "WARNING", "msg": dropped(count, reason),
    })
    return f"{handler.format(record)}\n".encode()


class _TextFormatter(logging.Formatter):
    """Lines below the first are indented: what a client sends cannot forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(super().format(record).splitlines())


class _JsonFormatter(logging.Formatter):
    """One object a line, by a real encoder: what a client sends cannot forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message, _, detail = record.getMessage().partition("\n")
        entry: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower(),
            "pid": record.process, "message": message,
        }
        if hasattr(record, "worker"):
            entry["worker"] = record.worker
        if record.exc_info:
            detail = self.formatException(record.exc_info)
        if detail:
            entry["detail"] = detail
        return json.dumps(entry, ensure_ascii=False)


class _Files:
    """The three files, in the master and, after a fork, in a worker."""

    def __init__(self, master: Master, directory: str) -> None:
        self._master = master
        self._directory = directory
        self._paths = [os.path.join(directory, name)
                       for name in ("master.log", "workers.access.log", "workers.error.log")]
        self.log = self._access = self._errors = -1

    def open(self) -> None:
        """In the master, before its first fork. Raises `ConfigurationError`."""
        opened: list[int] = []
        try:
            os.makedirs(self._directory, exist_ok=True)
            owner = self._owner()
            opened.extend(_lines.append_to(path, owner) for path in self._paths)
        except OSError as error:
            for descriptor in opened:
                close_descriptor(descriptor)
            name = error.filename or self._directory
            raise ConfigurationError(f"logger: cannot write {name}: {error.strerror}") from None
        self.log, self._access, self._errors = opened

    def _owner(self) -> tuple[int, int] | None:
        """Workers that run as somebody else have to be able to open the files after a rotation."""
        identity = self._master.identity()
        if identity is None or os.geteuid() != 0:
            return None
        return (-1 if identity[0] is None else identity[0], -1 if identity[1] is None else identity[1])

    def reopen(self) -> None:
        """In the master: the files were renamed. First ours, so that workers forked from now on get the new ones."""
        for descriptor, path in zip((self.log, self._access, self._errors), self._paths, strict=True):
            try:
                _lines.move(descriptor, path, owner=self._owner())
            except OSError as error:
                self._master.log.error("cannot open %s anew: %s; writing on to the old file", path, error.strerror)
        for worker in self._master.workers:
            try:
                worker.send("reopen logs")
            except ChannelError:
                pass  # it is ending

    def take_output(self, worker: Any) -> None:
        """In a new worker: stdout and stderr go to the files."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        for standard, descriptor in ((1, self._access), (2, self._errors)):
            os.dup2(descriptor, standard)
            close_descriptor(descriptor)
        out, err = _lines.Lines(1), _lines.Lines(2)
        sys.stdout, sys.stderr = _lines.text_of(out), _lines.text_of(err)
        atexit.register(err.finish)
        atexit.register(out.finish)
        worker.on("reopen logs", self._reopen_in_worker)

    def _reopen_in_worker(self) -> None:
        for descriptor, path in zip((self.log, 1, 2), self._paths, strict=True):
            try:
                _lines.move(descriptor, path, inheritable=descriptor != self.log)
            except OSError as error:
                sys.stderr.write(f"cannot open {path} anew: {error.strerror}; writing on to the old file\n")


def _narrate(master: Master) -> None:
    log = master.log
    tracebacks = narration.Told()

    tell = teller(master)

    def uncaught(worker: Any, error: dict[str, str]) -> str | None:
        before = tracebacks.again(error["text"])
        if before and not narration.is_news(worker):
            return None
        rest = f" (as before; {before + 1} times by now)" if before else "\n" + error["text"].rstrip("\n")
        return narration.uncaught(worker, error) + rest

    def listening() -> None:
        for address in master.addresses:
            log.info("listening on %s", address)

    tell("start", log.info, lambda: "master started")
    master.on("listening", listening)
    tell("worker", log.info, rarely(lambda worker: f"spawned worker {worker.id} (pid {worker.pid})"))
    tell("worker connected", log.debug, rarely(lambda worker: f"worker {worker.id} connected"))
    tell("worker ready", log.info, lambda worker: f"worker {worker.id} ready")
    tell("worker removed", log.info, lambda worker: f"worker {worker.id} removed (pid {worker.pid})")
    tell("worker waiting", log.info, narration.waiting_rarely)
    tell("worker killed", log.error, narration.died_rarely)
    tell("worker timeout", log.warning, narration.overdue)
    tell("worker exception", log.error, uncaught)
    tell("kill", log.warning, lambda signal: f"sent kill({signal}) to all workers")
    tell("closing", log.warning, lambda: "shutting down master")
    tell("close", log.info, lambda: "shutdown complete")
    tell("changed", log.info, lambda path: f"changed - {path}")
    tell("restarting", log.info, lambda data: "restart requested")
    tell("restart", log.info, lambda data: "restart complete")
    tell("resumed", log.warning, lambda: "the new master has died; this one serves again")
    tell("restart failed", log.error, lambda reason: f"restart failed: {reason}")
    tell("cyclic restart", log.warning, narration.cyclic)
    tell("reloading", log.info, lambda generation: f"reload requested (generation {generation})")
    tell("reloaded", log.info, lambda generation: f"reload complete (generation {generation})")
    tell("reload failed", log.error, lambda generation, reason: f"reload failed: {reason}")
    master.on("reopen logs", tracebacks.forget)
