"""A new master's coming to power: what it has from the old one, and from when on it is the master."""

from __future__ import annotations

from collections.abc import Callable

from .announcer import Announcer
from .restart import Predecessor
from .scoreboard import Scoreboard


class Takeover:
    """Emits `restart` once the old master has heard of it, and `old master gone` when that has ended.

    *predecessor*: None in a first master; then there is nothing to do. *taken*: keys of the listeners that were taken
    over from it. *on_reopen*: the old master was told to open its logs anew.
    """

    def __init__(
        self, predecessor: Predecessor | None, taken: set[str], announcer: Announcer, scoreboard: Scoreboard,
        on_reopen: Callable[[], None],
    ) -> None:
        self._predecessor = predecessor
        self._taken = taken
        self._announcer = announcer
        self._scoreboard = scoreboard
        self._on_reopen = on_reopen
        self._ready = False
        self._over = False

    @property
    def pid(self) -> int | None:
        """The old master's."""
        return self._predecessor.pid if self._predecessor is not None else None

    def begin(self) -> None:
        """Go on counting where the old master is, and listen to it."""
        if self._predecessor is not None:
            self._scoreboard.inherit(self._predecessor.totals)
            self._predecessor.watch(self._told, self._gone, self._on_reopen)

    def ready(self) -> None:
        """All workers are ready."""
        self._ready = True
        if self._predecessor is not None:
            if self._predecessor.gone:
                self._done()
            else:
                self._predecessor.tell_ready(self._taken)

    def reopen_logs(self) -> None:
        """The old master's logs were renamed, too."""
        if self._predecessor is not None:
            self._predecessor.reopen_logs()

    def _told(self, totals: dict[str, int]) -> None:
        """Its answer to our being ready, and whatever it counts after that.

        Whoever asks us from now on is told no less than the old master told.
        """
        self._scoreboard.inherit(totals)
        self._done()

    def _gone(self) -> None:
        self._done()  # perhaps without an answer
        self._announcer.say("old master gone")

    def _done(self) -> None:
        if self._ready and not self._over and self._predecessor is not None:
            self._over = True
            self._announcer.say("restart", self._predecessor.data)

    def abandon(self) -> None:
        """In a forked child: the connection is the master's."""
        if self._predecessor is not None:
            self._predecessor.abandon()

    def close(self) -> None:
        """Forget the old master."""
        if self._predecessor is not None:
            self._predecessor.close()
