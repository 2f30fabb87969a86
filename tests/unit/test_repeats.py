"""What is told of failures that come again and again: row W5."""

from __future__ import annotations

from typing import Any

from cluster.workers import repeats
from cluster.workers.repeats import Repeats


class Clock:
    """Time that goes on when it is told to, and timers in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Any, Any]] = []

    def later(self, seconds: float, function: Any, argument: Any) -> Any:
        self.timers.append((self.now + seconds, function, argument))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1](timer[2])
        self.now = end


def made() -> tuple[Repeats, Clock, list[tuple[Any, int, float]]]:
    """One with its clock, and what it tells."""
    clock, told = Clock(), []
    return Repeats(lambda: clock.now, clock.later, lambda *what: told.append(what)), clock, told


def test_the_first_in_full_the_others_as_a_number_ever_more_rarely() -> None:
    """One line after 10 s, 20 s, 40 s … of a failure that comes each second, no timer when there is nothing to tell."""
    some, clock, told = made()
    assert some.is_new("a", 0) and not clock.timers
    for second in range(1, 75):
        clock.go_on(1)
        assert not some.is_new("a", second)
    assert [(count, seconds) for _, count, seconds in told] == [(9, 10.0), (20, 20.0), (40, 40.0)]
    assert some.is_new("b", 0)
    clock.go_on(10_000)
    assert not clock.timers and sum(count for _, count, _ in told) == 74
    assert some.is_new("a", 0)  # after so long it is news


def test_pauses_have_an_end() -> None:
    """However long it goes on, a line comes now and then."""
    some, clock, told = made()
    some.is_new("a", 0)
    for _ in range(10_000):
        clock.go_on(1)
        some.is_new("a", 0)
    assert [seconds for _, _, seconds in told][-2:] == [repeats.LONGEST] * 2


def test_many_kinds_are_told_together() -> None:
    """What makes up a new kind each time fills neither the memory nor the log; kinds that are over make room."""
    some, clock, told = made()
    assert sum(some.is_new(number, number) for number in range(1000)) == repeats.KINDS + 1
    clock.go_on(100)
    assert told == [(999, 1000 - repeats.KINDS - 1, 10.0)]
    assert some.is_new("a new one", 0)


def test_what_was_counted_is_told_at_the_end() -> None:
    """Also when the time for it has not come."""
    some, clock, told = made()
    some.is_new("a", 0)
    clock.go_on(2)
    some.is_new("a", 1)
    some.is_new("b", 2)
    some.tell_rest()
    some.tell_rest()
    assert told == [(1, 1, 2.0)]
