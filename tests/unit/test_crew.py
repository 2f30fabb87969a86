"""The workers of a master on a system that is made up: forks, deaths, and whatever is refused meanwhile."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from cluster import crew as module
from cluster.crew import Crew
from cluster.events import Emitter
from cluster.inbox import Inbox
from cluster.states import WorkerState
from cluster.workers.handle import WorkerHandle

KILLED = int(signal.SIGKILL)
FAILED = 1 << 8


class FakeSystem:
    """Forks and kills nothing; the clock stands still until `move`."""

    def __init__(self) -> None:
        self.time = 100.0
        self.pids = 1000
        self.killed: list[tuple[int, int]] = []
        self.undone: list[int] = []
        self.watched: dict[int, Callable[[int, int], None]] = {}
        self.refuse: Exception | None = None
        self.refuse_watch: Exception | None = None
        self.forks = 0

    def now(self) -> float:
        return self.time

    def fork(self) -> int:
        self.forks += 1
        if self.refuse is not None:
            raise self.refuse
        self.pids += 1
        return self.pids

    def watch(self, pid: int, callback: Callable[[int, int], None]) -> Any:
        if self.refuse_watch is not None:
            raise self.refuse_watch
        self.watched[pid] = callback
        return object()

    def undo_fork(self, pid: int) -> None:
        self.undone.append(pid)

    def kill(self, pid: int, number: int) -> bool:
        self.killed.append((pid, number))
        return True


class FakeInbox(Inbox):
    """Timers fire when they are told to; items are taken at once or when they are told to."""

    def __init__(self, system: FakeSystem) -> None:
        super().__init__()
        self.system = system
        self.delayed: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.repeating: list[Callable[..., None]] = []

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> Any:
        entry = (self.system.time + seconds, act, args)
        self.delayed.append(entry)
        delayed = self.delayed

        class Handle:
            def cancel(self) -> None:
                if entry in delayed:
                    delayed.remove(entry)

        return Handle()

    def repeater(self, seconds: float, act: Callable[..., None]) -> Any:
        repeating = self.repeating

        class Handle:
            def on(self) -> None:
                if act not in repeating:
                    repeating.append(act)

            def off(self) -> None:
                if act in repeating:
                    repeating.remove(act)

        return Handle()

    def work(self) -> None:
        while not self._items.empty():
            act, args = self._items.get()
            act(*args)

    def move(self, seconds: float) -> None:
        """Time goes by."""
        end = self.system.time + seconds
        while due := sorted((entry for entry in self.delayed if entry[0] <= end), key=lambda entry: entry[0]):
            self.delayed.remove(due[0])
            self.system.time = max(self.system.time, due[0][0])
            due[0][1](*due[0][2])
            self.work()
        self.system.time = end


class Said:
    """The announcer and the complaints."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.lines: list[str] = []

    def say(self, text: str, *args: Any) -> None:
        if args:
            self.events.append((text, args[0]))
        else:
            self.lines.append(text)

    def traceback(self, text: str) -> None:
        self.lines.append(text)

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


class Stage:
    """A crew with all that it needs."""

    def __init__(self, workers: int = 2, **settings: Any) -> None:
        self.system = FakeSystem()
        self.inbox = FakeInbox(self.system)
        self.said = Said()
        self.changes = 0
        self.gave_up: list[int] = []
        options = {"timeout": 60.0, "startup timeout": 60.0, "abort deaths": 3, "max workers": 8, **settings}
        self.emitter = Emitter()
        said: Any = self.said
        system: Any = self.system
        self.crew = Crew(system, self.inbox, self.emitter, said, said, options, self.changed, self.gave_up.append,
                         lambda worker, message: None)
        self.hopeless = 0
        self.crew.on_hopeless = self.despair
        self.crew.board(workers)

    def changed(self) -> None:
        self.changes += 1

    def despair(self) -> None:
        self.hopeless += 1

    def worker(self, slot: int) -> WorkerHandle:
        (found,) = (worker for worker in self.crew.current() if worker.id == slot)
        return found

    def ready(self) -> None:
        for worker in self.crew.current():
            if worker.state is WorkerState.STARTING:
                self.crew._heard(worker, {"t": "connected"})
                self.crew._heard(worker, {"t": "ready"})

    def die(self, worker: WorkerHandle, status: int = KILLED) -> None:
        self.system.watched[worker.pid](worker.pid, status)

    def close(self) -> None:
        for worker in self.crew.members.values():
            if worker.channel is not None:
                worker.channel.close()


@pytest.fixture
def stage() -> Any:
    """Two workers, ready."""
    made = Stage()
    made.ready()
    yield made
    made.close()


def test_the_death_of_a_worker_fills_its_slot(stage: Stage) -> None:
    """U1: the same slot, another process, once; `worker killed` before `worker`."""
    first = stage.worker(0)
    stage.system.time += 60
    stage.die(first)
    stage.inbox.work()
    assert [worker.id for worker in stage.crew.current()] == [0, 1] and stage.worker(0).pid != first.pid
    assert first.signal == "SIGKILL" and stage.said.names()[-2:] == ["worker killed", "worker"]
    assert len(stage.crew.scoreboard._free) == 2 * 8 + 16 - 2


def failing(original: Callable[..., Any], error: Exception, times: int) -> Callable[..., Any]:
    """*original*, which raises *error* the first so many *times*."""
    left = [times]

    def act(*args: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return original(*args, **named)

    return act


#: where something can be refused while a death is dealt with: the object, of a stage and the dying worker, and its name
STEPS = {
    "what it said last": (lambda stage, worker: worker.channel, "read_rest"),
    "the inbox": (lambda stage, worker: stage.inbox, "put"),
    "the list of steps": (lambda stage, worker: stage.crew, "_rites"),
    "what is in flight": (lambda stage, worker: worker, "in_flight"),
    "its channel": (lambda stage, worker: worker.channel, "close"),
    "its end": (lambda stage, worker: worker, "finish"),
    "its row": (lambda stage, worker: stage.crew.scoreboard, "give_back"),
    "the event": (lambda stage, worker: stage.said, "say"),
    "the back-off": (lambda stage, worker: stage.crew._respawn, "died"),
    "who is ready": (lambda stage, worker: stage.crew, "_on_change"),
    "the next one's row": (lambda stage, worker: stage.crew.scoreboard, "take"),
    "the next one's channel": (lambda stage, worker: module.channel, "pair"),
    "the next one's timer": (lambda stage, worker: stage.inbox, "later"),
    "the next one's process": (lambda stage, worker: stage.system, "fork"),
    "the next one's watcher": (lambda stage, worker: stage.system, "watch"),
}


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_is_refused_while_a_death_is_dealt_with_the_slot_is_filled(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, step: str, times: int, error: Exception
) -> None:
    """Its row, its descriptors and its slot come back, each once, and nobody else is touched."""
    dying, other = stage.worker(0), stage.worker(1)
    stage.system.time += 60
    told = list(stage.said.names())
    owner, name = STEPS[step]
    target = owner(stage, dying)
    monkeypatch.setattr(target, name, failing(getattr(target, name), error, times))

    def happens(act: Callable[[], None]) -> None:
        try:
            act()
        except type(error):
            pass  # in the hub, which prints it; or an item of the inbox, which the supervisor survives

    happens(lambda: stage.die(dying))
    for _ in range(12):
        happens(stage.inbox.work)
        for act in list(stage.inbox.repeating):
            happens(act)
        happens(lambda: stage.inbox.move(1.1))
    assert [worker.id for worker in stage.crew.current()] == [0, 1] and stage.worker(1) is other
    assert stage.worker(0) is not dying and dying.state is WorkerState.DEAD
    assert len(stage.crew.members) == 2 and not stage.gave_up
    free = stage.crew.scoreboard._free
    assert len(free) == len(set(free)) == 2 * 8 + 16 - 2
    assert not dying.channel.open and not stage.inbox.repeating
    assert stage.said.names()[len(told):].count("worker killed") == 1
    assert set(stage.system.watched) - set(stage.system.undone) >= {worker.pid for worker in stage.crew.current()}


def test_a_death_is_told_again_until_it_is_taken() -> None:
    """What a callback of the loop raises is printed and lost: `Child` calls it again."""
    from cluster import system

    told: list[tuple[int, int]] = []

    def callback(pid: int, status: int) -> None:
        told.append((pid, status))
        if len(told) < 3:
            raise MemoryError

    hub = gevent.get_hub()
    before = system.AGAIN, hub.handle_error
    system.AGAIN = 0.01
    hub.handle_error = lambda *about: None
    try:
        child = system.Child(2**22 + 1, callback)
        assert child._watcher.active
        child._ended()
    except MemoryError:
        pass
    with gevent.Timeout(10):
        while child._callback is not None:
            gevent.idle()
    assert len(told) == 3 and len(set(told)) == 1 and not child._again.active
    system.AGAIN, hub.handle_error = before


def test_before_any_was_ready_it_gives_up_afterwards_never() -> None:
    """Row G5, giving up."""
    stage = Stage()
    for _ in range(3):
        stage.die(stage.crew.current()[0], FAILED)
        stage.inbox.work()
        stage.inbox.move(1)
    assert stage.gave_up == [3] and not stage.crew.maintaining
    stage.close()
    stage = Stage()
    stage.ready()
    survivor = stage.worker(1)
    for _ in range(100):
        stage.die(stage.worker(0), FAILED)
        stage.inbox.work()
        stage.inbox.move(5.1)
    assert not stage.gave_up and stage.crew.current() == [stage.worker(0), survivor]
    stage.close()


def test_a_new_master_whose_old_one_is_gone_does_not_give_up() -> None:
    """Row G5: the old one's workers had been ready; there is nobody to leave the service to."""
    stage = Stage()
    stage.crew.may_give_up = lambda: False
    for _ in range(30):
        stage.die(stage.worker(0), FAILED)
        stage.inbox.work()
        stage.inbox.move(5.1)
    assert not stage.gave_up and len(stage.crew.current()) == 2
    stage.close()


HOPELESS = {"t": "exception", "type": "ImportError", "fatal": True, "hopeless": True}


def test_what_can_never_heal_ends_the_start_at_once() -> None:
    """Row W6: one worker's word is enough, nothing is forked afterwards, and the others' reports are the same news."""
    stage = Stage()
    first, second = stage.crew.current()
    stage.crew._heard(first, dict(HOPELESS))
    stage.crew._heard(second, dict(HOPELESS))
    assert stage.crew.hopeless and stage.hopeless == 1 and stage.said.names().count("worker exception") == 1
    stage.die(first, FAILED)
    stage.inbox.work()
    stage.inbox.move(10)
    assert stage.crew.current() == [second]
    stage.close()


@pytest.mark.parametrize("case", ["one was ready", "nobody to leave it to", "never give up", "a reload", "closing",
                                  "1"])
def test_a_worker_is_not_believed_that_none_can_start(case: str) -> None:
    """Row W6: what serves, or may come to serve, is not ended by what a worker says."""
    stage = Stage(**({"abort deaths": 0} if case == "never give up" else {}))
    worker = stage.worker(0)
    if case == "one was ready":
        stage.crew._heard(stage.worker(1), {"t": "connected"})
        stage.crew._heard(stage.worker(1), {"t": "ready"})
    elif case == "nobody to leave it to":
        stage.crew.may_give_up = lambda: False
    elif case == "a reload":
        worker = stage.crew.spawn(0, 2)
    elif case == "closing":
        stage.crew.maintaining = False
    for _ in range(2):
        stage.crew._heard(worker, HOPELESS | ({"hopeless": 1} if case == "1" else {}))
    assert not stage.crew.hopeless and not stage.hopeless and stage.said.names().count("worker exception") == 2
    stage.close()


def test_forks_that_fail_are_one_try_a_second_and_few_lines(stage: Stage) -> None:
    """Whatever the number of empty slots; said for the 1st, 2nd, 4th ... time, and when it is over."""
    stage.system.refuse = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    stage.system.time += 60
    for slot in (0, 1):
        stage.die(stage.worker(slot))
    stage.inbox.work()
    before = stage.system.forks
    stage.inbox.move(60)
    assert 50 <= stage.system.forks - before <= 61
    lines = [line for line in stage.said.lines if line.startswith("cannot fork")]
    assert 5 <= len(lines) <= 7 and "temporarily" in lines[0] and lines[-1].endswith("(32 times in a row)")
    stage.system.refuse = None
    stage.inbox.move(1.1)
    assert len(stage.crew.current()) == 2 and stage.said.lines[-1] == "workers can be forked again"


def test_one_that_cannot_be_watched_is_not_let_live(stage: Stage) -> None:
    """A process that nobody watches would serve on for ever, and its slot be filled twice."""
    stage.system.refuse_watch = MemoryError()
    stage.system.time += 60
    stage.die(stage.worker(0))
    stage.inbox.work()
    assert stage.system.undone == [stage.system.pids] and len(stage.crew.members) == 1
    stage.crew.retire_all(signal.SIGTERM)
    assert 0 not in [pid for pid, _ in stage.system.killed]


def test_what_a_worker_has_in_flight_when_it_dies_is_kept(stage: Stage) -> None:
    """Row W9: read before the row is cleared; what it may have forged there is harmless."""
    from cluster import narration

    worker = stage.worker(0)
    notes = stage.crew.scoreboard.in_flight(worker.row)
    notes.begin(b"GET /report\x1b]0;root\x07 10.0.0.7", stage.system.time + 0.5)
    notes.begin(b"GET /forged", float("nan"))
    notes.begin(b"GET /later", 1e300)
    stage.system.time += 0.8
    stage.die(worker, int(signal.SIGSEGV))
    stage.inbox.work()
    line = narration.died(worker)
    assert line.startswith("worker 0 died (signal 11, up 0.8 s; in flight: ")
    assert "GET /report\\x1b]0;root\\x07 10.0.0.7 for 0.3 s" in line
    assert line.endswith("GET /later for 0.0 s)") and "forged" not in line


def test_a_slot_that_fails_for_ever_is_told_rarely() -> None:
    """Row G5: one line, not one for each death; those that had served are news every time."""
    from cluster import narration

    stage = Stage()
    stage.ready()
    dead = []
    for _ in range(64):
        dead.append(stage.worker(0))
        stage.die(dead[-1], FAILED)
        stage.inbox.work()
        stage.inbox.move(5.1)
    lines = [text for worker in dead if (text := narration.died_rarely(worker)) is not None]
    assert len(lines) == 1 + 6, lines
    assert lines[-1] == "worker 0 died (exit code 1, up 5.1 s; 32 times in a row)" or "times in a row" in lines[-1]
    stage.close()


def test_restarting_workers_says_by_which_signal(stage: Stage) -> None:
    """docs/events.md: `kill` comes before a signal goes to all workers."""
    old = stage.crew.retire_current(signal.SIGQUIT)
    assert ("kill", "SIGQUIT") in stage.said.events and len(old) == 2
    assert [number for _, number in stage.system.killed] == [signal.SIGQUIT] * 2
