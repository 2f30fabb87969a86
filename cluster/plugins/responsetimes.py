"""responsetimes(): how long requests take, from the histogram of the scoreboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import narration
from ..counters import bounds, quantile
from ..operating import histogram
from ._functions import define

if TYPE_CHECKING:
    from ..master import Master

#: name → fraction
QUANTILES = {"median": 0.5, "75%": 0.75, "95%": 0.95, "99%": 0.99, "99.9%": 0.999}


def responsetimes() -> Callable[[Master], None]:
    """The plugin. Provides ``m.responsetimes()``, a map of names to seconds; the command and the REPL function
    `responsetimes`.

    All are read from a histogram with two buckets per doubling of the time, over all workers since the first start:
    none is off by more than a factor of 1.42, and `min` and `max` are the bounds of the outermost buckets in use.
    """

    def plugin(master: Master) -> None:
        def figures() -> dict[str, Any]:
            """How long requests took."""
            return summary(histogram(master.status().get("totals", {})))

        master.provide("responsetimes", figures)
        master.command("responsetimes", figures, access="remote")
        define("responsetimes", _print, "How long requests took.")

    return plugin


def summary(buckets: Sequence[int]) -> dict[str, Any]:
    """Count, minimum, maximum, mean, standard deviation and quantiles, in seconds; None without requests. Pure."""
    used = [(bounds(number), count) for number, count in enumerate(buckets) if count]
    total = sum(count for _, count in used)
    if not total:
        return {"requests": 0, **dict.fromkeys(("min", "max", "mean", "standard deviation", *QUANTILES))}
    middles = [(_middle(low, high), count) for (low, high), count in used]
    mean = sum(middle * count for middle, count in middles) / total
    variance = sum((middle - mean) ** 2 * count for middle, count in middles) / total
    low, (last_low, high) = used[0][0][0], used[-1][0]
    return {
        "requests": total, "min": low, "max": high if math.isfinite(high) else last_low, "mean": mean,
        "standard deviation": math.sqrt(variance), **{name: quantile(buckets, q) for name, q in QUANTILES.items()},
    }


def _middle(low: float, high: float) -> float:
    if not low:
        return high / 2
    return math.sqrt(low * high) if math.isfinite(high) else low


def _print(master: Master, socket: Any) -> None:
    found = master.responsetimes()
    socket.title("Response times")
    socket.row("requests", found.pop("requests"))
    for name, seconds in found.items():
        socket.row(name, narration.milliseconds(seconds))
