"""The loop of the master process: one inbox of things that happened, one place that acts on them.

Everything here runs in the main greenlet, one item at a time: nothing is locked, and workers are forked from here only.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import gevent

from . import host, output
from .announcer import FAILURES, Announcer
from .channel import Message
from .complaints import Complaints
from .crew import Crew, ForkedChild
from .errors import EXIT_CLOSED, EXIT_FAILED, EXIT_NO_WORKERS, WouldBlock
from .events import Emitter
from .inbox import Inbox, Timer
from .notify import notify
from .plan import Plan
from .reloading import Reloading
from .renewal import Renewal
from .results import Result
from .signals import AT_ONCE, Watchers, name
from .sizing import Sizing
from .states import MASTER_MOVES, SERVING, MasterState, move
from .succession import Succession
from .system import System
from .takeover import Takeover
from .workers.handle import WorkerHandle


class Supervisor:
    """Runs one cluster, from the first fork to the last death."""

    def __init__(self, plan: Plan, emitter: Emitter, complaints: Complaints) -> None:
        self.state = MasterState.NEW
        self.started = 0.0
        self.exit_code = EXIT_CLOSED
        self._plan = plan
        self._settings = plan.settings
        self._emitter = emitter
        self._complaints = complaints
        self._system = System()
        self._inbox = Inbox()
        self.announcer = Announcer(emitter)
        self.crew = Crew(
            self._system, self._inbox, emitter, self.announcer, complaints, plan.settings,
            self._changed, self._give_up, self._message,
        )
        self.crew.on_fork = self._let_go
        self._main = gevent.getcurrent()
        self._holding = False  # the loop cannot go on before the handlers that run now are done
        self._watchers: Watchers | None = None
        self._sizing = Sizing(self.crew, self._in_turn, self._changed)
        self._reloading = Reloading(
            self._system, self._inbox, self.crew, self.announcer, self._settings["startup timeout"], self._changed
        )
        self._succession = Succession(
            self._system, self._inbox, self.announcer, plan.listeners, plan.settings, self._gather, self._totals,
            self._end_workers, self._changed, self._reopen,
        )
        self._takeover = Takeover(
            plan.predecessor, plan.taken, self.announcer, self.crew.scoreboard, lambda: self._inbox.put(self._reopen)
        )
        self._operations: dict[str, Callable[..., None]] = {
            "spawn": self._sizing.spawn, "remove": self._sizing.remove, "resize": self._sizing.resize,
            "restart workers": self._sizing.restart_workers, "kill": self.kill, "reload": self.reload,
            "restart": self.restart, "close": self.close, "destroy": self.destroy, "reopen logs": self.reopen_logs,
        }
        self._close_timer: Timer | None = None
        self._close_results: list[Result] = []
        self._ended = False

    # -- the loop

    def run(self) -> int:
        """Run until the cluster has closed; returns the exit code. Raises `ForkedChild` in each worker."""
        try:
            self._watchers = Watchers(self._plan.signals, lambda caught: self._inbox.put(self._signalled, caught))
            self._system.hangup_ignored = self._watchers.hangup_was_ignored
            self._begin()
            while not self._ended:
                act, args = self._inbox.take()
                act(*args)
        except ForkedChild:
            raise
        except BaseException:  # noqa: BLE001 - whatever it is, no worker may be left behind
            output.say(traceback.format_exc())
            self._complaints.say("the supervisor failed; killing all workers")
            self.crew.abandon()
            self._succession.cancel("the supervisor failed")
            self.exit_code = EXIT_FAILED
        self._leave()
        return self.exit_code

    def _leave(self) -> None:
        self._go(MasterState.CLOSED, force=True)
        self._plan.listeners.close()
        self._takeover.close()
        if self._watchers is not None:
            self._watchers.close()
        self.announcer.close()
        self._sizing.abandon("the cluster has closed")
        for result in [*self._close_results, *self._inbox.rest(Result)]:
            result.fail("the cluster has closed")

    def _go(self, state: MasterState, force: bool = False) -> None:
        if self.state is not state:
            self.state = state if force else move(MASTER_MOVES, self.state, state)

    def guard(self) -> None:
        """Raise `WouldBlock` where waiting for an operation would stop the loop that has to do it."""
        here = gevent.getcurrent()
        if here is self._main or here is gevent.get_hub():
            raise WouldBlock("wait() in the supervisor itself would never return")
        if self._holding and self.announcer.is_current():
            raise WouldBlock("the supervisor waits for this handler; wait() here would never return")

    def ask(self, operation: str, *args: Any) -> Result:
        """Queue an operation; the way in for handlers, plugins and other greenlets."""
        result = Result(operation, self.guard)
        if self._ended or (self.state is MasterState.CLOSED and operation != "destroy"):
            result.fail("the cluster has closed")
        else:
            self._inbox.put(self._operations[operation], result, *args)
        return result

    def _say_and_hold(self, event: str, args: tuple[Any, ...], then: Callable[..., None], *rest: Any) -> None:
        """Emit an event whose handlers have to be done before *then* runs. The loop itself goes on."""
        self._holding = True
        self.announcer.say(event, *args)
        self.announcer.then(self._inbox.put, self._release, then, rest)

    def _release(self, then: Callable[..., None], rest: tuple[Any, ...]) -> None:
        self._holding = False
        then(*rest)

    # -- boot

    def _begin(self) -> None:
        self._go(MasterState.STARTING)
        self.started = self._system.now()
        os.environ["CLUSTER_MASTER_PID"] = str(self._system.pid())
        if self._system.threads() > 1:
            self._complaints.say(
                f"this process runs {self._system.threads()} threads; forking workers from it is unsafe. "
                "Start threads in the workers, or before them none"
            )
        self._takeover.begin()
        plan = self._plan
        Renewal(self._inbox, self.crew, plan.listeners, self._complaints, plan.tls, plan.base, plan.usable_tls)
        self._say_and_hold("start", (), self._fork_first)

    def _fork_first(self) -> None:
        if self.state is not MasterState.STARTING:
            return
        if self._plan.callback is not None:
            self.announcer.then(self._call_back)
        self.crew.board(self._plan.workers)
        self.announcer.say("listening")
        self._changed()

    def _call_back(self) -> None:
        try:
            if self._plan.callback is not None:
                self._plan.callback()
        except FAILURES as error:
            self._complaints.handler_failed("listen", self._plan.callback or repr, error)

    def _all_ready(self) -> None:
        self._go(MasterState.RUNNING)
        self.announcer.say("ready")
        main = "" if self._takeover.pid is None else f"MAINPID={self._system.pid()}\n"
        notify(f"{main}READY=1", f"STATUS={self.crew.target} workers, generation {self.crew.generation}")
        self._takeover.ready()

    def _let_go(self) -> None:
        """In a forked child: the connections to other masters are not ours."""
        self._takeover.abandon()
        self._succession.abandon()

    # -- what comes in

    def _signalled(self, caught: int) -> None:
        assert self._watchers is not None
        if caught == signal.SIGHUP and self._watchers.terminal.hung_up():
            if not self._watchers.hangup_was_ignored:
                self.close(Result("close"))
            return
        command = self._plan.signals.get(caught)
        if command is not None:
            try:
                self._plan.command(command)
            except FAILURES as error:
                self._complaints.handler_failed(name(caught), self._plan.command, error)

    def _message(self, worker: WorkerHandle, message: Message) -> None:
        if message["t"] == "call":
            self._plan.calls.take(worker, message)

    def _changed(self) -> None:
        """A worker came, got ready or went: see what can go on now."""
        if self.state is MasterState.STARTING and self.crew.complete():
            self._all_ready()
        self._reloading.look()
        self._sizing.look()
        if self.state in (MasterState.CLOSING, MasterState.DESTROYING) and not self.crew.members:
            self._all_gone()

    def _give_up(self, deaths: int) -> None:
        self._complaints.gave_up(deaths)
        self.exit_code = EXIT_NO_WORKERS
        self.destroy(Result("destroy"))

    def _ending(self, result: Result) -> bool:
        if self._close_timer is not None or self.state not in SERVING:
            result.fail("the cluster is closing")
            return True
        return False

    def _in_turn(self, result: Result, operation: Callable[[], None]) -> None:
        """Do it now, or after the reload that is under way: two at once would leave the count wrong."""

        def act() -> None:
            if not self._ending(result):
                operation()

        self._reloading.in_turn(act)

    # -- workers as they are

    def kill(self, result: Result, number: int) -> None:
        """Send a signal to all workers."""
        self.crew.signal_all(number)
        result.succeed()

    def reopen_logs(self, result: Result) -> None:
        """Tell whoever writes logs to open them anew, also in the other master while there are two."""
        self._succession.reopen_logs()
        self._takeover.reopen_logs()
        self._reopen()
        result.succeed()

    def _reopen(self) -> None:
        self.announcer.say("reopen logs")
        for worker in self.crew.members.values():
            self.crew.send(worker, {"t": "reopen logs"})

    # -- new workers

    def reload(self, result: Result, number: int) -> None:
        """Replace the workers by a new generation."""
        if self._ending(result):
            return
        if self._succession.started:
            result.fail("a restart is under way")
            return
        if self._plan.same_code is not None:
            self._complaints.say(self._plan.same_code)
        self._reloading.begin(result, number)

    # -- a new master

    def restart(self, result: Result, number: int) -> None:
        """Replace the master; the old workers then end by signal *number*."""
        if self._ending(result):
            return
        if host.restart_reloads(self._settings["restart"]):
            self.reload(result, number)
            return
        if self._takeover.pid is not None and self.state is MasterState.STARTING:
            # were ours ready before we are, the old master would take our end for a failure, and serve on beside it
            self._succession.refuse(result, "this master has not taken over yet")
            return
        self._succession.ask(result, number, self._system.now() - self.started)

    def _gather(self, result: Result, then: Callable[[dict[str, Any]], None]) -> None:
        """Let plugins put what a new master should know into a dictionary, when no reload is under way any more."""

        def begin() -> None:
            data: dict[str, Any] = {}
            self._say_and_hold("restarting", (data,), then, data)

        self._in_turn(result, begin)

    # -- the end

    def close(self, result: Result) -> None:
        """End: in-flight requests finish, then the master goes, too."""
        if self.state in SERVING:
            self._close_results.append(result)
            delay = self._settings["close delay"]
            if self._close_timer is not None:  # asked for a second time: cut the delay short
                self._close_timer.cancel()
                self._stop_serving()
            elif delay:
                self.announcer.say("closing")
                notify("STOPPING=1")
                self._succession.cancel("the cluster is closing")
                self._close_timer = self._inbox.later(delay, self._stop_serving)
            else:
                self._end_workers(signal.SIGQUIT)
        elif self._ended:
            result.succeed()
        else:
            self._close_results.append(result)

    def _stop_serving(self) -> None:
        if self.state in SERVING:
            self._end_workers(signal.SIGQUIT)

    def destroy(self, result: Result) -> None:
        """End at once: SIGTERM, and SIGKILL half a second later."""
        self._close_results.append(result)
        if self.state in SERVING:
            self._end_workers(signal.SIGTERM)
        elif self.state is MasterState.CLOSING:
            self._go(MasterState.DESTROYING)
            self.announcer.say("kill", "SIGTERM")
            self.crew.retire_all(signal.SIGTERM)
            self._changed()
        elif self.state is MasterState.CLOSED:  # a handler of `close` takes too long for somebody
            self._finish()

    def _end_workers(self, number: int) -> None:
        if self._close_timer is None:
            self.announcer.say("closing")
        else:
            self._close_timer.cancel()
        if not self._succession.done:
            notify("STOPPING=1")
            self._succession.cancel("the cluster is closing")
        self._go(MasterState.DESTROYING if number in AT_ONCE else MasterState.CLOSING)
        self.crew.maintaining = False
        self._sizing.abandon("the cluster is closing")
        self._reloading.abandon("the cluster is closing")
        mask = 0
        for index, listener in enumerate(self._plan.listeners):
            if not listener.goes_on and index < 64:
                listener.refuse()
                mask |= 1 << index
        self.crew.scoreboard.emptying = mask
        self.announcer.say("kill", name(number))
        self.crew.retire_all(number)
        self._changed()

    def _all_gone(self) -> None:
        """No worker is left."""
        self._succession.finish()
        self._plan.listeners.close()
        self._go(MasterState.CLOSED)
        self._say_and_hold("close", (), self._finish)

    def _finish(self) -> None:
        self._ended = True
        for result in self._close_results:
            result.succeed()

    # -- what it is like

    @property
    def predecessor_pid(self) -> int | None:
        """The old master's."""
        return self._takeover.pid

    @property
    def successor_pid(self) -> int | None:
        """The new master's, once it serves."""
        return self._succession.pid

    def _totals(self) -> dict[str, int]:
        return self.crew.scoreboard.sums([worker.row for worker in self.crew.members.values()])

    def status(self) -> dict[str, Any]:
        """A snapshot of everything countable."""
        totals = self._totals()
        self._succession.share(totals)
        return {
            "state": self.state.value,
            "pid": self._system.pid(),
            "uptime": self._system.now() - self.started,
            "generation": self.crew.generation,
            "target": self.crew.target,
            "listeners": [str(listener) for listener in self._plan.listeners],
            "totals": totals,
            "workers": self.crew.status(),
        }

