"""What an adapter is given by its worker, and what a worker expects of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..listeners import Listener
from ..scoreboard import InFlight, Scoreboard


class Context(NamedTuple):
    """What a server needs to know, and no more."""

    listeners: Sequence[Listener]
    scoreboard: Scoreboard
    row: int
    in_flight: InFlight
    #: (error, what was going on): an exception in a request; the worker lives on
    report: Callable[[BaseException, str], None]
    #: all settings, and the directory that relative paths among them are taken against
    options: Mapping[str, Any]
    base: str
    #: each is told ``(event, data)`` when a connection comes or goes and a request begins or is complete; empty unless
    #: a plugin wants to know, so that a server looks at it before it gathers anything
    observers: list[Callable[[str, dict[str, Any]], None]]

    def observe(self, event: str, data: dict[str, Any]) -> None:
        """Tell the observers."""
        for observer in self.observers:
            observer(event, data)


class Adapter(Protocol):
    """Serves connections in a worker."""

    def start(self) -> None:
        """Begin to accept."""

    def connections(self) -> int:
        """How many are open."""

    def drain(self, grace: float) -> None:
        """Stop accepting and block until all connections are finished.

        *grace*: seconds in which a request that comes in on an idle keep-alive connection is still answered.
        """

    def let_go(self) -> None:
        """In a process that the application forked, whose hub is new: what is served is the worker's."""

    def reopen_logs(self) -> None:
        """Log files were moved away."""

    def set_tls(self, index: int, material: Any) -> None:
        """New certificates for connections that the listener *index* gets from now on."""


def describe(environ: dict[str, Any]) -> bytes:
    """A request in one line, for the in-flight table."""
    query = environ.get("QUERY_STRING")
    target = environ.get("PATH_INFO", "") + (f"?{query}" if query else "")
    text = f"{environ.get('REQUEST_METHOD', '-')} {target} {environ.get('REMOTE_ADDR', '-')}"
    return text.encode("latin-1", "replace")
