"""The workers of one master: forks them, keeps their number, asks them to end, notices their deaths."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from . import channel
from .announcer import Announcer
from .channel import Channel, Message
from .complaints import Complaints
from .errors import ChannelError
from .events import Emitter
from .inbox import Inbox
from .narration import Told, worth_telling
from .reported import believed
from .respawn import Respawn
from .scoreboard import NoRowLeft, Scoreboard, rows_for
from .signals import AT_ONCE
from .signals import name as signal_name
from .states import WorkerState
from .system import System
from .workers.handle import WorkerHandle

#: seconds between SIGTERM and SIGKILL, for a worker that has to end at once
MERCY = 0.5
#: the end of a worker by SIGTERM or SIGINT that we did not send, or with exit code 0 as after a SIGQUIT, is looked at
#: only after this many seconds: the signal may have gone to the whole process group (Ctrl-C does), and then ours, which
#: ends the cluster, is about to arrive
GROUP_SIGNAL_PAUSE = 0.05
_SENT_TO_GROUPS = (signal.SIGTERM, signal.SIGINT)
#: a worker whose channel has ended but that lives on after this many seconds is killed: nobody can manage it
SILENT = 1.0
#: seconds until the next try when a fork has failed
FORK_PAUSE = 1.0
#: seconds between two looks at what could not be finished, for want of memory or descriptors
UNFINISHED = 0.5
#: what the system refuses for a while: what was begun is tried again until it is done
REFUSALS = (MemoryError, OSError)


class Seat(NamedTuple):
    """What a new worker gets from its master."""

    slot: int
    uid: int
    generation: int
    row: int
    connection: Any
    scoreboard: Scoreboard


class ForkedChild(BaseException):
    """Raised in the child right after the fork, so that the supervisor's frames are left behind."""

    def __init__(self, seat: Seat) -> None:
        super().__init__("in a worker")
        self.seat = seat


class Crew:
    """All workers by uid. One group so far, the unnamed one; slots are counted per group."""

    def __init__(
        self,
        system: System,
        inbox: Inbox,
        emitter: Emitter,
        announcer: Announcer,
        complaints: Complaints,
        settings: dict[str, Any],
        on_change: Callable[[], None],
        on_give_up: Callable[[int], None],
        on_message: Callable[[WorkerHandle, Message], None],
    ) -> None:
        #: the most workers that there may be at once, of one generation
        self.maximum: int = settings["max workers"]
        self.scoreboard = Scoreboard(rows_for(self.maximum))
        self.members: dict[int, WorkerHandle] = {}
        #: how many workers there should be
        self.target = 0
        #: the generation that serves
        self.generation = 1
        #: whether missing workers are replaced
        self.maintaining = False
        #: asked before it gives up: a master whose predecessor served and is gone has nobody to leave that to
        self.may_give_up: Callable[[], bool] = lambda: True
        #: no worker was ever ready, and none can be before something is mended: nothing is forked but by a reload
        self.hopeless = False
        #: called when that turns out
        self.on_hopeless: Callable[[], None] = lambda: None
        #: called in each forked child, to let go of what else is the master's
        self.on_fork: Callable[[], None] = lambda: None
        self._system = system
        self._inbox = inbox
        self._emitter = emitter
        self._announcer = announcer
        self._complaints = complaints
        self._timeout: float = settings["timeout"]
        self._startup_timeout: float = settings["startup timeout"]
        self._respawn = Respawn(settings["abort deaths"])
        self._unfinished = inbox.repeater(UNFINISHED, self.finish)
        #: something has been put off since the last look
        self._left = False
        self._told = Told()
        #: forks that failed in a row, and when the next is tried
        self._refused = 0
        self._refused_until = 0.0
        self._on_change = on_change
        self._on_give_up = on_give_up
        self._on_message = on_message
        self._next_uid = 0
        self._not_before: dict[tuple[str, int], float] = {}
        #: members of the first generation that have not connected; ready ones are announced after all have
        self._boarding: set[int] = set()
        self._waiting_aboard: list[WorkerHandle] = []

    # -- who there is

    def current(self) -> list[WorkerHandle]:
        """Workers of the serving generation that are not about to end, by slot."""
        found = [w for w in self.members.values() if w.generation == self.generation and not w.retiring]
        return sorted(found, key=lambda worker: worker.id)

    def complete(self) -> bool:
        """Whether the workers are as many as wanted, all ready, with no surplus left."""
        current = self.current()
        return (
            len(self.members) == len(current) == self.target
            and all(worker.ready for worker in current)
        )

    # -- forking

    def board(self, count: int) -> None:
        """Fork the first *count* workers. `worker ready` is announced only when all of them have connected."""
        self.target = count
        self.maintaining = True
        self._boarding = set(range(self._next_uid, self._next_uid + count))
        self.maintain()

    def maintain(self) -> None:
        """Fork what is missing, as far as back-off allows."""
        try:
            self._fill()
        except REFUSALS as error:
            self.put_off("filling empty slots is put off", error)

    def _fill(self) -> None:
        if not self.maintaining or self.hopeless or self._system.now() < self._refused_until:
            return  # the timer calls us again
        taken = {(worker.group, worker.id) for worker in self.current()}
        now = self._system.now()
        for slot in range(self.target):
            key = ("", slot)
            if key in taken:
                continue
            wait = self._not_before.get(key, 0.0) - now
            if wait > 0:
                continue  # its timer calls us again
            self._not_before.pop(key, None)
            if not self.spawn(slot, self.generation).alive:
                return  # nor could the others be forked

    def spawn(self, slot: int, generation: int, timed: bool = True) -> WorkerHandle:
        """Fork one worker. In the child `ForkedChild` is raised. *timed*: kill it at the startup timeout.

        When that fails the worker that is returned is dead, and has no pid. Whatever can fail is done before the fork:
        a process that nobody watches would serve on for ever.
        """
        uid = self._next_uid
        self._next_uid += 1
        worker = WorkerHandle(slot, uid, generation, "", self._system.now)
        theirs: Any = None
        try:
            worker.failures = self._respawn.failures((worker.group, slot))
            worker.row = self.scoreboard.take()
            worker.notes = self.scoreboard.in_flight(worker.row)
            ours, theirs = channel.pair()
            worker.channel = Channel(
                ours,
                lambda message: self._inbox.put(self._heard, worker, message),
                lambda reason: self._inbox.put(self._lost, worker, reason),
            )
            worker.channel.start()
            if timed and self._startup_timeout:
                worker.timers.append(self._inbox.later(self._startup_timeout, self._late, worker))
            self._emitter.dispatch("before fork", worker)
            worker.started = self._system.now()
            self.members[uid] = worker
            worker.pid = self._system.fork()
            if worker.pid == 0:
                raise self._in_child(Seat(slot, uid, generation, worker.row, theirs, self.scoreboard))
            worker.watcher = self._system.watch(worker.pid, lambda _, status: self._reaped(worker, status))
            theirs.close()
        except (*REFUSALS, NoRowLeft) as error:
            if theirs is not None:
                theirs.close()
            self._not_born(worker, error)
            return worker
        if self._refused:
            self._refused = 0
            self._complaints.say("workers can be forked again")
        self._announcer.say("worker", worker)
        return worker

    def _not_born(self, worker: WorkerHandle, error: Exception) -> None:
        """It could not be forked, or not be watched: nothing of it may be left. All slots wait for the next try."""
        self.members.pop(worker.uid, None)
        if worker.pid:
            self._system.undo_fork(worker.pid)
            worker.pid = 0  # would mean our own group, were it ever signalled
        self._boarding.discard(worker.uid)
        for timer in worker.timers:
            timer.cancel()
        worker.timers.clear()
        if worker.channel is not None:
            worker.channel.close()
        if worker.row >= 0:
            self.scoreboard.give_back(worker.row)
        worker.go(WorkerState.DEAD)
        self._refused += 1
        self._refused_until = self._system.now() + FORK_PAUSE
        self._inbox.later(FORK_PAUSE + 0.001, self.maintain)
        if worth_telling(self._refused):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            again = f" ({self._refused} times in a row)" if self._refused > 1 else ""
            self._complaints.say(f"cannot fork a worker: {reason}; trying again every {FORK_PAUSE:g} s{again}")

    def _in_child(self, seat: Seat) -> ForkedChild:
        """Let go of what is the master's. No exception but `ForkedChild` may go up into the master's frames."""
        try:
            for member in self.members.values():
                if member.channel is not None and member.channel.open:
                    member.channel.abandon()
            self.on_fork()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            self._system.exit(1)
        return ForkedChild(seat)

    # -- ending

    def retire(self, worker: WorkerHandle, number: int) -> None:
        """Ask a worker to end with signal *number*; it is killed when it takes too long."""
        if not worker.alive:
            return
        if not worker.asked:
            worker.go(WorkerState.RETIRING)
            self.scoreboard.serving[worker.row] = 0  # one that is stuck must not count in the mean of the others
        elif number not in AT_ONCE:
            return  # it is draining already
        for timer in worker.timers:
            timer.cancel()
        worker.timers.clear()
        self._kill(worker, number)
        seconds = MERCY if number in AT_ONCE else self._timeout
        if seconds and number != signal.SIGKILL:
            worker.timers.append(self._inbox.later(seconds, self._overdue, worker, seconds, number not in AT_ONCE))

    def retire_current(self, number: int) -> list[WorkerHandle]:
        """`retire` those that serve now; returns them."""
        self._announcer.say("kill", signal_name(number))
        old = self.current()
        for worker in old:
            self.retire(worker, number)
        return old

    def retire_all(self, number: int) -> None:
        """`retire` every worker, old and new."""
        for worker in list(self.members.values()):
            self.retire(worker, number)

    def _overdue(self, worker: WorkerHandle, seconds: float, tell: bool) -> None:
        if worker.alive:
            if tell:
                worker.last_words = worker.in_flight()
                self._announcer.say("worker timeout", worker, seconds)
            self._kill(worker)

    def _late(self, worker: WorkerHandle) -> None:
        if worker.state in (WorkerState.STARTING, WorkerState.CONNECTED):
            self._overdue(worker, self._startup_timeout, True)

    def _kill(self, worker: WorkerHandle, number: int = signal.SIGKILL) -> None:
        if worker.pid and not worker.reaped:  # afterwards its pid may be somebody else's
            if number in AT_ONCE:
                self.scoreboard.at_once[worker.row] = 1  # from us it means that, whatever it means from elsewhere
            self._system.kill(worker.pid, number)

    # -- deaths: whatever is raised while one is dealt with, it is dealt with in the end

    def _reaped(self, worker: WorkerHandle, status: int) -> None:
        """The process is gone. Runs in the hub; when it raises, it is called again."""
        worker.reaped = True
        worker.wait_status = status
        group = status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in _SENT_TO_GROUPS)
        group = group and not worker.asked
        if group:
            worker.rest_until = self._system.now() + GROUP_SIGNAL_PAUSE
        self._unfinished.on()  # from here on nothing can lose it
        if worker.channel is not None:
            worker.channel.read_rest()  # what it said before it ended comes first
        if group:
            self._inbox.later(GROUP_SIGNAL_PAUSE, self._ended, worker)
        else:
            self._inbox.put(self._ended, worker)

    def finish(self) -> None:
        """Do what was left undone."""
        self._left = False
        now = self._system.now()
        for worker in list(self.members.values()):
            if worker.wait_status is not None:
                if now >= worker.rest_until:
                    self._ended(worker)
                else:
                    self._left = True
        self.maintain()
        if not self._left:
            self._told.forget()
            self._unfinished.off()

    def put_off(self, what: str, error: BaseException) -> None:
        """The system refuses something: say it rarely, and look soon at what is left to do. Nobody else is harmed."""
        self._left = True
        self._unfinished.on()
        try:
            count = self._told.again(what)
            if worth_telling(count + 1):
                again = f" ({count + 1} times so far)" if count else ""
                reason = f"{type(error).__name__} {error}".rstrip()
                self._complaints.say(f"{what}{again}: {reason}")
        except REFUSALS:
            pass  # not even that

    def _ended(self, worker: WorkerHandle) -> None:
        """Do what is to be done about a death, each step once; the rest later when one of them is refused."""
        try:
            if worker.last_rites is None:
                worker.last_rites = self._rites(worker)
            while worker.last_rites:
                worker.last_rites[0]()
                del worker.last_rites[0]
        except REFUSALS as error:
            self.put_off("dealing with a worker's death is put off", error)

    def _rites(self, worker: WorkerHandle) -> list[Callable[[], None]]:
        """The steps; all that come before the last may be done again after they were broken off."""
        asked_for, replaced = worker.asked, worker.state is WorkerState.ENDING

        def last_words() -> None:
            if worker.last_words is None:
                worker.last_words = worker.in_flight()

        def close() -> None:
            if worker.channel is not None:
                worker.channel.close()

        def finish() -> None:
            assert worker.wait_status is not None
            worker.finish(worker.wait_status, self._system.now())

        def tell() -> None:
            self._announcer.say("worker removed" if asked_for else "worker killed", worker)

        def bring_back() -> None:
            if not asked_for and not replaced:
                self._bring_back(worker, worker.exit_code != 0)

        def leave() -> None:
            self.members.pop(worker.uid, None)
            if worker.uid in self._boarding:
                self._boarding.discard(worker.uid)
                self._announce_ready()
            self._on_change()

        return [last_words, close, finish, lambda: self.scoreboard.give_back(worker.row), tell, bring_back, leave,
                self.maintain]

    def _ends(self, worker: WorkerHandle, failed: bool) -> None:
        """It accepts no more, unasked, and lives on for what it has in flight; its slot need not wait for that."""
        if worker.ready:
            worker.go(WorkerState.ENDING)
            if self._timeout:
                worker.timers.append(self._inbox.later(self._timeout, self._overdue, worker, self._timeout, True))
            if self._bring_back(worker, failed):
                self._on_change()
                self.maintain()

    def _bring_back(self, worker: WorkerHandle, failed: bool) -> bool:
        """Decide when the slot is filled again; False when it is time to give up."""
        if worker.generation != self.generation:
            return True
        was_ready = worker.boot_time is not None
        slot = (worker.group, worker.id)
        delay = self._respawn.died(slot, worker.uptime, failed, was_ready)
        if delay is None and not self.may_give_up():
            self._respawn.ready()
            delay = self._respawn.died(slot, worker.uptime, failed, was_ready)
        if delay is None:
            self.maintaining = False
            self._on_give_up(self._respawn.deaths)
            return False
        if delay > 0:
            self._hold_back(slot, delay)
        return True

    def _hold_back(self, key: tuple[str, int], seconds: float) -> None:
        self._not_before[key] = self._system.now() + seconds
        self._inbox.later(seconds + 0.001, self.maintain)

    # -- messages

    def _lost(self, worker: WorkerHandle, reason: str) -> None:
        """The channel has ended; the process should, too."""
        if not worker.alive:
            return
        if reason.startswith("garbage"):
            self._complaints.say(f"worker {worker.id} (pid {worker.pid}) sent {reason}; killing it")
            self._kill(worker)
        else:
            worker.timers.append(self._inbox.later(SILENT, self._kill, worker))

    def _heard(self, worker: WorkerHandle, message: Message) -> None:
        kind = message["t"]
        if not worker.alive:
            return
        if kind == "connected":
            if worker.state is WorkerState.STARTING:
                worker.go(WorkerState.CONNECTED)
                self._announcer.say("worker connected", worker)
            self._boarding.discard(worker.uid)
            self._announce_ready()
        elif kind == "ready":
            self._became_ready(worker)
        elif kind == "ending":
            if message.get("code") == 0:
                self._inbox.later(GROUP_SIGNAL_PAUSE, self._ends, worker, False)
            else:
                self._ends(worker, True)
        elif kind == "waiting":
            connections = message.get("connections")
            if isinstance(connections, int):  # a worker may say anything
                worker.waits += 1
                self._announcer.say("worker waiting", worker, connections)
        elif kind == "exception":
            hopeless = message.get("hopeless") is True and worker.generation == self.generation
            if hopeless and self.hopeless:
                return  # the others of this start have no other news
            error = believed(message)
            if error["fatal"]:
                self._complaints.traceback(error["text"])
            self._announcer.say("worker exception", worker, error)
            if hopeless:
                self._despair()
        else:
            self._on_message(worker, message)

    def _despair(self) -> None:
        """A worker says that none can start. It is believed as long as nobody else has proved the contrary."""
        if self.maintaining and self._respawn.gives_up and self.may_give_up():
            self.hopeless = True
            self.on_hopeless()

    def _became_ready(self, worker: WorkerHandle) -> None:
        if worker.boot_time is not None:
            return
        self.hopeless = False
        worker.boot_time = self._system.now() - worker.started
        self._respawn.ready()
        if worker.state is WorkerState.CONNECTED:
            worker.go(WorkerState.READY)
            for timer in worker.timers:
                timer.cancel()
            worker.timers.clear()
        self._waiting_aboard.append(worker)
        self._announce_ready()

    def _announce_ready(self) -> None:
        if self._boarding:
            return
        waiting, self._waiting_aboard = self._waiting_aboard, []
        for worker in waiting:
            self._announcer.say("worker ready", worker)
        if waiting:
            self._on_change()

    # -- signals

    def by_slot(self) -> list[WorkerHandle]:
        """All, old and new, in the order in which they are shown."""
        return sorted(self.members.values(), key=lambda worker: (worker.id, worker.uid))

    def status(self) -> list[dict[str, Any]]:
        """What each of them is, and what it has counted."""
        return [
            {
                "id": worker.id, "pid": worker.pid, "uid": worker.uid, "generation": worker.generation,
                "state": worker.state.value, "uptime": worker.uptime, **self.scoreboard.read(worker.row),
            }
            for worker in self.by_slot()
        ]

    def signal(self, number: int, slot: int | None = None) -> None:
        """Send a signal to every worker, or to those in *slot*, and nothing else."""
        if slot is None:
            self._announcer.say("kill", signal_name(number))
        for worker in list(self.members.values()):
            if slot in (None, worker.id):
                self._kill(worker, number)

    def abandon(self) -> None:
        """The supervisor itself failed: kill everything, without a word to anybody."""
        self.maintaining = False
        for worker in self.members.values():
            self._kill(worker)

    def send(self, worker: WorkerHandle, message: Message) -> None:
        """Send a message to a worker that may have gone."""
        try:
            if worker.channel is not None:
                worker.channel.send(message)
        except ChannelError:
            pass

