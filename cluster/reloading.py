"""Reloads, one at a time: each forks a new generation and carries out what `rollout` decides."""

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


class Reloading:
    """At most one reload at a time, and what has to wait for it. *on_over* is called after each."""

    def __init__(
        self, system: System, inbox: Inbox, crew: Crew, announcer: Announcer, startup_timeout: float,
        on_over: Callable[[], None],
    ) -> None:
        self._system = system
        self._inbox = inbox
        self._crew = crew
        self._announcer = announcer
        self._timeout = startup_timeout
        self._on_over = on_over
        self._generation = 1
        self._reload: Reload | None = None
        self._waiting: list[Callable[[], None]] = []

    def begin(self, result: Result, number: int) -> None:
        """Replace the workers, which end by signal *number*; takes the place of a reload that is under way."""
        if self._reload is not None:
            self._reload.supersede()
        self._generation += 1
        self._crew.maintaining = False
        self._reload = Reload(
            self._system, self._inbox, self._crew, self._announcer, self._generation, self._timeout, result,
            self._over, number,
        )
        self._reload.begin()

    def in_turn(self, act: Callable[[], None]) -> None:
        """Do it now, or after the reload that is under way: two at once would leave the count wrong."""
        if self._reload is not None:
            self._waiting.append(act)
        else:
            act()

    def look(self) -> None:
        """See whether it is decided."""
        if self._reload is not None:
            self._reload.look()

    def abandon(self, reason: str) -> None:
        """The cluster closes, and what has waited sees that."""
        if self._reload is not None:
            self._reload.abandon(reason)
        self._reload = None
        self._release()

    def _over(self) -> None:
        self._reload = None
        self._crew.maintaining = True
        self._crew.maintain()
        self._release()
        self._on_over()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()


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
        retire_by: int,
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
