"""An HTTP/1.1 server for WSGI applications on gevent: strict, with limits and time-outs, and fast.

It needs nothing of the rest of the package but errors and counters, and can be used by itself::

    from cluster.http import HTTPServer, Limits

    HTTPServer(listener, app, limits=Limits(max_body=10_000_000)).serve_forever()
"""

from __future__ import annotations

from .access_log import AccessLog
from .binding import Binding
from .errors import BodyError, ClientGone, WriteStalled
from .limits import UNLIMITED, Limits, Timeouts
from .server import HTTPServer

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
