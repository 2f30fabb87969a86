"""One reload: forks the new generation and carries out what `rollout` decides."""

from __future__ import annotations

import signal
from collections.abc import Callable

from .announcer import Announcer
from .crew import Crew
from .inbox import Inbox, Timer
from .results import Result
from .rollout import Action, Member, decide
from .system import System
from .workers.handle import WorkerHandle


class Reload:
    """A new generation on its way. *on_over* is called once it serves, or was dropped."""

    def __init__(
        self,
        system: System,
        inbox: Inbox,
        crew: Crew,
        announcer: Announcer,
        generation: int,
        startup_timeout: float,
        result: Result,
        on_over: Callable[[], None],
        retire_by: int = signal.SIGQUIT,
    ) -> None:
        self._system = system
        self._inbox = inbox
        self._crew = crew
        self._announcer = announcer
        self._generation = generation
        self._timeout = startup_timeout
        self._result = result
        self._on_over = on_over
        self._retire_by = retire_by
        self._members: list[WorkerHandle] = []
        self._began = 0.0
        self._timer: Timer | None = None
        self._over = False

    def begin(self) -> None:
        """Fork the whole new generation, beside the old one."""
        self._announcer.say("reloading", self._generation)
        self._began = self._system.now()
        for slot in range(self._crew.target):
            self._members.append(self._crew.spawn(slot, self._generation, timed=False))
            if not self._members[-1].alive:
                break  # it cannot be forked, and the rest neither
        if self._timeout:
            self._timer = self._inbox.later(self._timeout, self.look)
        self.look()

    def look(self) -> None:
        """See whether it is decided."""
        if self._over:
            return
        members = [
            Member(w.id, w.boot_time is not None, "could not be forked" if not w.pid else None if w.alive else
                   f"died ({w.ending})")
            for w in self._members
        ]
        decision = decide(members, self._system.now() - self._began, self._timeout)
        if decision.action is Action.PROMOTE:
            self._promote()
        elif decision.action is Action.ROLL_BACK:
            self._drop(decision.reason)
            self._announcer.say("reload failed", self._generation, decision.reason)
            self._on_over()

    def _promote(self) -> None:
        self._end()
        old = [w for w in self._crew.members.values() if w.generation != self._generation]
        self._crew.generation = self._generation
        for worker in old:
            self._crew.retire(worker, self._retire_by)
        self._announcer.say("reloaded", self._generation)
        self._result.succeed(self._generation)
        self._on_over()

    def supersede(self) -> None:
        """Another reload was asked for: its code is newer than ours."""
        if not self._over:
            self._drop("superseded by another reload")

    def abandon(self, reason: str) -> None:
        """The cluster closes; the new workers end with the others."""
        if not self._over:
            self._end()
            self._result.fail(reason)

    def _drop(self, reason: str) -> None:
        self._end()
        for worker in self._members:
            self._crew.retire(worker, signal.SIGKILL)
        self._result.fail(reason)

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
