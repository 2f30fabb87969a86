"""When a dead worker comes back: back-off per slot, and giving up when none ever was ready. Pure."""

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
    """Decides how long a slot waits, and counts deaths until the first worker gets ready.

    *abort_deaths*: give up after that many deaths before any worker was ready; 0 means never. Afterwards there is
    nothing to give up for: what serves is never ended because something else does not start.
    """

    def __init__(self, abort_deaths: int = 20) -> None:
        self.abort_deaths = abort_deaths
        self.deaths = 0
        self.ever_ready = False
        self._early: dict[object, int] = {}

    def ready(self) -> None:
        """A worker got ready, here or in the master whose place this one has taken."""
        self.deaths = 0
        self.ever_ready = True

    @property
    def gives_up(self) -> bool:
        """Whether a start that fails ends the cluster."""
        return bool(self.abort_deaths) and not self.ever_ready

    def failures(self, slot: object) -> int:
        """How many workers of *slot* in a row died too early to be taken for stable."""
        return self._early.get(slot, 0)

    def died(self, slot: object, age: float, failed: bool, was_ready: bool) -> float | None:
        """A worker of *slot* died at *age* seconds; *failed* is false when it ended with exit code 0.

        *was_ready*: it had served, so whatever ended it does not keep workers from starting.

        Returns the seconds to wait before the next one, or None when it is time to give up.
        """
        if not failed:
            self._early.pop(slot, None)
            return max(0.0, PACE - age)
        if not self.ever_ready:
            self.deaths += 1
            if self.gives_up and self.deaths >= self.abort_deaths:
                return None
        # one that takes long to fail at its start, again and again, must not take the CPU from those that serve
        broken = self.ever_ready and not was_ready
        if age >= STABLE and not broken:
            self._early.pop(slot, None)
        if age >= EARLY and not broken:
            return 0.0
        count = self._early.get(slot, 0)
        self._early[slot] = count + 1
        return min(count * STEP, CAP if self.ever_ready else CAP_AT_BOOT)
