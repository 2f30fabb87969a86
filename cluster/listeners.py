"""Listening sockets: parse addresses, bind, take over from another master, hand on, unlink."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import socket as constants
import stat
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import gevent.monkey

from . import certificates
from .errors import BindError, ConfigurationError
from .system import close_descriptor

_socket = gevent.monkey.get_original("socket", "socket")
#: in C, and on this thread: gevent's own would start a native thread in the master
_getaddrinfo = gevent.monkey.get_original("socket", "getaddrinfo")

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
        return f"socket://{_display(self.bound)}"


def parse(given: Any, host: str | None = None, base: str = "/") -> list[Address]:
    """Addresses from what the user gave to ``bind`` or ``listen``.

    *host* goes with a bare port; *base* is the directory that a relative socket path is taken against.
    Raises `ConfigurationError`.
    """
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


class Listener:
    """A bound, listening socket that all workers share and a new master may take over.

    *key* is the address as it was asked for; two masters agree on a listener by it.
    """

    def __init__(self, address: Address, key: str, options: dict[str, Any], backlog: int) -> None:
        self.address = address
        self.key = key
        self.options = options
        self.backlog = backlog
        self.socket: Any = None
        #: another master has it now: it stays bound and its path stays when we close
        self.handed_on = False
        self._inode: tuple[int, int] | None = None

    def __str__(self) -> str:
        return _display(self.socket) if self.socket is not None else str(self.address)

    def fileno(self) -> int:
        """The descriptor."""
        return int(self.socket.fileno())

    def open(self) -> None:
        """Bind and listen. Raises `BindError` that names the address and the reason."""
        try:
            if self.address.kind == "tcp":
                self._bind_tcp()
            elif self.address.kind == "unix":
                self._bind_unix()
            elif self.address.kind == "fd":
                self._use(_socket(fileno=self._checked(self.address.descriptor)))
            else:
                self._use(_socket(fileno=os.dup(self.address.bound.fileno())))
        except OSError as error:
            self.close()
            if isinstance(error, BindError):
                raise
            raise BindError(f"cannot listen on {self.address}: {_reason(error)}") from error

    def adopt(self, descriptor: int) -> None:
        """Take over the socket that another master bound. Raises `BindError` when it is none."""
        os.set_inheritable(descriptor, False)
        try:
            self._use(_socket(fileno=self._checked(descriptor)))
            self._remember_inode()
            if self.address.kind == "unix":
                self._give_access()
        except OSError as error:
            raise BindError(f"cannot take over {self.address}: {_reason(error)}") from error

    @staticmethod
    def _checked(descriptor: int) -> int:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, f"descriptor {descriptor} is not a socket")
        return descriptor

    def _bind_tcp(self) -> None:
        flags = constants.AI_PASSIVE | constants.AI_ADDRCONFIG * (self.address.host not in ("0.0.0.0", "::"))
        try:
            found = _getaddrinfo(self.address.host, self.address.port, 0, constants.SOCK_STREAM, 0, flags)
        except UnicodeError:
            raise OSError(errno.EINVAL, "not a host name") from None
        found.sort(key=lambda entry: entry[0] != constants.AF_INET)  # `localhost` means 127.0.0.1 to most people
        family, kind, protocol, _, address = found[0]
        opened = _socket(family, kind, protocol)
        self.socket = opened
        opened.setsockopt(constants.SOL_SOCKET, constants.SO_REUSEADDR, 1)
        opened.bind(address)
        self._use(opened)

    def _bind_unix(self) -> None:
        path = self.address.path
        _remove_stale(path)
        opened = _socket(constants.AF_UNIX, constants.SOCK_STREAM)
        self.socket = opened
        opened.bind(path)
        self._remember_inode()
        self._give_access()
        self._use(opened)

    def _give_access(self) -> None:
        """Owner and mode of a unix socket's file."""
        if "owner" in self.options:
            user, _, group = self.options["owner"].partition(":")
            os.chown(self.address.path, _user_id(user), _group_id(group, user))
        if "mode" in self.options:
            os.chmod(self.address.path, self.options["mode"])

    def _use(self, opened: Any) -> None:
        self.socket = opened
        opened.setblocking(False)
        os.set_inheritable(opened.fileno(), False)
        if opened.family in (constants.AF_INET, constants.AF_INET6):
            # inherited by what is accepted; without it a server that sends head and body apart stalls 40 ms
            opened.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
        opened.listen(self.backlog)

    def _remember_inode(self) -> None:
        if self.address.kind == "unix":
            try:
                found = os.stat(self.address.path)
            except OSError:
                return
            self._inode = (found.st_dev, found.st_ino)

    @property
    def goes_on(self) -> bool:
        """Whether it is there when we are gone: another master has it, or whoever passed it on to us keeps it."""
        return self.handed_on or self.address.kind == "fd"

    def refuse(self) -> None:
        """Let the kernel queue no further connection; what is queued can still be accepted."""
        if self.socket is not None:
            try:
                self.socket.listen(0)
            except OSError:
                pass

    def close(self) -> None:
        """Close our descriptor; remove a unix socket's file when it is still ours."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        inode, self._inode = self._inode, None
        if inode is not None and not self.handed_on:
            try:
                found = os.stat(self.address.path)
                if (found.st_dev, found.st_ino) == inode:
                    os.unlink(self.address.path)
            except OSError:
                pass


class Listeners:
    """All listeners of a cluster, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._all: list[Listener] = []

    def add(self, addresses: Iterable[Address], options: dict[str, Any], backlog: int) -> None:
        """Remember addresses; nothing is bound yet. Raises `ConfigurationError` for one that is there already."""
        for address in addresses:
            key = str(address)
            keys = [listener.key for listener in self._all]
            if key in keys:
                if address.kind != "tcp" or address.port != 0:
                    raise ConfigurationError(f"{key} is given twice")
                key = f"{key}#{len(keys)}"
            self._all.append(Listener(address, key, options, backlog))

    def open(self, inherited: dict[str, int]) -> set[str]:
        """Take over those whose key is in *inherited* (key → descriptor), bind the others.

        Returns the keys that were taken over; inherited descriptors that nobody wants are closed.
        Raises `BindError`, with everything closed again.
        """
        taken = set()
        try:
            for listener in self._all:
                if listener.key in inherited:
                    listener.adopt(inherited[listener.key])
                    taken.add(listener.key)
                else:
                    listener.open()
        except BindError:
            self.give_up(taken)
            raise
        for key, descriptor in inherited.items():
            if key not in taken:
                close_descriptor(descriptor)
        return taken

    def give_up(self, taken: set[str]) -> None:
        """Close all; those in *taken* are still the other master's."""
        for listener in self._all:
            listener.handed_on = listener.key in taken
            listener.close()

    def close(self) -> None:
        """Close all."""
        for listener in self._all:
            listener.close()

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _remove_stale(path: str) -> None:
    """Remove a unix socket that nobody listens on; raise OSError for anything else that stands there."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise OSError(errno.ENOENT, f"no directory {directory}") from None
        return
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "there is a directory at that path")
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file at that path that is not a socket")
    probe = _socket(constants.AF_UNIX, constants.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:  # a full queue: somebody listens
        pass
    finally:
        probe.close()
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "already in use"
    if isinstance(error, constants.gaierror):
        return f"the host name cannot be resolved ({error.strerror})"
    return (error.strerror or str(error)).lower() if error.errno == errno.EACCES else error.strerror or str(error)


def _user_id(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise OSError(errno.EINVAL, f"no user {name!r}") from None


def _group_id(name: str, user: str) -> int:
    try:
        if name:
            return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
        return pwd.getpwuid(_user_id(user)).pw_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"no group {name!r}") from None


def _display(bound: Any) -> str:
    try:
        name = bound.getsockname()
    except OSError:
        return "a closed socket"
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if bound.family == constants.AF_INET6 else f"{name[0]}:{name[1]}"
    return f"unix:{name.decode() if isinstance(name, bytes) else name}"
