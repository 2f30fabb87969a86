"""A listener as the server sees it, with the options that belong to it."""

from __future__ import annotations

import copy
import socket
import sys
from typing import TYPE_CHECKING, Any

from .files import FileWrapper
from .proxies import apply_scheme
from .request import Environ

if TYPE_CHECKING:
    import ssl

    from .proxies import Networks

#: the option that bounds what the kernel keeps of a response that it has not sent yet (not all versions name it)
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
#: and how many bytes that is. What is on its way comes on top, so a fast client does not wait for us.
_UNSENT = 32768


class Binding:
    """Made by `HTTPServer.add_listener`; given back to `HTTPServer.accepted` with each connection."""

    __slots__ = ("_secure", "accept", "environ", "family", "has_port", "listener", "proxy_protocol", "tls", "type")

    def __init__(
        self, listener: Any, tls: ssl.SSLContext | None, proxy_protocol: Networks | None, environ: Environ
    ) -> None:
        self.listener = listener
        #: descriptor and peer of the next connection, without a socket object over it; gevent's class wraps another
        self.accept = getattr(listener, "_sock", listener)._accept
        self.family = int(listener.family)
        self.type = int(socket.SOCK_STREAM)
        self.has_port = listener.family in (socket.AF_INET, socket.AF_INET6)
        #: the context for new connections; None for plain ones
        self.tls = tls
        #: peers that begin with a PROXY protocol header; None when there are none
        self.proxy_protocol = proxy_protocol
        if self.has_port:
            host, port = listener.getsockname()[:2]
            # accepted sockets inherit it; otherwise a head sent before its body can wait 40 ms for the client's ACK
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # so is this: the kernel would take megabytes for each client that does not read
            if _NOTSENT_LOWAT is not None:
                listener.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _UNSENT)
        else:
            host, port = "localhost", 443 if tls else 80
        #: what all environs of this listener have in common
        self.environ: Environ = {
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "cluster",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if tls else "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            **environ,
        }
        if tls:
            self.environ["HTTPS"] = "on"
        _make_room(self.environ)
        self._secure: Binding | None = None

    def behind_tls(self) -> Binding:
        """The same for clients that speak TLS with a proxy, which speaks plainly with us."""
        if self.tls is not None:
            return self
        if self._secure is None:
            self._secure = copy.copy(self)
            self._secure.environ = self.environ.copy()
            apply_scheme(self._secure.environ, "https")
            _make_room(self._secure.environ)
        return self._secure

    def set_tls(self, context: ssl.SSLContext) -> None:
        """Use another context (other certificates) for connections accepted from now on.

        Raises `ValueError` for a listener without TLS: its clients would not know.
        """
        if self.tls is None:
            raise ValueError("this listener was added without TLS")
        self.tls = context


def _make_room(environ: Environ) -> None:
    """Let copies of the dictionary have room for the fields of a request.

    CPython copies the table with its free places, so that a copy need not grow while it is filled (measured: 0.1 µs
    of a request with ten fields). Elsewhere this does no harm.
    """
    size = sys.getsizeof(environ)
    added: list[str] = []
    while sys.getsizeof(environ) == size:
        added.append(f"_{len(added)}")
        environ[added[-1]] = None
    for name in added:
        del environ[name]
