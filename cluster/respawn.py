"""When a dead worker comes back: back-off per slot, and giving up when none ever gets ready. Pure."""

from __future__ import annotations

#: a worker that dies younger than this (seconds) makes its slot back off
EARLY = 2.0
#: a worker that lived this long (seconds) clears its slot's back-off
STABLE = 10.0
#: seconds added for each early death, and the most that is waited
STEP = 0.1
CAP = 5.0
#: the most that is waited while no worker was ever ready: a broken start should be reported soon
CAP_AT_BOOT = 0.5
#: a worker that ended with exit code 0 is not a failure; its slot runs at most one in this many seconds
PACE = 0.1


class Respawn:
    """Decides how long a slot waits, and counts deaths of workers in a row that did not get ready.

    *abort_deaths*: give up after that many such deaths; 0 means never.
    """

    def __init__(self, abort_deaths: int = 20) -> None:
        self.abort_deaths = abort_deaths
        self.deaths = 0
        self.ever_ready = False
        self._early: dict[object, int] = {}

    def ready(self) -> None:
        """A worker got ready."""
        self.deaths = 0
        self.ever_ready = True

    def died(self, slot: object, age: float, failed: bool, was_ready: bool) -> float | None:
        """A worker of *slot* died at *age* seconds; *failed* is false when it ended with exit code 0.

        *was_ready*: it had served, so whatever ended it does not keep workers from starting.

        Returns the seconds to wait before the next one, or None when it is time to give up.
        """
        if not failed:
            self._early.pop(slot, None)
            return max(0.0, PACE - age)
        self.deaths += not was_ready
        if not was_ready and self.abort_deaths and self.deaths >= self.abort_deaths:
            return None
        if age >= STABLE:
            self._early.pop(slot, None)
        if age >= EARLY:
            return 0.0
        count = self._early.get(slot, 0)
        self._early[slot] = count + 1
        return min(count * STEP, CAP if self.ever_ready else CAP_AT_BOOT)
