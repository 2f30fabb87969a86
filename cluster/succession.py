"""One master's end by a new one: when it is started, who waits for it, and what becomes of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from .announcer import Announcer
from .errors import ChannelError
from .inbox import Inbox, Timer
from .listeners import Listeners
from .restart import Replacement
from .results import Result
from .system import System


class Succession:
    """At most one replacement at a time, for all who ask while it is on its way.

    *gather* emits `restarting` with a dictionary and calls back with it when the handlers are done; *totals* are what
    this master has counted; *on_taken_over* gets the signal by which the old workers are to end; *on_reopen*: the new
    master was told to open its logs anew.
    """

    def __init__(
        self,
        system: System,
        inbox: Inbox,
        announcer: Announcer,
        listeners: Listeners,
        settings: dict[str, Any],
        gather: Callable[[Result, Callable[[dict[str, Any]], None]], None],
        totals: Callable[[], dict[str, int]],
        on_taken_over: Callable[[int], None],
        on_failed: Callable[[], None],
        on_reopen: Callable[[], None],
    ) -> None:
        self._system = system
        self._inbox = inbox
        self._announcer = announcer
        self._listeners = listeners
        self._threshold: float = settings["restart threshold"]
        self._timeout: float = settings["restart timeout"]
        self._gather = gather
        self._totals = totals
        self._on_taken_over = on_taken_over
        self._on_failed = on_failed
        self._on_reopen = on_reopen
        self._waiting: list[Result] = []
        self._signal: int = signal.SIGQUIT
        self._replacement: Replacement | None = None
        self._delay: Timer | None = None
        self._patience: Timer | None = None

    @property
    def started(self) -> bool:
        """Whether a replacement has been started."""
        return self._replacement is not None

    @property
    def done(self) -> bool:
        """Whether the replacement serves."""
        return self._replacement is not None and self._replacement.ready

    @property
    def pid(self) -> int | None:
        """The new master's, once it serves."""
        return self._replacement.pid if self._replacement is not None and self.done else None

    def ask(self, result: Result, number: int, age: float) -> None:
        """Somebody wants a new master, *age* seconds after the start of this one."""
        self._waiting.append(result)
        if len(self._waiting) > 1:
            return
        self._signal = number
        if age < self._threshold:
            self._announcer.say("cyclic restart", self._threshold - age)
            self._delay = self._inbox.later(self._threshold - age, self._begin, result)
        else:
            self._begin(result)

    def refuse(self, result: Result, reason: str) -> None:
        """It cannot be now."""
        self._announcer.say("restart failed", reason)
        result.fail(reason)

    def _begin(self, result: Result) -> None:
        if self._timeout:
            self._patience = self._inbox.later(self._timeout, self._stuck, result)
        self._gather(result, lambda data: self._start(result, data))

    def _stuck(self, result: Result) -> None:
        if self._waits_for(result) and self._replacement is None:
            self._failed(f"after {self._timeout:g} s the event handlers have not let it begin")

    def _waits_for(self, result: Result) -> bool:
        return bool(self._waiting) and self._waiting[0] is result

    def _start(self, result: Result, data: dict[str, Any]) -> None:
        if not self._waits_for(result):
            return  # given up meanwhile
        self._replacement = Replacement(self._system, self._inbox, self._taken_over, self._failed, self._on_reopen)
        try:
            self._replacement.start(self._listeners, data, self._totals(), self._timeout)
        except (OSError, ChannelError) as error:
            self._failed(f"the new master cannot be started: {error}")

    def _failed(self, reason: str) -> None:
        self._replacement = None
        self._announcer.say("restart failed", reason)
        self._settle(lambda result: result.fail(reason))
        self._on_failed()

    def _taken_over(self, taken: list[str]) -> None:
        """The new master's workers are all ready: our time is over."""
        assert self._replacement is not None
        for listener in self._listeners:
            listener.handed_on = listener.key in taken
        self.share(self._totals())
        self._settle(lambda result: result.succeed(self.pid))
        self._on_taken_over(self._signal)

    def share(self, totals: dict[str, int]) -> None:
        """These were told to somebody: what the new master tells must never be less, once it serves."""
        if self._replacement is not None and self.done:
            self._replacement.send_totals(totals)

    def reopen_logs(self) -> None:
        """The new master's logs were renamed, too."""
        if self._replacement is not None:
            self._replacement.reopen_logs()

    def _settle(self, tell: Callable[[Result], None]) -> None:
        waiting, self._waiting = self._waiting, []
        for timer in (self._delay, self._patience):
            if timer is not None:
                timer.cancel()
        for result in waiting:
            tell(result)

    def cancel(self, reason: str) -> None:
        """No new master any more, unless it serves already."""
        if self._replacement is not None and not self.done:
            self._replacement.cancel()
            self._replacement = None
        self._settle(lambda result: result.fail(reason))

    def finish(self) -> None:
        """This master's workers are gone: tell the new one what was counted in the whole life."""
        if self._replacement is not None and self.done:
            self._replacement.send_totals(self._totals(), last=True)

    def abandon(self) -> None:
        """In a forked child: the connection is the master's."""
        if self._replacement is not None:
            self._replacement.abandon()
