"""Every event of a cluster with its payload, and the emitter that hands events to handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Handler = Callable[..., Any]


class Event(NamedTuple):
    """One kind of event: its name, the names of what handlers are given, where it is emitted, and when."""

    name: str
    payload: tuple[str, ...]
    where: str
    help: str


CATALOGUE: dict[str, Event] = {
    event.name: event
    for event in (
        Event("start", (), "master", "The sockets are bound, no worker exists yet. Forking waits for the handlers."),
        Event("before fork", ("worker",), "master", "Right before a worker is forked: drop what it must not inherit."),
        Event("worker", ("worker",), "master", "A worker was forked."),
        Event("listening", (), "master", "The first workers are forked; connections are taken from now on."),
        Event("worker connected", ("worker",), "master", "The worker's channel works; it loads the application."),
        Event("worker ready", ("worker",), "master", "The worker accepts requests."),
        Event("ready", (), "master", "All workers of the first generation are ready."),
        Event("worker killed", ("worker",), "master", "A worker ended unasked; its slot is filled again."),
        Event("worker removed", ("worker",), "master", "A worker that was asked to end has ended."),
        Event("worker exception", ("worker", "error"), "master",
              "Something raised in a worker; `error` has `type`, `message`, `text` (the traceback), `doing`, as in "
              "`GET /boom` (empty when nobody knows), `fatal` (the worker ends because of it) and `count`, more than 1 "
              "where failures in the background are only counted. What the application passed to `worker.report(error, "
              "data)` has `handled` true and `data`, a mapping of texts."),
        Event("worker waiting", ("worker", "connections"), "master",
              "A draining worker still has open connections; every 2 s."),
        Event("worker timeout", ("worker", "seconds"), "master", "A worker ran out of time and is killed now."),
        Event("kill", ("signal",), "master", "A signal is about to go to all workers."),
        Event("closing", (), "master", "The cluster was asked to end, or a new master has taken over."),
        Event("close", (), "both", "Master: the last event, all workers are gone. Worker: it leaves after this."),
        Event("restarting", ("data",), "master", "A new master is about to be started; put what it should know here."),
        Event("restart", ("data",), "master", "This master has taken over; data is what `restarting` gathered."),
        Event("handed over", (), "master",
              "After a restart: the old master has closed its consoles and the listeners that nobody wants any more."),
        Event("old master gone", (), "master", "After a restart: the old master has ended."),
        Event("restart failed", ("reason",), "master",
              "The new master did not get ready, or died soon after it had taken over; this one serves."),
        Event("resumed", (), "master", "The new master has died; this one, which had handed over, serves again."),
        Event("cyclic restart", ("seconds",), "master", "A restart came too soon after the start; it waits."),
        Event("reloading", ("generation",), "master", "A new generation of workers is being forked."),
        Event("reloaded", ("generation",), "master", "The new generation has taken over; the old one drains."),
        Event("reload failed", ("generation", "reason"), "master", "The new generation was dropped; the old stays."),
        Event("reopen logs", (), "master", "Log files were moved away (SIGUSR1): open them anew."),
        Event("after fork", ("worker",), "worker", "In the new worker, before the application is loaded."),
    )
}


class Emitter:
    """Keeps handlers by event name and calls them in the order in which they were added."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[tuple[Handler, bool]]] = {}
        #: what a handler may raise without stopping the others
        self.failures: tuple[type[BaseException], ...] = (Exception, SystemExit)
        #: called with the name of an event whose handlers have become more or fewer
        self.on_change: list[Callable[[str], None]] = []
        #: called with (event name, handler, error) when a handler raises; the other handlers still run
        self.on_failure: Callable[[str, Handler, BaseException], None] | None = None

    def add(self, name: str, handler: Handler, once: bool = False) -> None:
        """Call *handler* at every event *name* from now on, or only at the next one when *once* is true."""
        if not callable(handler):
            raise TypeError(f"the handler for {name!r} is not callable: {handler!r}")
        self._handlers.setdefault(normal(name), []).append((handler, once))
        self._changed(name)

    def remove(self, name: str, handler: Handler | None = None) -> None:
        """Forget *handler* (all handlers when None) for *name*; unknown ones are ignored."""
        key = normal(name)
        kept = [pair for pair in self._handlers.get(key, []) if handler is not None and pair[0] != handler]
        if kept:
            self._handlers[key] = kept
        else:
            self._handlers.pop(key, None)
        self._changed(name)

    def _changed(self, name: str) -> None:
        for tell in self.on_change:
            tell(normal(name))

    def has(self, name: str) -> bool:
        """Whether anybody listens to *name*."""
        return bool(self._handlers.get(normal(name)))

    def dispatch(self, name: str, *args: Any) -> None:
        """Call the handlers of *name* with *args*, in order, here and now."""
        key = normal(name)
        for pair in list(self._handlers.get(key, ())):
            handler, once = pair
            if once:
                remaining = self._handlers.get(key, [])
                if pair not in remaining:  # taken by an emit from inside a handler
                    continue
                remaining.remove(pair)
            try:
                handler(*args)
            except self.failures as error:  # one handler must not stop the others
                if self.on_failure is None:
                    raise
                self.on_failure(name, handler, error)


def normal(name: str) -> str:
    """The one spelling of a name in which underscores and spaces mean the same."""
    return name.replace("_", " ")
