"""Shared memory with one row of counters per worker: written by the worker without a system call, read any time.

`active` and `serving` are columns over all rows: before each accept a worker compares its own connections with the mean
of all serving workers, and summing slices of shared memory is one call in C.
"""

from __future__ import annotations

import heapq
import math
import mmap
import operator
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from .counters import (
    CONNECTIONS_ACTIVE,
    HIGHEST,
    LOWEST,
    NAMES,
    SIZE,
    TIMINGS,
    WINDOW,
    Durations,
    Times,
    all_times,
    period,
    recent_times,
)
from .narration import printable

#: counters that fall to 0 with their worker; all others go on in the totals
ACTIVE_FIELDS = frozenset({"connections_active", "requests_active"})

#: workers that are alive beside two full generations: they drain still, or are about to be replaced
SPARE = 16
#: descriptions of what is in flight that a row holds
NOTES = 32
NOTE_BYTES = 128
_WORD = 8
#: when it began, and what it is: cut, or filled up with zeros
_NOTE = struct.Struct(f"=d{NOTE_BYTES - _WORD}s")


#: what a new master goes on from
_INHERITED = frozenset(NAMES) - ACTIVE_FIELDS | set(Times().extremes())
_NO_TIMINGS = memoryview(bytes(TIMINGS * _WORD)).cast("d")


def rows_for(workers: int) -> int:
    """How many rows it takes to replace as many *workers* by a new generation while the old one serves."""
    return 2 * workers + SPARE


class NoRowLeft(RuntimeError):
    """More workers than the scoreboard has rows."""


class Scoreboard:
    """Anonymous shared memory, made by the master before the first fork; pages cost memory once they are used."""

    def __init__(self, rows: int) -> None:
        head = 2 * rows + 8
        words = head + rows * SIZE
        timings = words * _WORD
        notes_from = timings + rows * TIMINGS * _WORD
        self._memory = mmap.mmap(-1, notes_from + rows * NOTES * NOTE_BYTES)
        view = memoryview(self._memory)
        self._words = view[: words * _WORD].cast("Q")
        #: connections that each worker has open
        self.active = self._words[head + CONNECTIONS_ACTIVE :: SIZE]
        #: 1 for a worker that accepts connections
        self.serving = self._words[:rows]
        #: 1 for a worker that its master tells by a signal to end at once, whatever that signal means otherwise
        self.at_once = self._words[rows : 2 * rows]
        self._shared = self._words[2 * rows : head]
        self._rows: list[Any] = [self._words[head + n * SIZE : head + (n + 1) * SIZE] for n in range(rows)]
        floats = view[timings:notes_from].cast("d")
        self._timings: list[Any] = [floats[n * TIMINGS : (n + 1) * TIMINGS] for n in range(rows)]
        #: who counts durations in a row, in the worker
        self._durations: dict[int, Durations] = {}
        notes = view[notes_from:]
        size = NOTES * NOTE_BYTES
        self._notes = [notes[n * size : (n + 1) * size] for n in range(rows)]
        self._free = list(range(rows))  # a heap: the lowest is taken first, so that few are ever looked at
        #: what workers that are gone counted
        self.totals: dict[str, int] = dict.fromkeys(NAMES, 0)
        #: how long the requests of workers that are gone took: all, and by period those of late
        self._gone = Times()
        self._gone_lately: dict[int, Times] = {}
        #: what the masters before this one counted
        self._inherited: dict[str, int] = {}

    @property
    def used(self) -> int:
        """Rows up to the highest that was ever taken; those above hold zeros."""
        return self._shared[0]

    @property
    def emptying(self) -> int:
        """Bit mask of the listeners whose queue a draining worker has to empty, as nobody else will."""
        return self._shared[1]

    @emptying.setter
    def emptying(self, mask: int) -> None:
        self._shared[1] = mask

    def take(self) -> int:
        """Reserve a row (master). Raises `NoRowLeft`."""
        if not self._free:
            raise NoRowLeft(f"more than {len(self._rows)} workers alive")
        row = heapq.heappop(self._free)
        self._shared[0] = max(self.used, row + 1)
        return row

    def give_back(self, row: int) -> None:
        """Add the row's totals to those of workers that are gone, and clear it (master, after the worker's death).

        Done a second time, also where the first was broken off, it counts nothing twice.
        """
        if row in self._free:
            return
        counters, timings = self._rows[row], self._timings[row]
        self._gone.add(all_times(counters, timings))
        now = time.monotonic()
        for number, times in recent_times(counters, timings, now).items():
            self._gone_lately.setdefault(number, Times()).add(times)
        for number in [number for number in self._gone_lately if number <= period(now) - WINDOW]:
            del self._gone_lately[number]
        timings[:] = _NO_TIMINGS
        for index, field in enumerate(NAMES):
            if field not in ACTIVE_FIELDS:
                self.totals[field] += counters[index]
            counters[index] = 0
        self.serving[row] = 0
        self.at_once[row] = 0
        self._notes[row][:] = bytes(len(self._notes[row]))
        heapq.heappush(self._free, row)

    def counters(self, row: int) -> memoryview:
        """The server's counters of a row, as `counters` has them."""
        counters: memoryview = self._rows[row]
        return counters

    def read(self, row: int) -> dict[str, int]:
        """A row as a mapping."""
        return dict(zip(NAMES, self._rows[row], strict=True))

    def durations(self, row: int) -> Durations:
        """Who counts how long requests take in a row (worker); the same one at each call."""
        if row not in self._durations:
            self._durations[row] = Durations(self._rows[row], self._timings[row])
        return self._durations[row]

    def sums(self, rows: Sequence[int]) -> dict[str, int]:
        """Totals of workers that live (*rows*), that are gone, and of earlier masters; active ones of the living.

        With the figures about durations that `counters.Times.extremes` names.
        """
        sums = dict(self.totals)
        times = Times()
        times.add(self._gone)
        for row in rows:
            for index, field in enumerate(NAMES):
                sums[field] += self._rows[row][index]
            times.add(all_times(self._rows[row], self._timings[row]))
        sums.update(times.extremes())
        for field, value in self._inherited.items():
            sums[field] = _together(field)(sums[field], value)
        return sums

    def recent(self, rows: Sequence[int]) -> dict[str, int]:
        """How long requests of the last minute took, as `counters.Times.as_counters` has it; those of living workers
        (*rows*) and of those that this master has seen the end of."""
        now = time.monotonic()
        found = Times()
        for number, times in self._gone_lately.items():
            if number > period(now) - WINDOW:
                found.add(times)
        for row in rows:
            for times in recent_times(self._rows[row], self._timings[row], now).values():
                found.add(times)
        return found.as_counters()

    def inherit(self, totals: dict[str, int]) -> None:
        """Carry on from totals that the old master counted; later ones take the place of earlier, never going down.

        Unknown names are ignored.
        """
        for field, value in totals.items():
            if field in _INHERITED and isinstance(value, int) and value:
                before = self._inherited.get(field, value)
                self._inherited[field] = min(before, value) if field == LOWEST else max(before, value)

    def in_flight(self, row: int) -> InFlight:
        """The table of what the worker in *row* is doing."""
        return InFlight(self._notes[row])


def _together(field: str) -> Callable[[int, int], int]:
    """How two totals of that name become one."""
    if field == LOWEST:
        return lambda one, other: min(one, other) if one and other else one or other
    return max if field == HIGHEST else operator.add


class InFlight:
    """What a worker has in flight, so that its master can tell when the worker cannot.

    The worker calls `begin` and `end`; more than `NOTES` at a time are not noted.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        #: when each began, by the monotonic clock; 0 where nothing is noted
        self._begun = memory.cast("d")[:: NOTE_BYTES // _WORD]
        self._free = list(range(NOTES - 1, -1, -1))

    # Both are called for every request, so each is one write in C, with no look at the length.

    def begin(self, description: bytes, now: float | None = None) -> int:
        """Note that something begins now. Returns a token for `end`.

        *now*: the time by the monotonic clock, for who knows it already.
        """
        if not self._free:
            return -1
        token = self._free.pop()
        _NOTE.pack_into(self._memory, token * NOTE_BYTES, time.monotonic() if now is None else now, description)
        return token

    def end(self, token: int) -> None:
        """It is done."""
        if token >= 0:
            self._begun[token] = 0.0
            self._free.append(token)

    def read(self) -> list[tuple[float, str]]:
        """(when it began, what it is), oldest first. A worker may write anything there, clients through it."""
        notes = [_NOTE.unpack_from(self._memory, token * NOTE_BYTES) for token in range(NOTES)]
        found = [(begun, text) for begun, text in notes if begun and math.isfinite(begun)]
        return [(begun, printable(text.rstrip(b"\0").decode("latin-1"))) for begun, text in sorted(found)]
