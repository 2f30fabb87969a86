"""One whole life of a cluster, and every line that it writes: rows L1, L2, P1, D1, S1, S4, S5, T1, T4.

Each step waits until master.log, the workers' two files, debug()'s output and the pid files hold exactly what is
expected. The lines about one worker, and those about a master, have to come in this order; those of different ones may
come in any.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable
from itertools import chain
from typing import Any

from ..harness import DEADLINE, Script, Workshop, connect, eventually, fetch
from .test_plugin_repl import Talk

SERVER = """
m = cluster("./shopfront.py").set(workers=2, timeout=0.6, drain_grace=0.2, restart_threshold=0)
m.use(package.logger(level="debug"), package.debug(colors=False), package.pidfiles(), package.stats(True, True))
m.use(package.repl("repl.sock"))
m.on("listening", lambda: say("ADDRESS", *m.addresses))
m.on("ready", lambda: say("EVENT", os.getpid(), "ready"))
m.listen(0, "127.0.0.1")
"""

SITE = """
import os, sys, time
def app(environ, start_response):
    path = environ["PATH_INFO"]
    print(os.getpid(), "asked for", path)
    if path == "/raise":
        raise RuntimeError("raised on purpose")
    if path == "/warn":
        print("a warning", file=sys.stderr)
    if path == "/stuck":
        time.sleep(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

#: what no test can know, or what is checked in another way
_VARIES = [
    (r"\(pid \d+", "(pid"), (r"after \d+ ms", "after T ms"), (r"up \d+\.\d s", "up T s"), (r"for \d+\.\d s", "for T s"),
    (r"on 127\.0\.0\.1:\d+", "on ADDRESS"), (r"on \S+/repl\.sock", "on repl.sock"),
]

Lines = dict[str, list[str]]


def groups(lines: Iterable[str]) -> Lines:
    """Lines by what they are about: a worker, or a master; a line with a pid before it is that process's."""
    found: Lines = {}
    for line in lines:
        about = re.search(r"worker \d", line)
        who = re.match(r"\d+ ", line)
        if about:  # both masters tell of workers during a restart, each of its own
            found.setdefault(about[0] + (f" of {who[0]}" if who else ""), []).append(line)
        elif re.search(r"shutting down|kill\(|shutdown complete|restarting: ", line):
            found.setdefault("the end of a master", []).append(line)  # while the next one begins
        else:
            found.setdefault(f"master {who[0] if who else ''}", []).append(line)
    return found


def booted(first: int, last: int, ready: str = "") -> list[str]:
    """What is logged of workers that start."""
    return [line for worker in range(first, last + 1) for line in (
        f"[INFO] spawned worker {worker} (pid)", f"[DEBUG] worker {worker} connected",
        f"[INFO] worker {worker} ready{ready}")]


def shown(first: int, last: int) -> list[str]:
    """The same from debug()."""
    return [f"info - worker {worker} {what}" for worker in range(first, last + 1)
            for what in ("spawned (pid)", "connected", "ready after T ms")]


class Record:
    """What a cluster has written, and how much of it was looked at."""

    def __init__(self, shop: Workshop, server: Script) -> None:
        self._logs = shop.directory / "logs"
        self._shop = shop
        self._server = server
        self._seen: dict[str, int] = {}

    def _all(self) -> Lines:
        found = {name: (self._logs / f"{name}.log").read_text().splitlines()
                 for name in ("master", "workers.access", "workers.error")}
        # the format of a line is "[time] [pid] [LEVEL] message"; tracebacks below it are indented
        found["master"] = [re.sub(r"^\[[-\d]+ [:,\d]+\] \[(\d+)\] ", r"\1 ", line.removeprefix("    "))
                           for line in found["master"]]
        found["debug"] = [line[2:] for line in self._server.lines if re.match(r"  (info|warning|error) - ", line)]
        found["else"] = [line for line in self._server.lines
                         if not re.match(r"  (info|warning|error) - |EVENT |ADDRESS ", line)]
        return found

    def _new(self) -> Lines:
        found = {}
        for name, lines in self._all().items():
            new = [line for line in lines[self._seen.get(name, 0):]
                   if not re.match(r"\s", line)  # quoted code
                   and "repl: connection from" not in line]  # ours, for each question that `talk` asks
            for pattern, text in _VARIES:
                new = [re.sub(pattern, text, line) for line in new]
            found[name] = new
        return found

    def shows(self, what: str, pids: dict[str, int] | None = None, **expected: list[str]) -> None:
        """Wait until exactly this was written since the last time. Keys are master, access, error, debug; in master
        lines are by the present master where no pid stands before them."""
        wanted = {"master": expected.get("master", []), "workers.access": expected.get("access", []),
                  "workers.error": expected.get("error", []), "debug": expected.get("debug", []), "else": []}
        wanted["master"] = [f"{self._server.pid} {line}" if line.startswith("[") else line for line in wanted["master"]]
        end = time.monotonic() + DEADLINE
        eventually(lambda: {n: len(found) for n, found in self._new().items()} ==
                   {n: len(lines) for n, lines in wanted.items()} or time.monotonic() > end - 1, what)
        for name, lines in self._new().items():
            assert groups(lines) == groups(wanted[name]), (what, name)
        self._seen = {name: len(lines) for name, lines in self._all().items()}
        if pids is not None:
            assert self._shop.pids() == pids, what

    def worker(self, pid: int) -> int:
        """The slot of a worker, by its pid file."""
        return next(int(name.split(".")[1]) for name, found in self._shop.pids().items() if found == pid)


def figures(text: str) -> dict[str, str]:
    """`name: value` lines of stats()."""
    return {match[1]: match[2] for match in re.finditer(r"^ +([a-z 0-9]+): (.*)$", text, re.M)}


def test_every_line_of_a_whole_life(shop: Workshop) -> None:
    """Boot, an exception, kill -9, resize, a reload whose drain times out, a restart, the end."""
    shop.write("shopfront.py", SITE)
    server = shop.script(SERVER).ready()
    record = Record(shop, server)
    path = str(shop.directory / "repl.sock")

    def family() -> dict[str, int]:
        """The pid files have to name the processes that there are, each once."""
        found = shop.pids()
        assert found["master"] == server.pid
        assert sorted(pid for name, pid in found.items() if name != "master") == server.workers(), found
        return found

    record.shows(
        "boot",
        master=["[INFO] master started", *booted(0, 1), "[INFO] listening on ADDRESS",
                "[INFO] repl listening on repl.sock"],
        debug=["info - master started (pid)", "info - listening for connections on ADDRESS", *shown(0, 1),
               "info - all workers ready"],
    )  # fmt: skip
    assert set(family()) == {"master", "worker.0", "worker.1"}

    asked = int(server.get("/warn"))
    record.shows("a request", access=[f"{asked} asked for /warn"], error=["a warning"])

    assert fetch(server.address(), "/raise")[0] == 500
    access = eventually(lambda: (shop.directory / "logs/workers.access.log").read_text().splitlines()[1:], "asked")
    raised = int(access[0].split()[0])
    error = f"worker {record.worker(raised)} uncaught exception RuntimeError: raised on purpose"
    trace = ["Traceback (most recent call last):", "RuntimeError: raised on purpose"]
    record.shows(
        "an exception in a request", family(), master=[f"[ERROR] {error}", *trace], debug=[f"error - {error}"],
        access=[f"{raised} asked for /raise"], error=["exception in GET /raise", *trace],
    )

    victim = int(server.get())
    slot = record.worker(victim)
    os.kill(victim, signal.SIGKILL)
    record.shows(
        "kill -9", master=[f"[ERROR] worker {slot} died (signal 9, up T s)", *booted(slot, slot)],
        debug=[f"warning - worker {slot} died (signal 9, up T s)", *shown(slot, slot)],
        access=[f"{victim} asked for /"],
    )
    assert victim not in family().values()

    talk = Talk(path)
    seen = figures(talk("stats()"))
    expected: dict[str, Any] = {
        "state": "running", "restarts": 0, "reloads": 0, "workers": 2, "workers spawned": 3, "deaths": 1,
        "connections total": 3, "connections active": 0, "requests total": 3, "requests active": 0,
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    assert re.search(r"0\|\d\|\d  \S+", seen["0"]) and re.search(r"0\|\d\|\d  \S+", seen["1"]) and "2" not in seen
    totals = eval(talk("m.stats.totals"))
    assert (totals["responses_2xx"], totals["responses_5xx"]) == (2, 1) and 0 < totals["p50"] <= totals["p99"]

    assert talk("resize(3)") == "3 workers\n"
    record.shows("resize", master=booted(2, 2), debug=shown(2, 2))
    assert set(family()) == {"master", "worker.0", "worker.1", "worker.2"}

    with connect(server.address()) as stuck:
        stuck.sendall(b"GET /stuck HTTP/1.1\r\nHost: t\r\n\r\n")
        line = eventually(lambda: re.search(
            r"^(\d+) asked for /stuck$", (shop.directory / "logs/workers.access.log").read_text(), re.M), "stuck")
        slot = record.worker(int(line[1]))
        before = family()
        assert talk("reload()") == "reload complete\n"
        late = f"worker {slot} timed out after 0.6 s (pid; in flight: GET /stuck 127.0.0.1 for T s)"
        waits = f"worker {slot} waiting for 1 request: GET /stuck 127.0.0.1 for T s"
        removed = {n: [f"[INFO] worker {n} removed (pid)"] for n in range(3)}
        removed[slot] = [f"[INFO] {waits}", f"[WARNING] {late}", *removed[slot]]
        gone = {n: [f"info - worker {n} removed (pid)"] for n in range(3)}
        gone[slot] = [f"warning - {waits}", f"warning - {late}", *gone[slot]]
        record.shows(
            "a reload, and a drain that times out", access=[line[0]],
            master=["[INFO] reload requested (generation 2)", *booted(0, 2), *chain(*removed.values()),
                    "[INFO] reload complete (generation 2)"],
            debug=["info - reloading: generation 2 is starting", *shown(0, 2), *chain(*gone.values()),
                   "info - reload complete (generation 2)"],
        )  # fmt: skip
        stuck.settimeout(DEADLINE)
        assert stuck.recv(1) == b""
    after = family()
    assert len(after) == 4 and not set(after.values()) - {server.pid} & set(before.values())

    old = server.pid
    talk.connection.sendall(b"restart()\n")
    told = talk.rest()
    assert "a new master takes over\n" in told and told.endswith("this master is replaced; the session ends here\n")
    server.ready(2)
    record.shows(
        "a restart",
        master=[f"{old} [INFO] restart requested", "[INFO] master started", *booted(0, 1),
                "[INFO] listening on ADDRESS", "[INFO] restart complete", "[INFO] repl listening on repl.sock",
                f"{old} [WARNING] shutting down master", f"{old} [WARNING] sent kill(SIGQUIT) to all workers",
                *(f"{old} [INFO] worker {n} removed (pid)" for n in range(3)), f"{old} [INFO] shutdown complete"],
        debug=["info - restarting: starting a new master", "info - master started (pid)",
               "info - listening for connections on ADDRESS", *shown(0, 1), "info - all workers ready",
               "info - restart complete", "info - shutting down", "warning - kill(SIGQUIT)",
               *(f"info - worker {n} removed (pid)" for n in range(3)), "info - shutdown complete"],
    )  # fmt: skip
    assert set(family()) == {"master", "worker.0", "worker.1"}

    talk = Talk(path)
    last = int(server.get())
    seen = eventually(lambda: (now := figures(talk("stats()")))["connections active"] == "0" and now, "closed")
    expected.update({"restarts": 1, "reloads": 1, "workers spawned": 9, "connections total": 5, "requests total": 5})
    assert {name: seen[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    record.shows("the last request", access=[f"{last} asked for /"])

    kept = family()
    server.signal(signal.SIGQUIT)
    told = talk.rest()
    assert "the cluster is closing" in told and told.endswith("the master has ended; good-bye\n")
    server.assert_gone()
    record.shows(
        "the end", kept,
        master=["[WARNING] shutting down master", "[WARNING] sent kill(SIGQUIT) to all workers",
                "[INFO] worker 0 removed (pid)", "[INFO] worker 1 removed (pid)", "[INFO] shutdown complete"],
        debug=["info - shutting down", "warning - kill(SIGQUIT)", "info - worker 0 removed (pid)",
               "info - worker 1 removed (pid)", "info - shutdown complete"],
    )  # fmt: skip
    assert sorted(path.name for path in (shop.directory / "pids").iterdir()) == [f"{name}.pid" for name in sorted(kept)]
