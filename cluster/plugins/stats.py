"""stats(): what the cluster has counted, from the scoreboard; and events about clients for who wants each."""

from __future__ import annotations

import atexit
import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import psutil

from .. import host, narration
from ..counters import quantile
from ..errors import ChannelError, RemoteError
from ..operating import histogram
from ._functions import define

if TYPE_CHECKING:
    from ..master import Master

CLIENT_EVENTS = ("client connection", "client disconnection", "client request", "client request complete")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
#: seconds that a worker gathers events before it sends them
_GATHER = 0.05
#: events that wait in a worker; more are dropped, and counted
_MOST = 10_000


def stats(connections: bool = False, requests: bool = False) -> Callable[[Master], None]:
    """The plugin. *connections*, *requests*: show these in the REPL's `stats()`; they are counted anyhow.

    Provides ``m.stats``, the command `stats`, and, while somebody listens, the events `client connection(worker,
    data)`, `client disconnection`, `client request` and `client request complete`.
    """

    def plugin(master: Master) -> None:
        figures = Stats(master)
        master.provide("stats", figures)
        master.command("stats", figures.as_dict, "What the cluster has counted.", access="remote")
        _Clients(master)
        define("stats", lambda m, socket: _print(m, socket, connections, requests), "What the cluster has counted.")

    return plugin


class Stats:
    """The figures of a cluster. They go on over restarts; what is counted never goes down."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._began = time.monotonic()
        #: when the first master started, in seconds of the epoch
        self.start = time.time()
        self.restarts = 0
        self.reloads = 0
        self.workers_spawned = 0
        #: workers that ended without having been asked to
        self.deaths = 0
        #: bytes of the machine's memory that were in use when the first master started
        self.memory_at_boot = memory_used()
        master.on("worker", lambda worker: self._count("workers_spawned"))
        master.on("worker killed", lambda worker: self._count("deaths"))
        master.on("reloaded", lambda generation: self._count("reloads"))
        master.on("restarting", self._hand_on)
        master.on("restart", self._carry_on)

    def _count(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)

    def _hand_on(self, data: dict[str, Any]) -> None:
        data["stats"] = {
            "start": self.start, "began": self._began, "restarts": self.restarts + 1, "reloads": self.reloads,
            "workers_spawned": self.workers_spawned, "deaths": self.deaths, "memory_at_boot": self.memory_at_boot,
        }

    def _carry_on(self, data: dict[str, Any]) -> None:
        before = data.get("stats")
        if not isinstance(before, dict):  # the old master ran without this plugin
            self.restarts += 1
            return
        self.start = before["start"]
        self._began = before["began"]
        self.memory_at_boot = before["memory_at_boot"]
        self.restarts = before["restarts"]
        for name in ("reloads", "workers_spawned", "deaths"):
            setattr(self, name, getattr(self, name) + before[name])

    @property
    def uptime(self) -> float:
        """Seconds since the first master started."""
        return time.monotonic() - self._began

    @property
    def totals(self) -> dict[str, Any]:
        """Counters over all workers, those that are gone and earlier masters too, with p50, p95 and p99 in seconds."""
        return _readable(self._master.status().get("totals", {}))

    @property
    def workers(self) -> list[dict[str, Any]]:
        """The same per worker that lives, with id, pid, state, generation, start (seconds of the epoch) and uptime."""
        now = time.time()
        return [{**_readable(worker), "start": now - worker["uptime"]} for worker in self._master.status()["workers"]]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as what JSON can carry."""
        return {
            "start": self.start, "uptime": self.uptime, "restarts": self.restarts, "reloads": self.reloads,
            "workers_spawned": self.workers_spawned, "deaths": self.deaths, "memory_at_boot": self.memory_at_boot,
            "memory": memory_used(), "totals": self.totals, "workers": self.workers,
        }

    def __repr__(self) -> str:
        return f"<stats: restarts: {self.restarts}, workers spawned: {self.workers_spawned}, deaths: {self.deaths}>"


def memory_used() -> int:
    """Bytes of the machine's memory that are in use."""
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def _readable(counters: dict[str, Any]) -> dict[str, Any]:
    """Counters with the quantiles in place of the histogram."""
    found = {name: value for name, value in counters.items() if not name.startswith("latency_")}
    buckets = histogram(counters)
    for name, q in QUANTILES.items():
        found[name] = quantile(buckets, q) if buckets else None
    return found


def _print(master: Master, socket: Any, connections: bool, requests: bool) -> None:
    """What `stats()` in the REPL shows."""
    figures: Stats = master.stats
    socket.title("Master")
    socket.row("os", f"{platform.system()} {platform.release()}")
    socket.row("state", master.state)
    socket.row("started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(figures.start)))
    socket.row("uptime", narration.duration(figures.uptime))
    socket.row("restarts", figures.restarts)
    socket.row("reloads", figures.reloads)
    socket.row("workers", len(master.workers))
    socket.row("workers spawned", figures.workers_spawned)
    socket.row("deaths", figures.deaths)
    socket.title("Resources")
    socket.row("load average", " ".join(f"{load:.2f}" for load in os.getloadavg()))
    socket.row("cores used", f"{min(len(master.workers), host.cpus())} of {host.cpus()}")
    socket.row("memory at boot", narration.size(figures.memory_at_boot))
    socket.row("memory now", f"{narration.size(memory_used())} of {narration.size(psutil.virtual_memory().total)}")
    socket.title("Workers")
    totals = figures.totals
    if connections:
        socket.row("connections total", totals["connections_total"])
        socket.row("connections active", totals["connections_active"])
    if requests:
        socket.row("requests total", totals["requests_total"])
        socket.row("requests active", totals["requests_active"])
    for worker in figures.workers:
        counted = [str(worker[name]) for name, shown in (
            ("connections_active", connections), ("connections_total", connections), ("requests_total", requests),
        ) if shown]
        parts = [narration.duration(worker["uptime"])]
        if counted:
            parts.append("|".join(counted))
        if requests:
            parts.append(f"{narration.milliseconds(worker['p50'])}/{narration.milliseconds(worker['p99'])}")
        socket.row(str(worker["id"]), "  ".join(parts))


class _Clients:
    """Brings the events about clients from the workers to the master, in batches, while somebody listens."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._wanted = False
        self._worker: Any = None
        self._batch: list[tuple[str, dict[str, Any]]] = []
        self._dropped = 0
        self._sending = False
        master.expose("client events", self._arrived, with_worker=True)
        master.on("after fork", self._begin)
        master.when_listened(CLIENT_EVENTS, self._listened)

    # in the master

    def _listened(self, wanted: bool) -> None:
        self._wanted = wanted
        for worker in self._master.workers:
            try:
                worker.send("watch clients", wanted)
            except ChannelError:
                pass  # it is ending

    def _arrived(self, worker: Any, batch: list[Any], dropped: int) -> None:
        # the worker waits for our answer before it sends more: a slow handler has events dropped, not gathered here
        for event, data in batch:
            if event in CLIENT_EVENTS:
                self._master.dispatch(event, worker, data)
        if dropped:
            self._master.log.warning("worker %s had no time to tell of %s client events", worker.id, dropped)

    # in a worker

    def _begin(self, worker: Any) -> None:
        self._worker = worker
        worker.on("watch clients", self._watch)
        self._watch(self._wanted)
        atexit.register(self._send_rest)

    def _watch(self, wanted: bool) -> None:
        if wanted and self._note not in self._worker.observers:
            self._worker.observers.append(self._note)
        elif not wanted and self._note in self._worker.observers:
            self._worker.observers.remove(self._note)

    def _note(self, event: str, data: dict[str, Any]) -> None:
        if len(self._batch) >= _MOST:
            self._dropped += 1
            return
        self._batch.append((event, data))
        if not self._sending:
            self._sending = True
            gevent.spawn_later(_GATHER, self._send)

    def _send(self) -> None:
        while self._batch:
            self._send_batch(None)
        self._sending = False

    def _send_batch(self, timeout: float | None) -> None:
        batch, self._batch = self._batch, []
        dropped, self._dropped = self._dropped, 0
        try:
            self._worker.call("client events", batch, dropped, timeout=timeout)
        except (ChannelError, RemoteError, gevent.Timeout):
            pass  # the master is ending, or has no time

    def _send_rest(self) -> None:
        if self._batch:
            self._send_batch(1.0)
