"""An HTTP/1.1 server for WSGI applications on gevent: strict, with limits and time-outs, and fast.

It needs nothing of the rest of the package and can be used by itself::

    from cluster.http import HTTPServer, Limits

    HTTPServer(listener, app, limits=Limits(max_body=10_000_000)).serve_forever()
"""

from cluster.http.access_log import AccessLog
from cluster.http.binding import Binding
from cluster.http.errors import BodyError, ClientGone, WriteStalled
from cluster.http.limits import UNLIMITED, Limits, Timeouts
from cluster.http.server import HTTPServer

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
