"""Exceptions in a worker: what the master is told of them, and which of them end the worker."""

from __future__ import annotations

import errno
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gevent
import gevent.hub
import gevent.monkey

from ..channel import Message
from ..complaints import application_traceback
from ..errors import ApplicationNotFound, ConfigurationError
from ..narration import printable
from ..output import Saying, say
from ..reported import LIMITS, in_words, table
from .repeats import Repeats

MESSAGE, TEXT, DOING = LIMITS["message"], LIMITS["text"], LIMITS["doing"]
#: seconds that whoever refers to a failed greenlet has to ask for its result
CLAIM = 5.0

#: what the next try meets again: neither time nor the end of another process gives a file, or a permission
_LASTING = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EINVAL,
    errno.ELOOP, errno.ENAMETOOLONG,
})
#: what the loader of shared libraries says, without an errno, where the next try may succeed
_PASSING = (
    *map(os.strerror, (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETXTBSY)),
    "failed to map segment",
)

_thread_id: Callable[[], int] = gevent.monkey.get_original("_thread", "get_ident")


def exit_code(request: SystemExit) -> int:
    """The code that Python exits with."""
    if request.code is None:
        return 0
    return request.code & 0xFF if isinstance(request.code, int) else 1


def is_lasting(error: BaseException) -> bool:
    """Whether loading the application fails like this again, however often it is tried: the code has to change first.

    Not so where memory, descriptors or another host were missing, which may be what an `ImportError` comes from.
    """
    if not isinstance(error, ConfigurationError | ImportError | SyntaxError):
        return False
    seen: list[BaseException] = []
    left: list[BaseException] = [error]
    while left:
        one = left.pop()
        if isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno not in _LASTING):
            return False
        if isinstance(one, ImportError) and any(text in str(one) for text in _PASSING):
            return False
        seen.append(one)
        for origin in (one.__cause__, one.__context__):
            if origin is not None and not any(origin is other for other in seen):
                left.append(origin)
    return True


class _Summary(NamedTuple):
    """A failure that was told before."""

    type: str
    message: str
    doing: str


class Failures:
    """*tell* sends the master a message; *end* has the worker finish what is in flight and exit with a code.

    *ends_worker*: a thread or a greenlet that fails in the background ends the worker.
    """

    def __init__(self, tell: Callable[[Message], None], end: Callable[[int], None], ends_worker: bool) -> None:
        self._tell = tell
        self._end = end
        self._ends_worker = ends_worker
        self._repeats = Repeats(time.monotonic, _later, self._again)

    def watch(self) -> None:
        """Look after greenlets and threads that fail."""
        self._thread = _thread_id()
        hub = gevent.get_hub()
        self._loop = hub.loop
        hub.handle_error = self._greenlet_failed
        hub.exception_stream = Saying()
        threading.excepthook = self._thread_failed

    def finish(self) -> None:
        """The worker ends: tell what was only counted so far."""
        self._repeats.tell_rest()

    def in_request(self, error: BaseException, doing: str) -> None:
        """An exception in a request: traceback on stderr, event in the master; the worker lives on."""
        doing = printable(doing)
        say(f"exception in {doing}\n" + "".join(traceback.format_exception(error)))
        self.report(error, fatal=False, doing=doing)

    def report(
        self, error: BaseException, fatal: bool = True, text: str | None = None, doing: str = "", hopeless: bool = False
    ) -> None:
        """Tell the master, who prints what is *fatal*. *text* stands for the traceback.

        *hopeless*: no other worker can start either, until something is mended.
        """
        if text is None:
            if isinstance(error, ApplicationNotFound | ConfigurationError):
                text = str(error)  # says it all; where we found out is of no interest
            else:
                text = application_traceback(error)
        self._tell({
            "t": "exception", "type": type(error).__name__, "message": str(error)[:MESSAGE],
            "text": text[-TEXT:], "fatal": fatal, "doing": doing[:DOING], "count": 1, "hopeless": hopeless,
        })

    def handled(self, error: BaseException, data: Mapping[Any, Any]) -> Message:
        """What the master is told of an exception that the application has dealt with, and which it may raise again."""
        trace = error.__traceback__
        text = application_traceback(error)
        error.__traceback__ = trace
        return {
            "t": "exception", "type": type(error).__name__, "message": in_words(error)[:MESSAGE], "text": text[-TEXT:],
            "fatal": False, "handled": True, "doing": "", "count": 1, "data": table(data),
        }

    def _greenlet_failed(self, context: Any, kind: Any, error: Any, trace: Any) -> None:
        """A greenlet ended with an exception."""
        hub = gevent.get_hub()
        is_greenlet = isinstance(context, gevent.Greenlet)
        if is_greenlet and issubclass(kind, SystemExit):  # gevent would end the main greenlet, and the requests with it
            self.left(error)
            self._end(exit_code(error))
        elif is_greenlet and not context.has_links() and not issubclass(kind, hub.NOT_ERROR):
            self._await_claim(context, error)
        else:
            gevent.hub.Hub.handle_error(hub, context, kind, error, trace)

    def _await_claim(self, greenlet: Any, error: BaseException) -> None:
        """Nobody waits for the greenlet. When nobody asks for its result either, nobody will know of its failure.

        That is so once nothing refers to the greenlet any more, at the latest after `CLAIM` seconds.
        """
        loop = gevent.get_hub().loop
        trace = error.__traceback__
        doing = f"greenlet {greenlet.name}"
        timer = loop.timer(CLAIM)

        def decide() -> None:
            collected.detach()
            timer.stop()
            timer.close()
            if error.__traceback__ is trace:  # who gets the result has it raised again, which adds to the traceback
                self._behind(error, doing)

        collected = weakref.finalize(greenlet, loop.run_callback_threadsafe, decide)
        collected.atexit = False
        timer.start(decide)

    def left(self, request: SystemExit) -> None:
        """Tell the master what was said with a `SystemExit`."""
        if isinstance(request.code, str):
            self.report(request, text=request.code)

    def _thread_failed(self, args: Any) -> None:
        if args.exc_type is not SystemExit:
            error = args.exc_value if args.exc_value is not None else args.exc_type()
            doing = f"thread {args.thread.name}" if args.thread is not None else "a thread"
            if _thread_id() == self._thread:
                self._behind(error, doing)
            else:  # a native one
                self._loop.run_callback_threadsafe(self._behind, error, doing)

    def _behind(self, error: BaseException, doing: str) -> None:
        """Something outside a request failed. One that does so ten times a second must not fill the logs."""
        if self._ends_worker:
            self.report(error, doing=doing)
            self._end(1)
            return
        told = _Summary(type(error).__name__, str(error)[:MESSAGE], printable(doing)[:DOING])
        if self._repeats.is_new((type(error), _place(error)), told):
            self.in_request(error, doing)

    def _again(self, told: _Summary, count: int, seconds: float) -> None:
        """As often again as *count* something failed in the background, and *told* was the last of it."""
        what = f"{told.type}: {told.message}" if told.message else told.type
        times = "once more" if count == 1 else f"{count} times more"
        line = printable(f"exception in {told.doing}: {what}; {times} in {seconds:.0f} s")
        say(line + "\n")
        self._tell({"t": "exception", **told._asdict(), "text": line, "fatal": False, "count": count})


def _place(error: BaseException) -> tuple[str, int]:
    """Where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)


def _later(seconds: float, function: Callable[..., None], argument: Any) -> Any:
    timer = gevent.get_hub().loop.timer(seconds)

    def over() -> None:
        timer.close()
        function(argument)

    timer.start(over)
    return timer
