"""The message connection between the master and one other process: framed JSON over a socket pair.

A frame is four bytes of length (big-endian) and a JSON object whose ``t`` tells its type. `Channel` answers for the
types ``call`` and ``reply`` are made of; every other message goes to ``on_message``. It is driven by watchers of the
hub, so that it holds no greenlet and an idle one costs nothing.
"""

from __future__ import annotations

import fcntl
import json
import select
import socket as constants
import struct
import termios
import time
from _socket import socketpair as _socketpair  # the one in `socket` makes patched sockets
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.monkey

from .errors import ChannelError, RemoteError
from .system import close_descriptor

#: the largest frame, in bytes, either way
FRAME_LIMIT = 16 * 1024 * 1024
#: the most that waits for a peer that does not read, in bytes
BACKLOG_LIMIT = 128 * 1024 * 1024
#: the most that waits for such a peer for `tell` to add to it: what may be lost must not end the channel
TELL_LIMIT = 1024 * 1024
_READ = 256 * 1024
_HEAD = struct.Struct(">I")

_socket = gevent.monkey.get_original("socket", "socket")
_poll = gevent.monkey.get_original("select", "poll")
_thread_id: Callable[[], int] = gevent.monkey.get_original("_thread", "get_ident")

Message = dict[str, Any]


def pair() -> tuple[Any, Any]:
    """Two connected plain sockets, non-blocking and close-on-exec."""
    left, right = (_socket(fileno=end.detach()) for end in _socketpair(constants.AF_UNIX, constants.SOCK_STREAM))
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def encode(message: Message) -> bytes:
    """A message as a frame. Raises `ChannelError` when it is not JSON or too large."""
    try:
        body = json.dumps(message, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ChannelError(f"cannot be sent as JSON: {error}") from None
    if len(body) > FRAME_LIMIT:
        raise ChannelError(f"a message of {len(body)} bytes; at most {FRAME_LIMIT} can be sent")
    return _HEAD.pack(len(body)) + body


def read_one(connection: Any, seconds: float) -> Message | None:
    """Read one message from a plain socket, blocking at most *seconds*; None when none comes."""
    deadline = time.monotonic() + seconds
    data = b""
    wanted = _HEAD.size
    while len(data) < wanted:
        poller = _poll()
        poller.register(connection.fileno(), select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        piece = connection.recv(wanted - len(data))
        if not piece:
            return None
        data += piece
        if len(data) == _HEAD.size:
            wanted += min(_HEAD.unpack(data)[0], FRAME_LIMIT)
    try:
        message = json.loads(data[_HEAD.size :])
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("t"), str) else None


class Channel:
    """One end. *on_message* gets every message but replies; *on_closed* gets the reason, once."""

    def __init__(
        self,
        connection: Any,
        on_message: Callable[[Message], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._on_message = on_message
        self._on_closed = on_closed
        self._in = bytearray()
        self._out = bytearray()
        self._calls: dict[int, Any] = {}
        self._next_call = 0
        self._reader: Any = None
        self._writer: Any = None
        self.open = True

    def start(self) -> None:
        """Begin to read, on the hub of the calling thread."""
        self._loop = gevent.get_hub().loop
        self._thread = _thread_id()
        self._reader = self._loop.io(self._socket.fileno(), 1)
        self._writer = self._loop.io(self._socket.fileno(), 2)
        self._reader.start(self._readable)

    def fileno(self) -> int:
        """The descriptor."""
        return int(self._socket.fileno())

    def send(self, message: Message) -> None:
        """Queue a message; it leaves at once when the peer reads. Raises `ChannelError`."""
        frame = encode(message)
        if not self.open:
            raise ChannelError("the other side has gone")
        if self._thread != _thread_id():  # a native thread of the application
            self._loop.run_callback_threadsafe(self._enqueue, frame)
        else:
            self._enqueue(frame)

    def _enqueue(self, frame: bytes) -> None:
        if not self.open:
            return
        if len(self._out) > BACKLOG_LIMIT:
            self._end("the other side does not read")
            return
        waiting = bool(self._out)
        self._out += frame
        if not waiting:
            self._writable()

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Ask the peer to run *name* with *args*. Returns a gevent AsyncResult with its answer.

        Raises `ChannelError` when it cannot be sent.
        """
        self._next_call += 1
        number = self._next_call
        answer = gevent.event.AsyncResult()
        self._calls[number] = answer
        try:
            self.send({"t": "call", "id": number, "name": name, "args": list(args)})
        except ChannelError:
            self._calls.pop(number, None)
            raise
        return answer

    def tell(self, name: str, args: tuple[Any, ...]) -> None:
        """The same without an answer. Raises `ChannelError`, also when the peer has not read for long."""
        self._check_backlog()
        self.call(name, args)

    def offer(self, message: Message) -> None:
        """`send` what may be lost. Raises `ChannelError`, also when the peer has not read for long."""
        self._check_backlog()
        self.send(message)

    def _check_backlog(self) -> None:
        if len(self._out) > TELL_LIMIT:
            raise ChannelError("the other side does not read")

    def reply(self, number: int, value: Any = None, error: str | None = None) -> None:
        """Answer a call. A value that is not JSON is answered as an error; a peer that has gone is ignored."""
        try:
            if error is None:
                self.send({"t": "reply", "id": number, "value": value})
            else:
                self.send({"t": "reply", "id": number, "error": error})
        except ChannelError as failure:
            if self.open:
                self.send({"t": "reply", "id": number, "error": f"the result {failure}"})

    def _readable(self) -> int:
        """Take one piece, for the hub has others to serve; returns its bytes."""
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._end(error.strerror or str(error))
            return 0
        if not data:
            self._end("end of file")
            return 0
        self._in += data
        self._frames()
        return len(data)

    def read_rest(self) -> None:
        """Take in what the peer said before it ended; no more, as a process that it left behind may go on talking."""
        if not self.open:
            return
        (waiting,) = struct.unpack("=i", fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, bytes(4)))
        while self.open and waiting >= 0:  # once more than there are bytes, for the end
            waiting -= self._readable() or waiting + 1

    def _frames(self) -> None:
        offset = 0
        try:
            while self.open and len(self._in) - offset >= _HEAD.size:
                (length,) = _HEAD.unpack_from(self._in, offset)
                if length > FRAME_LIMIT:
                    self._end(f"garbage: a frame of {length} bytes")
                    return
                end = offset + _HEAD.size + length
                if len(self._in) < end:
                    return
                body = bytes(self._in[offset + _HEAD.size : end])
                offset = end
                try:
                    message = json.loads(body)
                except (ValueError, RecursionError):
                    message = None
                if not isinstance(message, dict) or not isinstance(message.get("t"), str):
                    self._end("garbage: not a message")
                    return
                self._handle(message)
        finally:
            del self._in[:offset]

    def _handle(self, message: Message) -> None:
        if message["t"] != "reply":
            self._on_message(message)
            return
        number = message.get("id")
        answer = self._calls.pop(number, None) if isinstance(number, int) else None
        if answer is None:
            return
        if "error" in message:
            answer.set_exception(RemoteError(str(message["error"])))
        else:
            answer.set(message.get("value"))

    def _writable(self) -> None:
        try:
            while self._out:
                sent = self._socket.send(memoryview(self._out)[:_READ])
                del self._out[:sent]
        except (BlockingIOError, InterruptedError):
            if not self._writer.active:
                self._writer.start(self._writable)
            return
        except OSError as error:
            # what the peer said before it went may still be there to read; its end-of-file comes after it
            self._out.clear()
            if self._reader is None or not self._reader.active:
                self._end(error.strerror or str(error))
        self._writer.stop()

    def flush(self, seconds: float) -> None:
        """Block this process, hub included, until all is sent or *seconds* are over. For a process about to end."""
        deadline = time.monotonic() + seconds
        while self.open and self._out:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            poller = _poll()
            poller.register(self._socket.fileno(), select.POLLOUT)
            if poller.poll(left * 1000):
                self._writable()

    def abandon(self) -> None:
        """Let go of the descriptor in a forked child, whose hub knows nothing of this channel."""
        self.open = False
        close_descriptor(self._socket.detach())

    def close(self) -> None:
        """Close this end. Calls that wait fail; *on_closed* is not called."""
        self._on_closed = lambda reason: None
        self._end("closed")

    def _end(self, reason: str) -> None:
        if not self.open:
            return
        self.open = False
        for watcher in (self._reader, self._writer):  # before their descriptor: libev insists
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._socket.close()
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            answer.set_exception(ChannelError(f"no answer: {reason}"))
        self._on_closed(reason)
