"""The worker as the master sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .. import narration
from ..channel import Channel
from ..errors import ChannelError
from ..scoreboard import InFlight
from ..signals import name as signal_name
from ..states import WORKER_MOVES, WorkerState, move


class WorkerHandle:
    """One worker. ``id`` is its slot (stable over respawns), ``uid`` never repeats, ``pid`` is the process."""

    def __init__(self, slot: int, uid: int, generation: int, group: str, clock: Callable[[], float]) -> None:
        self.id = slot
        self.uid = uid
        self.generation = generation
        self.group = group
        #: of the scoreboard; -1 while it has none
        self.row = -1
        self.pid = 0
        self.state = WorkerState.STARTING
        #: the process is gone; its pid means nothing any more
        self.reaped = False
        self.channel: Channel | None = None
        self.notes: InFlight | None = None
        self.started = clock()
        self.ended: float | None = None
        #: seconds from the fork to being ready; None while it is not
        self.boot_time: float | None = None
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.timers: list[Any] = []
        #: how many workers of its slot in a row died early before it
        self.failures = 0
        #: how often it has said that it waits for connections to end
        self.waits = 0
        #: how its process ended, once that is known
        self.wait_status: int | None = None
        #: until then its death is not dealt with
        self.rest_until = 0.0
        #: what is still to be done about its death, in this order
        self.last_rites: list[Callable[[], None]] | None = None
        #: what it had in flight when it ran out of time, or died
        self.last_words: list[tuple[float, str]] | None = None
        self.watcher: Any = None
        self._clock = clock
        self._status = 0

    @property
    def uptime(self) -> float:
        """Seconds since the fork, until now or until its end."""
        return float((self.ended if self.ended is not None else self._clock()) - self.started)

    @property
    def alive(self) -> bool:
        """Not reaped yet."""
        return self.state is not WorkerState.DEAD

    @property
    def ready(self) -> bool:
        """Accepts requests."""
        return self.state is WorkerState.READY

    @property
    def asked(self) -> bool:
        """Was asked to end."""
        return self.state is WorkerState.RETIRING

    @property
    def retiring(self) -> bool:
        """Is about to end, asked or not: its slot is another one's."""
        return self.state in (WorkerState.RETIRING, WorkerState.ENDING)

    @property
    def ending(self) -> str:
        """How it ended, in words: ``signal 9`` or ``exit code 1``; empty before."""
        return "" if self.ended is None else narration.ending(os.waitstatus_to_exitcode(self._status))

    def go(self, state: WorkerState) -> None:
        """Change the state. Raises `IllegalMove`."""
        self.state = move(WORKER_MOVES, self.state, state)

    def finish(self, status: int, now: float) -> None:
        """The process has ended with a wait *status*."""
        self._status = status
        if os.WIFSIGNALED(status):
            self.signal = signal_name(os.WTERMSIG(status))
        else:
            self.exit_code = os.WEXITSTATUS(status)
        self.ended = now
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        if self.alive:
            self.go(WorkerState.DEAD)

    def send(self, name: str, *args: Any) -> None:
        """Emit the event *name* with *args* (what JSON can carry) in the worker. Raises `ChannelError`."""
        if self.channel is None or not self.alive:
            raise ChannelError(f"worker {self.id} has gone")
        self.channel.send({"t": "event", "name": name, "args": list(args)})

    def in_flight(self) -> list[tuple[float, str]]:
        """(age in seconds, description) of what the worker has in flight, oldest first, as far as it is noted."""
        if self.last_words is not None:
            return self.last_words
        if self.notes is None or not self.alive:
            return []
        now = self._clock()
        # the worker has written that, and may write anything
        return [(min(max(now - began, 0.0), self.uptime), what) for began, what in self.notes.read()]

    def __repr__(self) -> str:
        return f"<worker {self.id} pid {self.pid} uid {self.uid} generation {self.generation} {self.state.value}>"
