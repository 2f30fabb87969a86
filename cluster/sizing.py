"""How many workers there are to be: the operations on their number, and who waits until it is reached."""

from __future__ import annotations

import signal
from collections.abc import Callable

from .crew import Crew
from .results import Result


class Sizing:
    """Changes what the crew aims at. *in_turn* calls a function now or after the reload that is under way, unless the
    result has failed; *changed* has the supervisor see what can go on."""

    def __init__(
        self, crew: Crew, in_turn: Callable[[Result, Callable[[], None]], None], changed: Callable[[], None]
    ) -> None:
        self._crew = crew
        self._in_turn = in_turn
        self._changed = changed
        #: who waits, and whether what it waits for has come about
        self._waiting: list[tuple[Result, Callable[[], bool]]] = []

    def resize(self, result: Result, count: int, number: int) -> None:
        """Have *count* workers."""
        self._in_turn(result, lambda: self._resize(result, count, number))

    def spawn(self, result: Result, count: int) -> None:
        """Have *count* workers more."""
        self._in_turn(result, lambda: self._resize(result, self._crew.target + count, signal.SIGQUIT))

    def remove(self, result: Result, count: int, number: int) -> None:
        """Have *count* workers less; the highest slots go, by signal *number*."""
        self._in_turn(result, lambda: self._resize(result, max(0, self._crew.target - count), number))

    def _resize(self, result: Result, count: int, number: int) -> None:
        crew = self._crew
        if count > crew.maximum:
            result.fail(f"at most {crew.maximum} workers ('max workers')")
            return
        crew.target = count
        for worker in crew.current():
            if worker.id >= count:
                crew.retire(worker, number)
        crew.maintain()
        self._until(result, lambda: crew.complete() or crew.target != count)

    def restart_workers(self, result: Result, number: int) -> None:
        """Have every worker replaced by a new one of the same generation."""
        crew = self._crew

        def replace() -> None:
            old = crew.retire_current(number)
            crew.maintain()
            self._until(result, lambda: crew.complete() and not any(worker.alive for worker in old))

        self._in_turn(result, replace)

    def _until(self, result: Result, reached: Callable[[], bool]) -> None:
        self._waiting.append((result, reached))
        self._changed()

    def look(self) -> None:
        """Tell those who waited long enough."""
        for pair in list(self._waiting):
            result, reached = pair
            if reached():
                self._waiting.remove(pair)
                result.succeed()

    def abandon(self, reason: str) -> None:
        """Nobody gets what they wait for any more."""
        waiting, self._waiting = self._waiting, []
        for result, _ in waiting:
            result.fail(reason)
