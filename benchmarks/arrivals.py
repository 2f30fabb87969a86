"""New keep-alive clients that arrive one after the other or in a burst, with one request each.

Tells how evenly a server spreads them over its workers, and how long each had to wait.
"""

from __future__ import annotations

import time

from benchmarks.client import Address, Client, Connection, Report


def arrive(
    address: Address,
    clients: int = 200,
    at_once: int = 1,
    *,
    path: str = "/",
    timeout: float = 10.0,
    hold: bool = True,
    pause: float = 0.0,
) -> Report:
    """Opens that many connections, does one request on each, and closes them all at the end.

    `report.by_worker` tells where they landed, when the bodies hold the worker's pid, and
    `report.unevenness(workers)` how unfair that was; `report.latency(1.0)` is the latest answer, connecting included.

    :param at_once: how many are under way at a time: 1 for clients that arrive singly, `clients` for a burst.
    :param timeout: seconds within which each must be answered.
    :param hold: whether connections stay open until the last client is answered, as keep-alive clients do.
    :param pause: seconds to wait before each next client. With none, the worker that has just answered is still on
        its way back to sleep and another takes the next; with some, all sleep, and the kernel's favourite may take all.
    """
    finished: list[Connection] = []
    client = Client(address, lambda connection, good: finished.append(connection), path, timeout, pids=True)
    waiting = clients
    while waiting or client.pending:
        while waiting and client.pending < at_once:
            if pause:
                time.sleep(pause)
            waiting -= 1
            client.begin(client.open())
        client.turn(timeout)
        if not hold:
            for connection in finished:
                client.shut(connection)
            finished.clear()
    return client.close()


def wait_for_answer(address: Address, timeout: float, *, unlike: frozenset[int] = frozenset()) -> float:
    """Asks on fresh connections until one is answered well; returns the moment of that, by the monotonic clock.

    This one does try again: it measures how long a server is away, and counts nothing.

    :param timeout: seconds to go on for.
    :param unlike: pids whose answers do not count: a worker that was killed may still answer in its last moment.
    :raises TimeoutError: when there is no good answer in that time.
    """
    end = time.monotonic() + timeout
    while (now := time.monotonic()) < end:
        report = arrive(address, 1, timeout=end - now)
        if report.clean and not unlike.intersection(report.by_worker):
            return time.monotonic()
        # Short against what is measured, long enough to leave the processor to the server that is starting.
        time.sleep(0.001)
    raise TimeoutError(f"no answer from {address} within {timeout:g} s")
