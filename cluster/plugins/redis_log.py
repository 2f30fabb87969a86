"""redis_log(): events of the cluster, and what the application has to say, in a Redis list."""

from __future__ import annotations

import atexit
import importlib.util
import json
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import narration
from ..errors import ChannelError, ConfigurationError
from . import _options
from ._errand import Errand
from ._plain import plain

if TYPE_CHECKING:
    from ..master import Master

#: more lost entries than a worker can have
_CREDIBLE = 1_000_000_000
_SCHEMES = ("redis://", "rediss://", "unix://")


def redis_log(url: str = "redis://localhost:6379/0", maximum: int = 2000, key: str = "cluster:log"
              ) -> Callable[[Master], None]:
    """The plugin; needs the extra ``redis``.

    *url*: of the server. *maximum*: entries that the list *key* keeps, the newest last. An entry is a JSON object with
    ``time`` (seconds of the epoch), ``type``, ``data``, ``pid``, and ``worker`` (slot, or null). Provides
    ``m.log_event(type, data)``, for master and workers, where it is ``cluster.worker().log_event(type, data)``, too.
    When Redis is down entries are dropped, and it is said how many. Raises `ConfigurationError`.
    """
    if importlib.util.find_spec("redis") is None:
        raise ConfigurationError("redis_log() needs the package redis: pip install 'cluster-prefork[redis]'")
    if not isinstance(url, str) or not url.startswith(_SCHEMES):
        raise ConfigurationError(f"redis_log: {url!r} is no address, as in 'redis://localhost:6379/0'")
    try:
        urllib.parse.urlsplit(url).port  # noqa: B018 - it raises for one that is none
    except ValueError as error:
        raise ConfigurationError(f"redis_log: {url!r} is no address: {str(error).lower()}") from None
    _options.text("redis_log", "key", key)
    if isinstance(maximum, bool) or not isinstance(maximum, int) or maximum < 1:
        raise ConfigurationError(f"redis_log: maximum is a whole number above 0, not {maximum!r}")

    def plugin(master: Master) -> None:
        _Log(master, Errand(master, "_push_redis", "redis_log", {"url": url, "maximum": maximum, "key": key}))

    return plugin


class _Log:
    """Turns events into entries."""

    def __init__(self, master: Master, errand: Errand) -> None:
        self._master = master
        self._errand = errand
        master.provide("log_event", self.log_event)
        #: entries that this process, a worker, could not hand on, and why not
        self._lost = 0
        self._reason = ""
        master.expose("log event", self._from_worker, with_worker=True)
        master.expose("log events lost", self._lost_in_worker, with_worker=True)
        master.on("after fork", lambda worker: atexit.register(self._tell_lost, worker))

        def tell(event: str, data: Callable[..., Any], worker: bool = False) -> None:
            master.on(event, lambda *args: self._push(event, data(*args), args[0] if worker else None))

        for event in ("worker", "worker ready", "worker removed"):
            tell(event, worker=True, data=lambda worker: {"pid": worker.pid, "generation": worker.generation})
        tell("worker killed", worker=True, data=lambda worker: {
            "pid": worker.pid, "ending": worker.ending, "uptime": worker.uptime})
        tell("worker exception", lambda worker, error: error, worker=True)
        tell("worker timeout", lambda worker, seconds: {"seconds": seconds}, worker=True)
        tell("listening", lambda: {"addresses": master.addresses})
        for event in ("start", "ready", "closing", "resumed"):
            tell(event, lambda: None)
        master.on("close", errand.finish)
        tell("restart", lambda data: {"predecessor": master.predecessor})
        tell("restart failed", lambda reason: {"reason": reason})
        tell("reloaded", lambda generation: {"generation": generation})
        tell("reload failed", lambda generation, reason: {"generation": generation, "reason": reason})

    def log_event(self, type: str, data: Any = None) -> None:
        """Log something of the application's own. *data*: best what JSON can carry; of other things their `repr` is.

        Never waits, and raises nothing. What cannot be logged is counted, and the master says so.
        """
        if not self._master.is_worker:
            self._push(str(type), data, None)
            return
        worker = self._master.worker
        try:
            worker.tell("log event", str(type), plain(data))
        except ChannelError as error:  # the master is ending or has not read for long, or this is too large
            self._lost += 1
            self._reason = str(error)
        self._tell_lost(worker)

    def _tell_lost(self, worker: Any) -> None:
        if self._lost:
            try:
                worker.tell("log events lost", self._lost, self._reason)
            except ChannelError:
                return  # with the next entry
            self._lost = 0

    def _from_worker(self, worker: Any, type: str, data: Any) -> None:
        self._push(str(type), data, worker)

    def _lost_in_worker(self, worker: Any, count: int, reason: str) -> None:
        who = f"worker {worker.id} could not hand it on"
        if isinstance(count, int) and 0 < count < _CREDIBLE:
            self._errand.lose(count, f"{who}: {narration.printable(str(reason)[:200])}", who)

    def _push(self, type: str, data: Any, worker: Any) -> None:
        self._errand.send({"entry": json.dumps({
            "time": time.time(), "type": type, "data": plain(data),
            "pid": worker.pid if worker is not None else self._master.status().get("pid"),
            "worker": worker.id if worker is not None else None,
        })})
