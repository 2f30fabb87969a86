"""What operations return: something to wait for, or to look at later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from .errors import OperationFailed


class Result:
    """The outcome of an operation that was asked for. ``done`` and ``error`` can be read at any time."""

    def __init__(self, operation: str, guard: Callable[[], None] | None = None) -> None:
        self.operation = operation
        self.error: OperationFailed | None = None
        self.value: Any = None
        self._guard = guard
        self._event = gevent.event.Event()

    @property
    def done(self) -> bool:
        """Whether it has succeeded or failed."""
        return bool(self._event.is_set())

    def wait(self, timeout: float | None = None) -> Any:
        """Block the calling greenlet until it is done, at most *timeout* seconds (None: as long as it takes).

        Returns its value. Raises `OperationFailed` with the reason, TimeoutError, or `WouldBlock` when called where
        it would stop the supervisor itself.
        """
        if not self.done:
            if self._guard is not None:
                self._guard()
            if not self._event.wait(timeout):
                raise TimeoutError(f"{self.operation} is not done after {timeout:g} s")
        if self.error is not None:
            raise self.error
        return self.value

    def succeed(self, value: Any = None) -> None:
        """Mark it done."""
        if not self.done:
            self.value = value
            self._event.set()

    def fail(self, reason: str) -> None:
        """Mark it failed, with the reason in words."""
        if not self.done:
            self.error = OperationFailed(f"{self.operation}: {reason}")
            self._event.set()

    def __repr__(self) -> str:
        state = "failed" if self.error else "done" if self.done else "under way"
        return f"<Result of {self.operation}: {self.error or state}>"
