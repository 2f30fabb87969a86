"""responsetimes(): the figures from a histogram (issue 3)."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from cluster.counters import BUCKETS, bucket
from cluster.plugins.responsetimes import summary


def test_none_without_requests() -> None:
    """Not zero: nobody knows."""
    assert set(summary([0] * BUCKETS).values()) == {0, None}


@pytest.mark.parametrize("scale", [1e-4, 0.01, 3.0])
def test_against_the_real_figures(scale: float) -> None:
    """Within the width of a bucket of what the durations themselves give."""
    chance = random.Random(7)
    durations = [chance.lognormvariate(math.log(scale), 0.6) for _ in range(20_000)]
    buckets = [0] * BUCKETS
    for duration in durations:
        buckets[bucket(duration)] += 1
    found = summary(buckets)
    cuts = statistics.quantiles(durations, n=1000)
    real = {"mean": statistics.fmean(durations), "median": cuts[499], "75%": cuts[749], "95%": cuts[949],
            "99%": cuts[989], "99.9%": cuts[998], "min": min(durations), "max": max(durations)}
    assert found["requests"] == 20_000
    for name, value in real.items():
        assert value / 1.45 <= found[name] <= value * 1.45, name
    assert found["standard deviation"] == pytest.approx(statistics.pstdev(durations), rel=0.2)
    assert found["min"] <= found["median"] <= found["75%"] <= found["95%"] <= found["99%"] <= found["max"]
