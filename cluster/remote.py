"""A running cluster as another process sees it: its pid files, and its socket that takes commands.

Plain blocking sockets: whoever asks does nothing else meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from .errors import ClusterError, ConfigurationError, RemoteError
from .system import close_descriptor, peer

#: the first line that a program sends, to be answered in JSON instead of by a prompt
PROGRAM = "#!cluster json"
#: what a REPL asks for a line with, and for more of a statement
PROMPT = "cluster> "
MORE = "     ... "
#: the socket beside the pid files that takes commands
SOCKET = "master.sock"
#: seconds that a master may take to take a command
ANSWER = 5.0
#: a process may be younger than its pid file by this many seconds and still be meant: clocks are set
SLACK = 2.0
#: commands after which nobody is there to answer
ENDING = ("close", "destroy")
_LONGEST = 16 * 1024 * 1024
_HUNG_UP = "the connection ended without an answer"


class NotRunning(ClusterError):
    """No cluster was found where it was looked for."""


class HungUp(NotRunning):
    """The connection ended before an answer came."""


def read_pid(path: str) -> int | None:
    """The pid in a pid file; None when there is no file, or nothing like a pid in it."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None


@dataclass(frozen=True)
class Process:
    """What a pid file says and whether it is still so. ``worker``: its slot, None for the master."""

    worker: int | None
    pid: int
    alive: bool

    def __str__(self) -> str:
        name = "master" if self.worker is None else f"worker {self.worker}"
        return f"{name} {self.pid} {'alive' if self.alive else 'dead'}"


def alive(pid: int, written: float) -> bool:
    """Whether *pid* lives and is the process whose pid file was *written* at that time (seconds of the epoch).

    One that is not ours to look at counts as alive; one that began later is somebody else's.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.create_time() <= written + SLACK)
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def processes(directory: str, master: int | None = None) -> list[Process]:
    """What the pid files in *directory* name, the master first. Raises `NotRunning` when there are none.

    *master*: the pid of the living master, where that is known better than from its file.
    """
    found = [] if master is None else [Process(None, master, True)]
    with contextlib.suppress(OSError):
        for entry in os.listdir(directory):
            match = re.fullmatch(r"(?:master|worker\.(\d+))\.pid", entry)
            if match is None or (match[1] is None and master is not None):
                continue
            path = os.path.join(directory, entry)
            pid = read_pid(path)
            if pid is not None:
                with contextlib.suppress(OSError):
                    slot = int(match[1]) if match[1] else None
                    found.append(Process(slot, pid, alive(pid, os.stat(path).st_mtime)))
    if not found:
        raise NotRunning(f"not running: no pid files in {directory}")
    return sorted(found, key=lambda process: -1 if process.worker is None else process.worker)


@contextlib.contextmanager
def short(path: str) -> Iterator[str]:
    """A name of a unix socket's *path* that is short enough to bind or connect to, while the block runs."""
    if len(os.fsencode(path)) <= 100 or not os.path.isdir("/proc/self/fd"):
        yield path
        return
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        close_descriptor(directory)


class Remote:
    """A connection over which a running cluster takes commands. A context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    @classmethod
    def at(cls, where: str, secret: str | None = None, timeout: float = ANSWER) -> Remote:
        """Connect to a unix socket's path or to ``host:port``, where *secret* has to be sent first.

        Raises `NotRunning` when nobody listens there.
        """
        host, _, port = where.rpartition(":")
        connection = None
        first = b""
        try:
            if port.isdecimal() and "/" not in where and not os.path.exists(where):
                connection = socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout)
                if secret is not None:
                    first = secret.encode() + b"\n"
            else:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.settimeout(timeout)
                with short(os.path.abspath(where.removeprefix("unix:"))) as path:
                    connection.connect(path)
            # at once: who refuses the secret hangs up, and a second piece would find nobody
            connection.sendall(first + PROGRAM.encode() + b"\n")
        except OSError as error:
            if connection is not None:
                connection.close()
            raise NotRunning(f"nothing answers at {where}: {(error.strerror or str(error)).lower()}") from None
        return cls(connection)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process that listens; None over TCP, and where the kernel does not say."""
        return peer(self._connection)[0] if self._connection.family == socket.AF_UNIX else None

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._connection.close()

    def send(self, request: dict[str, Any]) -> None:
        """Send one request. Raises `NotRunning` when the connection has ended."""
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise HungUp(_HUNG_UP) from None

    def receive(self, timeout: float | None = ANSWER) -> dict[str, Any]:
        """The next message, at most *timeout* seconds from now. Raises `NotRunning` when the connection has ended."""
        self._connection.settimeout(timeout)
        try:
            line = self._file.readline(_LONGEST)
        except TimeoutError:
            raise NotRunning(f"no answer within {timeout:g} s") from None
        except OSError:
            line = b""
        try:
            message = json.loads(line[max(line.find(b"{"), 0):])  # a prompt may come before the first
        except ValueError:
            raise HungUp(_HUNG_UP) from None
        return message if isinstance(message, dict) else {}

    def command(self, name: str, words: Sequence[str] = (), wait: float = 0.0, patience: float | None = None) -> Any:
        """Ask for the command *name*, and wait at most *wait* seconds until it is done.

        Without *wait*, an operation is only begun; what is none is waited for as long as it takes. *patience*: seconds
        within which the command has to be taken (default: `ANSWER`). Returns its value. Raises `NotRunning` when it was
        not taken, so that it may be asked for by other means; `RemoteError` when it is refused, fails, or was taken and
        its end is not known; `ConfigurationError` when it is used wrongly.
        """
        self.send({"command": name, "words": list(words), "wait": wait})
        taken = False
        until_done = wait + ANSWER if wait else None
        while True:
            try:
                answer = self.receive(until_done if taken else ANSWER if patience is None else patience)
            except NotRunning as error:
                if not taken:
                    raise
                if not isinstance(error, HungUp):
                    raise RemoteError(f"{name} was taken, and is not done after {wait:g} s") from None
                if name in ENDING:  # so it is done
                    return None
                raise RemoteError(f"{name} was taken, and nobody knows what became of it: {error}") from None
            taken = taken or "taken" in answer
            if "error" in answer:
                raise (ConfigurationError if answer.get("usage") else RemoteError)(str(answer["error"]))
            if "value" in answer:
                return answer["value"]
