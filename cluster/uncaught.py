"""What a script says when it ends by a `ConfigurationError`: that one line, and exit code 2, as on the command line.

Where the error was raised is in our code, and of no use to who wrote the script; with CLUSTER_DEBUG=1 it is shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .errors import ConfigurationError

_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]

#: what had been there before `tell_in_one_line`; None when that is not in effect
_before: _Hook | None = None


def tell_in_one_line() -> None:
    """From now on an uncaught `ConfigurationError` is told so; all others are left to the hook that is there.

    Interactive interpreters are left alone, as they go on.
    """
    global _before
    if _before is None and not _interactive():
        _before, sys.excepthook = sys.excepthook, _tell


def tell_no_more() -> None:
    """The end of `tell_in_one_line`: in a worker that runs the rest of the script, where the master tells it."""
    global _before
    if _before is not None and sys.excepthook is _tell:
        sys.excepthook = _before
    _before = None


def _interactive() -> bool:
    return hasattr(sys, "ps1") or bool(sys.flags.interactive or os.environ.get("PYTHONINSPECT"))


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    wanted = _before is not None and not _interactive() and os.environ.get("CLUSTER_DEBUG", "0") in ("", "0")
    if not wanted or not isinstance(error, ConfigurationError):
        (_before or sys.__excepthook__)(kind, error, trace)
        return
    from . import output  # needed only where something is wrong

    output.say(f"cluster: {error}\n")
    output.STDERR.finish()
    raise SystemExit(error.exit_code)  # the interpreter runs its exit hooks, and ends with that code
