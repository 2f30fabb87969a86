"""One of four workers is stuck in a busy loop or stopped: are new clients still served, and how late?

    python -m benchmarks.stuck --rounds 5

What the table means is told in `README.md` beside this file.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the directory above has to be importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import turns
from benchmarks.arrivals import arrive
from benchmarks.client import Report
from benchmarks.processes import state
from benchmarks.servers import GUNICORN, OURS, Kind, Server, choose, running

CLIENTS = 400
"""How many new connections are made, with one request on each."""

TIMEOUT = 5.0
"""Seconds after which a client counts as not served."""

BOUND = 0.050
"""Seconds within which ours shall serve each of them."""


@contextmanager
def looping(server: Server) -> Iterator[int]:
    """While one worker runs Python code that never yields; gives its pid."""
    connection = http.client.HTTPConnection(*server.address, timeout=TIMEOUT)
    try:
        connection.request("GET", "/loop")
        # The worker sends its pid, and is asked for the next part of the body only after that.
        yield int(connection.getresponse().read1(64))
    finally:
        connection.close()


@contextmanager
def stopped(server: Server) -> Iterator[int]:
    """While one worker is stopped by SIGSTOP; gives its pid."""
    pid = server.workers()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        # The signal takes effect a little later.
        deadline = time.monotonic() + 5.0
        while state(pid) != "T":
            if time.monotonic() > deadline:
                raise RuntimeError(f"worker {pid} of {server.kind.name} does not stop")
            time.sleep(0.001)
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # its master has given it up meanwhile


@dataclass(frozen=True)
class Arrival:
    """One way in which the clients come.

    :ivar at_once: how many are under way at a time.
    :ivar hold: whether they stay connected until the last is served. Then the stuck worker has fewer connections than
        the others, and a server that evens them out is tempted to leave new ones to it.
    :ivar bounded: whether `BOUND` holds; of hundreds at the same moment the last waits for the processor anyway.
    """

    name: str
    at_once: int
    hold: bool
    bounded: bool = True


ARRIVALS = (
    Arrival("singly", 1, hold=False),
    Arrival("singly, held open", 1, hold=True),
    Arrival("16 at a time", 16, hold=False),
    Arrival("16 at a time, held open", 16, hold=True),
    Arrival("all at once, held open", CLIENTS, hold=True, bounded=False),
)
TRAPS: dict[str, Callable[[Server], AbstractContextManager[int]]] = {"looping": looping, "stopped": stopped}

Results = dict[tuple[str, str, str], list[Report]]
"""Reports, one for each round, by the names of trap, arrival and server."""


def take(kind: Kind, results: Results) -> str:
    """One round for one server: a fresh one for each way to be stuck, since it may be no use after that."""
    for trap, stick in TRAPS.items():
        with running(kind) as server:
            server.wait()
            server.workers()
            with stick(server) as pid:
                for arrival in ARRIVALS:
                    report = arrive(server.address, CLIENTS, arrival.at_once, hold=arrival.hold, timeout=TIMEOUT)
                    if pid in report.by_worker:
                        raise RuntimeError(f"worker {pid} of {kind.name} was to be stuck, but served")
                    results.setdefault((trap, arrival.name, kind.name), []).append(report)
                    time.sleep(0.2)  # for the server to notice that these have gone
    return ""


def table(results: Results) -> tuple[str, bool]:
    """The fewest served and the latest answer of all rounds, and whether ours keep the bound.

    No medians here: a client that waits once in many rounds because it fell to the stuck worker is what is looked for.
    """
    ours, theirs = (f"{kind.name} served, latest" for kind in (OURS, GUNICORN))
    lines = [f"{'one of four workers':<34}{ours:>24}{theirs:>26}  kept"]
    good = True
    for trap in TRAPS:
        for arrival in ARRIVALS:
            cells, kept = [], ""
            for kind, width in ((OURS, 24), (GUNICORN, 26)):
                reports = results.get((trap, arrival.name, kind.name))
                if not reports:
                    cells.append(f"{'-':>{width}}")
                    continue
                served = min(report.answered for report in reports)
                latest = max(report.latency(1.0) for report in reports)
                cells.append(f"{f'{served}/{CLIENTS} {latest * 1000:7.1f} ms':>{width}}")
                if kind is OURS:
                    met = served == CLIENTS and (latest <= BOUND or not arrival.bounded)
                    good, kept = good and met, "yes" if met else "NO"
            lines.append(f"{trap + ', ' + arrival.name:<34}{''.join(cells)}  {kept}")
    return "\n".join(lines), good


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code: 0 when ours served all in time, 1 otherwise, 2 when nothing could be measured."""
    parser = turns.parser("stuck", "One of four workers is stuck.", rounds=5)
    parser.add_argument("--only", choices=[OURS.name, GUNICORN.name], help="measure this one alone")
    options = parser.parse_args(arguments)
    results: Results = {}
    return turns.measure(
        choose(options.only), options.rounds, lambda kind: take(kind, results), lambda: table(results)
    )


if __name__ == "__main__":
    sys.exit(main())
