"""A strict keep-alive client that never retries: load for a server that claims not to fail a single request.

    python -m benchmarks.strict 127.0.0.1:3000 --connections 64 --seconds 12

What counts as a failure is told in `README.md` beside this file. From a test, `run` blocks; `load` runs beside it:

    with load(("127.0.0.1", port), connections=64, pids=True) as traffic:
        ...                                   # by now every connection has been answered once
        traffic.wait_answered(1000)           # so much more has been answered since
    assert traffic.report.clean, traffic.report
"""

from __future__ import annotations

import argparse
import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # started as a file: the directory above has to be importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.client import Address, Client, Connection, Report

AFTER_FAILURE = 0.05
"""Seconds that a connection pauses after a failure, so that a dead server does not turn the client into a busy loop."""

LONGEST_WAIT = 0.1
"""Seconds after which the loop looks at the clock and at `stop` again when nothing happens."""


def run(
    address: Address,
    connections: int = 64,
    seconds: float = 12.0,
    think: float = 0.0,
    path: str = "/",
    *,
    timeout: float = 10.0,
    pids: bool = False,
    blind: bool = False,
    stop: threading.Event | None = None,
    answered: Callable[[int, int], None] | None = None,
) -> Report:
    """Asks on so many keep-alive connections for so long; requests under way at the end are waited for.

    :param address: `(host, port)`, `"host:port"` or `"unix:/path"`.
    :param seconds: how long new requests are begun.
    :param think: seconds that each connection is idle between a response and the next request.
    :param timeout: seconds within which each response must be complete.
    :param pids: whether the bodies hold the pid of the worker.
    :param blind: not to look whether an idle connection is still there: closed idle is a failure, too.
    :param stop: ends it early when set, within `LONGEST_WAIT`.
    :param answered: called in the loop with the number of requests answered, and of connections that were answered.
    """
    due: list[tuple[float, int, Connection]] = []
    seen: set[int] = set()

    def done(connection: Connection, good: bool) -> None:
        pause = think if good else max(think, AFTER_FAILURE)
        heapq.heappush(due, (time.monotonic() + pause, connection.number, connection))
        if good and len(seen) < connections:
            seen.add(connection.number)

    client = Client(address, done, path, timeout, pids, blind)
    begun = time.monotonic()
    for _ in range(connections):
        connection = client.open()
        heapq.heappush(due, (begun, connection.number, connection))
    end = begun + seconds
    while True:
        now = time.monotonic()
        if now >= end or (stop is not None and stop.is_set()):
            break
        while due and due[0][0] <= now:
            client.begin(heapq.heappop(due)[2])
        client.turn(min(due[0][0] - now if due else LONGEST_WAIT, LONGEST_WAIT, end - now))
        if answered is not None:
            answered(client.report.answered, len(seen))
    while client.pending:
        client.turn(LONGEST_WAIT)
    return client.close()


class Traffic:
    """Load that runs in a thread of its own beside the caller; see `load`.

    :ivar report: what happened; there once the load has ended.
    """

    def __init__(self) -> None:
        self.report = Report()
        self.error: BaseException | None = None
        self._change = threading.Condition()
        self._answered = 0
        self._seen = 0
        self._ended = False

    def wait_answered(self, more: int, timeout: float = 10.0) -> None:
        """Blocks until so many more requests have been answered than by now.

        :raises TimeoutError: when that takes more than `timeout` seconds, or the load has ended before.
        """
        goal = self._answered + more
        self._wait(lambda: self._answered >= goal, timeout, f"{more} more answers")

    def wait_connections(self, count: int, timeout: float = 10.0) -> None:
        """Blocks until so many connections have been answered at least once; raises as `wait_answered` does."""
        self._wait(lambda: self._seen >= count, timeout, f"answers on {count} connections")

    def _wait(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        with self._change:
            self._change.wait_for(lambda: reached() or self._ended, timeout)
            if not reached():
                raise TimeoutError(f"no {what} within {timeout:g} s; {self._answered} answered on {self._seen}")

    def _note(self, answered: int, seen: int) -> None:
        if (answered, seen) != (self._answered, self._seen):
            with self._change:
                self._answered, self._seen = answered, seen
                self._change.notify_all()

    def _end(self) -> None:
        with self._change:
            self._ended = True
            self._change.notify_all()


@contextmanager
def load(
    address: Address,
    connections: int = 64,
    think: float = 0.0,
    path: str = "/",
    *,
    timeout: float = 10.0,
    pids: bool = False,
    blind: bool = False,
    longest: float = 300.0,
) -> Iterator[Traffic]:
    """Load as by `run`, beside the block; the block begins when every connection has been answered once.

    :param longest: seconds after which the load ends whatever the block does.
    :raises TimeoutError: when some connection is not answered within `timeout` seconds.
    """
    traffic = Traffic()
    stop = threading.Event()

    def work() -> None:
        try:
            traffic.report = run(
                address,
                connections,
                longest,
                think,
                path,
                timeout=timeout,
                pids=pids,
                blind=blind,
                stop=stop,
                answered=traffic._note,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            traffic.error = error
        finally:
            traffic._end()

    thread = threading.Thread(target=work, name="strict client", daemon=True)
    thread.start()
    try:
        traffic.wait_connections(connections, timeout)
        yield traffic
    finally:
        stop.set()
        thread.join()
        if traffic.error is not None:
            raise traffic.error


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code: 0 when requests were answered and none failed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strict", description="A client that never retries.")
    parser.add_argument("address", help="HOST:PORT or unix:PATH")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=float, default=12.0, metavar="S")
    parser.add_argument("--think", type=float, default=0.0, metavar="S", help="idle time between requests, in seconds")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="for each response, in seconds")
    parser.add_argument("--path", default="/")
    parser.add_argument("--pids", action="store_true", help="bodies hold the worker's pid: count connections by worker")
    parser.add_argument("--blind", action="store_true", help="a connection that was closed idle is a failure, too")
    options = parser.parse_args(arguments)
    try:
        report = run(
            options.address,
            options.connections,
            options.seconds,
            options.think,
            options.path,
            timeout=options.timeout,
            pids=options.pids,
            blind=options.blind,
        )
    except ValueError as error:
        parser.error(str(error))
    print(report)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
