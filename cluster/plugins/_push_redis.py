"""The helper process of redis_log(): pushes entries onto a list and keeps it short."""

from __future__ import annotations

from typing import Any

import redis

#: seconds that the server may take
_TIMEOUT = 5.0
_clients: dict[str, Any] = {}


def handle(settings: dict[str, Any], message: dict[str, Any]) -> None:
    """Push one entry. Raises redis.RedisError."""
    url = settings["url"]
    if url not in _clients:
        _clients[url] = redis.Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT)
    with _clients[url].pipeline(transaction=False) as pipeline:
        pipeline.rpush(settings["key"], str(message["entry"]))
        pipeline.ltrim(settings["key"], -settings["maximum"], -1)
        pipeline.execute()
