"""The worker process: become one, serve, drain, exit."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import gevent
import gevent.event

from .. import certificates, importer, output, servers
from ..channel import Channel, Message
from ..errors import ChannelError
from ..events import CATALOGUE, Emitter
from ..importer import Target
from ..kinds import Job, Kind, check
from ..listeners import Listener
from ..scoreboard import Scoreboard
from ..signals import IGNORED_BY_WORKERS
from ..signals import number as signal_number
from ..system import (
    SignalAlarm,
    System,
    flush_streams,
    set_title,
    tell_when_parent_dies,
    unblock_signals,
    undo_in_child,
)
from ..vhosts import VirtualHosts
from .failures import Failures, exit_code, is_lasting
from .forked import when_forked
from .identity import Identity, drop_privileges
from .log import logger_of
from .script import watch_end
from .termination import Termination, run_exit_hooks

#: seconds that a worker whose master has died gives to requests that are in flight, after `drain grace`
ORPHAN = 10.0
#: seconds between two messages that a draining worker still has open connections
WAITING = 2.0
#: seconds beyond `timeout` after which a draining worker ends by itself; a master that asked for it kills it sooner
AFTER_MASTER = 1.0
_MASTER_DIED = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGIO
#: seconds to send the last messages
FLUSH = 1.0

#: signals that may mean the end at once
TERMINATING = frozenset({signal.SIGTERM, signal.SIGINT})

_current: Worker | None = None


def current() -> Worker | None:
    """The worker that this process is; None in any other process."""
    return _current


class Orders(NamedTuple):
    """What every worker of a cluster is told by its master."""

    emitter: Emitter
    options: Mapping[str, Any]
    listeners: Iterable[Listener]
    #: signal number → commands, as the master has it
    signals: Mapping[int, tuple[str, ...]]
    #: directory that relative names are taken against
    base: str
    identity: Identity | None
    #: the master's, and what plugins have provided to it
    log: logging.Logger
    provided: Mapping[str, Any]


class Worker:
    """This process, a worker. What ``cluster.worker()`` and ``m.worker`` are."""

    def __init__(self, seat: Any, orders: Orders) -> None:
        self.id: int = seat.slot
        self.uid: int = seat.uid
        self.generation: int = seat.generation
        self.pid = os.getpid()
        self.options = orders.options
        #: the sockets to accept from, for a job or an abstract worker that serves by itself
        self.listeners = list(orders.listeners)
        #: set once the worker was asked to end
        self.closing = False
        #: plugins that want to hear of each connection and request: ``observer(event, data)``
        self.observers: list[Callable[[str, dict[str, Any]], None]] = []
        #: for the application: goes where `m.log` goes, such as ``master.log`` with ``logger()``, else to stderr
        self.log = logger_of(orders.log, seat.slot)
        self._orders = orders
        self._system = System()
        self._scoreboard: Scoreboard = seat.scoreboard
        self._row: int = seat.row
        self._emitter = orders.emitter
        self._main = gevent.getcurrent()
        self._stop = gevent.event.Event()
        self._grace: float = orders.options["drain grace"]
        self._in_job = False
        self._loading = False
        self._exit_code = 0
        self._said_ready = False
        self._termination = Termination(self._system, self._catch)
        self._adapter: servers.Adapter | None = None
        #: this is not the worker any more, but a process that the application forked from it
        self._forked = False
        #: signals with a handler of ours
        self._caught: list[int] = []
        ends_worker = orders.options["background failures"] == "exit"
        self._failures = Failures(self._tell, self._end_failed, ends_worker)
        self._channel = Channel(seat.connection, self._heard, self._orphaned)
        self._channel.start()

    # -- what applications use

    def ready(self) -> None:
        """Tell the master that this worker accepts requests; for the setting `ready` = `manual`."""
        if not self._said_ready:
            self._said_ready = True
            self._tell({"t": "ready"})

    def log_event(self, type: str, data: Any = None) -> None:
        """Log something of the application's own: where a plugin takes it, as ``redis_log()`` does, else in `log`.

        *data*: best what JSON can carry. Never waits for the master, and raises nothing.
        """
        take = self._orders.provided.get("log_event")
        if take is not None:
            take(type, data)
        else:
            self.log.info("%s: %r", type, data)

    def report(self, error: BaseException, data: Mapping[str, Any] | None = None) -> bool:
        """Tell the master of an exception that the application has dealt with: event `worker exception`, with
        ``handled`` true, so that ``mail()``, ``exceptions()`` and ``logger()`` have it.

        *data*: a table for who reads it, at most 100 rows; of values that are no texts the repr, each at most 1000
        characters. Never waits for the master; False when he has gone or has not read for long, and it is lost.
        Raises TypeError when *error* is no exception or *data* no mapping.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"report() takes an exception, not {error!r}")
        if data is not None and not isinstance(data, Mapping):
            raise TypeError(f"report() takes a mapping as data, not {data!r}")
        try:
            self._channel.offer(self._with_log(self._failures.handled(error, data or {})))
        except ChannelError:
            return False
        return True

    def call(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        """Run in the master the function exposed as *name*, or a command that workers may use; returns its result.

        Blocks the calling greenlet, at most *timeout* seconds. Raises `RemoteError` with the master's reason,
        `ChannelError` when there is no master any more, gevent.Timeout.
        """
        return self._channel.call(name, args).get(timeout=timeout)

    def tell(self, name: str, *args: Any) -> None:
        """The same without waiting. Raises `ChannelError` when there is no master, or it has not read for long."""
        self._channel.tell(name, args)

    def on(self, name: str, handler: Callable[..., Any] | None = None) -> Any:
        """Call *handler* at the event *name* in this worker; a decorator when *handler* is left out."""
        if handler is not None:
            self._emitter.add(name, handler)
            return self

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self._emitter.add(name, function)
            return function

        return decorate

    def __repr__(self) -> str:
        return f"<this worker {self.id} pid {self.pid} generation {self.generation}>"

    # -- becoming one

    def begin(self) -> None:
        """Say hello to the master, take the process's settings, run the handlers of `after fork`."""
        self._emitter.on_failure = self._handler_failed
        for event in CATALOGUE.values():
            if event.where != "worker":
                self._emitter.remove(event.name)  # the master's handlers are not for us
        os.environ["CLUSTER_WORKER"] = str(self.id)
        output.STDOUT.attach()  # before privileges are dropped: both may belong to somebody else
        output.STDERR.attach()
        self._failures.watch()
        self._install_signals()
        when_forked(self._caught, self._let_go)
        unblock_signals()
        self._tell({"t": "connected"})
        set_title(self.options["worker title"].replace("{n}", str(self.id)))
        if self.options["umask"] is not None:
            os.umask(self.options["umask"])
        if self._orders.identity is not None:
            drop_privileges(self._orders.identity)
        self._emitter.dispatch("after fork", self)

    def _install_signals(self) -> None:
        meaning = {number: commands[0] if commands else None for number, commands in self._orders.signals.items()}
        draining = {signal.SIGQUIT} | {number for number, command in meaning.items() if command == "close"}
        ignored = {number for number, command in meaning.items() if command not in ("close", "destroy")}
        ignored = (ignored | {signal_number(name) for name in IGNORED_BY_WORKERS}) - draining
        self._draining, self._ignored = draining, ignored
        for number in ignored - TERMINATING:
            self._catch(number, lambda caught: None)  # not SIG_IGN, which programs started from here would inherit
            signal.siginterrupt(number, False)
        loop = gevent.get_hub().loop
        self._watchers = []
        for number in draining - TERMINATING:
            watcher = loop.signal(number)
            watcher.start(self.drain)
            self._watchers.append(watcher)
        self._alarm = SignalAlarm()
        undo_in_child.append(self._unwatch_signals)
        for number in TERMINATING:
            # not through the hub: busy Python code has to be interrupted, too
            self._catch(number, self._asked_to_end)

    def _asked_to_end(self, number: int) -> None:
        """TERM or INT has come; in its handler. The master notes before its own that they mean the end at once."""
        if self._scoreboard.at_once[self._row] or number not in self._draining | self._ignored:
            self._termination.begin(number)
        elif number in self._draining:
            gevent.get_hub().loop.run_callback_threadsafe(self.drain)

    def _catch(self, number: int, act: Callable[[int], Any]) -> None:
        signal.signal(number, lambda caught, frame: act(caught))
        self._caught.append(number)

    def _unwatch_signals(self) -> None:
        self._alarm.close()
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()

    def _let_go(self) -> None:
        """In a process that the application forked: it must not speak for the worker, nor keep its address taken."""
        global _current
        _current = None
        self._forked = True
        self._channel.abandon()
        if self._adapter is not None:
            self._adapter.let_go()
            for listener in self.listeners:
                listener.socket.close()

    # -- serving

    def serve(self, server: Any) -> NoReturn:
        """Load *server* (an object, or the `Target` that a string names), serve until asked to end, and leave."""
        with self.fatal():
            self._loading = True
            if isinstance(server, Target):
                server = importer.load(server, self._orders.base)
            if isinstance(server, VirtualHosts):
                server = server.load(self._orders.base)
            is_job = check(server, bool(self.listeners)) is Kind.JOB
            if not is_job:
                self._serve_connections(server)
        if is_job:
            function = server.function if isinstance(server, Job) else server
            self._run_job(function)
        self._leave(self._exit_code)

    def _serve_connections(self, server: Any) -> None:
        context = servers.Context(
            self.listeners, self._scoreboard, self._row, self._scoreboard.in_flight(self._row), self._failed,
            self.options, self._orders.base, self.observers,
        )
        adapter = self._adapter = servers.adapt(server, context)
        adapter.start()
        self._serving()
        self._stop.wait()
        waiting = gevent.spawn_later(self._grace, self._tell_waiting, adapter)
        adapter.drain(self._grace)
        waiting.kill(block=False)

    def _tell_waiting(self, adapter: servers.Adapter) -> None:
        while adapter.connections():
            self._tell({"t": "waiting", "connections": adapter.connections()})
            gevent.sleep(WAITING)

    def _serving(self) -> None:
        self._loading = False
        if self.options["ready"] == "auto":
            self.ready()
        # a worker in a busy loop does not read the end of its channel; this interrupts it
        self._catch(_MASTER_DIED, lambda caught: signal.alarm(math.ceil(self._grace + ORPHAN)))
        tell_when_parent_dies(_MASTER_DIED)

    def _run_job(self, function: Callable[[Any], Any]) -> None:
        self._begin_job()
        with self.fatal():
            function(self)
        self._in_job = False

    def _begin_job(self) -> None:
        """Get ready, unless the worker was asked to end before there was anything to interrupt."""
        gevent.idle()  # a signal that came while the module was imported has been seen after this
        if self.closing:
            self._leave(self._exit_code)
        self._in_job = True
        self._serving()

    def serve_script(self) -> None:
        """Abstract worker: the rest of the script is the job. Prepares for its end and returns."""
        self._begin_job()
        watch_end(self._script_over, self._script_ended)

    def _script_over(self) -> None:
        self._in_job = False

    def _script_ended(self, error: BaseException | None) -> None:
        if error is not None:
            self._failures.report(error)
        self._emitter.dispatch("close")
        self._failures.finish()
        flush_streams()
        output.give_back(output.PATIENCE)
        self._channel.flush(FLUSH)
        if self._exit_code:  # something else had failed, whatever the script made of its end
            self._system.exit(self._exit_code)

    # -- ending

    def drain(self) -> None:
        """Asked to end: finish what is in flight, accept no more."""
        if self.closing:
            return
        self._close()
        if self._in_job:
            gevent.spawn(self._end_job)

    def _close(self) -> None:
        """Accept no more. A master that did not ask for it fills the slot again, and sets no deadline."""
        self.closing = True
        self._tell({"t": "ending", "code": self._exit_code})  # no news to a master that asked for it
        if self.options["timeout"]:
            self._deadline = gevent.get_hub().loop.timer(self.options["timeout"] + AFTER_MASTER)
            self._deadline.start(self._system.exit, 1)
        self._stop.set()

    def _end_job(self) -> None:
        handled = self._emitter.has("close")
        self._emitter.dispatch("close")
        self._emitter.remove("close")
        if not handled and self._in_job:
            self._exit_code = 0
            gevent.get_hub().loop.run_callback(self._interrupt_job)

    def _interrupt_job(self) -> None:
        if self._in_job:
            self._main.throw(SystemExit(0))

    def _orphaned(self, reason: str) -> None:
        """The master has died; nobody will kill us if this takes long."""
        killer = gevent.get_hub().loop.timer(self._grace + ORPHAN)
        killer.start(self._system.exit, 1)
        self._killer = killer
        self.drain()

    def _leave(self, code: int) -> NoReturn:
        if not self._forked:
            self._emitter.dispatch("close")
            self._failures.finish()
        run_exit_hooks()
        self._channel.flush(FLUSH)
        self._system.exit(code)

    # -- exceptions

    @contextlib.contextmanager
    def fatal(self) -> Any:
        """What raises in the block ends the worker: reported, exit code 1. `SystemExit` ends it with its own code."""
        try:
            yield
        except SystemExit as request:
            code = exit_code(request)
            if code or self._said_ready or self._in_job or self.closing or self._forked:
                self._failures.left(request)
                self._leave(code)
            self._failures.report(request)  # whoever leaves at import serves nothing, and it were forked for ever
            self._leave(1)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported and ends this worker
            self._failures.report(error, hopeless=self._loading and is_lasting(error))
            self._leave(1)

    def _failed(self, error: BaseException, doing: str) -> None:
        """An exception in a request: traceback on stderr, event in the master; the worker lives on."""
        if self._forked and isinstance(error, SystemExit):
            self._leave(exit_code(error))
        self._failures.in_request(error, doing)
        if self._forked:
            self._leave(1)

    def _handler_failed(self, name: str, handler: Callable[..., Any], error: BaseException) -> None:
        self._failed(error, f"a handler of event {name!r}")

    def _end_failed(self, code: int) -> None:
        """Something outside a request failed: finish what is in flight, then exit with *code*."""
        self._exit_code = code
        gevent.get_hub().loop.run_callback_threadsafe(self._drain_failed)

    def _drain_failed(self) -> None:
        self._close()
        if self._in_job:
            self._in_job = False
            self._main.throw(SystemExit(self._exit_code))

    # -- the master

    def _with_log(self, message: Message) -> Message:
        """An exception with what this worker logged before it, where a plugin keeps that for its reports."""
        last_lines = getattr(self._orders.provided.get("exceptions"), "last_lines", None)
        return message if last_lines is None else {**message, "log": last_lines()}

    def _tell(self, message: Message) -> None:
        try:
            self._channel.send(self._with_log(message) if message["t"] == "exception" else message)
        except ChannelError:  # the master has gone, and we are about to notice; or it is not our channel
            if message["t"] == "exception" and message["fatal"]:
                output.say(message["text"])  # he would have

    def _heard(self, message: Message) -> None:
        if message["t"] == "event" and isinstance(message.get("name"), str):
            gevent.spawn(self._emitter.dispatch, message["name"], *message.get("args", ()))
        elif self._adapter is not None and message["t"] == "reopen logs":
            self._adapter.reopen_logs()
        elif message["t"] == "tls":
            material = certificates.from_text(message["material"])
            if self._adapter is not None:
                self._adapter.set_tls(message["listener"], material)
            else:  # the application is still being loaded
                listener = self.listeners[message["listener"]]
                listener.options = {**listener.options, "tls": material}


def become(seat: Any, orders: Orders, introduce: Callable[[Worker], None]) -> Worker:
    """Make this freshly forked process a worker. Does not return when that fails: it is reported, exit code 1.

    *introduce* is given the worker before any handler of the application runs in it.
    """
    global _current
    worker = Worker(seat, orders)
    _current = worker
    introduce(worker)
    with worker.fatal():
        worker.begin()
    return worker
