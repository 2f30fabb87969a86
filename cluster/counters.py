"""What a server counts about itself, as a flat sequence of integers that may lie in shared memory.

Updates are plain item assignments, so that they cost no system call and a reader in another process sees whole values.
Durations go into a histogram with logarithmic buckets, two per doubling, from one microsecond to half an hour, whose
bounds are powers of 2 seconds: those of the native histograms of Prometheus and OpenTelemetry. Beside it are their sum,
the sum of their squares, the shortest and the longest, over all and over the last minute (`Durations` writes, `Times`
reads).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableSequence, Sequence

CONNECTIONS_ACTIVE = 0
CONNECTIONS_TOTAL = 1
REQUESTS_ACTIVE = 2
REQUESTS_TOTAL = 3
BYTES_RECEIVED = 4
BYTES_SENT = 5
RESPONSES_1XX = 6
RESPONSES_2XX = 7
RESPONSES_3XX = 8
RESPONSES_4XX = 9
RESPONSES_5XX = 10
#: where the histogram begins
LATENCY = 11
#: how many buckets it has
BUCKETS = 64
#: the sum of all durations, in units
LATENCY_SUM = LATENCY + BUCKETS
#: how many items in all
SIZE = LATENCY_SUM + 1
#: durations are counted in units of 1 / UNITS seconds, about a microsecond
UNITS = 1 << 20

#: add to a status code divided by 100 to get the index of its counter
RESPONSES = RESPONSES_1XX - 1

NAMES: tuple[str, ...] = (
    "connections_active",
    "connections_total",
    "requests_active",
    "requests_total",
    "bytes_received",
    "bytes_sent",
    "responses_1xx",
    "responses_2xx",
    "responses_3xx",
    "responses_4xx",
    "responses_5xx",
    *(f"latency_{number:02}" for number in range(BUCKETS)),
    "latency_sum",
)

#: seconds of a period, and how many there are in the window that counts as recent
PERIOD = 5.0
WINDOW = 12
#: the window in seconds; the last of its periods is not over, so it is what happened in the last 55 to 60
RECENT = PERIOD * WINDOW
#: what is kept of each period: its number, shortest and longest duration, and, as of its beginning, the sum, the sum of
#: the squares, and the buckets. One period more than the window has is kept, so that a reader never meets one that is
#: being overwritten
_NUMBER, _LEAST, _MOST, _SUM, _SQUARES, _BUCKETS = range(6)
_SLOT = _BUCKETS + BUCKETS
_SLOTS = WINDOW + 1
#: before the periods: the sum of the squares, and the extremes of periods that are over
_ALL_SQUARES, _ALL_LEAST, _ALL_MOST, _FIRST = range(4)
#: how many floats `Durations` writes to
TIMINGS = _FIRST + _SLOTS * _SLOT


def bucket(seconds: float) -> int:
    """The number of the histogram bucket for a duration in seconds."""
    units = int(seconds * UNITS)
    # The bit length of the square is twice the binary logarithm: two buckets per doubling, without calling log().
    return min((units * units).bit_length(), BUCKETS - 1)


#: the index of the histogram's counter by duration in units, for those that are short
_SHORT = tuple(LATENCY + bucket(units / UNITS) for units in range(4096))


def bounds(number: int) -> tuple[float, float]:
    """The shortest duration in a bucket and the shortest of the next one, in seconds; the last bucket has no end."""
    if not 0 <= number < BUCKETS:
        raise IndexError(f"no bucket {number}")
    low = 0.0 if number == 0 else 2.0 ** ((number - 1) / 2) / UNITS
    high = float("inf") if number == BUCKETS - 1 else 2.0 ** (number / 2) / UNITS
    return low, high


class Durations:
    """Counts how long requests took, in *counters* (`SIZE` integers) and *timings* (`TIMINGS` floats).

    The only one that writes these: what it adds up it knows by itself and only writes. A period's beginning is written
    by the first request in it, so that nothing happens while there are none.
    """

    __slots__ = ("_counters", "_least", "_most", "_slot", "_squares", "_sum", "_timings", "_until")

    def __init__(self, counters: MutableSequence[int], timings: MutableSequence[float] | None = None) -> None:
        self._counters = counters
        self._timings = [0.0] * TIMINGS if timings is None else timings
        self._sum = counters[LATENCY_SUM] / UNITS
        self._squares = self._timings[_ALL_SQUARES]
        self._until = 0.0
        self._slot = 0
        self._least = math.inf
        self._most = 0.0

    def add(self, seconds: float, now: float) -> None:
        """A request took so long; *now* by the monotonic clock. Part of the hot path."""
        if now >= self._until:
            self._begin_period(now)
        counters = self._counters
        units = int(seconds * UNITS)
        if units < 4096:
            counters[_SHORT[units]] += 1
        else:
            counters[LATENCY + bucket(seconds)] += 1
        self._sum = total = self._sum + seconds
        counters[LATENCY_SUM] = int(total * UNITS)
        self._squares = squares = self._squares + seconds * seconds
        self._timings[_ALL_SQUARES] = squares
        if seconds > self._most:
            self._timings[self._slot + _MOST] = self._most = seconds
        if seconds < self._least:
            self._timings[self._slot + _LEAST] = self._least = seconds

    def _begin_period(self, now: float) -> None:
        timings = self._timings
        if self._most > 0.0 or self._least < math.inf:
            known = timings[_ALL_MOST] or timings[_ALL_LEAST]
            timings[_ALL_LEAST] = min(self._least, timings[_ALL_LEAST]) if known else self._least
            timings[_ALL_MOST] = max(self._most, timings[_ALL_MOST])
        number = int(now / PERIOD) + 1
        at = self._slot = _FIRST + number % _SLOTS * _SLOT
        timings[at + _NUMBER] = 0.0  # nobody is to read it while it is neither the one nor the other
        self._least = timings[at + _LEAST] = math.inf
        self._most = timings[at + _MOST] = 0.0
        timings[at + _SUM] = self._sum
        timings[at + _SQUARES] = self._squares
        for number_of_bucket in range(BUCKETS):
            timings[at + _BUCKETS + number_of_bucket] = self._counters[LATENCY + number_of_bucket]
        timings[at + _NUMBER] = number
        self._until = number * PERIOD


class Times:
    """How long some requests took: the histogram, and figures that are exact. In seconds."""

    __slots__ = ("buckets", "least", "most", "squares", "sum")

    def __init__(self, buckets: Sequence[int] = (), total: float = 0.0, squares: float = 0.0,
                 least: float = math.inf, most: float = 0.0) -> None:
        self.buckets = list(buckets) or [0] * BUCKETS
        self.sum = total
        self.squares = squares
        #: the shortest; infinite without requests
        self.least = least
        self.most = most

    def add(self, other: Times) -> None:
        """Take in other requests."""
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]
        self.sum += other.sum
        self.squares += other.squares
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def as_counters(self) -> dict[str, int]:
        """As whole numbers by name, for JSON: `from_counters` makes it from these again."""
        return {
            **{f"latency_{number:02}": count for number, count in enumerate(self.buckets)},
            "latency_sum": int(self.sum * UNITS), **self.extremes(),
        }

    def extremes(self) -> dict[str, int]:
        """What is no column of a row: the squares in square units; shortest and longest in units, 0 for none."""
        return {
            "latency_squares": int(self.squares * UNITS * UNITS),
            "latency_min": max(1, round(self.least * UNITS)) if math.isfinite(self.least) else 0,
            "latency_max": max(1, round(self.most * UNITS)) if math.isfinite(self.least) else 0,
        }

    @classmethod
    def from_counters(cls, counters: Mapping[str, int]) -> Times:
        """From what `as_counters` made; what is missing there is 0."""
        least = counters.get("latency_min", 0)
        return cls([counters.get(f"latency_{number:02}", 0) for number in range(BUCKETS)],
                   counters.get("latency_sum", 0) / UNITS, counters.get("latency_squares", 0) / UNITS / UNITS,
                   least / UNITS if least else math.inf, counters.get("latency_max", 0) / UNITS)


#: counters of which a reader takes the lowest or the highest where it adds up the others
LOWEST, HIGHEST = "latency_min", "latency_max"


def all_times(counters: Sequence[int], timings: Sequence[float]) -> Times:
    """What a `Durations` has counted since it began. A worker may have written anything there."""
    found = Times(counters[LATENCY : LATENCY + BUCKETS], counters[LATENCY_SUM] / UNITS, _sane(timings[_ALL_SQUARES]))
    if timings[_ALL_MOST] or timings[_ALL_LEAST]:
        found.least, found.most = _sane(timings[_ALL_LEAST], math.inf), _sane(timings[_ALL_MOST])
    for _, at in _slots(timings):
        found.least = min(found.least, _sane(timings[at + _LEAST], math.inf))
        found.most = max(found.most, _sane(timings[at + _MOST]))
    return found


def period(now: float) -> int:
    """The number of the period that *now*, by the monotonic clock, is in."""
    return int(now / PERIOD) + 1


def recent_times(counters: Sequence[int], timings: Sequence[float], now: float) -> dict[int, Times]:
    """What a `Durations` has counted in each of the periods of the window that ends now."""
    found = {}
    total, squares = counters[LATENCY_SUM] / UNITS, _sane(timings[_ALL_SQUARES])
    buckets: Sequence[float] = counters[LATENCY : LATENCY + BUCKETS]
    last = period(now)
    for number, at in sorted(_slots(timings), reverse=True):  # what one began with is what the one before ended with
        if not last - WINDOW < number <= last:
            break
        begun = [_sane(count) for count in timings[at + _BUCKETS : at + _SLOT]]
        sum_begun, squares_begun = _sane(timings[at + _SUM]), _sane(timings[at + _SQUARES])
        found[number] = Times(
            [max(0, int(ended - count)) for ended, count in zip(buckets, begun, strict=True)],
            max(0.0, total - sum_begun), max(0.0, squares - squares_begun),
            _sane(timings[at + _LEAST], math.inf), _sane(timings[at + _MOST]),
        )
        buckets, total, squares = begun, sum_begun, squares_begun
    return found


def _slots(timings: Sequence[float]) -> Iterable[tuple[int, int]]:
    """Number and index of each period that is kept."""
    starts = range(_FIRST, TIMINGS, _SLOT)
    return [(int(timings[at]), at) for at in starts if _sane(timings[at])]


def _sane(value: float, otherwise: float = 0.0) -> float:
    """*value*, or *otherwise* for what is no amount of anything: not a number, infinite, below 0."""
    return value if 0.0 <= value < 1e18 else otherwise


def quantile(buckets: Sequence[int], q: float) -> float | None:
    """The duration in seconds that the fraction `q` (0 to 1) of the requests stayed under; None when there were none.

    Interpolated inside its bucket, so it is off by at most a factor of 1.42. `buckets` are `BUCKETS` integers; those
    of several workers may be added item by item first.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, not {q!r}")
    total = sum(buckets)
    if not total:
        return None
    wanted = q * total
    passed = 0
    for number, count in enumerate(buckets):
        if count and passed + count >= wanted:
            low, high = bounds(number)
            if high == float("inf"):
                return low
            return low + (high - low) * max(wanted - passed, 0) / count
        passed += count
    return bounds(BUCKETS - 1)[0]
