"""The greenlet in which the master's event handlers run, in order, apart from the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import gevent.queue

from .events import Emitter

#: what a user's function may raise without ending the greenlet that calls it; a Timeout is no Exception
FAILURES: tuple[type[BaseException], ...] = (Exception, SystemExit, gevent.Timeout)


#: seconds until what there was no memory for is tried again
AGAIN = 0.5


class Announcer:
    """Queues events and hands them to the emitter one after the other. A handler that blocks delays only handlers."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        emitter.failures = FAILURES
        self._queue: Any = gevent.queue.SimpleQueue()
        self._greenlet: Any = gevent.spawn(self._run)

    def say(self, name: str, *args: Any) -> None:
        """Emit an event, after those that are queued already."""
        self._queue.put((self._emitter.dispatch, (name, *args)))

    def then(self, act: Callable[..., None], *args: Any) -> None:
        """Call ``act(*args)`` once the handlers of everything said so far are done."""
        self._queue.put((act, args))

    def is_current(self) -> bool:
        """Whether the caller runs inside a handler."""
        return gevent.getcurrent() is self._greenlet

    def _run(self) -> None:
        while True:
            act, args = self._queue.get()
            while True:
                try:
                    act(*args)
                except MemoryError:  # a handler's own is reported; this one must not keep later events from being told
                    if act != self._emitter.dispatch:  # somebody waits for it
                        gevent.sleep(AGAIN)
                        continue
                break

    def close(self) -> None:
        """Handle no more events."""
        if not self.is_current():
            self._greenlet.kill(block=False)
