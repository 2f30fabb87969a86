"""What the master tells the operator on stderr by itself: failures that nobody else may be there to report."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

from . import narration, output
from .events import Emitter


class Complaints:
    """Writes to stderr, and never waits for who reads it. A traceback that was printed before is only counted."""

    def __init__(self) -> None:
        self._told = narration.Told()
        self._last = ""
        #: where it all goes instead of stderr
        self.sink: Callable[[str], None] | None = None

    def say(self, text: str) -> None:
        """Write one line, whatever state stderr is in."""
        if self.sink is not None:
            self._write(text)
        else:
            self._write(f"cluster: {text}")

    def ending(self, text: str) -> None:
        """Why the start has failed: on stderr, and in the log when there is one.

        Whoever has just started it looks at the terminal.
        """
        self._print(f"cluster: {text}")
        self.log(text)

    def to_terminal(self, text: str) -> None:
        """For whoever sits at the terminal, and nobody else."""
        self._print(f"cluster: {text}")

    def log(self, text: str) -> None:
        """In the log, when there is one: stderr learns of it in another way."""
        if self.sink is not None:
            self._write(text)

    def traceback(self, text: str) -> None:
        """A worker ended because of *text* (a traceback, or one line)."""
        self._last = text
        if not self._told.again(text) and self.sink is None:  # else it is in the log, with the event
            self._write(text)

    def gave_up(self, deaths: int) -> None:
        """So many workers died in a row and none got ready."""
        self.ending(f"{deaths} worker deaths before any got ready")
        if self._last:
            self._write(f"the last of them ({self._told.times(self._last)} alike):\n{self._last}")

    def cannot_start(self, waits: str | None) -> None:
        """Why was said as a traceback. *waits*: for what, instead of ending the cluster."""
        then = f"waiting until {waits}" if waits else "giving up"
        self.ending(f"no worker can start before that is mended; {then}")

    def handler_failed(self, name: str, handler: Callable[..., Any], error: BaseException) -> None:
        """A handler of an event raised."""
        where = getattr(handler, "__module__", "?")
        what = getattr(handler, "__qualname__", repr(handler))
        self.say(f"handler {where}.{what} of event {name!r} failed")
        self._write("".join(traceback.format_exception(error)))

    def _write(self, text: str) -> None:
        if self.sink is not None:
            self.sink(text.rstrip("\n"))
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        output.say(text if text.endswith("\n") else text + "\n")

    def subscribe(self, emitter: Emitter, narrated: Callable[[], bool]) -> None:
        """Report the failures among the events, unless a plugin does (*narrated*)."""

        def report(name: str, words: Callable[..., str | None]) -> None:
            def tell(*args: Any) -> None:
                text = None if narrated() else words(*args)
                if text is not None:
                    self.say(text)

            emitter.add(name, tell)

        report("worker killed", narration.died_rarely)
        report("worker waiting", narration.waiting_rarely)
        report("worker timeout", narration.overdue)
        report("restart failed", lambda reason: f"restart failed: {reason}; this master serves on")
        report("reload failed", lambda generation, reason: f"reload failed: {reason}; the old workers serve on")
        report("cyclic restart", lambda seconds: f"restart asked for too soon after the start; waiting {seconds:.1f} s")


def application_traceback(error: BaseException) -> str:
    """The traceback without the frames of this package on the way to the application's: they say nothing about it."""
    here = os.path.dirname(os.path.abspath(__file__)) + os.sep
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and (
        trace.tb_frame.f_code.co_filename.startswith(here) or "importlib" in trace.tb_frame.f_code.co_filename
    ):
        trace = trace.tb_next
    return "".join(traceback.format_exception(error.with_traceback(trace)))
