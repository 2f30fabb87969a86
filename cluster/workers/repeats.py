"""Failures that come again and again: the first is told in full, those alike as a number, ever more rarely."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

#: seconds after a failure was told in which those alike are counted; twice that after these were told, and so on
PAUSE, LONGEST = 10.0, 640.0
#: kinds of failures that are told apart; all others are one kind
KINDS = 32


class _Kind:
    """What is known of failures that are alike."""

    def __init__(self, now: float) -> None:
        self.pause = PAUSE
        self.until = now + PAUSE
        self.count = 0
        self.last: Any = None
        self.timer: Any = None


class Repeats:
    """*clock*: seconds; *later(seconds, function, argument)*: calls it once, and holds what it returns no longer than
    we do; *tell(last, count, seconds)*: *count* failures like *last* came within *seconds*.

    A timer runs only while there is something to tell.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        later: Callable[..., Any],
        tell: Callable[[Any, int, float], None],
    ) -> None:
        self._clock = clock
        self._later = later
        self._tell = tell
        self._kinds: dict[Hashable, _Kind] = {}

    def is_new(self, kind: Hashable, last: Any) -> bool:
        """Whether a failure of this *kind* is to be told in full. Else *last* will be told of it, with a number."""
        now = self._clock()
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            self._kinds = {name: one for name, one in self._kinds.items() if one.count or one.until > now}
            if len(self._kinds) >= KINDS:
                kind = None
        known = self._kinds.get(kind)
        if known is None or (not known.count and known.until <= now):
            self._kinds[kind] = _Kind(now)
            return True
        known.count += 1
        known.last = last
        if known.timer is None:
            known.timer = self._later(max(0.0, known.until - now), self._due, known)
        return False

    def _due(self, known: _Kind) -> None:
        known.timer = None
        self._tell(known.last, known.count, known.pause)
        known.count = 0
        known.pause = min(2 * known.pause, LONGEST)
        known.until = self._clock() + known.pause

    def tell_rest(self) -> None:
        """The process ends: what was counted is told now."""
        now = self._clock()
        for known in self._kinds.values():
            if known.count:
                self._tell(known.last, known.count, max(0.0, known.pause - (known.until - now)))
                known.count = 0
