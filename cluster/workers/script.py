"""The end of an abstract worker, whose job is the rest of the script: Python itself ends it, with the script's code."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable

from ..system import collect_no_more
from ..uncaught import tell_no_more


def watch_end(on_over: Callable[[], None], on_end: Callable[[BaseException | None], None]) -> None:
    """Call *on_over* when the script is over, and *on_end* after all exit hooks, with the exception that it ended by.

    `SystemExit` is none of these; which code it meant only the interpreter knows.
    """
    sys.last_value = None  # what an uncaught exception leaves behind, whatever is hooked
    tell_no_more()
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = lambda *about: None  # the master prints it
    shutdown = threading._shutdown  # type: ignore[attr-defined]

    def over() -> None:
        """What the interpreter calls first; it waits there, and nothing is left that an end could interrupt."""
        on_over()
        shutdown()

    def ended() -> None:
        on_end(sys.last_value)
        collect_no_more()

    threading._shutdown = over  # type: ignore[attr-defined]
    atexit.register(ended)  # first in, so it runs after whatever the script registers
