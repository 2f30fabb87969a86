"""What is told about a cluster, in words: sentences that several tellers share. Pure."""

from __future__ import annotations

from typing import Any


def died(worker: Any) -> str:
    """A worker ended without having been asked to."""
    return f"worker {worker.id} died ({worker.ending}, up {worker.uptime:.1f} s)"


def overdue(worker: Any, seconds: float) -> str:
    """A worker ran out of time; with what it has in flight and since when."""
    doing = "; ".join(f"{what} for {age:.1f} s" for age, what in worker.in_flight()) or "nothing noted"
    return f"worker {worker.id} timed out after {seconds:g} s (pid {worker.pid}; in flight: {doing})"


def waiting(worker: Any, connections: int) -> str:
    """A draining worker still has connections."""
    return f"worker {worker.id} waiting on {connections} connection{'' if connections == 1 else 's'}"


def cyclic(seconds: float) -> str:
    """A restart came too soon after the start."""
    return f"cyclic restart detected, restarting in {seconds:.1f} s"


def uncaught(worker: Any, error: dict[str, str]) -> str:
    """An exception in a worker, in one line."""
    return f"worker {worker.id} uncaught exception {error['type']}: {error['message']}"
