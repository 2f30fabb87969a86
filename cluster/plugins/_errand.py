"""A helper process that does for the master what the master must not do itself: look up host names, and wait.

In the master even the lookup of a numeric address would start a native thread, and a process that forks has one thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gevent.event
import gevent.monkey

from .. import channel
from ..channel import Channel, Message
from ..errors import ChannelError
from ..system import STARTED_IN, System

if TYPE_CHECKING:
    from ..master import Master

#: messages that wait for the helper; more are dropped
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
    """Runs the module *module* of this folder in a process of its own while there is something to do.

    *settings*: handed to it at its start. A failure is reported once a minute and harms nothing.
    """

    def __init__(self, master: Master, module: str, name: str, settings: Mapping[str, Any]) -> None:
        self._master = master
        self._module = f"{__package__}.{module}"
        self._name = name
        self._settings = dict(settings)
        self._system = System()
        self._channel: Channel | None = None
        self._watcher: Any = None
        self._started = -_AGAIN
        self._waiting = 0
        self._idle = gevent.event.Event()
        self._reported: dict[str, float] = {}
        #: messages that nobody will send any more
        self.dropped = 0
        master.on("after fork", self._abandon)
        master.on("close", self._finish)

    def send(self, message: Message) -> None:
        """Have the helper deal with *message*; at once, and whatever becomes of it."""
        if self._waiting >= _MOST or not self._ready():
            self.dropped += 1
            return
        try:
            assert self._channel is not None
            self._channel.send({"t": "do", **message})
        except ChannelError as error:
            self._failed(str(error))
            return
        self._waiting += 1
        self._idle.clear()

    def _ready(self) -> bool:
        if self._channel is not None:
            return True
        if self._system.now() - self._started < _AGAIN:
            return False
        self._started = self._system.now()
        ours, theirs = channel.pair()
        self._channel = Channel(ours, self._heard, lambda reason: self._ended())
        self._channel.start()
        try:
            pid = self._system.execute([sys.executable, "-m", self._module, str(theirs.fileno())], os.environ,
                                       STARTED_IN, [theirs.fileno()])
        except OSError as error:
            self._ended()
            self._failed(f"cannot be started: {error}")
            return False
        finally:
            theirs.close()
        self._watcher = self._system.watch(pid, lambda pid, status: None)
        self._channel.send({"t": "settings", **self._settings})
        return True

    def _heard(self, message: Message) -> None:
        self._waiting = max(0, self._waiting - 1)
        if message["t"] == "failed":
            self._failed(str(message.get("reason")))
        if not self._waiting:
            self._idle.set()

    def _ended(self) -> None:
        ended, self._channel = self._channel, None
        if ended is not None and ended.open:
            ended.close()
        self.dropped += self._waiting
        self._waiting = 0
        self._idle.set()

    def _failed(self, reason: str) -> None:
        now = self._system.now()
        if now - self._reported.get(reason, -_QUIET) >= _QUIET:
            if len(self._reported) > 100:
                self._reported.clear()
            self._reported[reason] = now
            self._master.complain(f"{self._name}: {reason}")

    def _finish(self) -> None:
        """The cluster has ended: what is on its way may arrive."""
        if self._waiting:
            self._idle.wait(_REST)
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _abandon(self, worker: Any) -> None:
        if self._channel is not None and self._channel.open:
            self._channel.abandon()
        self._channel = None
        self._waiting = _MOST  # a worker that tries gets nowhere


def work(handle: Callable[[dict[str, Any], Message], None]) -> None:
    """In the helper: ``handle(settings, message)`` for each message until the master hangs up.

    What it raises is told to the master.
    """
    connection = _socket(fileno=int(sys.argv[1]))
    settings = channel.read_one(connection, _FOR_EVER)
    while settings is not None and (message := channel.read_one(connection, _FOR_EVER)) is not None:
        answer: Message = {"t": "done"}
        try:
            handle(settings, message)
        except Exception as error:  # noqa: BLE001 - a server that is down, a name that nobody knows: told, and that is all
            answer = {"t": "failed", "reason": f"{type(error).__name__}: {error}"}
        try:
            connection.setblocking(True)
            connection.sendall(channel.encode(answer))
        except OSError:
            return
