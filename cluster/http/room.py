"""Room for new clients in a server that is full: who goes, and when.

Full is who has as many connections as he may, or whose next descriptor would be one of those kept for the application.
Whoever keeps a connection without using it then has no more right to it than whoever waits outside. So a connection
between two requests is closed, the one idle for longest first, after a last look at what has come on it. While there
is none, answers say "Connection: close": those who ask often leave by that, without losing a request.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections import deque
from heapq import nsmallest
from time import monotonic
from typing import TYPE_CHECKING

from ..output import say
from .connection import Connection
from .wire import IDLE

if TYPE_CHECKING:
    from .engine import Engine

#: descriptors that connections leave to the application
KEPT_BACK = 16
#: those that a worker needs for itself: listeners, loop, channel, logs, shared memory
OWN = 32
#: who is idle for less may be about to ask, in seconds
_PATIENCE = 0.25
#: how many candidates one look at all connections finds
_FOUND = 64
#: what accept() fails with when there is no descriptor or no memory for one
OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_MINUTE = 60.0


def fitting(connections: int, descriptors: int) -> int:
    """How many connections, of as many as are wanted, a process that may have so many descriptors has room for."""
    return max(1, min(connections, descriptors - KEPT_BACK - OWN))


class Room:
    """Knows whether there is room, and makes some.

    :param engine: the connections
    :param connections: how many there may be
    """

    def __init__(self, engine: Engine, connections: int) -> None:
        self._engine = engine
        self._most = connections
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        #: the first descriptor that is the application's: the system gives the lowest that is free
        self._first_kept = sys.maxsize if soft == resource.RLIM_INFINITY else max(soft - KEPT_BACK, soft // 2)
        #: a connection got one of those
        self._scarce = False
        #: connections that had been idle for longest when they were looked for, with since when
        self._candidates: deque[tuple[float, Connection]] = deque()
        self._told = -_MINUTE

    @property
    def full(self) -> bool:
        """Whether the next connection would be one too many."""
        return self._scarce or len(self._engine.connections) >= self._most

    def make(self) -> bool:
        """Whether there is room for a connection, now that idle ones have been ended where it was needed.

        Runs in the hub; applications may be called, for requests that came at the last moment.
        """
        engine = self._engine
        while self.full:
            engine.crowd(True)
            connection = self._longest_idle()
            if connection is None:
                return False
            connection.give_way()
        engine.crowd(False)
        return True

    def taken(self, descriptor: int) -> None:
        """A connection has begun, with this descriptor."""
        if descriptor >= self._first_kept:
            self._scarce = True
            self.make()

    def left(self) -> None:
        """A connection has ended."""
        self._scarce = False
        self._engine.crowd(False)

    def out_of_descriptors(self, error: OSError) -> None:
        """accept() failed: let somebody go for it, and say so once a minute."""
        now = monotonic()
        if now - self._told >= _MINUTE:
            self._told = now
            say(f"cluster: worker {os.getpid()} cannot take new connections: {error.strerror}; those idle for "
                "longest are ended\n")
        self._scarce = True
        self.make()

    def _longest_idle(self) -> Connection | None:
        """Take the one that has been idle for longest; None when no other has been for long enough."""
        for _ in range(2):
            while self._candidates:
                since, connection = self._candidates.popleft()
                if connection.state == IDLE and connection.since == since and not connection.buffer:
                    return connection
            latest = monotonic() - _PATIENCE
            found = (
                (connection.since, number, connection)
                for number, connection in enumerate(self._engine.connections)
                if connection.state == IDLE and isinstance(connection, Connection) and connection.since <= latest
            )
            self._candidates.extend((since, connection) for since, _, connection in nsmallest(_FOUND, found))
        return None
