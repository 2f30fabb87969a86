"""What a reload does next: row R4."""

from __future__ import annotations

import pytest

from cluster.rollout import Action, Member, decide

READY, STARTING = Member(0, True), Member(1, False)
DEAD = Member(2, False, "died (exit code 1)")
DEAD_AFTER_READY = Member(2, True, "died (signal 9)")


@pytest.mark.parametrize(("members", "elapsed", "timeout", "action"), [
    ([], 0, 60, Action.PROMOTE),
    ([READY], 0, 60, Action.PROMOTE),
    ([READY, READY], 100, 60, Action.PROMOTE),
    ([READY, STARTING], 59, 60, Action.WAIT),
    ([READY, STARTING], 60, 60, Action.ROLL_BACK),
    ([READY, STARTING], 1e9, 0, Action.WAIT),
    ([READY, STARTING, DEAD], 0, 60, Action.ROLL_BACK),
    ([READY, DEAD_AFTER_READY], 0, 60, Action.ROLL_BACK),
])
def test_r4_decisions(members: list[Member], elapsed: float, timeout: float, action: Action) -> None:
    """R4: all ready → promote; one dead, or time over → roll back; else wait."""
    decision = decide(members, elapsed, timeout)
    assert decision.action is action
    assert bool(decision.reason) is (action is Action.ROLL_BACK)


def test_r4_reasons_name_the_worker() -> None:
    """The reason says which worker, and how it ended."""
    assert decide([DEAD], 0, 60).reason == "new worker 2 died (exit code 1)"
    assert decide([READY, STARTING], 9, 9).reason == "new worker 1 not ready after 9 s"
