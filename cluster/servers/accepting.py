"""Taking connections from sockets that all workers share, one per wake-up, and fairly.

Workers that wait on one socket share it unevenly: whoever is awake takes all. So a worker that has more connections
than the mean of all serving workers by more than one stops watching and looks again shortly. Not for long: the others
may be stuck, and a connection must not wait for them. Measured with four workers: 48/50/51/51 of 200 connections; with
one of them stuck, 400 connections in 0.05 s. Longer pauses would let a stuck worker choke the others; none at all gave
one worker 151 of 200.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from operator import mul
from typing import Any, Protocol

import gevent

from ..scoreboard import Scoreboard

#: connections above the mean that a worker may have before it leaves the next one to others
MARGIN = 1
#: seconds between two looks while it waits, and how many looks it waits at most
LOOK = 0.002
LOOKS = 10
#: seconds for which it then accepts without waiting
FREE = 0.1
#: seconds of rest when the process has no descriptor left
EXHAUSTED = 0.1

_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handle = Callable[[int, Any], None]


class Room(Protocol):
    """What is asked before a connection is accepted."""

    @property
    def full(self) -> bool:
        """Whether another one would have to go for it."""

    def make(self) -> bool:
        """Let somebody go where that is needed; whether there is room."""

    def out_of_descriptors(self, error: OSError) -> None:
        """accept() failed."""


class Accepting:
    """Watches the listeners of one worker. The server keeps its row's count of open connections up to date."""

    def __init__(self, scoreboard: Scoreboard, row: int, room: Room | None = None) -> None:
        self._room = room
        self._scoreboard = scoreboard
        self._active = scoreboard.active
        self._serving = scoreboard.serving
        self._row = row
        self._loop = gevent.get_hub().loop
        self._sources: list[tuple[Any, Handle, Any]] = []
        self._serves = False
        self._held = False
        self._timer: Any = None
        self._resting = False
        self._looks = 0
        self._free_until = 0.0

    def add(self, socket: Any, handle: Handle) -> None:
        """Call ``handle(descriptor, address)`` for each connection that comes in on *socket* (plain, non-blocking)."""
        watcher = self._loop.io(socket.fileno(), 1)
        self._sources.append((socket, handle, watcher))

    def start(self) -> None:
        """Begin to accept."""
        self._serves = True
        self._serving[self._row] = 1
        self._watch()

    def stop(self) -> None:
        """Accept no more, and take no part in the mean."""
        self._serves = False
        self._unwatch()
        self._stop_timer()
        self._serving[self._row] = 0

    def hold(self) -> None:
        """The server is full."""
        self._held = True
        self._unwatch()

    def resume(self) -> None:
        """The server has room again."""
        if not self._held and not self._resting:
            return
        self._held = False
        if self._resting:
            self._stop_timer()
        if self._serves and self._timer is None:
            self._watch()

    def empty(self, mask: int) -> None:
        """Accept all that is queued on the listeners whose bit is in *mask*; nobody else will."""
        for index, source in enumerate(self._sources):
            if mask >> index & 1:
                while self._accept(source):
                    pass

    def _watch(self) -> None:
        for source in self._sources:
            if not source[2].active:
                source[2].start(self._readable, source)

    def _unwatch(self) -> None:
        for _, _, watcher in self._sources:
            watcher.stop()

    def _readable(self, source: tuple[Any, Handle, Any]) -> None:
        room = self._room
        full = room is not None and room.full
        # A full one would end somebody's connection for it, and so leaves it to all who have fewer.
        if self._above_mean(0 if full else MARGIN) and time.monotonic() >= self._free_until:
            self._looks = 0
            self._wait(LOOK)
        elif full and room is not None and not room.make():
            self._rest()
        else:
            self._accept(source)

    def _above_mean(self, margin: int = MARGIN) -> bool:
        rows = self._scoreboard.used
        serving = self._serving[:rows]
        count = sum(serving)
        if count < 2:
            return False
        mean = sum(map(mul, self._active[:rows], serving)) / count
        return bool(self._active[self._row] > mean + margin)

    def _wait(self, seconds: float) -> None:
        self._unwatch()
        self._timer = self._loop.timer(seconds, repeat=seconds)  # a one-shot one cannot be restarted from its callback
        self._timer.start(self._look)

    def _rest(self) -> None:
        """Leave the listeners alone until `resume`, or for a moment: to look at once would find the same."""
        if self._timer is None and self._serves:
            self._looks = LOOKS
            self._wait(EXHAUSTED)
            self._resting = True

    def _look(self) -> None:
        self._looks += 1
        if self._above_mean():
            if self._looks < LOOKS:
                return
            self._free_until = time.monotonic() + FREE
        self._stop_timer()
        if self._serves and not self._held:
            self._watch()

    def _stop_timer(self) -> None:
        self._resting = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _accept(self, source: tuple[Any, Handle, Any]) -> bool:
        socket, handle, _ = source
        try:
            descriptor, address = socket._accept()
        except (BlockingIOError, InterruptedError):
            return False  # another worker was faster
        except OSError as error:
            if error.errno in _OUT_OF:
                if self._room is not None:
                    self._room.out_of_descriptors(error)
                self._rest()
            return error.errno == errno.ECONNABORTED
        handle(descriptor, address)
        return True
