"""The application that every measured server runs: it answers with the pid of its worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes] | Iterator[bytes]:
    """`/` answers the pid at once; `/loop` sends it and then never gives the processor back to its worker."""
    if environ["PATH_INFO"] == "/loop":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return _loop()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _loop() -> Iterator[bytes]:
    yield str(os.getpid()).encode()
    while True:
        pass
