"""The servers that are measured, ours and gunicorn: how each is started, what it consists of, and its sure end."""

from __future__ import annotations

import importlib.util
import os
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from benchmarks.arrivals import wait_for_answer
from benchmarks.processes import alive, session

HERE = Path(__file__).resolve().parent
APPLICATION = HERE / "app"
"""The directory that both servers run in; it holds `app.py`."""

WORKERS = 4


@dataclass(frozen=True)
class Kind:
    """One of the servers.

    :ivar command: makes the command line for an address (`"host:port"`).
    """

    name: str
    command: Callable[[str], list[str]]


OURS = Kind(
    "cluster",
    lambda address: [
        *(sys.executable, "-m", "cluster", "serve", "app:app"),
        *("--workers", str(WORKERS), "--bind", address, "--env", "production"),
    ],
)
GUNICORN = Kind(
    "gunicorn",
    lambda address: [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent"),
        *("--workers", str(WORKERS), "--bind", address, "app:app"),
    ],
)


def choose(only: str | None) -> list[Kind]:
    """The servers to measure; says on stderr what to install when gunicorn is missing.

    :param only: the name of one of them, for that one alone.
    :raises SystemExit: when gunicorn alone was asked for and is missing.
    """
    kinds = [kind for kind in (OURS, GUNICORN) if only in (None, kind.name)]
    if GUNICORN in kinds and importlib.util.find_spec("gunicorn") is None:
        print(f"gunicorn is missing; to compare: {sys.executable} -m pip install 'gunicorn>=23'", file=sys.stderr)
        kinds.remove(GUNICORN)
        if not kinds:
            raise SystemExit(2)
    return kinds


class Server:
    """One running server, in a session of its own so that none of its processes can be lost.

    :ivar address: where it serves.
    :ivar begun: when it was started, by the monotonic clock.
    """

    def __init__(self, kind: Kind, scratch: str) -> None:
        self.kind = kind
        self.address = ("127.0.0.1", free_port())
        self._log = Path(scratch, "log")
        environment = {
            **os.environ,
            # What is measured is the checkout that this file belongs to, installed or not.
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH")))),
            # gunicorn keeps a control socket in the home directory; that of the user is none of our business.
            "HOME": scratch,
            "PYTHONUSERBASE": site.getuserbase(),
        }
        with self._log.open("wb") as log:
            self.begun = time.monotonic()
            self.process = subprocess.Popen(
                kind.command(f"{self.address[0]}:{self.address[1]}"),
                cwd=APPLICATION,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, timeout: float = 30.0) -> float:
        """Waits for the first good answer; returns the seconds since the start.

        :raises RuntimeError: when it ends or does not answer in time, with the end of its log.
        """
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            try:
                # In short turns, so that a server that has died does not keep us waiting for the whole time.
                return wait_for_answer(self.address, 1.0) - self.begun
            except TimeoutError:
                continue
        raise RuntimeError(f"{self.kind.name} did not come up:\n{self.log()[-2000:]}")

    def log(self) -> str:
        """What it wrote on its standard streams."""
        return self._log.read_text(errors="replace")

    def pids(self) -> list[int]:
        """Its living processes, orphans too: all of the session, but no zombies."""
        return [pid for pid in psutil.pids() if session(pid) == self.process.pid and alive(pid)]

    def workers(self, timeout: float = 10.0) -> list[int]:
        """The pids of its workers, once there are as many as were asked for.

        :raises RuntimeError: when there are not so many in time.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            children = [child.pid for child in psutil.Process(self.process.pid).children() if alive(child.pid)]
            if len(children) == WORKERS:
                return children
            time.sleep(0.01)
        raise RuntimeError(f"{self.kind.name} has not got {WORKERS} workers:\n{self.log()[-2000:]}")

    def stop(self) -> None:
        """Ends every process of it at once and collects the first."""
        # Again until there are none: a master that is not dead yet may fork another worker.
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            # As its parent we must collect it, or it stays; its workers are the init process's by then.
            self.process.poll()
        self.process.wait()


@contextmanager
def running(kind: Kind) -> Iterator[Server]:
    """A server that is gone when the block is left, however it is left."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        server = Server(kind, scratch)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets TERM end the block as Ctrl-C does, so that no server stays behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
