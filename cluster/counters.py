"""What a server counts about itself, as a flat sequence of integers that may lie in shared memory.

Updates are plain item assignments, so that they cost no system call and a reader in another process sees whole values.
Durations go into a histogram with logarithmic buckets: two per doubling, from one microsecond to half an hour.
"""

from __future__ import annotations

from collections.abc import Sequence

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
#: how many items in all
SIZE = LATENCY + BUCKETS

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
)


def bucket(seconds: float) -> int:
    """The number of the histogram bucket for a duration in seconds."""
    microseconds = int(seconds * 1e6)
    # The bit length of the square is twice the binary logarithm: two buckets per doubling, without calling log().
    return min((microseconds * microseconds).bit_length(), BUCKETS - 1)


def bounds(number: int) -> tuple[float, float]:
    """The shortest duration in a bucket and the shortest of the next one, in seconds; the last bucket has no end."""
    if not 0 <= number < BUCKETS:
        raise IndexError(f"no bucket {number}")
    low = 0.0 if number == 0 else 2.0 ** ((number - 1) / 2) / 1e6
    high = float("inf") if number == BUCKETS - 1 else 2.0 ** (number / 2) / 1e6
    return low, high


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
