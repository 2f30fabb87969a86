"""vhost(): several applications in one server, told apart by the host name of the request. Pure, but for loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import importer
from .errors import ConfigurationError
from .kinds import Kind, check

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: the name under which the application for all other hosts is given
DEFAULT = "*"


def pattern(name: Any) -> str:
    """A host name as it is compared: lower case, no port, no final dot. Raises `ConfigurationError`."""
    if not isinstance(name, str) or not name.strip() or any(sign in name for sign in "/ @?#"):
        raise ConfigurationError(f"vhost: {name!r} is no host name; use 'foo.com', '*.foo.com', or '*' for all others")
    host = plain(name.strip())
    rest = host.removeprefix("*.") if host != DEFAULT else ""
    if "*" in rest:
        raise ConfigurationError(f"vhost: {name!r}: a wildcard is all of the first part, as in '*.foo.com'")
    return host


def plain(host: str) -> str:
    """A Host header's name without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def find(table: Mapping[str, Any], host: str) -> Any:
    """What *table* has for *host*: the name itself, the longest wildcard above it, the default; None for none."""
    name = plain(host)
    if name in table and name != DEFAULT:
        return table[name]
    labels = name.split(".")
    for depth in range(1, len(labels)):
        wildcard = "*." + ".".join(labels[depth:])
        if wildcard in table:
            return table[wildcard]
    return table.get(DEFAULT)


class VirtualHosts:
    """A WSGI application that hands each request to the one for its host. Strings are imported by the workers."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        if not isinstance(table, Mapping) or not table:
            raise ConfigurationError("vhost() takes a map of host name to application, as in {'foo.com': 'foo:app'}")
        self.table: dict[str, Any] = {}
        for name, application in table.items():
            key = pattern(name)
            if key in self.table:
                raise ConfigurationError(f"vhost: {name!r} is given twice")
            if not isinstance(application, str) and not callable(application):
                raise ConfigurationError(f"vhost: {name!r}: {application!r} is no application")
            self.table[key] = application

    @property
    def named(self) -> list[str]:
        """The applications that are named by strings."""
        return [application for application in self.table.values() if isinstance(application, str)]

    def check(self, base: str) -> None:
        """Look for the applications that are named by strings, without importing any, and check the others.

        Raises `ConfigurationError`.
        """
        for host, application in self.table.items():
            if not isinstance(application, str):
                _check(host, application)
        for name in self.named:
            importer.check(importer.parse(name, base), base)

    def load(self, base: str) -> VirtualHosts:
        """The same with every string replaced by the application that it names, which is imported now."""
        loaded = {name: importer.load(importer.parse(name, base), base) for name in dict.fromkeys(self.named)}
        for name, application in loaded.items():
            _check(name, application)
        return VirtualHosts({host: loaded[application] if isinstance(application, str) else application
                             for host, application in self.table.items()})

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        application = find(self.table, environ.get("HTTP_HOST") or environ.get("SERVER_NAME", ""))
        if application is None:
            body = b"no such host here\n"
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
            return [body]
        answer: Iterable[bytes] = application(environ, start_response)
        return answer


def _check(name: str, application: Any) -> None:
    try:
        kind = check(application, True)
    except ConfigurationError as error:
        raise ConfigurationError(f"vhost: {name!r}: {error}") from None
    if kind is not Kind.WSGI:
        raise ConfigurationError(f"vhost: {name!r}: {application!r} is no WSGI application")


def vhost(table: Mapping[str, Any]) -> VirtualHosts:
    """Several applications for ``cluster()``: ``cluster(vhost({"foo.com": "foo:app", "*.bar.com": "bar:app"}))``.

    A host name is compared without its port and case; the name itself comes before the longest wildcard (which covers
    names below it at any depth, not the name alone), then ``"*"``. Other hosts get 404. Raises `ConfigurationError`.
    """
    return VirtualHosts(table)
