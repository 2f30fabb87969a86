"""A listening socket of the master's own, for who operates the cluster; served by greenlets, never by a thread."""

from __future__ import annotations

import errno
import os
import socket as constants
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import gevent.monkey
import gevent.socket

from ..remote import short
from ..system import close_descriptor, peer

if TYPE_CHECKING:
    from ..master import Master

_socket = gevent.monkey.get_original("socket", "socket")
#: conversations at one time; connections that have not sent the secret are counted apart
_MOST = 32
#: why one is refused that would be one more
FULL = f"{_MOST} clients are connected"
#: connections that the kernel queues
_QUEUE = 64
#: sockets whose descriptor was closed in a forked child; were one collected, it would close somebody else's descriptor
_abandoned: list[Any] = []


class Line(Exception):
    """A line that is longer than anybody types."""


class Reader:
    """Lines from a connection."""

    def __init__(self, connection: Any, longest: int = 1024 * 1024) -> None:
        self._connection = connection
        self._longest = longest
        self._waiting = bytearray()
        self._searched = 0

    @property
    def pending(self) -> bool:
        """Whether something was received that nobody has read."""
        return bool(self._waiting)

    def line(self) -> str | None:
        """The next line without its end; None at the end of the connection. Raises `Line`, OSError."""
        while True:
            end = self._waiting.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._waiting[:end])
                del self._waiting[: end + 1]
                self._searched = 0
                return line.removesuffix(b"\r").decode("utf-8", "replace")
            self._searched = len(self._waiting)
            if self._searched > self._longest:
                raise Line(f"a line of more than {self._longest} bytes")
            data = self._connection.recv(65536)
            if not data:
                return None
            self._waiting += data


class Gate:
    """Listens on a unix socket (0600, the same user or root only) or a TCP port, and has each connection served.

    *converse* is called with each connection and, in words, who is at its other end, in a greenlet of its own; when it
    returns the connection is closed. *strangers*: whoever connects is a stranger until *converse* has called `admit`.
    *refused* is called with who was sent away by the gate itself, and why.
    """

    def __init__(
        self, master: Master, address: str | tuple[str, int], converse: Callable[[Any, str], None],
        strangers: bool = False, refused: Callable[[str, str], None] = lambda client, reason: None,
    ) -> None:
        self._address = address
        self._converse = converse
        self._strange = strangers
        self._refused = refused
        self._listener: Any = None
        self._watcher: Any = None
        self._inode: tuple[int, int] | None = None
        #: who is connected: greenlet → connection
        self.conversations: dict[Any, Any] = {}
        #: who is connected and has not been admitted, the oldest first
        self.strangers: dict[Any, Any] = {}
        master.on("after fork", self._abandon)

    @property
    def address(self) -> str:
        """Where it listens."""
        if isinstance(self._address, str):
            return self._address
        host, port = self._listener.getsockname()[:2] if self._listener is not None else self._address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def check(self) -> None:
        """Try whether `open` could listen; nothing is left of it. Raises OSError."""
        if isinstance(self._address, str):
            _check_free(self._address)
            listener, fresh = _bind_beside(self._address)
            os.unlink(fresh)
        else:
            listener = _bind_tcp(self._address)
        listener.close()

    def open(self, take_over: bool = False) -> None:
        """Begin to listen. *take_over*: also when another process listens at the path. Raises OSError."""
        if isinstance(self._address, str):
            self._bind_unix(self._address, take_over)
        else:
            self._listener = _bind_tcp(self._address)
        self._listener.setblocking(False)
        self._listener.listen(_QUEUE)
        self._watcher = gevent.get_hub().loop.io(self._listener.fileno(), 1)
        self._watcher.start(self._readable)

    def _bind_unix(self, path: str, take_over: bool) -> None:
        """Bind beside *path*, then rename: at no moment is there a socket that others may use, or none at all."""
        if not take_over:
            _check_free(path)
        listener, fresh = _bind_beside(path)
        try:
            found = os.stat(fresh)
            self._inode = (found.st_dev, found.st_ino)
            listener.listen(_QUEUE)
            os.rename(fresh, path)
        except BaseException:
            listener.close()
            raise
        self._listener = listener

    def _readable(self) -> None:
        try:
            descriptor, address = self._listener._accept()
        except OSError:
            return
        connection = gevent.socket.socket(self._listener.family, self._listener.type, fileno=descriptor)
        client = self._client(connection, address)
        if not self._welcome(connection):
            self._turn_away(connection, client, "another user")
            return
        if not self._strange and len(self.conversations) >= _MOST:
            self._turn_away(connection, client, FULL)
            return
        greenlet = gevent.Greenlet(self._serve, connection, client)
        if self._strange:
            # those who know nothing must not keep out who does, and who does says so at once
            if len(self.strangers) >= _MOST:
                self._drop(next(iter(self.strangers)))  # the oldest
            self.strangers[greenlet] = connection
        else:
            self.conversations[greenlet] = connection
        greenlet.start()

    def _drop(self, greenlet: Any) -> None:
        connection = self.strangers.pop(greenlet)
        self._turn_away(connection, greenlet.args[1], "has not sent the secret, and others wait")
        greenlet.kill(block=False)

    def _turn_away(self, connection: Any, client: str, reason: str) -> None:
        connection.close()
        self._refused(client, reason)

    def _client(self, connection: Any, address: Any) -> str:
        """Who connects, in words. No name of a user: to look one up may take long."""
        if isinstance(self._address, str):
            pid, uid = peer(connection)
            return f"pid {'unknown' if pid is None else pid}, uid {'unknown' if uid is None else uid}"
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def admit(self) -> bool:
        """The client of this greenlet is none of the strangers any more. False when there is no room for it."""
        here = gevent.getcurrent()
        connection = self.strangers.pop(here, None)
        if connection is None or len(self.conversations) >= _MOST:
            return False
        self.conversations[here] = connection
        return True

    def _welcome(self, connection: Any) -> bool:
        if not isinstance(self._address, str):
            return True
        return peer(connection)[1] in (0, os.geteuid())  # None, where the system does not tell, is nobody we know

    def _serve(self, connection: Any, client: str) -> None:
        try:
            self._converse(connection, client)
        except (OSError, Line):
            pass  # the client has gone, or is none
        finally:
            self.conversations.pop(gevent.getcurrent(), None)
            self.strangers.pop(gevent.getcurrent(), None)
            connection.close()

    def hang_up(self) -> None:
        """End all conversations but the one that asks for it."""
        for greenlet in [*self.conversations, *self.strangers]:
            if greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)

    def close(self, remove: bool = True) -> None:
        """Listen no more. *remove*: the socket's file goes when it is still ours."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        inode, self._inode = self._inode, None
        if remove and inode is not None and isinstance(self._address, str):
            try:
                found = os.stat(self._address)
                if (found.st_dev, found.st_ino) == inode:
                    os.unlink(self._address)
            except OSError:
                pass

    def _abandon(self, worker: Any) -> None:
        """In a forked worker: close our copies. The hub that watched them is gone, so not through it."""
        for held in (self._listener, *self.conversations.values(), *self.strangers.values()):
            if held is not None:
                _abandoned.append(held)
                close_descriptor(held.fileno())
        _abandoned.extend([*self.conversations, *self.strangers])
        self._listener = self._watcher = None
        self._inode = None
        self.conversations = {}
        self.strangers = {}


def _bind_tcp(address: tuple[str, int]) -> Any:
    """A socket that is bound and does not listen yet. Raises OSError."""
    listener = _socket(constants.AF_INET6 if ":" in address[0] else constants.AF_INET, constants.SOCK_STREAM)
    try:
        listener.setsockopt(constants.SOL_SOCKET, constants.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_beside(path: str) -> tuple[Any, str]:
    """A socket that is bound under a name of ours beside *path*, and that name. Raises OSError."""
    listener = _socket(constants.AF_UNIX, constants.SOCK_STREAM)
    fresh = f"{path}.{os.getpid()}"
    mask = os.umask(0o177)
    try:
        with short(fresh) as name:
            listener.bind(name)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener, fresh


def answers(path: str) -> bool:
    """Whether a process listens on the unix socket at *path*. Raises OSError when that cannot be told."""
    probe = _socket(constants.AF_UNIX, constants.SOCK_STREAM)
    try:
        probe.setblocking(False)
        with short(path) as name:
            probe.connect(name)
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except BlockingIOError:  # a full queue
        pass
    finally:
        probe.close()
    return True


def _check_free(path: str) -> None:
    """Raise OSError unless there is nothing at *path*, or a stale socket, which is renamed over."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    if answers(path):
        raise OSError(errno.EADDRINUSE, "another process listens there")
