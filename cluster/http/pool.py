"""Greenlets that run the requests, used again and again. Part of the hot path.

`gevent.spawn` for each request costs about 14 µs, a fresh raw greenlet halves the throughput; switching to one that
waits costs well under a microsecond. What makes that safe is looking, after each request, whether anything still
refers to the greenlet: a forgotten `gevent.Timeout`, a `kill` on its way, values in a `gevent.local`, a lock that it
still waits for. Each shows in a reference or weak-reference count, and such a greenlet ends instead of being used
again. Context variables are dropped with the context.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

from gevent import getcurrent
from gevent.hub import RawGreenlet as greenlet

_switch = greenlet.switch


class Pool:
    """Runs functions, each in a greenlet of its own as far as they can tell.

    `hub` becomes the parent; `keep` is how many waiting greenlets to keep (a number).
    """

    __slots__ = ("_hub", "_idle", "_keep", "_references")

    def __init__(self, hub: Any, keep: int = 512) -> None:
        self._hub = hub
        self._keep = keep
        self._idle: list[greenlet] = []
        # How many references a clean waiting greenlet has differs between versions of Python: measured, not assumed.
        probe = greenlet(self._work)
        probe.switch(_nothing, getcurrent())
        del probe
        waiting = self._idle.pop()
        self._references = getrefcount(waiting)

    @property
    def idle(self) -> int:
        """How many greenlets wait for work."""
        return len(self._idle)

    def run(self, task: Callable[[], None]) -> None:
        """Start the task; come back when it ends or first blocks. Call it in the hub. The task must not raise."""
        idle = self._idle
        while idle:
            waiting = idle.pop()
            # A dead one has a reference less, as its frame is gone.
            # Looked at here and not when it went idle, as then whoever resumed it last still had it in his hand.
            if (
                getrefcount(waiting) == self._references
                and not getweakrefcount(waiting)
                and not waiting.__dict__
            ):
                waiting.switch(task)
                return
            # Not thrown into: dropping it ends it, unless a Timeout or kill still holds it, which it then absorbs.
        greenlet(self._work, self._hub).switch(task, self._hub)

    def _work(self, task: Any, home: greenlet) -> None:
        me = getcurrent()
        while True:
            task()
            del task
            me.gr_context = None
            if len(self._idle) >= self._keep:
                return
            self._idle.append(me)
            try:
                task = _switch(home)
            except BaseException:  # noqa: BLE001 - whatever was meant for a request that is over must reach no other
                return
            if not callable(task):
                return  # an event that it had asked to be woken by


def _nothing() -> None:
    pass
