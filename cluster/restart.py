"""Replacing the master: both halves of the handshake.

The old master starts the same command line again with its listening sockets and one end of a socket pair as inherited
descriptors, and tells over it which socket is which (`Replacement`). The new one takes the sockets over, gets its
workers ready, says so, and learns the final totals when the old one ends (`Predecessor`). At any moment one of the two
serves: until ``ready`` the old one, after it the new one; if either dies on the way, the other carries on.

Who is a replacement is decided by the inherited descriptor: the environment only says where to look, with the socket's
inode as proof, so that an unrelated script started below a master or worker comes up as a master of its own.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterable
from typing import Any

import gevent.monkey

from . import channel
from .channel import Channel, Message
from .errors import ChannelError
from .inbox import Inbox, Timer
from .listeners import Listener
from .signals import name as signal_name
from .system import STARTED_IN, System

HANDOVER = "CLUSTER_HANDOVER"
PARENT = "CLUSTER_PARENT_PID"
#: variables that belong to one process of a cluster and are not handed to a new master
OWN_VARIABLES = (HANDOVER, "CLUSTER_MASTER_PID", "CLUSTER_WORKER")

#: seconds that a replacement waits for the first message; the old master sends it before the exec
_HELLO = 10.0
#: seconds that a replacement which is no longer wanted has to end after SIGTERM
_MERCY = 2.0
#: seconds that the other master's last words, or its end, may take to arrive
_LAST_WORDS = 1.0


def command_line() -> list[str]:
    """How to start this program again: same interpreter, same interpreter flags, same arguments."""
    return [sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]]


class Replacement:
    """The new master as the old one sees it. The callbacks run in the supervisor."""

    def __init__(
        self,
        system: System,
        inbox: Inbox,
        on_ready: Callable[[list[str]], None],
        on_failed: Callable[[str], None],
        on_reopen: Callable[[], None],
    ) -> None:
        self.pid = 0
        #: it serves now
        self.ready = False
        self._system = system
        self._inbox = inbox
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._on_reopen = on_reopen
        self._channel: Channel | None = None
        self._watcher: Any = None
        self._timer: Timer | None = None
        self._over = False
        self._alive = False

    def start(
        self, listeners: Iterable[Listener], data: dict[str, Any], totals: dict[str, int], timeout: float
    ) -> None:
        """Start it. *totals*: what was counted so far. *timeout*: seconds it may take to get ready, 0 for any.

        Raises OSError or `ChannelError`.
        """
        ours, theirs = channel.pair()
        try:
            bound = list(listeners)
            sockets = {listener.key: listener.fileno() for listener in bound}
            files = {listener.key: listener.file for listener in bound if listener.file is not None}
            environment = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
            environment[HANDOVER] = f"{theirs.fileno()}:{os.fstat(theirs.fileno()).st_ino}"
            environment[PARENT] = str(self._system.pid())
            self._channel = Channel(ours, self._heard, lambda reason: self._inbox.put(self._lost, reason))
            self._channel.start()
            self._channel.send({"t": "hello", "pid": self._system.pid(), "sockets": sockets,
                                "files": files, "data": data, "totals": totals})
            self.pid = self._system.execute(
                command_line(), environment, STARTED_IN, [theirs.fileno(), *sockets.values()],
                lambda error: self._inbox.put(self._fail, f"the new master cannot be started: {error}"),
            )
        except (OSError, ChannelError):
            self._finish()
            raise
        finally:
            theirs.close()
        self._alive = True
        self._watcher = self._system.watch(self.pid, self._reaped)
        if timeout:
            self._timer = self._inbox.later(timeout, self._late, timeout)

    def abandon(self) -> None:
        """In a forked child: the connection is the master's."""
        if self._channel is not None and self._channel.open:
            self._channel.abandon()

    def send_totals(self, totals: dict[str, int], last: bool = False) -> None:
        """What this master counted in its whole life, until now; the *last* message when it ends."""
        if self._channel is not None and self._channel.open:
            self._channel.send({"t": "totals", "totals": totals})
            if last:
                self._channel.flush(_LAST_WORDS)
        if last:
            self._finish()

    def reopen_logs(self) -> None:
        """Whoever rotates logs knows of one master; both write to them."""
        if self._channel is not None and self._channel.open:
            self._channel.send({"t": "reopen logs"})

    def cancel(self) -> None:
        """It is not wanted any more."""
        if not self._over:
            self._finish()
            self._end()

    def _heard(self, message: Message) -> None:
        if message["t"] == "ready":
            self._inbox.put(self._became_ready, [str(key) for key in message.get("taken", ())])
        elif message["t"] == "reopen logs":
            self._inbox.put(self._on_reopen)

    def _became_ready(self, taken: list[str]) -> None:
        if self._over or self.ready or not self._alive:  # one that has died since cannot take over
            return
        self.ready = True
        if self._timer is not None:
            self._timer.cancel()
        self._on_ready(taken)

    def _reaped(self, _: int, status: int) -> None:
        self._alive = False
        self._inbox.put(self._died, status)

    def _died(self, status: int) -> None:
        if os.WIFSIGNALED(status):
            self._fail(f"the new master was killed by {signal_name(os.WTERMSIG(status))}")
        else:
            self._fail(f"the new master ended with exit code {os.WEXITSTATUS(status)} before it was ready")

    def _lost(self, reason: str) -> None:
        # most often it is about to end, and how it ended tells more
        self._inbox.later(_LAST_WORDS, self._fail, f"the new master does not talk to us any more ({reason})")

    def _late(self, timeout: float) -> None:
        self._fail(f"the new master was not ready after {timeout:g} s")

    def _fail(self, reason: str) -> None:
        if self._over or self.ready:
            return
        self._finish()
        self._end()
        self._on_failed(reason)

    def _end(self) -> None:
        """End the process; its workers see the end of their channels."""
        if self._alive:
            self._system.kill(self.pid, signal.SIGTERM)
            self._inbox.later(_MERCY, self._kill_remains)

    def _kill_remains(self) -> None:
        if self._alive:  # not reaped: the pid is still its own
            self._system.kill(self.pid, signal.SIGKILL)

    def _finish(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None:
            self._channel.close()


class Predecessor:
    """The old master as the new one sees it."""

    def __init__(self, connection: Any, hello: Message) -> None:
        self.pid = int(hello.get("pid", 0))
        #: listener key → inherited descriptor
        self.sockets: dict[str, int] = {str(key): int(value) for key, value in dict(hello.get("sockets", {})).items()}
        #: listener key → device and inode of a unix socket's file
        self.files: dict[str, tuple[int, int]] = {key: (int(device), int(inode))
                                                  for key, (device, inode) in dict(hello.get("files", {})).items()}
        #: what plugins put into the event `restarting`
        self.data: dict[str, Any] = dict(hello.get("data", {}))
        #: what it had counted when it started us; newer figures come with messages
        self.totals: dict[str, int] = dict(hello.get("totals", {}))
        #: it has ended
        self.gone = False
        self._connection = connection
        self._channel: Channel | None = None

    def watch(
        self, on_totals: Callable[[dict[str, int]], None], on_gone: Callable[[], None], on_reopen: Callable[[], None]
    ) -> None:
        """Begin to listen to it, on this hub."""

        def went(reason: str) -> None:
            self.gone = True
            on_gone()

        def heard(message: Message) -> None:
            if message["t"] == "totals":
                on_totals(dict(message.get("totals", {})))
            elif message["t"] == "reopen logs":
                on_reopen()

        self._channel = Channel(self._connection, heard, went)
        self._channel.start()

    def tell_ready(self, taken: Iterable[str]) -> None:
        """All workers are ready: the old master may go."""
        self._tell({"t": "ready", "taken": sorted(taken)})

    def reopen_logs(self) -> None:
        """Whoever rotates logs knows of one master; both write to them."""
        self._tell({"t": "reopen logs"})

    def _tell(self, message: Message) -> None:
        """When it has gone already, nobody needs to know."""
        try:
            if self._channel is not None:
                self._channel.send(message)
        except ChannelError:
            pass

    def abandon(self) -> None:
        """In a forked child: the connection is the master's."""
        if self._channel is not None and self._channel.open:
            self._channel.abandon()

    def close(self) -> None:
        """Forget it."""
        if self._channel is not None:
            self._channel.close()


def claim() -> Predecessor | None:
    """The old master, when this process was started as its replacement; None otherwise.

    Takes the variable out of the environment, so that nothing started from here finds it.
    """
    where = os.environ.pop(HANDOVER, "")
    descriptor_text, _, inode_text = where.partition(":")
    if not descriptor_text.isdecimal() or not inode_text.isdecimal():
        return None
    descriptor = int(descriptor_text)
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode) or found.st_ino != int(inode_text):
        return None
    os.set_inheritable(descriptor, False)
    connection = gevent.monkey.get_original("socket", "socket")(fileno=descriptor)
    hello = channel.read_one(connection, _HELLO)
    if hello is None or hello["t"] != "hello":
        connection.close()
        return None
    predecessor = Predecessor(connection, hello)
    for inherited in predecessor.sockets.values():
        os.set_inheritable(inherited, False)
    return predecessor
