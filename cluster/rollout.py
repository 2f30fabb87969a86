"""Replacing all workers by a new generation: what to do next. Pure: a snapshot goes in, an action comes out."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple


class Action(Enum):
    """What the supervisor has to do now."""

    WAIT = "wait"  #: nothing; the new workers are on their way
    PROMOTE = "promote"  #: the whole new generation is ready: retire the old one
    ROLL_BACK = "roll back"  #: kill the new generation; the old one serves on


class Member(NamedTuple):
    """One worker of the new generation: its slot, whether it is ready, and how it ended if it did."""

    slot: int
    ready: bool
    died: str | None = None


class Decision(NamedTuple):
    """An action and, for a roll-back, the reason in words."""

    action: Action
    reason: str = ""


def decide(members: Iterable[Member], elapsed: float, startup_timeout: float) -> Decision:
    """Say what to do with a new generation.

    *elapsed* are the seconds since it was forked; *startup_timeout* the seconds it may take (0: any time).
    The first new worker that dies proves the generation bad: better no new code than broken new code.
    """
    members = list(members)
    for member in members:
        if member.died is not None:
            return Decision(Action.ROLL_BACK, f"new worker {member.slot} {member.died}")
    if all(member.ready for member in members):
        return Decision(Action.PROMOTE)
    if startup_timeout and elapsed >= startup_timeout:
        late = ", ".join(str(member.slot) for member in members if not member.ready)
        return Decision(Action.ROLL_BACK, f"new worker {late} not ready after {startup_timeout:g} s")
    return Decision(Action.WAIT)
