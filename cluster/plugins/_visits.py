"""Who came, told so that however many come, little is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

#: visits of a kind that are told each, within so many seconds; more of them are counted, and told together
MOST = 10
WINDOW = 60.0


class Visits:
    """Calls *tell* with who came, what came of it, and how many that stands for: 1, or all that were not told before.

    Each thing that may come of it is counted apart, so that many refusals do not hide another. There is a timer only
    while something is untold.
    """

    def __init__(
        self, tell: Callable[[str, str, int], None],
        clock: Callable[[], float] = time.monotonic, later: Callable[..., Any] = gevent.spawn_later,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._later = later
        self._windows: dict[str, _Window] = {}

    def came(self, client: str, outcome: str) -> None:
        """Somebody did. *outcome* is one of few texts."""
        now = self._clock()
        window = self._windows.get(outcome)
        if window is None or (window.timer is None and now - window.begun >= WINDOW):
            window = self._windows[outcome] = _Window(now)
        if window.told < MOST:
            window.told += 1
            self._tell(client, outcome, 1)
            return
        window.untold += 1
        window.client = client
        if window.timer is None:
            window.timer = self._later(max(0.0, window.begun + WINDOW - now), self._over, outcome)

    def _over(self, outcome: str) -> None:
        window = self._windows[outcome]
        self._windows[outcome] = fresh = _Window(self._clock())
        fresh.told = MOST  # while it goes on, once in a window is enough
        self._tell(window.client, outcome, window.untold)

    def end(self) -> None:
        """Tell at once what is untold."""
        windows, self._windows = self._windows, {}
        for outcome, window in windows.items():
            if window.timer is not None:
                window.timer.kill(block=False)
                self._tell(window.client, outcome, window.untold)


class _Window:
    """A time in which some of a kind are told and others counted."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.told = 0
        self.untold = 0
        #: the last that is untold
        self.client = ""
        self.timer: Any = None
