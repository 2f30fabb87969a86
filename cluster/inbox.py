"""The supervisor's inbox: signals, deaths, messages, timers and commands become items that it takes one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent
import gevent.queue

Item = tuple[Callable[..., None], tuple[Any, ...]]
T = TypeVar("T")


#: seconds until a timer whose function raised, for want of memory perhaps, fires again
AGAIN = 0.5


class Timer:
    """One delay; `cancel` may be called at any time, also afterwards."""

    def __init__(self, seconds: float, fire: Callable[[], None]) -> None:
        self._watcher: Any = gevent.get_hub().loop.timer(max(seconds, 0.0), repeat=AGAIN)
        self._fire = fire
        self._watcher.start(self._fired)

    def _fired(self) -> None:
        self._fire()
        self.cancel()

    def cancel(self) -> None:
        """Do not fire."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()


class Repeater:
    """A timer that is made long before it is needed, as there may be no memory for one by then."""

    def __init__(self, seconds: float, fire: Callable[[], None]) -> None:
        self._watcher: Any = gevent.get_hub().loop.timer(seconds, repeat=seconds)
        self._fire = fire

    def on(self) -> None:
        """Fire, for the first time after one span, until `off`."""
        if not self._watcher.active:
            self._watcher.again(self._fire)

    def off(self) -> None:
        """Do not fire any more."""
        self._watcher.stop()


class Inbox:
    """What happened and is not dealt with yet, in order."""

    def __init__(self) -> None:
        self._items: Any = gevent.queue.SimpleQueue()

    def put(self, act: Callable[..., None], *args: Any) -> None:
        """Have the supervisor call ``act(*args)`` when its turn comes. Callable from watchers and greenlets."""
        self._items.put((act, args))

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> Timer:
        """`put` after *seconds*."""
        return Timer(seconds, lambda: self.put(act, *args))

    def repeater(self, seconds: float, act: Callable[..., None]) -> Repeater:
        """`put` *act* each so many *seconds*, for as long as that is switched on."""
        return Repeater(seconds, lambda: self.put(act))

    def rest(self, kind: type[T]) -> list[T]:
        """What of *kind* the items that nobody will take any more were given."""
        found = []
        while not self._items.empty():
            found += [arg for arg in self._items.get()[1] if isinstance(arg, kind)]
        return found

    def take(self) -> Item:
        """The next item; blocks the supervisor until there is one."""
        item: Item = self._items.get()
        return item
