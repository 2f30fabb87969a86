"""What one client may ask of the server: sizes and time-outs, with their defaults."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError

#: a limit (a whole number) or a time-out (a float) that is never reached
UNLIMITED: Any = float("inf")
#: what it becomes as a limit: those are what slices are made of
_LARGEST = sys.maxsize


def _check(values: Mapping[str, object], smallest: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(f"{name!r} must be a number, not {value!r}")
        if not value >= smallest:
            raise ConfigurationError(f"{name!r} must be at least {smallest:g}, not {value!r}")


@dataclass(frozen=True)
class Timeouts:
    """How long a connection may take over each step, in seconds; ``float("inf")`` waits for ever.

    They are looked at a few times per shortest time-out (at most once a second), so each may come up to a second late.
    """

    #: from the first byte of a request (or the accept, or the TLS hello) to the end of its head, as a whole
    head: float = 10.0
    #: between two pieces of a request body
    body: float = 30.0
    #: between a response and the next request; 75 suits a server behind a proxy that keeps connections
    keep_alive: float = 5.0
    #: a response that the client does not take: between two pieces taken
    write: float = 30.0
    #: how long a refused client may go on sending before it is cut, so that it can still read why
    linger: float = 1.0

    def __post_init__(self) -> None:
        _check(vars(self), 0.0)


@dataclass(frozen=True)
class Limits:
    """How much a client may send, in bytes unless said otherwise, and how long it may take.

    Each is a whole number or `UNLIMITED`. Raises `ConfigurationError` for values that cannot be right.
    """

    #: the request line; beyond it 414
    request_line: int = 8192
    #: one header field, name and value; beyond it 431
    field: int = 8192
    #: header fields of one request (a number); beyond it 431
    fields: int = 100
    #: the request line and all header fields; beyond it 431
    head: int = 65536
    #: a request body after the chunks are joined; beyond it 413
    max_body: int = _LARGEST
    #: a body up to this size is collected before the application is called; a larger one is streamed to it
    buffered_body: int = 65536
    #: received and not yet read by the application, of a streamed body
    body_ahead: int = 262144
    #: what the application left unread of a body is read away up to this size, beyond it the connection is closed
    unread_body: int = 262144
    #: a chunk-size line with its extensions; beyond it 400
    chunk_line: int = 1024
    #: the extensions of all chunks of a body together; beyond it 400
    chunk_extensions: int = 16384
    #: the trailer section after a chunked body; beyond it 431
    trailers: int = 8192
    #: requests sent ahead while one is answered (pipelining); beyond it nothing is read until that one is done
    pipelined: int = 65536
    #: open connections of one server (a number); beyond it new ones are answered 503
    connections: int = 10000
    #: time-outs
    timeouts: Timeouts = Timeouts()

    def __post_init__(self) -> None:
        if not isinstance(self.timeouts, Timeouts):
            raise ConfigurationError(f"'timeouts' must be Timeouts(...), not {self.timeouts!r}")
        sizes = {name: value for name, value in vars(self).items() if name != "timeouts"}
        _check(sizes, 1)
        for name, value in sizes.items():
            if value == UNLIMITED:
                object.__setattr__(self, name, _LARGEST)  # it is frozen, but not finished yet
            elif not isinstance(value, int):
                raise ConfigurationError(f"{name!r} must be a whole number or UNLIMITED, not {value!r}")
