"""An HTTP/1.1 server for WSGI applications on gevent: strict, with limits and time-outs, and fast.

It needs nothing of the rest of the package and can be used by itself::

    from cluster.http import HTTPServer, Limits

    HTTPServer(listener, app, limits=Limits(max_body=10_000_000)).serve_forever()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .access_log import AccessLog
    from .binding import Binding
    from .errors import BodyError, ClientGone, WriteStalled
    from .limits import UNLIMITED, Limits, Timeouts
    from .server import HTTPServer

#: public name → the module that has it; loaded when it is used, as whoever reads counters needs no server
_WHERE = {
    "UNLIMITED": "limits",
    "AccessLog": "access_log",
    "Binding": "binding",
    "BodyError": "errors",
    "ClientGone": "errors",
    "HTTPServer": "server",
    "Limits": "limits",
    "Timeouts": "limits",
    "WriteStalled": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


__all__ = [
    "UNLIMITED",
    "AccessLog",
    "Binding",
    "BodyError",
    "ClientGone",
    "HTTPServer",
    "Limits",
    "Timeouts",
    "WriteStalled",
]
