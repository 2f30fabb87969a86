"""Both sides of a handover without processes: every state with every message, also what cannot happen."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from cluster.errors import OperationFailed
from cluster.handover import incoming, outgoing
from cluster.handover.protocol import INCOMING_MOVES, OUTGOING_MOVES, Copies, Predecessor
from cluster.handover.protocol import Incoming as In
from cluster.handover.protocol import Outgoing as Out
from cluster.results import Result

#: wait statuses
CLOSED, FAILED, KILLED = 0, 3 << 8, signal.SIGKILL


class FakeTimer:
    """One that the test fires."""

    def __init__(self, seconds: float, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.seconds, self.act, self.args, self.cancelled = seconds, act, args, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeInbox:
    """Acts at once; timers wait for the test."""

    def __init__(self) -> None:
        self.timers: list[FakeTimer] = []

    def put(self, act: Callable[..., None], *args: Any) -> None:
        act(*args)

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> FakeTimer:
        self.timers.append(FakeTimer(seconds, act, args))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        """Fire what is due within so many seconds."""
        due = [timer for timer in self.timers if not timer.cancelled and timer.seconds <= seconds]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer.act(*timer.args)


class FakeAnnouncer:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def say(self, *event: Any) -> None:
        self.said.append(event)

    def names(self) -> list[str]:
        return [event[0] for event in self.said]


class FakeReplacement:
    """A process that does what the test says."""

    made: list[FakeReplacement] = []
    refusal: BaseException | None = None

    def __init__(self, system: Any, inbox: Any, heard: Any, ended: Any, lost: Any) -> None:
        self.pid, self.alive, self.begun, self.failure = 0, False, False, ""
        self.heard, self.ended, self.lost = heard, ended, lost
        self.sent: list[dict[str, Any]] = []
        self.was_ended: str | None = None
        self.unread: list[dict[str, Any]] = []
        FakeReplacement.made.append(self)

    def start(self, listeners: Any, data: Any, totals: Any) -> None:
        if FakeReplacement.refusal is not None:
            raise FakeReplacement.refusal
        self.pid, self.alive = 4000 + len(FakeReplacement.made), True

    def send(self, message: dict[str, Any], flush: float = 0.0) -> None:
        self.sent.append(message)

    def hear(self) -> None:
        for message in self.unread:
            self.heard(self, message)
        self.unread.clear()

    def end(self, graceful: bool, drain: float) -> None:
        self.was_ended = "graceful" if graceful else "at once"

    def end_now(self) -> None:
        self.was_ended = "now"
        self.alive = False

    def let_go(self) -> None:
        self.was_ended = "let go"

    def abandon(self) -> None:
        pass

    # what the process does

    def says(self, kind: str, **more: Any) -> None:
        self.heard(self, {"t": kind, **more})

    def dies(self, status: int) -> None:
        self.alive = False
        self.ended(self, status)


class OldMaster:
    """The owner of an `Outgoing`."""

    def __init__(self, probation: float = 5.0, timeout: float = 120.0, threshold: float = 0.0) -> None:
        self.inbox, self.announcer = FakeInbox(), FakeAnnouncer()
        self.calls: list[Any] = []
        self.waits = False
        self.blocked: list[Callable[[], None]] = []
        self.side = outgoing.Outgoing(
            None, self.inbox, self.announcer, [],  # type: ignore[arg-type]
            outgoing.Policy(threshold, timeout, probation, 60.0), self,
        )

    def when_alone(self, act: Callable[[], None]) -> None:
        if self.waits:
            self.blocked.append(act)
        else:
            act()

    def gather(self, result: Result, then: Callable[[dict[str, Any]], None]) -> None:
        then({})

    def totals(self) -> dict[str, int]:
        return {"requests_total": 7}

    def hand_over(self, number: int, taken: Iterable[str]) -> None:
        self.calls.append(("hand over", number, list(taken)))

    def resume(self) -> None:
        self.calls.append("resume")

    def changed(self) -> None:
        self.calls.append("changed")

    def reopen(self) -> None:
        self.calls.append("reopen")

    # what the test does

    def ask(self, age: float = 100.0) -> Result:
        result = Result("restart")
        self.side.ask(result, signal.SIGQUIT, age)
        return result

    def in_state(self, state: Out) -> FakeReplacement | None:
        """Bring it there."""
        if state is Out.IDLE:
            return None
        self.waits = state is Out.WAITING
        self.ask()
        if state is Out.WAITING:
            return None
        new = FakeReplacement.made[-1]
        new.says("begun")
        if state is Out.HANDED_OVER:
            new.says("ready", taken=["a"])
        return new


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "Replacement", FakeReplacement)
    FakeReplacement.made = []
    FakeReplacement.refusal = None


def test_a_restart_that_works() -> None:
    """Result and hand-over come at the same moment; the new master is told what was counted."""
    old = OldMaster()
    result = old.ask()
    new = FakeReplacement.made[0]
    assert old.side.state is Out.STARTING and not result.done and old.side.pid is None
    new.says("begun")
    new.says("ready", taken=["a", 5])
    assert old.side.state is Out.HANDED_OVER and result.wait() == new.pid == old.side.pid
    assert ("hand over", signal.SIGQUIT, ["a", "5"]) in old.calls
    assert new.sent == [{"t": "totals", "totals": {"requests_total": 7}}]
    assert not old.side.may_end
    old.inbox.pass_time(5.0)
    assert old.side.may_end and old.calls[-1] == "changed"
    old.side.finish()
    assert new.was_ended == "let go"


@pytest.mark.parametrize(("status", "words"), [
    (CLOSED, "exit code 0"), (FAILED, "exit code 3"), (KILLED, "SIGKILL"),
])
def test_a_replacement_that_ends_before_it_is_ready(status: int, words: str) -> None:
    """However it ends: this master serves on, and can be asked again."""
    old = OldMaster()
    result = old.ask()
    FakeReplacement.made[0].dies(status)
    assert old.side.state is Out.IDLE and "resume" not in old.calls
    with pytest.raises(OperationFailed, match=words):
        result.wait()
    assert old.announcer.names() == ["restart failed"]
    old.ask()
    assert old.side.state is Out.STARTING and len(FakeReplacement.made) == 2


@pytest.mark.parametrize(("status", "released", "resumes"), [
    (KILLED, False, True), (FAILED, False, True), (CLOSED, False, False), (KILLED, True, False), (FAILED, True, False),
])
def test_a_new_master_that_ends_after_the_take_over(status: int, released: bool, resumes: bool) -> None:
    """By a crash: resume. On purpose: its end is the service's."""
    old = OldMaster()
    new = old.in_state(Out.HANDED_OVER)
    assert new is not None
    if released:
        new.says("release")
        assert old.side.may_end
    new.dies(status)
    assert ("resume" in old.calls) is resumes
    assert old.side.state is (Out.IDLE if resumes else Out.HANDED_OVER)
    assert old.announcer.names() == (["restart failed"] if resumes else [])
    assert resumes or (old.side.may_end and old.side.ended)


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), MemoryError()])
def test_one_that_cannot_be_started(error: BaseException) -> None:
    """Nothing is left half done."""
    FakeReplacement.refusal = error
    old = OldMaster()
    result = old.ask()
    assert result.error is not None and "cannot be started" in str(result.error)
    assert old.side.state is Out.IDLE and not old.side.under_way
    FakeReplacement.refusal = None
    old.ask()
    assert old.side.state is Out.STARTING


def test_a_late_one_is_dismissed_and_there_is_no_third_master() -> None:
    """The next one waits until it has ended, and what it says meanwhile counts for nothing."""
    old = OldMaster(timeout=10)
    old.ask()
    late = FakeReplacement.made[0]
    late.says("begun")
    old.inbox.pass_time(10)
    assert old.side.state is Out.IDLE and late.was_ended == "graceful"
    late.says("ready", taken=[])
    late.says("release")
    assert old.side.state is Out.IDLE and not old.side.may_end
    second = old.ask()
    assert old.side.state is Out.WAITING and len(FakeReplacement.made) == 1
    late.dies(FAILED)
    assert old.side.state is Out.STARTING and len(FakeReplacement.made) == 2 and not second.done


def test_one_that_was_ready_in_time_is_not_late() -> None:
    """Where this master could not hear it, being stopped."""
    old = OldMaster(timeout=10)
    result = old.ask()
    new = FakeReplacement.made[0]
    new.unread.append({"t": "ready", "taken": []})
    old.inbox.pass_time(10)
    assert old.side.state is Out.HANDED_OVER and result.wait() == new.pid


def test_all_who_ask_get_one_replacement() -> None:
    """And the same answer."""
    old = OldMaster()
    results = [old.ask() for _ in range(3)]
    assert len(FakeReplacement.made) == 1
    FakeReplacement.made[0].says("ready", taken=[])
    assert {result.wait() for result in results} == {FakeReplacement.made[0].pid}


def test_a_restart_soon_after_the_start_waits() -> None:
    """To the end of the threshold, and says so once."""
    old = OldMaster(threshold=5)
    old.ask(age=2)
    old.ask(age=3)
    assert old.announcer.said == [("cyclic restart", 3)] and not FakeReplacement.made
    old.inbox.pass_time(3)
    assert len(FakeReplacement.made) == 1


MESSAGES = ("begun", "ready", "release", "reopen logs", "nonsense", "totals", "dismissed")


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("state", Out)
def test_every_message_in_every_state_of_the_old_master(state: Out, message: str) -> None:
    """Only `ready` of a replacement that is starting moves anything; a second one, or a late one, does not."""
    old = OldMaster()
    new = old.in_state(state) or FakeReplacement(None, None, old.side._heard, old.side._died, old.side._lost)
    old.calls.clear()
    new.says(message, taken=["a"])
    moved = state is Out.STARTING and message == "ready"
    assert old.side.state is (Out.HANDED_OVER if moved else state)
    assert old.side.state is state or old.side.state in OUTGOING_MOVES[state]
    assert "resume" not in old.calls


@pytest.mark.parametrize("status", [CLOSED, FAILED, KILLED])
@pytest.mark.parametrize("state", Out)
def test_a_stranger_s_death_moves_nothing(state: Out, status: int) -> None:
    """One that was dismissed ends late."""
    old = OldMaster()
    old.in_state(state)
    FakeReplacement(None, None, old.side._heard, old.side._died, old.side._lost).dies(status)
    assert old.side.state is state


@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.parametrize("state", Out)
def test_closing_in_every_state(state: Out, graceful: bool) -> None:
    """One that has not taken over is dismissed, and this master waits for its end; one that has, serves on."""
    old = OldMaster()
    new = old.in_state(state)
    old.side.cancel("the cluster is closing", graceful)
    if state is Out.HANDED_OVER:
        assert new is not None and new.was_ended is None and old.side.state is state
        return
    assert old.side.state is Out.IDLE
    if new is not None:
        assert new.was_ended == ("graceful" if graceful else "at once") and not old.side.may_end
        new.dies(FAILED)
    assert old.side.may_end
    old.waits = False
    for act in old.blocked:  # the older master ends now: too late
        act()
    assert old.side.state is Out.IDLE and (new is not None or not FakeReplacement.made)


def test_what_is_dismissed_is_gone_when_this_master_is() -> None:
    """It would take our end for our death, and carry on."""
    old = OldMaster()
    new = old.in_state(Out.STARTING)
    old.side.cancel("the supervisor failed", graceful=False)
    old.side.finish()
    assert new is not None and new.was_ended == "now"


def test_one_that_says_nothing_any_more() -> None:
    """Before it is ready that is its end; afterwards it is judged by its process alone."""
    for state, moved in ((Out.STARTING, True), (Out.HANDED_OVER, False)):
        old = OldMaster()
        new = old.in_state(state)
        assert new is not None
        new.lost(new, "end of file")
        old.inbox.pass_time(1)
        assert (old.side.state is Out.IDLE) is moved


# -- the new master


class FakeChannel:
    """The connection to the old master."""

    made: list[FakeChannel] = []

    def __init__(self, connection: Any, heard: Any, lost: Any) -> None:
        self.heard, self.lost, self.open = heard, lost, True
        self.sent: list[str] = []
        FakeChannel.made.append(self)

    def start(self) -> None:
        pass

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message["t"])


class NewMaster:
    """The owner of an `Incoming`."""

    def __init__(self, replaces: bool = True) -> None:
        self.announcer = FakeAnnouncer()
        self.calls: list[Any] = []
        predecessor = Predecessor(None, {"t": "hello", "pid": 99, "data": {"a": 1}}) if replaces else None
        self.side = incoming.Incoming(
            predecessor, {"a"}, FakeInbox(), self.announcer, self, self,  # type: ignore[arg-type]
        )
        self.side.begin()
        self.old = FakeChannel.made[-1] if replaces else None

    def inherit(self, totals: dict[str, int]) -> None:
        self.calls.append(("inherit", totals))

    def took_over(self) -> None:
        self.calls.append("took over")

    def dismissed(self) -> None:
        self.calls.append("dismissed")

    def passed_on(self, number: int) -> None:
        self.calls.append(("signal", number))

    def reopen(self) -> None:
        self.calls.append("reopen")

    def in_state(self, state: In) -> NewMaster:
        assert self.old is not None
        if state in (In.OFFERED, In.IN_POWER, In.ALONE):
            self.side.ready()
        if state in (In.IN_POWER, In.ALONE):
            self.old.heard({"t": "totals", "totals": {}})
        if state is In.ALONE:
            self.old.lost("end of file")
        if state is In.DISMISSED:
            self.old.heard({"t": "dismissed"})
        assert self.side.state is state
        self.calls.clear()
        self.announcer.said.clear()
        return self


@pytest.fixture(autouse=True)
def _fake_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "Channel", FakeChannel)
    FakeChannel.made = []


def test_a_master_that_was_started_afresh_is_in_power() -> None:
    """And says nothing of an old one."""
    new = NewMaster(replaces=False)
    new.side.ready()
    assert new.side.in_power and new.side.alone and new.side.pid is None and new.announcer.said == []
    done: list[bool] = []
    new.side.once_alone(lambda: done.append(True))
    assert done


def test_the_service_is_ours_with_the_answer() -> None:
    """Not when we are ready: the old master may have decided otherwise."""
    new = NewMaster()
    assert new.old is not None
    new.side.ready()
    assert not new.side.in_power and "took over" not in new.calls and new.old.sent == ["begun", "ready"]
    new.old.heard({"t": "totals", "totals": {"requests_total": 9}})
    assert new.side.in_power and "took over" in new.calls and new.announcer.names() == ["restart"]
    new.old.heard({"t": "given up"})
    new.old.lost("end of file")
    assert new.announcer.names() == ["restart", "handed over", "old master gone"]


def test_the_old_master_dies_before_we_are_ready() -> None:
    """The service is ours at once, `restart` comes when we are ready."""
    new = NewMaster()
    assert new.old is not None
    new.old.lost("end of file")
    assert new.side.in_power and "took over" in new.calls and new.announcer.names() == ["old master gone"]
    new.side.ready()
    assert new.announcer.names() == ["old master gone", "restart", "handed over"]


@pytest.mark.parametrize("message", ["totals", "given up", "signal", "reopen logs", "dismissed", "nonsense"])
@pytest.mark.parametrize("state", In)
def test_every_message_in_every_state_of_the_new_master(state: In, message: str) -> None:
    """Who is not in power takes no signal; who is cannot be dismissed."""
    new = NewMaster().in_state(state)
    assert new.old is not None
    new.old.heard({"t": message, "totals": {}, "number": 15})
    expected = state
    if message == "totals" and state is In.OFFERED:
        expected = In.IN_POWER
    if message == "dismissed" and state in (In.BORROWED, In.OFFERED):
        expected = In.DISMISSED
    assert new.side.state is expected
    assert expected is state or expected in INCOMING_MOVES[state]
    assert (("signal", 15) in new.calls) is (message == "signal" and state in (In.IN_POWER, In.ALONE))
    assert ("took over" in new.calls) is (expected is In.IN_POWER and state is In.OFFERED)
    assert ("dismissed" in new.calls) is (expected is In.DISMISSED and state is not In.DISMISSED)


@pytest.mark.parametrize("state", [In.BORROWED, In.OFFERED, In.IN_POWER, In.DISMISSED])
def test_end_of_file_in_every_state(state: In) -> None:
    """It is the old master's death, unless we were dismissed."""
    new = NewMaster().in_state(state)
    assert new.old is not None
    new.old.lost("end of file")
    assert new.side.state is (state if state is In.DISMISSED else In.ALONE)
    assert ("took over" in new.calls) is (state in (In.BORROWED, In.OFFERED))


def test_the_old_master_is_released_once_and_only_by_the_one_in_power() -> None:
    """Before a restart of ours, which waits for its end."""
    for state in (In.BORROWED, In.OFFERED, In.DISMISSED):
        new = NewMaster().in_state(state)
        new.side.release()
        assert new.old is not None and "release" not in new.old.sent
    new = NewMaster().in_state(In.IN_POWER)
    assert new.old is not None
    done: list[bool] = []
    new.side.once_alone(lambda: done.append(True))
    new.side.release()
    assert new.old.sent.count("release") == 1 and not done
    new.old.lost("end of file")
    assert done == [True]


# -- signals on two ways


def test_a_signal_and_its_copy_are_one() -> None:
    """In either order, within a second, and each copy once."""
    now = 100.0
    copies = Copies(lambda: now)
    assert not copies.is_copy(15, passed_on=False)
    assert copies.is_copy(15, passed_on=True)
    assert not copies.is_copy(15, passed_on=True)
    assert copies.is_copy(15, passed_on=False)
    assert not copies.is_copy(15, passed_on=False) and not copies.is_copy(2, passed_on=True)


def test_a_second_signal_of_one_way_is_a_second_one() -> None:
    """Ctrl-C twice: each comes on both ways."""
    now = 100.0
    copies = Copies(lambda: now)
    assert [copies.is_copy(2, way) for way in (False, True, False, True)] == [False, True, False, True]


def test_later_than_a_second_it_is_another_one() -> None:
    """The clock decides."""
    now = 100.0
    copies = Copies(lambda: now)
    assert not copies.is_copy(15, passed_on=True)
    now += 1.01
    assert not copies.is_copy(15, passed_on=False)
