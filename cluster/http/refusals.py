"""What was refused, counted by its reason; at most one line a minute tells it."""

from __future__ import annotations

import os
from typing import Any

from ..output import say

#: how long what was refused is gathered before it is told, in seconds
MINUTE = 60.0

#: kinds of what is refused
REQUEST, HANDSHAKE, CONNECTION = "request", "TLS handshake", "connection"


class Refusals:
    """Counts, and tells: "cluster: process 123 refused within a minute: 12 requests (400 malformed Host)".

    The first refusal starts a timer, which ends with the line: where nothing is refused, there is none. Reasons are the
    server's own words, or OpenSSL's: never a client's, so that nobody can make the table grow or write into the line.

    :param loop: of the hub that the server belongs to
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._timer: Any = None
        #: how many by kind and reason since the last line
        self.counts: dict[tuple[str, str], int] = {}

    def count(self, kind: str, reason: str) -> None:
        """One more."""
        key = kind, reason
        self.counts[key] = self.counts.get(key, 0) + 1
        if self._timer is None:
            self._timer = self._loop.timer(MINUTE, ref=False)
            self._timer.start(self.tell)

    def tell(self) -> None:
        """Write the line, when there is something to tell, and begin anew."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        counts, self.counts = self.counts, {}
        if counts:
            # one write, so that lines of several workers do not mix
            say(f"cluster: process {os.getpid()} refused within a minute: {summary(counts)}\n")


def summary(counts: dict[tuple[str, str], int]) -> str:
    """The counts in words, the largest first."""
    return ", ".join(
        f"{number} {kind}{'s' if number > 1 else ''} ({reason})"
        for (kind, reason), number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
