"""The states of a master and of a worker, and the moves between them that are legal, as tables."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar


class MasterState(Enum):
    """What a master is doing."""

    NEW = "new"  #: being configured; nothing bound, nothing forked
    STARTING = "starting"  #: bound; the first workers are not all ready yet
    RUNNING = "running"  #: every worker of the first generation got ready once
    HANDED_OVER = "handed over"  #: a new master serves; this one drains, and stays for the probation
    CLOSING = "closing"  #: asked to end; workers finish what is in flight
    DESTROYING = "destroying"  #: asked to end at once
    CLOSED = "closed"  #: no worker, no listener left


class WorkerState(Enum):
    """What a worker is doing, as far as its master knows."""

    STARTING = "starting"  #: forked, has not said anything yet
    CONNECTED = "connected"  #: its channel works; the application is being loaded
    READY = "ready"  #: accepts requests
    ENDING = "ending"  #: finishes what it has in flight, unasked; its slot is filled again already
    RETIRING = "retiring"  #: asked to drain (or to end); killed when its time is over
    DEAD = "dead"  #: reaped


MASTER_MOVES: dict[MasterState, frozenset[MasterState]] = {
    MasterState.NEW: frozenset({MasterState.STARTING}),
    MasterState.STARTING: frozenset({
        MasterState.RUNNING, MasterState.HANDED_OVER, MasterState.CLOSING, MasterState.DESTROYING,
    }),
    MasterState.RUNNING: frozenset({MasterState.HANDED_OVER, MasterState.CLOSING, MasterState.DESTROYING}),
    MasterState.HANDED_OVER: frozenset({
        MasterState.STARTING, MasterState.RUNNING, MasterState.DESTROYING, MasterState.CLOSED,
    }),
    MasterState.CLOSING: frozenset({MasterState.DESTROYING, MasterState.CLOSED}),
    MasterState.DESTROYING: frozenset({MasterState.CLOSED}),
    MasterState.CLOSED: frozenset(),
}

#: those in which nobody has asked for the end yet
SERVING = frozenset({MasterState.STARTING, MasterState.RUNNING})

WORKER_MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.CONNECTED, WorkerState.RETIRING, WorkerState.DEAD}),
    WorkerState.CONNECTED: frozenset({WorkerState.READY, WorkerState.RETIRING, WorkerState.DEAD}),
    WorkerState.READY: frozenset({WorkerState.ENDING, WorkerState.RETIRING, WorkerState.DEAD}),
    WorkerState.ENDING: frozenset({WorkerState.RETIRING, WorkerState.DEAD}),
    WorkerState.RETIRING: frozenset({WorkerState.DEAD}),
    WorkerState.DEAD: frozenset(),
}

S = TypeVar("S", bound=Enum)


class IllegalMove(RuntimeError):
    """A state change that the tables do not allow; nothing was changed."""


def move(moves: dict[S, frozenset[S]], old: S, new: S) -> S:
    """Return *new* when *moves* allows going there from *old*.

    Raises `IllegalMove` otherwise. Idea: h11 keeps its protocol states in a table in the same way.
    """
    if new not in moves[old]:
        raise IllegalMove(f"{type(old).__name__}: {old.value} -> {new.value} is not a legal move")
    return new
