"""The tables of legal moves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cluster.states import MASTER_MOVES, WORKER_MOVES, IllegalMove, MasterState, WorkerState, move


@pytest.mark.parametrize(("moves", "states"), [(MASTER_MOVES, MasterState), (WORKER_MOVES, WorkerState)])
def test_every_pair_is_legal_or_raises(moves: Any, states: Any) -> None:
    """An illegal move raises and changes nothing; every state is in the table."""
    assert set(moves) == set(states)
    for old, new in itertools.product(states, states):
        if new in moves[old]:
            assert move(moves, old, new) is new
        else:
            with pytest.raises(IllegalMove, match="not a legal move"):
                move(moves, old, new)


def test_there_is_one_way_out() -> None:
    """From every state the last one can be reached, and from the last one none."""
    for moves, last in ((MASTER_MOVES, MasterState.CLOSED), (WORKER_MOVES, WorkerState.DEAD)):
        assert moves[last] == frozenset()  # type: ignore[index]
        for state in moves:
            seen, edge = {state}, [state]
            while edge:
                found = moves[edge.pop()] - seen  # type: ignore[index]
                seen |= found
                edge.extend(found)
            assert last in seen
