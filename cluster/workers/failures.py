"""Exceptions in a worker: what the master is told of them, and which of them end the worker."""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import gevent.hub

from ..channel import Message
from ..complaints import application_traceback
from ..errors import ApplicationNotFound, ConfigurationError
from ..narration import printable
from ..output import Saying, say

#: the most of a message, of a traceback, and of what was going on that the master is told, in characters
MESSAGE, TEXT, DOING = 10_000, 100_000, 1000
#: seconds that whoever refers to a failed greenlet has to ask for its result
CLAIM = 5.0


def exit_code(request: SystemExit) -> int:
    """The code that Python exits with."""
    if request.code is None:
        return 0
    return request.code & 0xFF if isinstance(request.code, int) else 1


class Failures:
    """*tell* sends the master a message; *end* has the worker finish what is in flight and exit with a code."""

    def __init__(self, tell: Callable[[Message], None], end: Callable[[int], None]) -> None:
        self._tell = tell
        self._end = end

    def watch(self) -> None:
        """Look after greenlets and threads that fail."""
        hub = gevent.get_hub()
        hub.handle_error = self._greenlet_failed
        hub.exception_stream = Saying()
        threading.excepthook = self._thread_failed

    def in_request(self, error: BaseException, doing: str) -> None:
        """An exception in a request: traceback on stderr, event in the master; the worker lives on."""
        doing = printable(doing)
        say(f"exception in {doing}\n" + "".join(traceback.format_exception(error)))
        self.report(error, fatal=False, doing=doing)

    def report(self, error: BaseException, fatal: bool = True, text: str | None = None, doing: str = "") -> None:
        """Tell the master, who prints what is *fatal*. *text* stands for the traceback."""
        if text is None:
            if isinstance(error, ApplicationNotFound | ConfigurationError):
                text = str(error)  # says it all; where we found out is of no interest
            else:
                text = application_traceback(error)
        self._tell({
            "t": "exception", "type": type(error).__name__, "message": str(error)[:MESSAGE],
            "text": text[-TEXT:], "fatal": fatal, "doing": doing[:DOING],
        })

    def _greenlet_failed(self, context: Any, kind: Any, error: Any, trace: Any) -> None:
        """A greenlet ended with an exception."""
        hub = gevent.get_hub()
        is_greenlet = isinstance(context, gevent.Greenlet)
        if is_greenlet and issubclass(kind, SystemExit):  # gevent would end the main greenlet, and the requests with it
            self.left(error)
            self._end(exit_code(error))
        elif is_greenlet and not context.has_links() and not issubclass(kind, hub.NOT_ERROR + hub.SYSTEM_ERROR):
            self._await_claim(context, error)
        else:
            gevent.hub.Hub.handle_error(hub, context, kind, error, trace)

    def _await_claim(self, greenlet: Any, error: BaseException) -> None:
        """Nobody waits for the greenlet. When nobody asks for its result either, nobody will know, and the worker ends.

        That is so once nothing refers to the greenlet any more, at the latest after `CLAIM` seconds.
        """
        loop = gevent.get_hub().loop
        trace = error.__traceback__
        timer = loop.timer(CLAIM)

        def decide() -> None:
            collected.detach()
            timer.stop()
            timer.close()
            if error.__traceback__ is trace:  # who gets the result has it raised again, which adds to the traceback
                self._end_because(error)

        collected = weakref.finalize(greenlet, loop.run_callback_threadsafe, decide)
        collected.atexit = False
        timer.start(decide)

    def left(self, request: SystemExit) -> None:
        """Tell the master what was said with a `SystemExit`."""
        if isinstance(request.code, str):
            self.report(request, text=request.code)

    def _thread_failed(self, args: Any) -> None:
        if args.exc_type is not SystemExit:
            self._end_because(args.exc_value)

    def _end_because(self, error: BaseException) -> None:
        """Something outside a request failed."""
        self.report(error)
        self._end(1)
