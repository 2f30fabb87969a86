"""What a server's life costs: start, idling, memory, fairness, recovery, end. Ours and gunicorn's in turns.

    python -m benchmarks.lifecycle --rounds 5

What each line means is told in `README.md` beside this file.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the directory above has to be importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import turns
from benchmarks.arrivals import arrive, wait_for_answer
from benchmarks.processes import memory, switches_a_second, wait_gone
from benchmarks.servers import GUNICORN, OURS, WORKERS, Kind, Server, choose, running

SETTLE = 2.0
"""Seconds of rest before idling is measured: gunicorn, too, has closed its idle connections by then."""

IDLE = 5.0
"""Seconds for which context switches are counted."""

CLIENTS = 200
"""How many keep-alive clients arrive."""

PATIENCE = 10.0
"""Seconds after which a measured thing counts as never happening."""


def start(server: Server) -> float:
    """Milliseconds from the start of the program to the first 200."""
    return server.wait() * 1000


def idle(server: Server) -> float:
    """Context switches per second of all processes, after each worker has had the chance to serve."""
    server.workers()
    arrive(server.address, CLIENTS // 4, CLIENTS // 4)
    time.sleep(SETTLE)
    return switches_a_second(server.pids(), IDLE)


def pss(server: Server) -> float:
    """Megabytes of all processes together."""
    return memory(server.pids())


def singly(server: Server) -> float:
    """Connections of the busiest worker against the mean, of clients that arrive one by one at sleeping workers."""
    return unevenness(server, 1, pause=0.002)


def burst(server: Server) -> float:
    """The same of clients that arrive all at once."""
    return unevenness(server, CLIENTS)


def unevenness(server: Server, at_once: int, pause: float = 0.0) -> float:
    """Lets the clients arrive, on a server that has none.

    :raises RuntimeError: when one of them was not served.
    """
    time.sleep(0.5)  # for the server to notice that earlier clients have gone
    report = arrive(server.address, CLIENTS, at_once, pause=pause)
    if not report.clean:
        raise RuntimeError(f"{server.kind.name} failed clients:\n{report}")
    return report.unevenness(WORKERS)


def recovery(server: Server) -> float:
    """Milliseconds from `kill -9` of all workers to the next 200, on a fresh connection and from a new worker."""
    workers = server.workers()
    begun = time.monotonic()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    try:
        return (wait_for_answer(server.address, PATIENCE, unlike=frozenset(workers)) - begun) * 1000
    except TimeoutError:
        return math.inf


def orphans(server: Server) -> float:
    """Milliseconds from `kill -9` of the master until its workers are gone and the port is free."""
    server.workers()
    time.sleep(0.5)  # the workers are new: they shall be idle, not starting
    left = server.pids()
    begun = time.monotonic()
    server.process.kill()
    server.process.wait()
    # Asked again, in case the master forked in its last moment.
    while left:
        if not wait_gone(left, begun + PATIENCE - time.monotonic()):
            return math.inf
        left = server.pids()
    while not bindable(server.address):
        if time.monotonic() > begun + PATIENCE:
            return math.inf
        time.sleep(0.001)
    return (time.monotonic() - begun) * 1000


def bindable(address: tuple[str, int]) -> bool:
    """Whether a server could listen here now; connections that linger from the past do not hinder it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    :ivar take: measures it once, in the unit that `name` tells. All are taken in their order from one running server.
    :ivar bound: what ours may be at most: of gunicorn's figure when `relative`, otherwise in its own unit.
    """

    name: str
    take: Callable[[Server], float]
    bound: float
    relative: bool = False

    def met(self, ours: float, theirs: float | None) -> bool | None:
        """Whether the bound is kept; None when that takes a figure of gunicorn's and there is none."""
        if not self.relative:
            # Compared as it is printed, so that one stray switch in the time does not fail "none".
            return round(ours, 1 if self.bound == 0 else 2) <= self.bound
        return None if theirs is None else ours <= self.bound * theirs


MEASURES = (
    Measure("start to first 200, ms", start, 0.8, relative=True),
    Measure("context switches idle, 1/s", idle, 0.0),
    Measure("memory (PSS), MB", pss, 0.8, relative=True),
    Measure("busiest/mean, singly", singly, 1.1),
    Measure("busiest/mean, burst", burst, 1.1),
    Measure("recovery, ms", recovery, 0.5, relative=True),
    Measure("orphans gone, ms", orphans, 250.0),
)


def take_all(kind: Kind) -> list[float]:
    """One value for each of `MEASURES`, from one life of one server."""
    with running(kind) as server:
        return [measure.take(server) for measure in MEASURES]


def table(values: dict[str, list[list[float]]]) -> tuple[str, bool]:
    """The table, and whether every bound that could be checked is kept.

    :param values: by the server's name one list for each round, as from `take_all`.
    """
    lines = [f"{'median':<28}{OURS.name:>10}{GUNICORN.name:>10}{'ratio':>8}   {'wanted':<12}kept"]
    good = True
    medians = {name: [*map(statistics.median, zip(*rounds, strict=True))] for name, rounds in values.items()}
    for number, measure in enumerate(MEASURES):
        ours, theirs = (medians[kind.name][number] if kind.name in medians else None for kind in (OURS, GUNICORN))
        ratio = f"{ours / theirs:.2f}" if ours is not None and theirs else ""
        wanted = f"<= {measure.bound:g}{' x' if measure.relative else ''}"
        met = None if ours is None else measure.met(ours, theirs)
        good = good and met is not False
        kept = {True: "yes", False: "NO", None: ""}[met]
        lines.append(f"{measure.name:<28}{figure(ours):>10}{figure(theirs):>10}{ratio:>8}   {wanted:<12}{kept}")
    return "\n".join(lines), good


def figure(value: float | None) -> str:
    """A value as the table shows it."""
    if value is None:
        return "-"
    return "never" if math.isinf(value) else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code: 0 when every bound is kept, 1 otherwise, 2 when nothing could be measured."""
    parser = turns.parser("lifecycle", "Ours and gunicorn in turns.", rounds=5)
    parser.add_argument("--only", choices=[OURS.name, GUNICORN.name], help="measure this one alone")
    options = parser.parse_args(arguments)
    kinds = choose(options.only)
    values: dict[str, list[list[float]]] = {kind.name: [] for kind in kinds}

    def take(kind: Kind) -> str:
        values[kind.name].append(take_all(kind))
        return "  ".join(figure(value) for value in values[kind.name][-1])

    return turns.measure(kinds, options.rounds, take, lambda: table(values))


if __name__ == "__main__":
    sys.exit(main())
