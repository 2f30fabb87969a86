"""Listening sockets: bind, take over from another master, hand on, unlink."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket as constants
import stat
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

import gevent.monkey

from .addresses import Address, display
from .errors import BindError, ConfigurationError
from .system import close_descriptor

_socket = gevent.monkey.get_original("socket", "socket")
#: in C, and on this thread: gevent's own would start a native thread in the master
_getaddrinfo = gevent.monkey.get_original("socket", "getaddrinfo")


class Holding(Enum):
    """Whose a listening socket is. Two masters have descriptors of one socket: what one does to it, it does to both."""

    OWN = "own"  #: ours alone: we may shut it and remove its file
    BORROWED = "borrowed"  #: another master serves on it; we do not touch it before we have taken over
    HANDED_ON = "handed on"  #: another master has taken it over; it stays bound, and its file stays, when we close


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
        self.holding = Holding.OWN
        #: leave IPv4 to another listener on the same port
        self.only_ipv6 = False
        #: device and inode of a unix socket's file, by which it is known to be ours
        self.file: tuple[int, int] | None = None

    def __str__(self) -> str:
        return display(self.socket) if self.socket is not None else str(self.address)

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

    def adopt(self, descriptor: int, file: tuple[int, int] | None) -> bool:
        """Borrow the socket that another master bound and serves on; *file* is its `file`.

        Returns False when a unix socket's file is not there any more, so that nobody could connect. Raises `BindError`
        when the descriptor is no socket, or `mode` and `owner` could not be given later.
        """
        os.set_inheritable(descriptor, False)
        if self.address.kind == "unix" and (file is None or _socket_at(self.address.path) != file):
            return False
        try:
            self.socket = _socket(fileno=self._checked(descriptor))
            self._owner()
        except OSError as error:
            raise BindError(f"cannot take over {self.address}: {_reason(error)}") from error
        self.socket.setblocking(False)
        self.file = file
        self.holding = Holding.BORROWED
        return True

    def take_over(self) -> None:
        """A borrowed socket is ours now: our backlog, our mode and owner. Raises OSError when these cannot be given."""
        if self.holding is Holding.BORROWED:
            self.holding = Holding.OWN
            self._use(self.socket)
            self._give_access()

    def hand_on(self) -> None:
        """Another master has it from now on."""
        self.holding = Holding.HANDED_ON

    def take_back(self) -> None:
        """Listen again on what was handed on or closed: the other master has died. Raises `BindError`."""
        self.holding = Holding.OWN
        if self.socket is not None and (self.file is None or _socket_at(self.address.path) == self.file):
            self._use(self.socket)
        else:
            self.close()
            self.open()

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
        if family == constants.AF_INET6 and self.only_ipv6:
            opened.setsockopt(constants.IPPROTO_IPV6, constants.IPV6_V6ONLY, 1)
        opened.bind(address)
        self._use(opened)

    def _bind_unix(self) -> None:
        path = self.address.path
        _remove_stale(path)
        opened = _socket(constants.AF_UNIX, constants.SOCK_STREAM)
        self.socket = opened
        opened.bind(path)
        self.file = _socket_at(path)
        self._give_access()
        self._use(opened)

    def _give_access(self) -> None:
        """Owner and mode of a unix socket's file. Of no other: somebody may have put a link in its place."""
        if self.address.kind != "unix" or not self.options.keys() & {"owner", "mode"}:
            return
        owner = self._owner()
        with _pinned(self.address.path, self.file) as path:
            if owner is not None:
                os.chown(path, *owner)
            if "mode" in self.options:
                os.chmod(path, self.options["mode"])

    def _owner(self) -> tuple[int, int] | None:
        """User and group that a unix socket's file is to have. Raises OSError for a name that nobody knows."""
        if self.address.kind != "unix" or "owner" not in self.options:
            return None
        user, _, group = self.options["owner"].partition(":")
        return _user_id(user), _group_id(group, user)

    def _use(self, opened: Any) -> None:
        self.socket = opened
        opened.setblocking(False)
        os.set_inheritable(opened.fileno(), False)
        if opened.family in (constants.AF_INET, constants.AF_INET6):
            # inherited by what is accepted; without it a server that sends head and body apart stalls 40 ms
            opened.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
        opened.listen(self.backlog)

    @property
    def goes_on(self) -> bool:
        """Whether it is there when we are gone: another master has it, or the process that passed it to us keeps it."""
        return self.holding is not Holding.OWN or self.address.kind == "fd"

    def refuse(self) -> None:
        """Let the kernel queue no further connection; what is queued can still be accepted."""
        if self.socket is not None:
            try:
                self.socket.listen(0)
            except OSError:
                pass

    def close(self) -> None:
        """Close our descriptor; remove a unix socket's file when it is ours and still there."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        file, self.file = self.file, None
        if file is not None and self.holding is Holding.OWN and _socket_at(self.address.path) == file:
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)


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

    def open(self, inherited: dict[str, int], files: dict[str, tuple[int, int]]) -> set[str]:
        """Take over those whose key is in *inherited* (key → descriptor), bind the others.

        *files*: of inherited unix sockets, key → `Listener.file`. Returns the keys that were taken over; inherited
        descriptors that nobody wants are closed. Raises `BindError`, with everything closed again.
        """
        taken = set()
        ipv4 = {listener.address.port for listener in self._all
                if listener.address.kind == "tcp" and ":" not in listener.address.host}
        try:
            for listener in self._all:
                listener.only_ipv6 = listener.address.port in ipv4 - {0}
                key = listener.key
                if key in inherited and listener.adopt(inherited[key], files.get(key)):
                    taken.add(key)
                else:
                    listener.open()
        except BindError:
            self.close()
            raise
        for key, descriptor in inherited.items():
            if key not in taken:
                close_descriptor(descriptor)
        return taken

    def take_over(self) -> list[str]:
        """Those that were borrowed are ours now. Returns what could not be done, in words."""
        failed = []
        for listener in self._all:
            try:
                listener.take_over()
            except OSError as error:
                failed.append(f"{listener}: {error.strerror or error}")
        return failed

    def hand_over(self, taken: Iterable[str]) -> int:
        """Another master has those whose key is in *taken*; the others are closed.

        Returns the bit mask of these: workers that drain have them still, and accept what is queued.
        """
        for listener in self._all:
            if listener.key in taken:
                listener.hand_on()
        return self.shut(give_up=True)

    def shut(self, give_up: bool = False) -> int:
        """Have the kernel queue no more connections on what ends with us. Returns the bit mask of these."""
        mask = 0
        for index, listener in enumerate(self._all):
            if not listener.goes_on:
                listener.refuse()
                mask |= 1 << index if index < 64 else 0
                if give_up:
                    listener.close()
        return mask

    def take_back(self) -> list[str]:
        """The other master has died: all are ours again, and listen.

        One whose address somebody else has taken meanwhile is forgotten. Returns these, in words.
        """
        failed = []
        for listener in list(self._all):
            try:
                listener.take_back()
            except BindError as error:
                self._all.remove(listener)
                failed.append(str(error))
        return failed

    def reclaim(self) -> None:
        """The other master has ended, and so do we: what was handed on is ours to remove."""
        for listener in self._all:
            if listener.holding is Holding.HANDED_ON:
                listener.holding = Holding.OWN

    def close(self) -> None:
        """Close all."""
        for listener in self._all:
            listener.close()

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _socket_at(path: str) -> tuple[int, int] | None:
    """Device and inode of the socket at *path*; None for whatever else is there."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


@contextlib.contextmanager
def _pinned(path: str, file: tuple[int, int] | None) -> Iterator[str]:
    """A name that stays that of *file*, which is at *path*, whoever puts something else there meanwhile."""
    flag = getattr(os, "O_PATH", None)
    if flag is None:  # not on Linux: checked is all that can be done
        if _socket_at(path) != file:
            raise OSError(errno.EEXIST, "there is something else at that path")
        yield path
        return
    descriptor = os.open(path, flag | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != file:
            raise OSError(errno.EEXIST, "there is something else at that path")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        close_descriptor(descriptor)


def _remove_stale(path: str) -> None:
    """Remove a unix socket that nobody listens on; raise OSError for anything else that stands there."""
    try:
        mode = os.lstat(path).st_mode
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
    except (KeyError, ValueError):  # ValueError: a text that can be no name
        raise OSError(errno.EINVAL, f"no user {name!r}") from None


def _group_id(name: str, user: str) -> int:
    try:
        if name:
            return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
        return pwd.getpwuid(_user_id(user)).pw_gid
    except (KeyError, ValueError):
        raise OSError(errno.EINVAL, f"no group {name!r}") from None
