"""A helper process that does for the master what the master must not do itself: look up host names, and wait.

In the master even the lookup of a numeric address would start a native thread, and a process that forks has one thread.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gevent.event
import gevent.monkey

from .. import channel, narration
from ..channel import Channel, Message
from ..errors import ChannelError
from ..signals import AT_ONCE, IGNORED_BY_WORKERS
from ..signals import name as signal_name
from ..signals import number as signal_number
from ..system import STARTED_IN, System

if TYPE_CHECKING:
    from ..master import Master

#: what a helper runs
_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_start_helper.py")
#: messages that wait for the helper; more are lost
_MOST = 1000
#: seconds between two starts of a helper
_AGAIN = 1.0
#: seconds in which the same failure is reported once
_QUIET = 60.0
#: seconds that a helper has for what is left when the cluster ends
_REST = 5.0
#: a helper that has had nothing to do for this many seconds ends; poll(2) takes no more
_FOR_EVER = 1e6

_socket = gevent.monkey.get_original("socket", "socket")


class Errand:
    """Has the module *module* of this folder deal with messages, in a process that is started when there are any.

    *settings*: handed to its function ``handle(settings, message)`` with each message. A failure, and messages that are
    lost, are reported once a minute and harm nothing. Whoever makes an errand calls `finish` at `close`.
    """

    def __init__(self, master: Master, module: str, name: str, settings: Mapping[str, Any]) -> None:
        self._master = master
        self._module = module
        self._name = name
        self._settings = dict(settings)
        self._system = System()
        self._channel: Channel | None = None
        self._watcher: Any = None
        self._started = -_AGAIN
        self._waiting = 0
        self._lost = 0
        self._idle = gevent.event.Event()
        self._reported: dict[str, float] = {}
        self._hurried = False
        #: why the last helper could not be started
        self._failure = ""
        master.on("after fork", self._abandon)
        master.on("kill", self._killing)

    def send(self, message: Message) -> None:
        """Have the helper deal with *message*; at once, and whatever becomes of it."""
        if self._waiting >= _MOST:
            self.lose(1, f"{_MOST} wait for the helper")
            return
        if self._channel is None and not self._start():
            return
        assert self._channel is not None
        try:
            self._channel.send({"t": "do", **message})
        except ChannelError as error:
            if self._channel.open:
                self.lose(1, str(error))
                return
        self._waiting += 1  # also when the helper has just died: how, is told with the number of all that it had
        self._idle.clear()

    def _start(self) -> bool:
        if self._system.now() - self._started < _AGAIN:
            self.lose(1, f"the last helper was started less than {_AGAIN:g} s ago")
            return False
        self._started = self._system.now()
        ours, theirs = channel.pair()
        try:
            pid = self._system.execute([sys.executable, _SCRIPT, self._module, str(theirs.fileno())], os.environ,
                                       STARTED_IN, [theirs.fileno()], self._not_started)
        except OSError as error:
            ours.close()
            self.lose(1, f"the helper cannot be started: {error}")
            return False
        finally:
            theirs.close()
        self._channel = Channel(ours, self._heard, lambda reason: None)  # its end is told when it is reaped
        self._channel.start()
        self._channel.send({"t": "settings", **self._settings})
        self._watcher = self._system.watch(pid, self._reaped)
        return True

    def _not_started(self, error: OSError) -> None:
        self._failure = f"the helper cannot be started: {error}"

    def _heard(self, message: Message) -> None:
        self._waiting = max(0, self._waiting - 1)
        if message["t"] == "failed":
            self.lose(1, str(message.get("reason")))
        elif self._lost and self._report(f"works again; {self._lost} more were lost", "works again"):
            self._lost = 0
        if not self._waiting:
            self._idle.set()

    def _reaped(self, _: int, status: int) -> None:
        if self._channel is not None:
            self._channel.read_rest()
            self._channel.close()
            self._channel = None
        lost, self._waiting = self._waiting, 0
        if lost:
            how = narration.ending(os.waitstatus_to_exitcode(status))
            self.lose(lost, self._failure or f"the helper ended ({how})")
        self._failure = ""
        self._idle.set()

    def lose(self, count: int, reason: str, key: str | None = None) -> None:
        """So many messages are lost; told at once, or with the next that is told: once a minute for the same *key*
        (default: *reason*)."""
        self._lost += count
        if self._report(f"{reason}; {self._lost} lost", reason if key is None else key):
            self._lost = 0

    def _report(self, text: str, reason: str | None = None) -> bool:
        """Complain, unless the same *reason* (default: *text*) was given within the last minute."""
        now = self._system.now()
        key = text if reason is None else reason
        if now - self._reported.get(key, -_QUIET) < _QUIET:
            return False
        if len(self._reported) > 100:
            self._reported.clear()
        self._reported[key] = now
        self._master.complain(f"{self._name}: {text}")
        return True

    def _killing(self, signal: str) -> None:
        """Workers are ended: with the cluster, and at once? That no worker got ready is worth a message, though."""
        if self._master.state not in ("starting", "running") and not self._master.gave_up:
            self._hurried = self._hurried or signal in map(signal_name, AT_ONCE)

    def finish(self) -> None:
        """The cluster has ended: what is on its way may arrive, unless somebody has asked for the end at once.

        A helper that is busy finishes what it is busy with, whatever becomes of this process.
        """
        if self._waiting and not self._hurried:
            self._idle.wait(_REST)
        lost = self._waiting + self._lost
        self._waiting = self._lost = 0
        if lost:
            self._master.complain(f"{self._name}: the cluster has ended; {lost} may be lost")
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _abandon(self, worker: Any) -> None:
        if self._channel is not None and self._channel.open:
            self._channel.abandon()
        self._channel = None
        self._waiting = _MOST  # a worker that tries gets nowhere


def work(module: str, descriptor: int) -> None:
    """In the helper: the function ``handle(settings, message)`` of *module* for each message until the master hangs up.

    What it raises is told to the master, and so is why it cannot be loaded.
    """
    for name in (*IGNORED_BY_WORKERS, "SIGQUIT"):  # to the whole process group; the master hangs up when it is time
        signal.signal(signal_number(name), signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it as SIGTERM does, without a traceback
    with _socket(fileno=descriptor) as connection:
        _serve(module, connection)


def _serve(module: str, connection: Any) -> None:
    settings = channel.read_one(connection, _FOR_EVER)
    while settings is not None and (message := channel.read_one(connection, _FOR_EVER)) is not None:
        answer: Message = {"t": "done"}
        try:
            importlib.import_module(f"{__package__}.{module}").handle(settings, message)
        except Exception as error:  # noqa: BLE001 - a server that is down, a name that nobody knows: told, and that is all
            answer = {"t": "failed", "reason": f"{type(error).__name__}: {error}"}
        try:
            connection.setblocking(True)
            connection.sendall(channel.encode(answer))
        except OSError:
            return
