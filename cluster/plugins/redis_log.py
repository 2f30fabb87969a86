"""redis_log(): events of the cluster, and what the application has to say, in a Redis list."""

from __future__ import annotations

import importlib.util
import json
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ChannelError, ConfigurationError
from . import _options
from ._errand import Errand

if TYPE_CHECKING:
    from ..master import Master

_SCHEMES = ("redis://", "rediss://", "unix://")


def redis_log(url: str = "redis://localhost:6379/0", maximum: int = 2000, key: str = "cluster:log"
              ) -> Callable[[Master], None]:
    """The plugin; needs the extra ``redis``.

    *url*: of the server. *maximum*: entries that the list *key* keeps, the newest last. An entry is a JSON object with
    ``time`` (seconds of the epoch), ``type``, ``data``, ``pid``, and ``worker`` (slot, or null). Provides
    ``m.log_event(type, data)``, for master and workers. When Redis is down entries are dropped. Raises
    `ConfigurationError`.
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
        master.expose("log event", self._from_worker, with_worker=True)

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
        """Log something of the application's own; *data* is what JSON can carry. When it cannot be done, it is not.

        Never waits, and raises nothing.
        """
        if self._master.is_worker:
            try:
                self._master.worker.tell("log event", type, data)
            except ChannelError:
                pass  # the master is ending or has no time, or this is no JSON
        else:
            self._push(type, data, None)

    def _from_worker(self, worker: Any, type: str, data: Any) -> None:
        self._push(str(type), data, worker)

    def _push(self, type: str, data: Any, worker: Any) -> None:
        try:
            entry = json.dumps({
                "time": time.time(), "type": type, "data": data, "pid": worker.pid if worker is not None else
                self._master.status().get("pid"), "worker": worker.id if worker is not None else None,
            }, default=repr)
        except (TypeError, ValueError, RecursionError) as error:
            self._master.complain(f"redis_log: cannot log {type!r}: {error}")
            return
        self._errand.send({"entry": entry})
