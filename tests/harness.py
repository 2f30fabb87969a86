"""Runs real clusters for tests: starts scripts, waits for facts, and proves that nothing is left behind.

Nothing here sleeps for a fixed time: every wait is for a fact, with a deadline.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: seconds within which any single fact has to come true, also on a loaded machine
DEADLINE = 30.0

#: written beside every script: ``trace(m)`` prints each event as a line, and the addresses
TRACING = '''
import os, sys
from cluster.events import CATALOGUE

def say(*words):
    """One write a line: lines of several processes must not mix."""
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

def show(value):
    if hasattr(value, "uid"):
        return f"{value.id}/{value.pid}"
    return repr(value)

def trace(m):
    for name, event in CATALOGUE.items():
        if event.where == "worker":
            continue
        def tell(*args, name=name):
            say("EVENT", os.getpid(), name, *(show(a) for a in args))
            if name == "listening":
                say("ADDRESS", *m.addresses)
        m.on(name, tell)
    return m
'''

#: a WSGI application that answers with its pid, and can be made to misbehave
APP = '''
import os, time
import gevent
from tracing import say

say("IMPORTED", os.getpid())

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise RuntimeError("raised on purpose")
    if path.startswith("/sleep/"):
        gevent.sleep(float(path.split("/")[2]))
    while path.startswith("/until/") and not os.path.exists(path[7:]):
        gevent.sleep(0.005)
    if path == "/loop":
        say("LOOPING", os.getpid())
        while True:
            pass
    if path == "/exit":
        os._exit(7)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
'''


def eventually(fact: Callable[[], Any], what: str, deadline: float = DEADLINE, interval: float = 0.005) -> Any:
    """Look at *fact* until it is true; returns its value. Fails with *what* after *deadline* seconds."""
    end = time.monotonic() + deadline
    pause = threading.Event()
    while True:
        value = fact()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline:g} s still not: {what}")
        pause.wait(interval)


class Script:
    """One script being run, with all processes that come from it."""

    def __init__(
        self,
        directory: Path,
        arguments: list[str],
        environment: dict[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
        cwd: Path | None = None,
        preexec: Callable[[], None] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        env = {key: value for key, value in os.environ.items()
               if not key.startswith("CLUSTER_") and key not in ("NOTIFY_SOCKET", "PORT", "WEB_CONCURRENCY")}
        # in development an old master does not wait how the new one does; those who wait for its end need not either
        env.update({"CLUSTER_ENV": "development", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
                    **(environment or {})})
        env.pop("PWD", None)
        self.process = subprocess.Popen(
            arguments, cwd=cwd or directory, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=preexec, pass_fds=pass_fds,
        )
        self.session = self.process.pid
        #: the master; changes at a restart
        self.pid = self.process.pid
        self._lines: list[str] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # -- what it says

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            with self._arrived:
                self._lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    @property
    def output(self) -> str:
        """All that was printed so far, stdout and stderr."""
        with self._arrived:
            return "\n".join(self._lines)

    @property
    def lines(self) -> list[str]:
        """The same, as lines."""
        with self._arrived:
            return list(self._lines)

    def wait_for(self, pattern: str, count: int = 1, deadline: float = DEADLINE) -> re.Match[str]:
        """Wait until *pattern* has matched *count* lines; returns the last of these matches."""
        expression = re.compile(pattern)
        end = time.monotonic() + deadline
        with self._arrived:
            while True:
                found = [match for line in self._lines if (match := expression.search(line))]
                if len(found) >= count:
                    return found[count - 1]
                left = end - time.monotonic()
                if left <= 0:
                    text = "\n".join(self._lines[-60:])
                    raise AssertionError(f"{pattern!r} matched {len(found)} lines, not {count}, in:\n{text}")
                self._arrived.wait(min(left, 0.2))

    def events(self, *names: str) -> list[str]:
        """Names of the events traced so far, in order; only *names* when given."""
        found = []
        for line in self.lines:
            match = re.match(r"EVENT \d+ ([a-z ]+?)(?: [\d'{(\[].*)?$", line)
            if match and (not names or match[1] in names):
                found.append(match[1])
        return found

    def address(self, count: int = 1) -> tuple[str, int]:
        """Host and port of the first listener, as of the *count*-th time that they were printed."""
        match = self.wait_for(r"^ADDRESS (\S+):(\d+)", count)
        host = match[1].strip("[]")
        return ("127.0.0.1" if host == "0.0.0.0" else host), int(match[2])

    def ready(self, count: int = 1) -> Script:
        """Wait until the *count*-th master of this script is ready, and take it as the one that signals go to."""
        match = self.wait_for(r"^EVENT (\d+) ready$", count)
        self.pid = int(match[1])
        return self

    # -- what it does

    def signal(self, number: int) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def get(self, path: str = "/", timeout: float = DEADLINE) -> bytes:
        """The body of a GET on a fresh connection; fails unless it is 200."""
        status, body = fetch(self.address(), path, timeout)
        assert status == 200, (status, body)
        return body

    def wait_exit(self, deadline: float = DEADLINE) -> int:
        """The exit code of the first process."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline:g} s:\n{self.output[-3000:]}") from None

    def family(self) -> list[int]:
        """Pids of all living processes of this script's session, zombies left out."""
        return [pid for pid, info in processes().items() if info["session"] == self.session and info["state"] != "Z"]

    def workers(self, master: int | None = None) -> list[int]:
        """Pids of the master's living children."""
        return sorted(pid for pid, info in processes().items()
                      if info["parent"] == (master or self.pid) and info["state"] != "Z")

    def close(self) -> None:
        """End whatever is left, without judging."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.family():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, number)
            with contextlib.suppress(AssertionError):
                eventually(lambda: not self.family(), "ended", 2.0 if number == signal.SIGTERM else 10.0)
            if not self.family():
                break
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def assert_gone(self) -> None:
        """Every process of the script has ended."""
        eventually(lambda: not self.family(), f"all processes gone: {self.family()}")


class Workshop:
    """A temporary directory with scripts in it. Makes `Script`s, and checks at the end that nothing is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._scripts: list[Script] = []
        self.write("tracing.py", TRACING)
        self.write("app.py", APP)

    def write(self, name: str, text: str) -> Path:
        """A file in the directory."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def script(self, body: str, *arguments: str, name: str = "server.py", **options: Any) -> Script:
        """Run *body* as a script, with ``cluster`` and ``trace`` imported."""
        head = ("import os, sys\nfrom cluster import cluster\nimport cluster as package\n"
                "from tracing import say, trace\n")
        path = self.write(name, head + textwrap.dedent(body))
        return self.run(sys.executable, str(path), *arguments, **options)

    def pids(self, directory: str = "pids") -> dict[str, int]:
        """What the pid files say. One that goes at this moment is not there."""
        found = {}
        for path in (self.directory / directory).glob("*.pid"):
            with contextlib.suppress(FileNotFoundError):
                found[path.stem] = int(path.read_text())
        return found

    def run(self, *arguments: str, **options: Any) -> Script:
        """Run a command line."""
        script = Script(self.directory, list(arguments), **options)
        self._scripts.append(script)
        return script

    def close(self) -> None:
        """End everything."""
        for script in self._scripts:
            script.close()

    def assert_clean(self) -> None:
        """No process and no socket file is left."""
        for script in self._scripts:
            script.assert_gone()
        assert [str(path) for path in self.directory.rglob("*") if path.is_socket()] == []


def processes() -> dict[int, dict[str, Any]]:
    """Living processes by pid: parent, session, state."""
    found: dict[int, dict[str, Any]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                rest = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(entry)] = {"state": rest[0], "parent": int(rest[1]), "session": int(rest[3])}
    return found


def child_states(parent: int) -> list[str]:
    """The kernel's letters for what the children of a process do; `Z` for a zombie."""
    return [info["state"] for info in processes().values() if info["parent"] == parent]


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def fetch(address: tuple[str, int] | str, path: str = "/", timeout: float = DEADLINE) -> tuple[int, bytes]:
    """Status and body of a GET on a fresh connection that is closed after it."""
    with connect(address, timeout) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while True:
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert head, "the connection was closed without an answer"
    if b"transfer-encoding: chunked" in head.lower():
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            whole += body[: int(size, 16)]
            body = body[int(size, 16) + 2 :]
        body = whole
    return int(head.split()[1]), body


def connect(address: tuple[str, int] | str, timeout: float = DEADLINE) -> socket.socket:
    """A TCP connection, or one to a unix socket when the address is a path."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection
    return socket.create_connection(address, timeout)


@contextlib.contextmanager
def workshop(directory: Path) -> Iterator[Workshop]:
    """A `Workshop` that has to be clean at the end."""
    shop = Workshop(directory)
    try:
        yield shop
        shop.assert_clean()
    finally:
        shop.close()
