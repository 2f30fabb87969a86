"""responsetimes(): how long requests take, from what the scoreboard holds of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import narration
from ..counters import RECENT, Times, quantile
from ._functions import define

if TYPE_CHECKING:
    from ..master import Master

#: name → fraction
QUANTILES = {"median": 0.5, "75%": 0.75, "95%": 0.95, "99%": 0.99, "99.9%": 0.999}


def responsetimes() -> Callable[[Master], None]:
    """The plugin. Provides ``m.responsetimes()``, a map of names to seconds; the command and the REPL function
    `responsetimes`.

    `requests`, `min`, `max`, `mean` and `standard deviation` are counted, over all workers since the first start. The
    quantiles are read from a histogram with two buckets per doubling of the time, so none is off by more than a factor
    of 1.42. `recent` is the same for the last minute: over requests that ended in the last 55 to 60 s, in workers of
    this master.
    """

    def plugin(master: Master) -> None:
        def figures() -> dict[str, Any]:
            """How long requests took: since the first start, and in the last minute."""
            return {**summary(Times.from_counters(master.status().get("totals", {}))),
                    "recent": summary(Times.from_counters(master.recent_times()))}

        master.provide("responsetimes", figures)
        master.command("responsetimes", figures, access="remote")
        define("responsetimes", _print, "How long requests took.")

    return plugin


def summary(times: Times) -> dict[str, Any]:
    """Count, minimum, maximum, mean, standard deviation and quantiles, in seconds; None without requests. Pure."""
    total = sum(times.buckets)
    if not total:
        return {"requests": 0, **dict.fromkeys(("min", "max", "mean", "standard deviation", *QUANTILES))}
    # What is read while a worker writes may be apart by one request; nothing is to lie outside of what was seen.
    least = times.least if math.isfinite(times.least) else 0.0
    most = max(times.most, least)
    mean = min(max(times.sum / total, least), most)
    return {
        "requests": total, "min": least, "max": most, "mean": mean,
        "standard deviation": math.sqrt(max(0.0, times.squares / total - mean * mean)),
        **{name: min(max(quantile(times.buckets, q) or 0.0, least), most) for name, q in QUANTILES.items()},
    }


def _print(master: Master, socket: Any) -> None:
    found = master.responsetimes()
    recent = found.pop("recent")
    for title, figures in (("Response times", found), (f"Response times of the last {RECENT:g} s", recent)):
        socket.title(title)
        socket.row("requests", figures.pop("requests"))
        for name, seconds in figures.items():
            socket.row(name, narration.milliseconds(seconds))
