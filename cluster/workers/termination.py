"""The end of a worker that has to go at once, wherever its code is: exit hooks, then gone."""

from __future__ import annotations

import atexit
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gevent

from .. import output
from ..system import System, flush_streams

#: seconds for each exit hook; one that waits for something (multiprocessing's does, for children that live) must not
#: keep the others from running before the master loses patience
PATIENCE = 0.2
#: such spans in all; then the worker ends, whatever keeps its hooks
SPANS = 10


def run_exit_hooks() -> None:
    """Run them, and write what is buffered."""
    output.take_over("stderr")  # whatever a hook's failure has to say, the end does not wait for who reads it
    try:
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - exit all the same
        traceback.print_exc()
    flush_streams()
    output.give_back(output.PATIENCE)


class Termination:
    """*catch* installs a signal handler."""

    def __init__(self, system: System, catch: Callable[[int, Callable[[int], Any]], None]) -> None:
        self._system = system
        self._catch = catch
        self._number = 0
        #: runs the hooks
        self._greenlet: Any = None
        self._runs = False
        self._spans = 0

    def begin(self, number: int) -> None:
        """Signal *number* has come; in its handler. When it comes again, nothing is waited for.

        Another one is not it again: after Ctrl-C, which came to us too, the master sends TERM.
        """
        if self._greenlet is not None:
            if number != self._number:
                return
            self._system.die_of(number)
        complain = sys.unraisablehook
        sys.unraisablehook = lambda about: None if about.exc_type is gevent.GreenletExit else complain(about)
        self._number = number
        self._catch(signal.SIGALRM, self._overdue)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
        if gevent.getcurrent() is gevent.get_hub():  # where nothing can wait
            self._greenlet = gevent.spawn(self._end, number)
        else:
            self._greenlet = gevent.getcurrent()
            self._end(number)

    def _end(self, number: int) -> None:
        self._runs = True
        run_exit_hooks()
        self._system.die_of(number)

    def _overdue(self, number: int) -> None:
        """On to the next hook."""
        self._spans += 1
        if self._spans > SPANS:
            self._system.die_of(self._number)
        if gevent.getcurrent() is self._greenlet:
            raise gevent.GreenletExit
        if self._runs:
            self._greenlet.throw(gevent.GreenletExit)
