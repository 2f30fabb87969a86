"""The old master's side of a handover: when a replacement is started, what becomes of it, and of us."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from .. import channel, host
from ..announcer import Announcer
from ..channel import Channel, Message
from ..errors import ChannelError
from ..inbox import Inbox, Timer
from ..listeners import Listener
from ..results import Result
from ..signals import name as signal_name
from ..states import move
from ..system import STARTED_IN, System
from . import protocol
from .protocol import OUTGOING_MOVES
from .protocol import Outgoing as State

#: seconds that a replacement which is not wanted any more has to end after SIGTERM
_MERCY = 2.0
#: seconds that the other master's last words, or its end, may take to arrive
_LAST_WORDS = 1.0


class Policy(NamedTuple):
    """The settings of a handover, in seconds; 0: none of it."""

    #: a restart asked for sooner than this after the start waits until then
    threshold: float
    #: a new master may take this long to get ready
    timeout: float
    #: this master stays at least this long after the new one has taken over
    probation: float
    #: workers that were asked to end may take this long
    drain: float


class Owner(Protocol):
    """The supervisor, as this side knows it."""

    def when_alone(self, act: Callable[[], None]) -> None:
        """Call *act* as soon as there is no older master any more."""

    def gather(self, result: Result, then: Callable[[dict[str, Any]], None]) -> None:
        """Emit `restarting` and call back with its data, once its handlers are done."""

    def totals(self) -> dict[str, int]:
        """What this master has counted in its whole life."""

    def hand_over(self, number: int, taken: Iterable[str]) -> None:
        """The new master serves: end the workers by signal *number*. *taken*: keys of the listeners that it has."""

    def resume(self) -> None:
        """The new master has died, and this one is to serve again."""

    def changed(self) -> None:
        """See what can go on now."""

    def reopen(self) -> None:
        """The new master was told to open its logs anew."""


class Replacement:
    """The process of a new master, from its start until it is reaped.

    The connection stays open as long: closed before, one that was dismissed would believe that this master is dead.
    """

    def __init__(
        self, system: System, inbox: Inbox, heard: Callable[[Replacement, Message], None],
        ended: Callable[[Replacement, int], None], lost: Callable[[Replacement, str], None],
    ) -> None:
        self.pid = 0
        #: it is not reaped, so the pid is its own
        self.alive = False
        #: why its program could not be loaded
        self.failure = ""
        #: it listens to us
        self.begun = False
        self._system = system
        self._inbox = inbox
        self._heard = heard
        self._ended = ended
        self._lost = lost
        self._channel: Channel | None = None
        self._watcher: Any = None
        self._timer: Timer | None = None

    def start(self, listeners: Iterable[Listener], data: dict[str, Any], totals: dict[str, int]) -> None:
        """Start it. Raises OSError or `ChannelError`."""
        ours, theirs = channel.pair()
        try:
            bound = list(listeners)
            sockets = {listener.key: listener.fileno() for listener in bound}
            files = {listener.key: listener.file for listener in bound if listener.file is not None}
            self._channel = Channel(
                ours, lambda message: self._inbox.put(self._heard, self, message),
                lambda reason: self._inbox.put(self._lost, self, reason),
            )
            self._channel.start()
            self._channel.send({"t": "hello", "pid": self._system.pid(), "sockets": sockets, "files": files,
                                "data": data, "totals": totals, "surroundings": host.surroundings()._asdict()})
            self.pid = self._system.execute(
                protocol.command_line(), protocol.environment(self._system.pid(), theirs), STARTED_IN,
                [theirs.fileno(), *sockets.values()], self._not_started,
            )
        except (OSError, ChannelError, MemoryError):
            self._close()
            raise
        finally:
            theirs.close()
        self.alive = True
        self._watcher = self._system.watch(self.pid, self._reaped)

    def _not_started(self, error: OSError) -> None:
        self.failure = f"the new master cannot be started: {error}"

    def send(self, message: Message, flush: float = 0.0) -> None:
        """Tell it, when it still listens. *flush*: seconds that this may block, for a process about to end."""
        if self._channel is None or not self._channel.open:
            return
        try:
            self._channel.send(message)
            self._channel.flush(flush)
        except ChannelError:
            pass

    def hear(self) -> None:
        """Take in what it has said already."""
        if self._channel is not None:
            self._channel.read_rest()

    def end(self, graceful: bool, drain: float) -> None:
        """It is not wanted. *graceful*: its workers may finish what is in flight, in *drain* seconds (0: any)."""
        seconds = _MERCY
        if graceful and self.begun:
            self.send({"t": "dismissed"})
            if not drain:
                return  # as long as they like
            seconds += drain
        else:
            self._system.kill(self.pid, signal.SIGTERM)
        self._timer = self._inbox.later(seconds, self._kill)

    def end_now(self) -> None:
        """It must be gone when this returns: we are about to end, and it would take that for our death."""
        if self.alive:
            self._kill()
            self._system.reap(self.pid)
            self.alive = False
        self._close()

    def _kill(self) -> None:
        if self.alive:
            self._system.kill(self.pid, signal.SIGKILL)

    def _reaped(self, _: int, status: int) -> None:
        self.alive = False
        self.hear()  # what it said before it ended comes first
        self._inbox.put(self._ended, self, status)
        self._close()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None:
            self._channel.close()

    def let_go(self) -> None:
        """This process is not its master any more, but lets it live."""
        self._close()
        if self._watcher is not None and self.alive:
            self._watcher.stop()

    def abandon(self) -> None:
        """In a forked child: the connection is the master's."""
        if self._channel is not None and self._channel.open:
            self._channel.abandon()


class Outgoing:
    """At most one replacement at a time, for all who ask while it is on its way."""

    def __init__(
        self, system: System, inbox: Inbox, announcer: Announcer, listeners: Iterable[Listener], policy: Policy,
        owner: Owner,
    ) -> None:
        self.state = State.IDLE
        self._system = system
        self._inbox = inbox
        self._announcer = announcer
        self._listeners = listeners
        self._policy = policy
        self._owner = owner
        self._waiting: list[Result] = []
        self._signal: int = signal.SIGQUIT
        self._replacement: Replacement | None = None
        #: those that were dismissed and are not reaped yet
        self._dismissed: set[Replacement] = set()
        #: to be called when they are
        self._once_alone: list[Callable[[], None]] = []
        self._timer: Timer | None = None
        #: this master need not wait how the new one does: it was told so, or has waited for as long as it should
        self._released = self._waited = False

    # -- what it is like

    @property
    def under_way(self) -> bool:
        """Whether a replacement runs, ready or not."""
        return self._replacement is not None

    @property
    def handed_over(self) -> bool:
        """Whether the new master serves, and we do not."""
        return self.state is State.HANDED_OVER

    @property
    def pid(self) -> int | None:
        """The new master's, once it serves."""
        return self._replacement.pid if self._replacement is not None and self.handed_over else None

    @property
    def may_end(self) -> bool:
        """Whether no other master needs this one any more, once its workers are gone."""
        if self.handed_over:
            return self._released or self._waited
        return not self._dismissed  # they would take our end for our death

    # -- asking for one

    def ask(self, result: Result, number: int, age: float) -> None:
        """A new master is wanted, *age* seconds after the start of this one; then our workers end by signal *number*.
        """
        self._waiting.append(result)
        if len(self._waiting) > 1:
            return
        self._go(State.WAITING)
        self._signal = number
        if age < self._policy.threshold:
            self._announcer.say("cyclic restart", self._policy.threshold - age)
            self._after(self._policy.threshold - age, self._begin, result)
        else:
            self._begin(result)

    def refuse(self, result: Result, reason: str) -> None:
        """It cannot be now."""
        self._announcer.say("restart failed", reason)
        result.fail(reason)

    def _begin(self, result: Result) -> None:
        if self._dismissed:  # never a third master
            self._once_alone.append(lambda: self._begin(result))
        else:
            self._owner.when_alone(lambda: self._gather(result))

    def _gather(self, result: Result) -> None:
        if not self._wanted(result):
            return  # given up meanwhile
        if self._policy.timeout:
            self._after(self._policy.timeout, self._stuck, result)
        self._owner.gather(result, lambda data: self._start(result, data))

    def _stuck(self, result: Result) -> None:
        if self._wanted(result):
            self._fail(f"after {self._policy.timeout:g} s the event handlers have not let it begin")

    def _wanted(self, result: Result) -> bool:
        """Whether *result* is still the one that a replacement is to be started for."""
        return self.state is State.WAITING and bool(self._waiting) and self._waiting[0] is result

    def _start(self, result: Result, data: dict[str, Any]) -> None:
        if not self._wanted(result):
            return  # given up meanwhile
        self._go(State.STARTING)
        replacement = Replacement(self._system, self._inbox, self._heard, self._died, self._lost)
        try:
            replacement.start(self._listeners, data, self._owner.totals())
        except (OSError, ChannelError, MemoryError) as error:
            self._fail(f"the new master cannot be started: {error or type(error).__name__}")
            return
        self._replacement = replacement
        self._after(self._policy.timeout, self._late, replacement)

    # -- what becomes of it

    def _heard(self, replacement: Replacement, message: Message) -> None:
        kind = message["t"]
        if kind == "begun":
            replacement.begun = True
        if replacement is not self._replacement:
            return
        if kind == "ready" and self.state is State.STARTING and replacement.alive:
            self._hand_over([str(key) for key in message.get("taken", ())])
        elif kind == "release":
            self.release()
        elif kind == "reopen logs":
            self._owner.reopen()

    def _hand_over(self, taken: list[str]) -> None:
        """The new master's workers are all ready: our time is over."""
        self._go(State.HANDED_OVER)
        self._released = False
        self._waited = not self._policy.probation
        self._after(self._policy.probation, self._probation_over)
        self.share(self._owner.totals())
        self._settle(lambda result: result.succeed(self.pid))
        self._owner.hand_over(self._signal, taken)

    def _probation_over(self) -> None:
        self._waited = True
        self._owner.changed()

    def _died(self, replacement: Replacement, status: int) -> None:
        self._dismissed.discard(replacement)
        if replacement is self._replacement:
            how = (f"was killed by {signal_name(os.WTERMSIG(status))}" if os.WIFSIGNALED(status)
                   else f"ended with exit code {os.WEXITSTATUS(status)}")
            if self.state is State.STARTING:
                self._fail(replacement.failure or f"the new master {how} before it was ready")
            elif status == 0 or self._released:
                self.release()  # somebody has ended the service
            else:
                self._resume(f"the new master {how} after it had taken over")
        if not self._dismissed:
            waiting, self._once_alone = self._once_alone, []
            for act in waiting:
                act()
        self._owner.changed()

    def _resume(self, reason: str) -> None:
        self._replacement = None
        self._go(State.IDLE)
        self._cancel_timer()
        self._owner.resume()
        self._announcer.say("restart failed", reason)

    def _lost(self, replacement: Replacement, reason: str) -> None:
        # most often it is about to end, and how it ended tells more; one that serves is not judged by its messages
        self._inbox.later(_LAST_WORDS, self._silent, replacement, reason)

    def _silent(self, replacement: Replacement, reason: str) -> None:
        if replacement is self._replacement and self.state is State.STARTING:
            self._fail(f"the new master does not talk to us any more ({reason})")

    def _late(self, replacement: Replacement) -> None:
        if replacement is self._replacement and self.state is State.STARTING:
            replacement.hear()  # it may have said so while we were stopped
            self._inbox.put(self._too_late, replacement)

    def _too_late(self, replacement: Replacement) -> None:
        if replacement is self._replacement and self.state is State.STARTING:
            self._fail(f"the new master was not ready after {self._policy.timeout:g} s")

    def _fail(self, reason: str) -> None:
        self._dismiss(graceful=True)
        self._go(State.IDLE)
        self._cancel_timer()
        self._announcer.say("restart failed", reason)
        self._settle(lambda result: result.fail(reason))
        self._owner.changed()

    def _dismiss(self, graceful: bool) -> None:
        replacement, self._replacement = self._replacement, None
        if replacement is not None and replacement.alive:
            self._dismissed.add(replacement)
            replacement.end(graceful, self._policy.drain)

    def cancel(self, reason: str, graceful: bool = True) -> None:
        """No new master any more, unless it has taken over."""
        if self.handed_over:
            return
        self._dismiss(graceful)
        if self.state is not State.IDLE:
            self._go(State.IDLE)
        self._cancel_timer()
        self._settle(lambda result: result.fail(reason))

    # -- while the new one serves

    def share(self, totals: dict[str, int]) -> None:
        """These were told to somebody: what the new master tells must never be less, once it serves."""
        if self._replacement is not None and self.handed_over:
            self._replacement.send({"t": "totals", "totals": totals})

    def given_up(self) -> None:
        """Our consoles are closed: the new master can open its own."""
        if self._replacement is not None and self.handed_over:
            self._replacement.send({"t": "given up"})

    def pass_on(self, number: int) -> None:
        """A signal to this master means the service, and that is the new one now."""
        if self._replacement is not None:
            self._replacement.send({"t": "signal", "number": number})

    def reopen_logs(self) -> None:
        """A program that rotates logs knows of one master; both write to them."""
        if self._replacement is not None:
            self._replacement.send({"t": "reopen logs"})

    def release(self) -> None:
        """Whatever becomes of the new master, this one does not serve again."""
        if self.handed_over and not self._released:
            self._released = True
            self._owner.changed()

    @property
    def ended(self) -> bool:
        """Whether the new master has ended, so that nobody serves any more when we have."""
        return self._replacement is not None and not self._replacement.alive

    def finish(self) -> None:
        """This master ends: tell the new one what was counted in the whole life, or see that one which is not wanted
        is gone."""
        self._cancel_timer()
        if self._replacement is not None and self.handed_over:
            self._released = True
            self._replacement.send({"t": "totals", "totals": self._owner.totals()}, flush=_LAST_WORDS)
            self._replacement.let_go()
        elif self._replacement is not None:
            self._replacement.end_now()
        for replacement in self._dismissed:
            replacement.end_now()
        self._dismissed.clear()

    def abandon(self) -> None:
        """In a forked child: the connections are the master's."""
        for replacement in (self._replacement, *self._dismissed):
            if replacement is not None:
                replacement.abandon()

    # -- helpers

    def _go(self, state: State) -> None:
        self.state = move(OUTGOING_MOVES, self.state, state)

    def _settle(self, tell: Callable[[Result], None]) -> None:
        waiting, self._waiting = self._waiting, []
        for result in waiting:
            tell(result)

    def _after(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        self._cancel_timer()
        if seconds:
            self._timer = self._inbox.later(seconds, act, *args)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
