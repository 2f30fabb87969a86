"""What both masters of a handover have to agree on: how the new one is started, and how it knows its descriptors.

Which process is a replacement is decided by the inherited descriptor: the environment only says where to look, with the
socket's inode as proof, so that an unrelated script started below a master or worker comes up as a master of its own.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import gevent.monkey

from .. import channel, host
from ..channel import Message

HANDOVER = "CLUSTER_HANDOVER"
PARENT = "CLUSTER_PARENT_PID"
#: variables that belong to one process of a cluster and are not handed to a new master
OWN_VARIABLES = (HANDOVER, "CLUSTER_MASTER_PID", "CLUSTER_WORKER")

#: seconds that a replacement waits for the first message; the old master sends it before the exec
_HELLO = 10.0
#: seconds within which a signal that came on two ways (our own, and passed on by the old master) is one
COPY = 1.0


class Outgoing(Enum):
    """The old master's side."""

    IDLE = "idle"  #: no restart is under way
    WAITING = "waiting"  #: one was asked for and cannot begin yet
    STARTING = "starting"  #: a replacement runs and is not ready
    HANDED_OVER = "handed over"  #: it has taken over


class Incoming(Enum):
    """The new master's side. A master that was started afresh is ALONE from the beginning."""

    BORROWED = "borrowed"  #: nothing is ours yet
    OFFERED = "offered"  #: all workers are ready, and the old master knows
    IN_POWER = "in power"  #: the old master drains, or waits whether we live
    ALONE = "alone"  #: there is no other master
    DISMISSED = "dismissed"  #: the old master serves on; we end


OUTGOING_MOVES: dict[Outgoing, frozenset[Outgoing]] = {
    Outgoing.IDLE: frozenset({Outgoing.WAITING}),
    Outgoing.WAITING: frozenset({Outgoing.STARTING, Outgoing.IDLE}),
    Outgoing.STARTING: frozenset({Outgoing.HANDED_OVER, Outgoing.IDLE}),
    Outgoing.HANDED_OVER: frozenset({Outgoing.IDLE}),
}

INCOMING_MOVES: dict[Incoming, frozenset[Incoming]] = {
    Incoming.BORROWED: frozenset({Incoming.OFFERED, Incoming.ALONE, Incoming.DISMISSED}),
    Incoming.OFFERED: frozenset({Incoming.IN_POWER, Incoming.ALONE, Incoming.DISMISSED}),
    Incoming.IN_POWER: frozenset({Incoming.ALONE}),
    Incoming.ALONE: frozenset(),
    Incoming.DISMISSED: frozenset(),
}


class Copies:
    """Tells a signal's copy: Ctrl-C, or a signal to the process group, reaches both masters, and the old one passes
    its own on. Each that came on one way pairs with one that came on the other within `COPY` seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: (signal, whether it was passed on) → when such a one came whose copy has not come yet
        self._single: dict[tuple[int, bool], float] = {}

    def is_copy(self, number: int, passed_on: bool) -> bool:
        """Whether *number*, which has just come, asks for what was asked for already."""
        now = self._clock()
        other = self._single.pop((number, not passed_on), None)
        if other is not None and now - other <= COPY:
            return True
        self._single[number, passed_on] = now
        return False


class Predecessor:
    """What the old master's first message says, and the connection to it."""

    def __init__(self, connection: Any, hello: Message) -> None:
        self.connection = connection
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


def command_line() -> list[str]:
    """How to start this program again: same interpreter, same interpreter flags, same arguments."""
    return [sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]]


def environment(pid: int, connection: Any) -> dict[str, str]:
    """That of a new master. *pid*: the old one's; *connection*: the end of the socket pair that the new one gets."""
    found = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
    found[HANDOVER] = f"{connection.fileno()}:{os.fstat(connection.fileno()).st_ino}"
    found[PARENT] = str(pid)
    return found


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
    host.take_on(hello.get("surroundings"))
    predecessor = Predecessor(connection, hello)
    for inherited in predecessor.sockets.values():
        os.set_inheritable(inherited, False)
    return predecessor
