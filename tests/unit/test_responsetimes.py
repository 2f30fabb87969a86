"""responsetimes(): what is counted of durations, and the figures from it (issues 3 and 10)."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest

from cluster.counters import (
    BUCKETS,
    LATENCY,
    LATENCY_SUM,
    PERIOD,
    RECENT,
    SIZE,
    TIMINGS,
    UNITS,
    WINDOW,
    Durations,
    Times,
    all_times,
    bounds,
    bucket,
    recent_times,
)
from cluster.plugins.responsetimes import summary
from cluster.scoreboard import Scoreboard


def test_none_without_requests() -> None:
    """Not zero: nobody knows."""
    assert set(summary(Times()).values()) == {0, None}


def test_bounds_are_powers_of_two_seconds() -> None:
    """Row A4: buckets count in units of 2^-20 s, so each second bound is a power of 2 s, as others' histograms have."""
    assert bounds(41) == (1.0, 2.0 ** 0.5) and bounds(39)[0] == 0.5 and bounds(15)[0] == 2.0 ** -13
    for number in range(21, BUCKETS - 1, 2):  # those below are few units wide
        low, _ = bounds(number)
        assert math.log2(low) == int(math.log2(low))
        assert bucket(low) == number and bucket(low * 0.999) == number - 1


@pytest.mark.parametrize("scale", [1e-4, 0.01, 3.0])
def test_against_the_real_figures(scale: float) -> None:
    """What is counted is exact; quantiles are within the width of a bucket."""
    chance = random.Random(7)
    durations = [chance.lognormvariate(math.log(scale), 0.6) for _ in range(20_000)]
    counters, timings = [0] * SIZE, [0.0] * TIMINGS
    counting = Durations(counters, timings)
    now = 1000.0
    for duration in durations:
        counting.add(duration, now)
        now += 0.01
    found = summary(all_times(counters, timings))
    real = {"mean": statistics.fmean(durations), "min": min(durations), "max": max(durations),
            "standard deviation": statistics.pstdev(durations)}
    assert found["requests"] == 20_000
    for name, value in real.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
    assert counters[LATENCY_SUM] == pytest.approx(sum(durations) * UNITS, abs=2)
    cuts = statistics.quantiles(durations, n=1000)
    for name, index in (("median", 499), ("75%", 749), ("95%", 949), ("99%", 989), ("99.9%", 998)):
        assert cuts[index] / 1.45 <= found[name] <= cuts[index] * 1.45, name
    assert found["min"] <= found["median"] <= found["75%"] <= found["95%"] <= found["99%"] <= found["max"]


def test_the_last_minute_is_apart() -> None:
    """What was long ago is not in it, nor do its extremes stay; the whole keeps all."""
    counters, timings = [0] * SIZE, [0.0] * TIMINGS
    counting = Durations(counters, timings)

    def recent(now: float) -> Times:
        found = Times()
        for times in recent_times(counters, timings, now).values():
            found.add(times)
        return found

    began = 1000.0 * PERIOD
    counting.add(9.0, began)
    counting.add(0.001, began + 1)
    assert sum(recent(began + 30).buckets) == 2 and recent(began + 30).most == 9.0
    for second in range(20):
        counting.add(0.5, began + 8 * PERIOD + second)
    later = began + RECENT + 1  # the first period has left the window
    assert sum(recent(later).buckets) == 20
    assert (recent(later).least, recent(later).most) == (0.5, 0.5)
    assert summary(recent(later))["standard deviation"] == pytest.approx(0.0, abs=1e-6)
    counting.add(0.25, later)
    assert sum(recent(later).buckets) == 21 and recent(later).least == 0.25
    assert recent(later).sum == pytest.approx(20 * 0.5 + 0.25, abs=1e-4)
    assert sum(recent(later + 2 * RECENT).buckets) == 0, "nothing is written while there are no requests"
    whole = all_times(counters, timings)
    assert (sum(whole.buckets), whole.least, whole.most) == (23, 0.001, 9.0)


def test_every_moment_of_the_window() -> None:
    """One request per period, for three windows: there are never less than 11 periods in it, and never more than 12."""
    counters, timings = [0] * SIZE, [0.0] * TIMINGS
    counting = Durations(counters, timings)
    for number in range(1, 3 * WINDOW):
        now = number * PERIOD
        counting.add(number / 1000, now)
        found = recent_times(counters, timings, now)
        assert len(found) == min(number, WINDOW)
        assert {round(times.least * 1000) for times in found.values()} == set(
            range(max(1, number - WINDOW + 1), number + 1))
        assert all(sum(times.buckets) == 1 and times.sum == pytest.approx(times.least, abs=1e-5)
                   for times in found.values())
    assert all_times(counters, timings).least == 0.001 and sum(counters[LATENCY:LATENCY_SUM]) == 3 * WINDOW - 1


def test_figures_outlive_workers_and_masters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The death of a worker, its row's next one, and a new master lose nothing; the row begins anew."""
    monkeypatch.setattr("time.monotonic", lambda: 5000.0)
    board = Scoreboard(2)
    row = board.take()
    board.durations(row).add(0.5, 5000.0)
    board.durations(row).add(2.0, 5000.0)
    assert board.durations(row) is board.durations(row), "two that count in one row would overwrite each other"
    before, lately = board.sums([row]), board.recent([row])
    board.give_back(row)
    assert board.sums([]) == before and board.recent([]) == lately
    assert Times.from_counters(lately).least == 0.5 and Times.from_counters(lately).most == 2.0
    other = Scoreboard(2)
    other.inherit(json.loads(json.dumps(before)))
    row = other.take()
    assert other.sums([row])["latency_min"] == before["latency_min"], "a row without requests has no shortest one"
    other.durations(row).add(0.25, 5000.0)
    found = summary(Times.from_counters(other.sums([row])))
    assert found["requests"] == 3 and (found["min"], found["max"]) == (0.25, 2.0)
    assert found["mean"] == pytest.approx(2.75 / 3, abs=1e-5)
    assert found["standard deviation"] == pytest.approx(statistics.pstdev([0.5, 2.0, 0.25]), abs=1e-5)
    other.inherit({**before, "latency_min": before["latency_min"] // 2})
    assert Times.from_counters(other.sums([row])).least == 0.25
    monkeypatch.setattr("time.monotonic", lambda: 5000.0 + 2 * RECENT)
    assert sum(Times.from_counters(board.recent([])).buckets) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300, 5e-324])
def test_a_worker_may_write_anything(value: float) -> None:
    """The memory is the worker's, too: what it says is wrong then, and nothing of the master's fails."""
    board = Scoreboard(1)
    row = board.take()
    board.durations(row).add(0.5, 5000.0)
    for index in range(TIMINGS):
        board._timings[row][index] = value
    for _ in range(2):
        found = board.sums([row])
        json.dumps(found, allow_nan=False)
        summary(Times.from_counters(found))
        summary(Times.from_counters(board.recent([row])))
    board.give_back(row)
    summary(Times.from_counters(board.sums([])))
    assert board.take() == row and all_times(board.counters(row), board._timings[row]).least == math.inf
