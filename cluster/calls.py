"""Functions of the master that its workers may call: those that were exposed, and commands marked for workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent

from .announcer import FAILURES
from .channel import Message
from .commands import Commands
from .complaints import Complaints
from .errors import ClusterError, ConfigurationError
from .events import normal
from .results import Result
from .workers.handle import WorkerHandle


class Calls:
    """Runs calls in order per worker, in a greenlet of that worker's while it has any waiting."""

    def __init__(self, commands: Commands, complaints: Complaints) -> None:
        self._commands = commands
        self._complaints = complaints
        self._exposed: dict[str, tuple[Callable[..., Any], bool]] = {}
        self._waiting: dict[int, deque[Message]] = {}

    def expose(self, name: str, function: Callable[..., Any], with_worker: bool = False) -> None:
        """Let workers call *function* as *name*. Raises `ConfigurationError` when it cannot be called or is taken."""
        if not callable(function):
            raise ConfigurationError(f"cannot expose {name!r}: {function!r} is not callable")
        if normal(name) in self._exposed or name in self._commands:
            raise ConfigurationError(f"cannot expose {name!r}: the name is taken")
        self._exposed[normal(name)] = (function, with_worker)

    def take(self, worker: WorkerHandle, message: Message) -> None:
        """A call came in."""
        queue = self._waiting.get(worker.uid)
        if queue is not None:
            queue.append(message)
            return
        self._waiting[worker.uid] = deque([message])
        gevent.spawn(self._work, worker)

    def _work(self, worker: WorkerHandle) -> None:
        queue = self._waiting[worker.uid]
        try:
            while queue and worker.alive:
                self._answer(worker, queue.popleft())
        finally:
            del self._waiting[worker.uid]

    def _answer(self, worker: WorkerHandle, message: Message) -> None:
        number, name, args = message.get("id"), message.get("name"), message.get("args")
        if not isinstance(number, int) or not isinstance(name, str) or not isinstance(args, list):
            self._complaints.say(f"worker {worker.id} sent a call that is none; ignored")
            return
        assert worker.channel is not None
        try:
            value = self._run(worker, name, args)
        except ClusterError as error:
            self._complaints.say(f"worker {worker.id} called {name[:80]!r}: {error}")
            worker.channel.reply(number, error=str(error))
        except FAILURES as error:
            self._complaints.handler_failed(f"call {name[:80]}", self._exposed.get(normal(name), (repr,))[0], error)
            worker.channel.reply(number, error=f"{type(error).__name__}: {error}")
        else:
            worker.channel.reply(number, value)

    def _run(self, worker: WorkerHandle, name: str, args: list[Any]) -> Any:
        exposed = self._exposed.get(normal(name))
        if exposed is not None:
            function, with_worker = exposed
            return function(worker, *args) if with_worker else function(*args)
        if name in self._commands and self._commands.get(name).workers:
            value = self._commands.get(name).run(*args)
            return None if isinstance(value, Result) else value
        raise ConfigurationError("no function of that name is exposed to workers")
