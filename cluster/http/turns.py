"""Turns of the responses that could keep the hub, so that no number of them keeps it from everybody else."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from gevent.hub import Waiter

#: how long they may go on, in seconds, until the sockets are looked at again
_SPAN = 0.002


class Turns:
    """A queue of greenlets that go on one after the other, a few between two looks of the loop at its sockets.

    Timers or watchers of their own would all be served in one turn of the loop: a thousand clients, all ready for more,
    would make everybody else wait for a thousand pieces.
    """

    __slots__ = ("_hub", "_timer", "_waiting")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._waiting: deque[Waiter[None]] = deque()
        self._timer: Any = None

    def wait(self) -> None:
        """Block the greenlet that calls it until it is its turn."""
        waiter: Waiter[None] = Waiter(self._hub)
        self.queue(waiter)
        waiter.get()

    def queue(self, waiter: Waiter[None]) -> None:
        """Wake whoever waits in there when it is its turn. One that has given up meanwhile does no harm."""
        self._waiting.append(waiter)
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        # A timer, as gevent may run callbacks for 5 ms before it looks at a socket; this looks at all of them at once.
        self._timer = self._hub.loop.timer(0)
        self._timer.start(self._run)

    def _run(self) -> None:
        self._timer.close()
        waiting = self._waiting
        until = monotonic() + _SPAN
        try:
            while waiting:
                waiting.popleft().switch(None)
                if monotonic() >= until:
                    break
        finally:
            self._timer = None
            if waiting:
                self._arm()
