"""What an address and the options of a listener mean, as a user writes them."""

from __future__ import annotations

import os
import re
import socket as constants
from typing import Any, NamedTuple

from . import certificates
from .errors import ConfigurationError, unusable

FORMS = "a port, 'host:port', '[::1]:port', 'unix:/path', 'fd://3', a bound socket, or a list of these"

#: options that belong to a listener, with what they take
OPTIONS = {
    "mode": "an octal number such as 0o660",
    "owner": "'user' or 'user:group'",
    "tls": "(certificate, key)",
    "proxy_protocol": "True, or the peers that speak it, as addresses or networks",
}


class Address(NamedTuple):
    """Where to listen: a host and port, a unix socket's path, an inherited descriptor, or a socket that is bound."""

    kind: str  # "tcp" | "unix" | "fd" | "socket"
    host: str = ""
    port: int = 0
    path: str = ""
    descriptor: int = -1
    bound: Any = None

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.descriptor}"
        return f"socket://{display(self.bound)}"


def parse(given: Any, host: str | None = None, base: str = "/") -> list[Address]:
    """Addresses from what the user gave to ``bind`` or ``listen``.

    *host* goes with a bare port; *base* is the directory that a relative socket path is taken against.
    Raises `ConfigurationError`.
    """
    if host is not None and not isinstance(host, str):
        raise ConfigurationError(f"a host is a name or an address, not {host!r}")
    if isinstance(given, list):
        if not given:
            raise ConfigurationError(f"an empty list of addresses; an address is {FORMS}")
        return [address for item in given for address in parse(item, host, base)]
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and _is_int(given[1]):
        return parse(given[1], given[0], base)
    if _is_int(given):
        return [Address("tcp", host="0.0.0.0" if not host else host.strip("[]"), port=_port(given, given))]
    if hasattr(given, "getsockname") and hasattr(given, "fileno"):
        if given.fileno() < 0:
            raise ConfigurationError("the socket to listen on is closed")
        name = given.getsockname()
        if not name or (isinstance(name, tuple) and name[1] == 0) or given.type != constants.SOCK_STREAM:
            raise ConfigurationError("the socket to listen on must be a stream socket that is bound")
        return [Address("socket", bound=given)]
    if isinstance(given, str) and given.strip() and "\0" not in given:
        return [_parse_text(given.strip(), host, base)]
    raise ConfigurationError(f"cannot listen on {given!r}; an address is {FORMS}")


def _parse_text(text: str, host: str | None, base: str) -> Address:
    if text.isdecimal():
        return Address("tcp", host=(host or "0.0.0.0").strip("[]"), port=_port(int(text), text))
    if text.startswith("fd://"):
        if not text[5:].isdecimal():
            raise ConfigurationError(f"cannot listen on {text!r}: a descriptor is a number, as in 'fd://3'")
        return Address("fd", descriptor=int(text[5:]))
    if text.startswith(("http://", "https://", "tcp://")):
        rest = text.partition("://")[2].rstrip("/")
        raise ConfigurationError(f"cannot listen on {text!r}: an address has no scheme; use {rest!r}")
    if text.startswith("unix:") or "/" in text:
        path = text.removeprefix("unix:")
        path = path[2:] if path.startswith("//") else path
        if not path or path.endswith("/"):
            raise ConfigurationError(f"cannot listen on {text!r}: a unix socket needs a path, as in 'unix:/run/x.sock'")
        path = os.path.normpath(os.path.join(base, path))
        if reason := unusable(path):
            raise ConfigurationError(f"cannot listen on {path!r}: {reason}")
        if len(os.fsencode(path)) > 107:
            raise ConfigurationError(f"cannot listen on {path!r}: a unix socket's path has at most 107 bytes")
        return Address("unix", path=path)
    if host is not None:
        raise ConfigurationError(f"host {host!r} goes with a port; {text!r} is a whole address")
    match = re.fullmatch(r"\[([^\]]+)\]:(\d+)|([^:\[\]]*):(\d+)", text)
    if match is None:
        hint = f"; with IPv6 write '[{text.rpartition(':')[0]}]:port'" if text.count(":") > 1 else ""
        raise ConfigurationError(f"cannot listen on {text!r}; an address is {FORMS}{hint}")
    name = match[1] or match[3] or "0.0.0.0"
    return Address("tcp", host="0.0.0.0" if name == "*" else name, port=_port(int(match[2] or match[4]), text))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _port(value: int, shown: Any) -> int:
    if not 0 <= value <= 65535:
        raise ConfigurationError(f"cannot listen on {shown!r}: a port is a number from 0 to 65535")
    return value


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a listener as given to ``bind``. Raises `ConfigurationError` for unknown or wrong ones."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigurationError(f"no listener option {name!r}; there are {', '.join(OPTIONS)}")
        if value is None:
            continue
        right: Any = isinstance(value, str) and value
        if name == "mode":
            right = _is_int(value) and 0 <= value <= 0o777
        elif name == "tls":
            certificates.check(value)
            right = True
        elif name == "proxy_protocol":
            right = right or value is True or (isinstance(value, list | tuple) and value)
        if not right:
            raise ConfigurationError(f"listener option {name!r} takes {OPTIONS[name]}, not {value!r}")
    return {name: value for name, value in options.items() if value is not None}


def display(bound: Any) -> str:
    """Where a socket is bound, as an address is written."""
    try:
        name = bound.getsockname()
    except OSError:
        return "a closed socket"
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if bound.family == constants.AF_INET6 else f"{name[0]}:{name[1]}"
    return f"unix:{name.decode() if isinstance(name, bytes) else name}"
