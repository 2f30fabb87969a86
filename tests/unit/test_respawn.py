"""Back-off and giving up: row U2."""

from __future__ import annotations

import pytest

from cluster.respawn import Respawn


def test_u2_back_off_grows_per_slot_and_is_capped() -> None:
    """U2: 0, 0.1, 0.2 … 5 s per slot, at most 0.5 s while none was ever ready."""
    respawn = Respawn(abort_deaths=0)
    delays = [respawn.died(0, 0.1, True, False) for _ in range(8)]
    assert delays == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5])
    assert respawn.died(1, 0.1, True, False) == 0
    respawn.ready()
    delays = [respawn.died(0, 0.1, True, False) for _ in range(60)]
    assert delays[0] == pytest.approx(0.8) and delays[-1] == 5


def test_u2_a_stable_life_resets() -> None:
    """U2: a worker that lived 2 s comes back at once; one that lived 10 s clears the slot's back-off."""
    respawn = Respawn(abort_deaths=0)
    for _ in range(3):
        respawn.died(0, 0.1, True, False)
    assert respawn.died(0, 2.0, True, False) == 0
    assert respawn.died(0, 0.1, True, False) == pytest.approx(0.3)
    assert respawn.died(0, 10.0, True, False) == 0
    assert respawn.died(0, 0.1, True, False) == 0


def test_u2_gives_up_after_deaths_in_a_row() -> None:
    """U2: so many deaths without one getting ready; any that gets ready starts the count again; 0 means never."""
    respawn = Respawn(abort_deaths=3)
    assert respawn.died(0, 0, True, False) is not None and respawn.died(1, 0, True, False) is not None
    respawn.ready()
    assert [respawn.died(n, 0, True, False) is None for n in range(3)] == [False, False, True]
    never = Respawn(abort_deaths=0)
    assert all(never.died(0, 0, True, False) is not None for _ in range(100))


def test_u1_deaths_of_workers_that_were_ready_do_not_count() -> None:
    """U1, U2: any number of them may be killed; they come back."""
    respawn = Respawn(abort_deaths=3)
    respawn.ready()
    assert [respawn.died(slot, 60.0, True, True) for slot in range(30)] == [0.0] * 30
    assert [respawn.died(n, 0, True, False) is None for n in range(3)] == [False, False, True]


def test_k5_exit_0_is_no_failure() -> None:
    """K5: it counts for nothing, and only keeps a slot from spinning."""
    respawn = Respawn(abort_deaths=1)
    assert respawn.died(0, 0.02, False, False) == pytest.approx(0.08)
    assert respawn.died(0, 5.0, False, False) == 0
    assert respawn.deaths == 0
