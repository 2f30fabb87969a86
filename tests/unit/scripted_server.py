"""A server that does exactly what a test tells it on each connection, good or bad, and keeps count of requests."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 10.0
"""Seconds after which a script gives up waiting for the client, so that a failing test ends."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket, server: ScriptedServer) -> None:
        self.socket = connection
        self._server = server
        self._buffer = b""

    def request(self) -> bool:
        """Reads one request; False when the client has ended the connection instead."""
        while b"\r\n\r\n" not in self._buffer:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return False
            if not data:
                return False
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self._server.count(head)
        return True

    def send(self, data: bytes) -> None:
        """Sends bytes as they are; a client that has gone is its own affair."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self, body: bytes = b"ok", status: int = 200, *headers: bytes) -> None:
        """Sends a good response."""
        lines = [b"HTTP/1.1 %d Whatever" % status, b"Content-Length: %d" % len(body), *headers]
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """Ends the connection with a reset (RST)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Ends the connection in good order (FIN)."""
        self.socket.close()

    def ended(self) -> bool:
        """Whether the client has ended the connection by now."""
        # Without touching the socket's time-out: several scripts may ask at the same time.
        readable, _, _ = select.select([self.socket], [], [], 0)
        return bool(readable) and self.socket.recv(1, socket.MSG_PEEK) == b""

    def wait_unread(self) -> None:
        """Waits until a request has arrived, and leaves it unread."""
        self.socket.recv(1, socket.MSG_PEEK)

    def wait_closed(self) -> None:
        """Waits until the client ends the connection."""
        while self.request():
            pass


Script = Callable[[Peer], None]


class ScriptedServer:
    """Runs `scripts[i]` on the i-th connection and the last one on all further; each in a thread of its own.

    :ivar requests: the heads of all requests that were read.
    """

    def __init__(self, scripts: tuple[Script, ...], family: int = socket.AF_INET, name: str = "") -> None:
        self._scripts = scripts
        self.requests: list[bytes] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind(name or ("127.0.0.1", 0))
        self._listener.listen(512)
        self.address: tuple[str, int] = ("", 0) if name else self._listener.getsockname()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def count(self, head: bytes) -> None:
        """Notes a request."""
        with self._lock:
            self.requests.append(head)

    def refuse(self) -> None:
        """Refuses connections from now on."""
        # Closing alone would not wake the accepting thread, whose system call keeps the socket alive.
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # refused before
        self._accepting.join(PATIENCE)
        self._listener.close()

    def finish(self) -> None:
        """Waits for all scripts; raises what went wrong in one."""
        self.refuse()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a script has not ended"
        for error in self._errors:
            raise error

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            script = self._scripts[min(number, len(self._scripts) - 1)]
            number += 1
            thread = threading.Thread(target=self._run, args=(script, connection), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, script: Script, connection: socket.socket) -> None:
        try:
            with connection:
                script(Peer(connection, self))
        except BaseException as error:  # noqa: BLE001 - raised by `finish` in the thread of the test
            self._errors.append(error)


@contextmanager
def scripted(*scripts: Script) -> Iterator[ScriptedServer]:
    """A server with these scripts; at the end every one of them must have ended well."""
    server = ScriptedServer(scripts)
    try:
        yield server
    finally:
        server.finish()
