"""The loop of the master process: one inbox of things that happened, one place that acts on them.

Everything here runs in the main greenlet, one item at a time: nothing is locked, and workers are forked from here only.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from . import host, output
from .announcer import FAILURES, Announcer
from .channel import Message
from .complaints import Complaints
from .crew import Crew, ForkedChild
from .errors import EXIT_CLOSED, EXIT_FAILED, EXIT_NO_WORKERS, WouldBlock
from .events import Emitter
from .handover.incoming import Incoming
from .handover.outgoing import Outgoing, Policy
from .handover.protocol import Copies
from .inbox import Inbox, Timer
from .notify import notify
from .plan import Plan
from .reloading import Reloading
from .renewal import Renewal
from .results import Result
from .signals import AT_ONCE, Watchers, name
from .sizing import Sizing
from .states import MASTER_MOVES, SERVING, MasterState, move
from .system import System
from .workers.handle import WorkerHandle

#: default of the setting `probation`, in seconds
PROBATION = 5.0
#: seconds until a restart says what it waits for
PATIENCE = 1.0


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
            self.changed, self._give_up, self._message,
        )
        self.crew.on_fork = self._let_go
        self.crew.may_give_up = lambda: plan.predecessor is None or not self._incoming.in_power
        self.crew.on_hopeless = self._cannot_start
        self._main = gevent.getcurrent()
        self._holding = False  # the loop cannot go on before the handlers that run now are done
        self._watchers: Watchers | None = None
        self._sizing = Sizing(self.crew, self._in_turn, self.changed)
        self._reloading = Reloading(
            self._system, self._inbox, self.crew, self.announcer, self._settings["startup timeout"], self.changed
        )
        self._outgoing = Outgoing(
            self._system, self._inbox, self.announcer, plan.listeners, _policy(plan.settings), self
        )
        self._incoming = Incoming(
            plan.predecessor, plan.taken, self._inbox, self.announcer, self.crew.scoreboard, self
        )
        self._copies = Copies(self._system.now)
        self._before_handover = self.state
        self._resumed = False  # after another one was the main process
        self._operations: dict[str, Callable[..., None]] = {
            "spawn": self._sizing.spawn, "remove": self._sizing.remove, "resize": self._sizing.resize,
            "restart workers": self._sizing.restart_workers, "kill": self.kill, "reload": self.reload,
            "restart": self.restart, "close": self.close, "destroy": self.destroy, "reopen logs": self.reopen_logs,
        }
        #: signal number → what was asked for by it, where asking again means something else
        self._asked: dict[int, Result] = {}
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
                self._step()
        except ForkedChild:
            raise
        except BaseException:  # noqa: BLE001 - whatever it is, no worker may be left behind
            output.say(traceback.format_exc())
            self._complaints.say("the supervisor failed; killing all workers")
            self.crew.abandon()
            self._outgoing.cancel("the supervisor failed", graceful=False)
            self.exit_code = EXIT_FAILED
        self._leave()
        return self.exit_code

    def _step(self) -> None:
        """Do one thing. That there is no memory for it costs that thing, not what serves."""
        args: tuple[Any, ...] = ()
        try:
            act, args = self._inbox.take()
            act(*args)
        except MemoryError as error:
            if self.state not in SERVING:
                raise
            for result in args:
                if isinstance(result, Result) and not result.done:
                    result.fail("out of memory")
            self.crew.put_off("something that the master was about to do is dropped", error)

    def _leave(self) -> None:
        self._go(MasterState.CLOSED, force=True)
        self._outgoing.finish()
        self._plan.listeners.close()
        self._incoming.close()
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
        self._incoming.begin()
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
        self.changed()

    def _call_back(self) -> None:
        try:
            if self._plan.callback is not None:
                self._plan.callback()
        except FAILURES as error:
            self._complaints.handler_failed("listen", self._plan.callback or repr, error)

    def _all_ready(self) -> None:
        self._go(MasterState.RUNNING)
        self.announcer.say("ready")
        self._incoming.ready()
        if self._incoming.in_power:
            self._announce_service()

    def _announce_service(self) -> None:
        """Tell the service manager that this process is the one, and serves."""
        main = "" if self._incoming.pid is None and not self._resumed else f"MAINPID={self._system.pid()}\n"
        notify(f"{main}READY=1", f"STATUS={self.crew.target} workers, generation {self.crew.generation}")

    def _let_go(self) -> None:
        """In a forked child: the connections to other masters are not ours."""
        self._incoming.abandon()
        self._outgoing.abandon()

    # -- what comes in

    def _signalled(self, caught: int, passed_on: bool = False) -> None:
        assert self._watchers is not None
        if self._incoming.pid is not None and self._copies.is_copy(caught, passed_on):
            return
        if caught == signal.SIGHUP and self._watchers.terminal.hung_up():
            if not self._watchers.hangup_was_ignored:
                self.close(Result("close"))
            return
        commands = self._plan.signals.get(caught, ())
        if not commands:
            return
        if self._outgoing.handed_over and commands != ("reopen logs",):
            self._outgoing.pass_on(caught)  # for those who know our pid, it means the service
            if commands[0] not in ("close", "destroy"):
                return
        first = self._asked.pop(caught, None)
        again = first is not None and not first.done
        if commands == ("close", "destroy") and caught == signal.SIGINT and not again and host.in_foreground():
            self._complaints.to_terminal("Ctrl-C again to end at once")
        try:
            result = self._plan.command(commands[-1 if again else 0])
        except FAILURES as error:
            self._complaints.handler_failed(name(caught), self._plan.command, error)
            return
        if isinstance(result, Result) and len(commands) > 1:
            self._asked[caught] = first if first is not None and again else result

    def _message(self, worker: WorkerHandle, message: Message) -> None:
        if message["t"] == "call":
            self._plan.calls.take(worker, message)

    def changed(self) -> None:
        """A worker came, got ready or went: see what can go on now."""
        if self.state is MasterState.STARTING and self.crew.complete():
            self._all_ready()
        self._reloading.look()
        self._sizing.look()
        if self.crew.members:
            return
        if self.state is MasterState.HANDED_OVER:
            self._outgoing.share(self.totals())
        if (self.state in (MasterState.CLOSING, MasterState.DESTROYING, MasterState.HANDED_OVER)
                and self._outgoing.may_end):
            self._all_gone()

    def _give_up(self, deaths: int) -> None:
        self._complaints.gave_up(deaths)
        self.exit_code = EXIT_NO_WORKERS
        self.destroy(Result("destroy"))

    def _cannot_start(self) -> None:
        """No worker was ever ready, and none can be: end; or wait for a reload, unless an old master serves."""
        waits = self._plan.mended_by if self._plan.predecessor is None else None
        self._complaints.cannot_start(waits)
        if waits is None:
            self.exit_code = EXIT_NO_WORKERS
            self.destroy(Result("destroy"))
        else:
            self._retire_all(signal.SIGTERM)

    def _ending(self, result: Result) -> bool:
        if self.state is MasterState.HANDED_OVER:
            result.fail("a new master has taken over")
            return True
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

    def kill(self, result: Result, number: int, slot: int | None) -> None:
        """Send a signal to all workers, or to those in *slot*."""
        self.crew.signal(number, slot)
        result.succeed()

    def reopen_logs(self, result: Result) -> None:
        """Tell whoever writes logs to open them anew, also in the other master while there are two."""
        self._outgoing.reopen_logs()
        self._incoming.reopen_logs()
        self.reopen()
        result.succeed()

    def reopen(self) -> None:
        """Have handlers and workers open their logs anew."""
        self.announcer.say("reopen logs")
        for worker in self.crew.members.values():
            self.crew.send(worker, {"t": "reopen logs"})

    # -- new workers

    def reload(self, result: Result, number: int) -> None:
        """Replace the workers by a new generation."""
        if self._ending(result):
            return
        if self._outgoing.under_way:
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
        if not self._incoming.in_power:
            # were ours ready before we are, the old master would take our end for a failure, and serve on beside it
            self._outgoing.refuse(result, "this master has not taken over yet")
            return
        self._outgoing.ask(result, number, self._system.now() - self.started)

    def when_alone(self, act: Callable[[], None]) -> None:
        """Release the old master, and call *act* once it has ended."""
        if self._incoming.alone:
            act()
            return
        said = self._inbox.later(PATIENCE, self._complaints.say,
                                 f"restart: waiting until the old master (pid {self._incoming.pid}) has ended")

        def go_on() -> None:
            said.cancel()
            act()

        self._incoming.once_alone(go_on)

    def gather(self, result: Result, then: Callable[[dict[str, Any]], None]) -> None:
        """Let plugins put what a new master should know into a dictionary, when no reload is under way any more."""

        def begin() -> None:
            data: dict[str, Any] = {}
            self._say_and_hold("restarting", (data,), then, data)

        self._in_turn(result, begin)

    def hand_over(self, number: int, taken: Iterable[str]) -> None:
        """A new master serves: our workers finish what they have in flight."""
        self._before_handover = self.state
        self.announcer.say("closing")
        self.announcer.then(self._inbox.put, self._outgoing.given_up)
        self._go(MasterState.HANDED_OVER)
        self._stop_keeping("a new master has taken over")
        self.crew.scoreboard.emptying = self._plan.listeners.hand_over(taken)
        self._retire_all(number)

    def resume(self) -> None:
        """The new master has died: serve again, with workers forked anew."""
        self._go(self._before_handover)
        self._resumed = True
        for failure in self._plan.listeners.take_back():
            self._complaints.say(f"{failure}; it stays closed until the next restart")
        self.crew.scoreboard.emptying = 0
        self.announcer.say("resumed")
        self.crew.hopeless = False
        self.crew.maintaining = True
        self.crew.maintain()
        self._announce_service()

    def took_over(self) -> None:
        """The old master has handed over to us, or died: sockets and service are ours."""
        for failure in self._plan.listeners.take_over():
            self._complaints.say(failure)
        if self.state is MasterState.RUNNING:
            self._announce_service()
        elif self.state not in SERVING:  # it was asked to end meanwhile, and so is the service
            self.crew.scoreboard.emptying = self._plan.listeners.shut()
            self._incoming.release()

    def dismissed(self) -> None:
        """The old master serves on without us."""
        self.exit_code = EXIT_FAILED
        if self.state in SERVING:
            for worker in list(self.crew.members.values()):
                # one that serves nobody may never get ready, either
                if not worker.ready and not self.crew.scoreboard.active[worker.row]:
                    self.crew.retire(worker, signal.SIGTERM)
            self._end_workers(signal.SIGQUIT)

    def passed_on(self, number: int) -> None:
        """A signal came to the old master that means the service."""
        self._signalled(number, passed_on=True)

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
                self._stop_being_the_service(graceful=True)
                self._close_timer = self._inbox.later(delay, self._stop_serving)
            else:
                self._end_workers(signal.SIGQUIT)
        elif self._ended:
            result.succeed()
        else:
            self._close_results.append(result)
            self._outgoing.release()

    def _stop_serving(self) -> None:
        if self.state in SERVING:
            self._end_workers(signal.SIGQUIT)

    def destroy(self, result: Result) -> None:
        """End at once: SIGTERM, and SIGKILL half a second later."""
        self._close_results.append(result)
        if self.state in SERVING:
            self._end_workers(signal.SIGTERM)
        elif self.state in (MasterState.CLOSING, MasterState.HANDED_OVER):
            self._go(MasterState.DESTROYING)
            self._retire_all(signal.SIGTERM)
            self._outgoing.release()
        elif self.state is MasterState.CLOSED:  # a handler of `close` takes too long for somebody
            self._finish()

    def _end_workers(self, number: int) -> None:
        if self._close_timer is None:
            self.announcer.say("closing")
        else:
            self._close_timer.cancel()
            self._close_timer = None
        self._stop_being_the_service(graceful=number not in AT_ONCE)
        self._go(MasterState.DESTROYING if number in AT_ONCE else MasterState.CLOSING)
        self._stop_keeping("the cluster is closing")
        self.crew.scoreboard.emptying = self._plan.listeners.shut()
        self._retire_all(number)

    def _stop_being_the_service(self, graceful: bool) -> None:
        """Tell the service manager, the old master, and a new one on its way."""
        if self._incoming.in_power:
            notify("STOPPING=1")
            self._incoming.release()
        self._outgoing.cancel("the cluster is closing", graceful)

    def _stop_keeping(self, reason: str) -> None:
        """Fill no slot again, and fail what is under way."""
        self.crew.maintaining = False
        self._sizing.abandon(reason)
        self._reloading.abandon(reason)

    def _retire_all(self, number: int) -> None:
        self.announcer.say("kill", name(number))
        self.crew.retire_all(number)
        self.changed()

    def _all_gone(self) -> None:
        """No worker is left."""
        if self._outgoing.ended:
            self._plan.listeners.reclaim()
        self._outgoing.finish()
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
        return self._incoming.pid

    @property
    def successor_pid(self) -> int | None:
        """The new master's, once it serves."""
        return self._outgoing.pid

    def totals(self) -> dict[str, int]:
        """What this master has counted in its whole life."""
        return self.crew.scoreboard.sums(self._rows())

    def _rows(self) -> list[int]:
        return [worker.row for worker in self.crew.members.values()]

    def recent_times(self) -> dict[str, int]:
        """How long the requests of the last minute took."""
        return self.crew.scoreboard.recent(self._rows())

    def status(self) -> dict[str, Any]:
        """A snapshot of everything countable."""
        totals = self.totals()
        self._outgoing.share(totals)
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


def _policy(settings: dict[str, Any]) -> Policy:
    probation = settings["probation"]
    if probation is None:
        probation = 0.0 if host.in_development() else PROBATION
    return Policy(settings["restart threshold"], settings["restart timeout"], probation, settings["timeout"])
