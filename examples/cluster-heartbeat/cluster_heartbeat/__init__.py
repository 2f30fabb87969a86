"""heartbeat(): keeps a file that shows that a cluster lives."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import gevent

from cluster import ConfigurationError, Master, repl

__all__ = ["heartbeat"]


def heartbeat(path: str = "heartbeat", interval: float = 10.0) -> Callable[[Master], None]:
    """The plugin. *path*: the file, taken against the script's directory. *interval*: seconds between two beats.

    Raises `ConfigurationError` for an interval that is none.
    """
    if not interval > 0:
        raise ConfigurationError(f"heartbeat: interval is a number of seconds above 0, not {interval!r}")

    def plugin(master: Master) -> None:
        if master.is_worker:  # called again in each worker, because of enable_in_worker
            master.worker.call("heartbeat says", f"worker {master.worker.id} is here")
            return
        Heartbeat(master, os.path.join(master.base, path), interval)

    plugin.enable_in_worker = True  # type: ignore[attr-defined]
    return plugin


class Heartbeat:
    """Writes the file while this master is the one that serves."""

    def __init__(self, master: Master, path: str, interval: float) -> None:
        self._master = master
        self._path = path
        self._interval = interval
        self._greenlet: Any = None
        self.beats = 0
        self.said = ""
        master.provide("heartbeat", self)
        master.command("beat", self.beat, help="Write the heartbeat file now.")
        master.expose("heartbeat says", self.says, with_worker=True)
        repl.define("heartbeat", self.show, "Show how often the heart has beaten.")
        master.at_start(self.check)
        # a new master beats once it has taken over: until then the old one does
        master.on("listening", lambda: None if master.predecessor else self.begin())
        master.on("restarting", lambda data: data.update(heartbeat={"beats": self.beats}))
        master.on("restart", self.carry_on)
        master.on("closing", self.end)

    def check(self, replacing: bool) -> None:
        """Make the directory. What cannot be written ends the script now, and is one line later."""
        directory = os.path.dirname(self._path)
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"heartbeat: cannot make {directory}: {error.strerror}") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigurationError(f"heartbeat: cannot write in {directory}: permission denied")

    def begin(self) -> None:
        """Beat from now on."""
        self._greenlet = gevent.spawn(self._run)

    def carry_on(self, data: dict[str, Any]) -> None:
        """In a new master: where the old one has stopped counting."""
        self.beats += data.get("heartbeat", {}).get("beats", 0)
        self.begin()

    def end(self) -> None:
        """Beat no more."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        while True:
            self.beat()
            gevent.sleep(self._interval)

    def beat(self) -> int:
        """Write the file; returns how often that was done."""
        self.beats += 1
        fresh = f"{self._path}.{os.getpid()}"
        try:
            with open(fresh, "w", encoding="utf-8") as file:
                json.dump({"beats": self.beats, "pid": os.getpid(), "said": self.said}, file)
            os.rename(fresh, self._path)
        except OSError as error:  # a full disk is no reason to stop serving
            self._master.complain(f"heartbeat: cannot write {self._path}: {error.strerror}")
        return self.beats

    def says(self, worker: Any, text: str) -> None:
        """A worker says something for the file."""
        self.said = str(text)
        self._master.log.info("worker %s says %s", worker.id, self.said)

    def show(self, master: Master, socket: Any) -> None:
        """In the REPL."""
        socket.title("Heartbeat")
        socket.row("beats", self.beats)
        socket.row("said", self.said)
