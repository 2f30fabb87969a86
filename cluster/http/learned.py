"""Tables of what was worked out before, for words that somebody else chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

Word = TypeVar("Word")
Meaning = TypeVar("Meaning")


class Learned(Generic[Word, Meaning]):
    """A table that keeps what it was made with, and the last words that it learned.

    Words come from clients. A table that grew would be a leak, and one that is frozen when it is full could be filled
    with junk, so that everybody else's words are worked out again at each request. Here the word learned first goes: a
    look in `table`, which is a plain dict, costs nothing more for it, and junk costs each real word one look at most.

    :param kept: how many words it learns before it forgets the first
    :param known: words that are never forgotten
    """

    __slots__ = ("_kept", "_order", "table")

    def __init__(self, kept: int, known: Mapping[Word, Meaning] | None = None) -> None:
        self._kept = kept
        self._order: deque[Word] = deque()
        #: for looking up only
        self.table: dict[Word, Meaning] = dict(known or {})

    def learn(self, word: Word, meaning: Meaning) -> None:
        """Keep a word, unless it is in the table; the word learned first makes room."""
        if word in self.table:
            return
        if len(self._order) >= self._kept:
            # with a default, as servers of several threads share some of these tables
            self.table.pop(self._order.popleft(), None)
        self._order.append(word)
        self.table[word] = meaning
