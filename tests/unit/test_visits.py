"""Who came to the REPL is told, and a flood of them fills no log: row T1."""

from __future__ import annotations

from typing import Any

from cluster.plugins import _visits
from cluster.plugins._visits import MOST, WINDOW, Visits


class Timer:
    """One that is set, until it is killed."""

    def __init__(self, at: float, function: Any, argument: str) -> None:
        self.at, self.function, self.argument = at, function, argument
        self.killed = False

    def kill(self, block: bool) -> None:
        assert not block
        self.killed = True


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def later(self, seconds: float, function: Any, argument: str) -> Timer:
        self.timers.append(Timer(self.now + seconds, function, argument))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now and not timer.killed]
        for timer in due:
            timer.function(timer.argument)


def made() -> tuple[Visits, Clock, list[tuple[str, str, int]]]:
    """One with its clock, and what it tells."""
    clock, told = Clock(), []
    return Visits(lambda *what: told.append(what), lambda: clock.now, clock.later), clock, told


def test_few_are_told_each_and_there_is_no_timer() -> None:
    """An idle master sleeps on after a visit."""
    some, clock, told = made()
    for day in range(3):
        for number in range(MOST):
            some.came(f"{day} {number}", "connected")
        clock.now += WINDOW
    assert len(told) == 3 * MOST and {count for _, _, count in told} == {1} and not clock.timers


def test_a_flood_is_a_line_in_a_while_and_everybody_is_counted() -> None:
    """100 a second for an hour: some lines at once, then one a minute, and none is left out of the sum."""
    some, clock, told = made()
    for second in range(3600):
        for _ in range(100):
            some.came(f"client of {second}", "wrong secret")
        clock.go_on(1)
    some.came("the last", "another user")  # another kind is told at once
    assert told.pop() == ("the last", "another user", 1)
    assert len(told) <= MOST + 3600 / _visits.WINDOW and len(clock.timers) <= 1
    clock.go_on(WINDOW)
    assert sum(count for _, _, count in told) == 360_000
    assert told[-1][0] == "client of 3599" and not clock.timers
    clock.go_on(WINDOW)
    some.came("later", "wrong secret")
    assert told[-1] == ("later", "wrong secret", 1)


def test_the_end_tells_what_is_untold() -> None:
    """Once, and its timer goes."""
    some, clock, told = made()
    for _ in range(MOST + 5):
        some.came("x", "connected")
    (timer,) = clock.timers
    some.end()
    some.end()
    assert told[MOST:] == [("x", "connected", 5)] and timer.killed
