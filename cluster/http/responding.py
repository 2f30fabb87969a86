"""One response: what the application says of it, as bytes on their way. Part of the hot path."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import counters as index
from . import response
from .body import StreamedBody
from .errors import BodyError, ClientGone, ResponseError
from .files import FileWrapper
from .request import Environ

if TYPE_CHECKING:
    from .engine import Engine
    from .receiving import Receiving

_STATUSES = response.STATUSES
_FIELDS = response.FIELDS
#: up to this size a body is copied behind its head to leave in one segment; copying more costs more than a second send
_JOINED = 65536


class Responding:
    """The response to one request, and what is known of both. One per request, never used again: an application may
    keep hold of `start_response` and `write`, and must not reach another request with them.
    """

    # Slots, and all set at once: attributes that stay in the class are slower to read than these are to set.
    __slots__ = (
        "bodiless", "body", "broken", "chunked", "code", "complete", "connection", "continues", "engine", "environ",
        "expects_more", "finished", "head_sent", "headers", "keep_alive", "left", "old", "sent", "started", "status",
        "token",
    )  # fmt: skip

    def __init__(self, connection: Receiving, engine: Engine, environ: Environ, keep_alive: bool) -> None:
        self.connection = connection
        self.engine = engine
        self.environ = environ
        #: the client may send more than this request
        self.expects_more = keep_alive
        #: what the client wishes at first, then what we said
        self.keep_alive = keep_alive
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        #: of the response, once its head is made
        self.code = 0
        self.head_sent = False
        #: everything was handed to the kernel
        self.complete = False
        #: part of a message is out and its rest is not: nothing else can be said on this connection, it is to be cut
        self.broken = False
        self.chunked = False
        #: no body may follow the head; true from the start for HEAD
        self.bodiless = False
        #: the client speaks HTTP/1.0
        self.old = False
        #: declared and not yet sent, in bytes; None when nothing was declared
        self.left: int | None = None
        #: body bytes sent
        self.sent = 0
        #: wsgi.input when it is streamed
        self.body: StreamedBody | None = None
        #: the client waits for "100 Continue"
        self.continues = False
        self.token: int | None = None
        #: by the monotonic clock
        self.started = monotonic()
        self.finished = 0.0

    # --- what the application calls -------------------------------------------------------------------------------

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """As in PEP 3333. What is wrong with the status or a header shows when the head is made."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("start_response() called again without exc_info")
        self.status = status
        self.headers = headers
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, after the head when that is still to go. Blocks while the client does not read.

        Raises `ClientGone`, also when the request is over, `ResponseError` for a response that cannot go out, or
        RuntimeError while another greenlet is in here.
        """
        if self.complete or self.connection.exchange is not self:
            raise ClientGone("the request is over")
        if type(data) is not bytes:
            data = _bytes(data)
        head = b"" if self.head_sent else self._head(None)
        if self.bodiless:
            self.transmit(head)
            self.connection.take_turn()
            return
        excess = 0
        if self.chunked:
            # an empty chunk would end the body
            framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        else:
            framed = data
            if self.left is not None:
                excess = len(data) - self.left
                if excess > 0:
                    framed = data[: self.left]
        if len(framed) > _JOINED:
            self.transmit(head)
            self.transmit(framed)
        else:
            self.transmit(head + framed)
        taken = len(data) - max(excess, 0)
        self.sent += taken
        if self.left is not None:
            self.left -= taken
        if excess > 0:
            raise ResponseError(f"the body is longer than its Content-Length, by at least {excess} bytes")
        self.connection.take_turn()

    def could_pass_for_whole(self) -> bool:
        """Whether a close now would look like the end of this response, as nothing else tells where that is."""
        told = self.chunked or self.bodiless or self.left is not None
        return self.head_sent and not self.complete and not told

    # --- sending --------------------------------------------------------------------------------------------------

    def _send_whole(self, data: bytes) -> None:
        """The response of most applications: one piece. Head and body leave in one send."""
        if type(data) is not bytes:
            data = _bytes(data)
        size = len(data)
        head = self._head(size)
        if self.bodiless:
            self.transmit(head)
        elif self.left == size and size <= _JOINED:
            self.transmit(head + data)
            self.sent = size
        else:
            self.write_after(head, data)
        self.complete = True

    def write_after(self, head: bytes, data: bytes) -> None:
        """Send head and body of a response apart, or one whose declared length is wrong."""
        self.transmit(head)
        self.write(data)
        self._end()

    def _send_result(self, result: Iterable[bytes]) -> None:
        try:
            if type(result) is FileWrapper and self._send_file(result):
                pass
            elif isinstance(result, (list, tuple)) and not self.head_sent:
                self._send_list(result)
            else:
                for data in result:
                    # a head goes out with the first data, for until then the application may change its mind
                    if data:
                        self.write(data)
                        if self.bodiless:  # nobody gets the rest, and no send would tell that the client has gone
                            break
            self._end()
            self.complete = True
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _send_list(self, pieces: list[bytes] | tuple[bytes, ...]) -> None:
        pieces = [piece if type(piece) is bytes else _bytes(piece) for piece in pieces]
        size = sum(map(len, pieces))
        head = self._head(size)
        if self.bodiless:
            self.transmit(head)
        elif size <= _JOINED:
            # the head has been marked as sent, so the body goes through the usual checks behind it
            body = b"".join(pieces)
            if self.left == size:
                self.left = 0
                self.transmit(head + body)
                self.sent = size
            else:
                self.write_after(head, body)
        else:
            self.transmit(head)
            for piece in pieces:
                if piece:
                    self.write(piece)

    def _send_file(self, result: FileWrapper) -> bool:
        """Let the kernel copy a file into the socket; whether that was possible."""
        connection = self.connection
        if self.head_sent or not connection.plain:
            return False
        span = result.span()
        if span is None:
            return False
        descriptor, offset, size = span
        head = self._head(size)
        if self.bodiless:
            self.transmit(head)
            return True
        count = size
        if self.left is not None:
            count = min(size, self.left)
            self.left -= count
        self.transmit(head)
        self.broken = True  # as in transmit
        sent = connection.send_file(descriptor, offset, count)
        self.broken = False
        self.sent += sent
        self.engine.counters[index.BYTES_SENT] += sent
        if sent < count:
            raise ResponseError("the file became shorter while it was sent")
        return True

    def _end(self) -> None:
        if not self.head_sent:
            self.transmit(self._head(0))
            return
        if self.broken:
            raise self._unsendable()
        if self.bodiless:
            return
        if self.chunked:
            self.transmit(b"0\r\n\r\n")
        elif self.left:
            raise ResponseError(f"the body is {self.left} bytes shorter than its Content-Length")

    def _head(self, size: int | None) -> bytes:
        """Make the head. `size` is that of the body when the whole of it is known. Raises `ResponseError`."""
        status = self.status
        if status is None:
            raise ResponseError("start_response() was not called")
        body = self.body
        if body is not None and body.fault is not None and type(body.fault) is BodyError:
            # the application may have swallowed it; half a body must not be answered as a whole one
            raise body.fault
        try:
            code, text, bodiless = _STATUSES[status]
        except (KeyError, TypeError):
            code, text, bodiless = response.status_line(status)
        declared = None
        dated = False
        close = not self.keep_alive
        for name, value in self.headers:
            try:
                meaning = _FIELDS[name]
            except (KeyError, TypeError):
                meaning = response.field_meaning(name)
            if meaning:
                if meaning == response.LENGTH:
                    length = size if size is not None and value == str(size) else response.content_length(value)
                    if declared is not None and declared != length:
                        raise ResponseError("two different Content-Lengths")
                    declared = length
                    continue
                if meaning == response.DATE:
                    dated = True
                elif meaning == response.CONNECTION:
                    # the application may ask for the end of the connection; the field is the server's
                    response.check_value(value)
                    close = close or "close" in value.lower()
                    continue
                else:
                    continue
            if type(value) is not str or not value.isprintable():  # faster than looking for the characters themselves
                response.check_value(value)
            text += name + ": " + value + "\r\n"

        if bodiless:
            # a 304 may tell the length that the body would have had
            if declared is not None and code == 304:
                text += f"Content-Length: {declared}\r\n"
        else:
            if self.bodiless:
                if declared is None and size:
                    declared = size
                if declared is not None:
                    text += f"Content-Length: {declared}\r\n"
            elif declared is not None or size is not None:
                if declared and size == 0:  # while it can still be answered otherwise
                    raise ResponseError(f"the body is {declared} bytes shorter than its Content-Length")
                self.left = size if declared is None else declared
                text += f"Content-Length: {self.left}\r\n"
            elif self.old:
                close = True
            else:
                self.chunked = True
                text += "Transfer-Encoding: chunked\r\n"

        engine = self.engine
        if engine.closing:
            close = True
        if body is not None and not close and not body.ended:
            close = self.continues or not self.connection.worth_draining()
        if close:
            self.keep_alive = False
            text += "Connection: close\r\n"
        elif self.old:
            text += "Connection: keep-alive\r\n"
        if not dated:
            # Not another look at the clock: the sweep renews the field too, should this request have taken long.
            clock = engine.clock
            if self.started >= clock.expires:
                clock.renew(monotonic())
            text += clock.last_field
        else:
            text += "\r\n"
        data = text.encode("latin-1")
        if bodiless:
            self.bodiless = True  # only now: what failed above is answered with a body
        self.code = code
        self.head_sent = True
        return data

    def transmit(self, data: bytes) -> None:
        """Send it, blocking while the client does not read. Raises `ClientGone`."""
        if not data:
            return
        if self.broken:
            raise self._unsendable()
        try:
            sent = self.connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.broken = True
            raise ClientGone(str(error)) from error
        size = len(data)
        if sent != size:
            # Part of a message is out: nothing but its rest can follow, also when a Timeout or a kill interrupts this.
            self.broken = True
            self.connection.send_rest(memoryview(data)[sent:])
            self.broken = False
        self.engine.counters[index.BYTES_SENT] += size

    def _unsendable(self) -> Exception:
        """Why nothing can be sent now."""
        if self.connection.sending:
            return RuntimeError("another greenlet is sending a part of this response")
        return ClientGone("an earlier part of this response did not go out whole")


def _bytes(data: object) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a WSGI application must give bytes, not {type(data).__name__}")
