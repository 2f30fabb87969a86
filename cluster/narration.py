"""What is told about a cluster, in words: sentences that several tellers share, and what was told before. Pure."""

from __future__ import annotations

import re
from typing import Any

#: texts that are remembered
_REMEMBERED = 32
#: notes of what is in flight that one line names
_NAMED = 5
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROL_IN_TEXT = {code: escape for code, escape in _CONTROL.items() if chr(code) not in "\n\t"}


class Told:
    """Which texts were told already, so that a crash loop tells each of its tracebacks once."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def again(self, text: str) -> int:
        """How often *text* came before; counts this time, too."""
        text = _key(text)
        before = self._counts.pop(text, 0)
        self._counts[text] = before + 1
        if len(self._counts) > _REMEMBERED:
            del self._counts[next(iter(self._counts))]
        return before

    def times(self, text: str) -> int:
        """How often *text* came."""
        return self._counts.get(_key(text), 0)

    def forget(self) -> None:
        """Begin anew."""
        self._counts.clear()


def _key(text: str) -> str:
    """Addresses of objects differ in each process; the failure is the same."""
    return _ADDRESS.sub("0x", text)


def worth_telling(count: int) -> bool:
    """Whether what has now come for the *count*-th time is said again: the 1st, 2nd, 4th, 8th ... time.

    A failure that goes on is then said rarely, without a clock or a timer.
    """
    return count & (count - 1) == 0


def is_news(worker: Any) -> bool:
    """Whether the coming and going of *worker* is told. In a slot that fails again and again it rarely is, unless it
    has served."""
    return worker.boot_time is not None or worth_telling(worker.failures + 1)


def died(worker: Any) -> str:
    """A worker ended without having been asked to; with what it had in flight."""
    doing = f"; in flight: {flying(worker)}" if worker.in_flight() else ""
    again = f"; {worker.failures + 1} times in a row" if worker.failures else ""
    return f"worker {worker.id} died ({worker.ending}, up {worker.uptime:.1f} s{again}{doing})"


def flying(worker: Any) -> str:
    """What a worker has (or had) in flight and since when, the oldest first."""
    return _list(worker.in_flight())


def _list(notes: list[tuple[float, str]]) -> str:
    more = f"; and {len(notes) - _NAMED} more" if len(notes) > _NAMED else ""
    return "; ".join(f"{what} for {age:.1f} s" for age, what in notes[:_NAMED]) + more


def ending(code: int) -> str:
    """How a process ended: ``signal 9`` for -9, ``exit code 1`` for 1."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def overdue(worker: Any, seconds: float) -> str:
    """A worker ran out of time; with what it has in flight and since when."""
    doing = flying(worker) or "nothing noted"
    return f"worker {worker.id} timed out after {seconds:g} s (pid {worker.pid}; in flight: {doing})"


def waiting(worker: Any, connections: int) -> str:
    """A draining worker still has connections; with what is in flight on them."""
    notes = [note for note in worker.in_flight() if not note[1].startswith("connection ")]  # those are counted
    if not notes:
        return f"worker {worker.id} waiting on {connections} connections"
    return f"worker {worker.id} waiting for {len(notes)} request{'s' * (len(notes) > 1)}: {_list(notes)}"


def waiting_rarely(worker: Any, connections: int) -> str | None:
    """The same, for the 1st, 2nd, 4th, 8th ... time; None in between."""
    return waiting(worker, connections) if worth_telling(worker.waits) else None


def died_rarely(worker: Any) -> str | None:
    """`died`, where that is news; else None."""
    return died(worker) if is_news(worker) else None


def cyclic(seconds: float) -> str:
    """A restart came too soon after the start."""
    return f"cyclic restart detected, restarting in {seconds:.1f} s"


def uncaught(worker: Any, error: dict[str, Any]) -> str:
    """An exception in a worker, in one line."""
    again = f" ({error['count']} times)" if error["count"] > 1 else ""
    what = "reported" if error.get("handled") else "uncaught exception"
    return f"worker {worker.id} {what} {error['type']}: {error['message']}{again}"


def printable(text: str) -> str:
    """*text* from elsewhere, in which control characters could make up a line or change colours, with these escaped."""
    return text.translate(_CONTROL)


def harmless(text: str) -> str:
    """The same for a text of several lines, which stay."""
    return text.translate(_CONTROL_IN_TEXT)


def duration(seconds: float) -> str:
    """A time span for people: ``12 s``, ``5 min``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes for people: ``512 B``, ``23.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def milliseconds(seconds: float | None) -> str:
    """A latency for people: ``0.31 ms``, ``12 ms``; ``-`` for none."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 1 else f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
