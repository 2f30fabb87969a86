"""What does stats() cost, and does a master grow with the requests that it counts?

    python -m benchmarks.stats --rounds 10
    python -m benchmarks.stats --grow 10000000

What the tables mean is told in `README.md` beside this file.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # started as a file: the directory above has to be importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import turns
from benchmarks.processes import memory, processor_time
from benchmarks.servers import Kind, Server, interruptible, running

WITH = Kind("with", lambda address: [sys.executable, "counted.py", address, "stats"])
WITHOUT = Kind("without", lambda address: [sys.executable, "counted.py", address])

BOUND = 0.97
"""Of the throughput without, what is to be left with."""

GROWTH = 0.1
"""Megabytes that the master may grow by: less than a byte for each of ten million requests."""

CONNECTIONS = 64


def load(server: Server, seconds: int) -> tuple[int, float]:
    """Asks all the time; returns how many requests were answered, and how many a second.

    The load runs on the last core that we may use, the server on the first.
    :raises RuntimeError: when a request failed, or wrk is not installed.
    """
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is needed and not installed")
    core = max(os.sched_getaffinity(0))
    address = "http://{}:{}/".format(*server.address)
    done = subprocess.run(
        ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", address],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    counted = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    if not counted or not rate or "Socket errors" in done.stdout or "Non-2xx" in done.stdout:
        raise RuntimeError(f"the load failed:\n{done.stdout}{done.stderr}")
    return int(counted[1]), float(rate[1])


def pin(server: Server) -> None:
    """All processes of the server onto the first core."""
    for pid in server.pids():
        os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})


Figures = dict[str, list[tuple[float, float]]]
"""Requests per second and microseconds of processor time for each, one pair for each round, by name."""


def cost(rounds: int, seconds: int) -> int:
    """Compares with and without, in turns, both servers alive all the time; returns the exit code."""
    figures: Figures = {WITH.name: [], WITHOUT.name: []}
    with running(WITH) as first, running(WITHOUT) as second:
        alive = {WITH.name: first, WITHOUT.name: second}
        for server in alive.values():
            server.wait()
            pin(server)
            load(server, 1)  # to warm up

        def take(kind: Kind) -> str:
            server = alive[kind.name]
            pids = server.pids()
            before = processor_time(pids)
            requests, rate = load(server, seconds)
            each = (processor_time(pids) - before) / requests * 1e6
            figures[kind.name].append((rate, each))
            return f"{rate:9,.0f} requests/s  {each:6.2f} us each"

        return turns.measure([WITH, WITHOUT], rounds, take, lambda: table(figures))


def table(figures: Figures) -> tuple[str, bool]:
    """Medians, the median of the rounds' ratios, and whether the bound is kept by throughput."""
    lines = [f"{'':<10}{'requests/s':>12}{'us each':>10}"]
    for name, rounds in figures.items():
        rate, each = (statistics.median(values) for values in zip(*rounds, strict=True))
        lines.append(f"{name:<10}{rate:>12,.0f}{each:>10.2f}")
    pairs = list(zip(figures[WITH.name], figures[WITHOUT.name], strict=True))
    rates = [first[0] / second[0] for first, second in pairs]
    times = [second[1] / first[1] for first, second in pairs]
    ratio = statistics.median(rates)
    lines.append(f"{'ratio':<10}{ratio:>12.3f}{statistics.median(times):>10.3f}   wanted >= {BOUND} by requests/s")
    lines.append(f"single rounds by requests/s: {min(rates):.3f} to {max(rates):.3f}")
    return "\n".join(lines), ratio >= BOUND


def grow(requests: int) -> int:
    """Looks at the master's memory over so many requests; returns the exit code."""
    with interruptible(), running(WITH) as server:
        server.wait()
        pin(server)
        load(server, 5)  # whatever is made once is there then
        done, before, began = 0, memory([server.process.pid]), time.monotonic()
        while done < requests:
            done += load(server, 10)[0]
            now = memory([server.process.pid])
            print(f"{done:12,} requests  master {now:.3f} MB", file=sys.stderr)
        growth = now - before
        print(f"{done:,} requests in {time.monotonic() - began:.0f} s: the master grew by {growth:.3f} MB "
              f"from {before:.3f}, wanted <= {GROWTH}")
        return 0 if growth <= GROWTH else 1


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code: 0 when the bound is kept, 1 otherwise, 2 when nothing could be measured."""
    parser = turns.parser("stats", "The cost of stats().", rounds=10)
    parser.add_argument("--seconds", type=int, default=2, metavar="S", help="how long each run is")
    parser.add_argument("--grow", type=int, metavar="N", help="instead: the master's memory over N requests")
    options = parser.parse_args(arguments)
    try:
        return grow(options.grow) if options.grow else cost(options.rounds, options.seconds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
