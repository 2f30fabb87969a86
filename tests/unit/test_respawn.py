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


def test_u2_gives_up_when_none_ever_gets_ready() -> None:
    """U2: so many deaths before any was ready; 0 means never."""
    respawn = Respawn(abort_deaths=3)
    assert [respawn.died(n, 0, True, False) is None for n in range(3)] == [False, False, True]
    never = Respawn(abort_deaths=0)
    assert all(never.died(0, 0, True, False) is not None for _ in range(100))


def test_once_a_worker_was_ready_nothing_is_given_up() -> None:
    """Row G5, giving up: however many die afterwards, before they are ready or later."""
    respawn = Respawn(abort_deaths=3)
    assert [respawn.died(n, 0, True, False) is None for n in range(2)] == [False, False]
    respawn.ready()
    assert [respawn.died(slot, 60.0, True, True) for slot in range(30)] == [0.0] * 30
    delays = [respawn.died(0, 0, True, False) for _ in range(200)]
    assert None not in delays and delays[-1] == 5
    assert respawn.failures(0) == 200 and respawn.failures(1) == 0


def test_a_start_that_fails_slowly_backs_off_beside_workers_that_serve() -> None:
    """Row G5: importing for seconds, only to fail, would take the CPU from the others; before any served it is U2's."""
    respawn = Respawn(abort_deaths=0)
    assert [respawn.died(0, 3.0, True, False) for _ in range(4)] == [0.0] * 4
    respawn.ready()
    delays = [respawn.died(0, age, True, False) for age in (3.0, 3.0, 15.0, 15.0)]
    assert delays == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert respawn.died(0, 15.0, True, True) == 0 and respawn.failures(0) == 0


def test_k5_exit_0_is_no_failure() -> None:
    """K5: it counts for nothing, and only keeps a slot from spinning."""
    respawn = Respawn(abort_deaths=1)
    assert respawn.died(0, 0.02, False, False) == pytest.approx(0.08)
    assert respawn.died(0, 5.0, False, False) == 0
    assert respawn.deaths == 0
