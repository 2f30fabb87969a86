"""Processes that the application forks from a worker, as multiprocessing does: they are the application's, no workers.

Without this, such a process would accept connections, read the answers to the worker's calls, run the requests that
were in flight, and the worker's exit hooks when it is terminated.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection
from typing import Any

import gevent

from ..system import at_fork, forget_exit_hooks, forget_hub


def when_forked(caught: Collection[int], let_go: Callable[[], None]) -> None:
    """Have each process that is forked from this one be a process of its own, and call *let_go* in it.

    The hub with all its greenlets and watchers stays behind, the signals *caught* by the worker mean what they mean to
    any process, and the exit hooks are dropped. What such a process forks in turn is left alone.
    """
    hub = gevent.get_hub()
    is_worker = True
    before: set[Any] = set()

    def block() -> None:
        """One that came to the child before it has handlers of its own would be lost, or taken as the worker does."""
        nonlocal before
        if is_worker:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, caught)

    def unblock() -> None:
        if is_worker:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def in_child() -> None:
        nonlocal is_worker
        if not is_worker:
            return
        try:
            forget_hub(hub)
            for number in caught:
                signal.signal(number, signal.SIG_DFL)
            forget_exit_hooks()
            threading.excepthook = threading.__excepthook__
            let_go()
        finally:
            unblock()
            is_worker = False

    os.register_at_fork(before=block, after_in_parent=unblock)
    at_fork.act = in_child
