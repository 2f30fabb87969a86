"""Response heads: what may stand in them, and their bytes. Part of the hot path.

Nothing an application says goes out unchecked: a line break in a field would let whoever supplied the text write
the rest of the response.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from http import HTTPStatus

from .errors import Refused, ResponseError
from .learned import Learned

#: not 1xx: those announce an answer, which a client would wait for; and for a 101 nobody gets our socket
_STATUS = re.compile(r"[2-5][0-9]{2}(?: [\t -~\x80-\xff]*)?").fullmatch
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch

#: what a field means to the server
PLAIN, LENGTH, ENCODING, CONNECTION, DATE, HOP = range(6)

_MEANINGS = {
    "content-length": LENGTH,
    "transfer-encoding": ENCODING,
    "connection": CONNECTION,
    "date": DATE,
    # hop-by-hop fields are the server's (PEP 3333); "Upgrade" may stay, as 426 needs it
    "keep-alive": HOP,
    "proxy-connection": HOP,
    "te": HOP,
    "trailer": HOP,
}

# Words that the application has used, so that a checked status line or field name need not be checked and classified
# again (measured: 0.9 µs of a response with four fields). Some applications take words from their clients.
_KEPT = 1024
_SIZE = 128
_STATUSES: Learned[str, tuple[int, str, bool]] = Learned(_KEPT)
_FIELDS: Learned[str, int] = Learned(_KEPT)
#: for looking up: `status_line` and `field_meaning` learn what is not in them
STATUSES = _STATUSES.table
FIELDS = _FIELDS.table


def status_line(status: str) -> tuple[int, str, bool]:
    """Code and status line of a WSGI status, and whether it never has a body; raises `ResponseError`."""
    if not isinstance(status, str) or not _STATUS(status):
        # its caller did not find it in the table, which is nobody's business
        raise ResponseError(f"not a status that an application can answer with: {status!r}") from None
    code = int(status[:3])
    line = f"HTTP/1.1 {status}\r\n" if len(status) > 3 else f"HTTP/1.1 {status} \r\n"
    found = (code, line, code in (204, 304))
    if len(status) <= _SIZE:
        _STATUSES.learn(status, found)
    return found


def field_meaning(name: str) -> int:
    """What a response field means to the server; raises `ResponseError` for what is no field name."""
    if not isinstance(name, str) or not _TOKEN(name):
        raise ResponseError(f"not a header name: {name!r}") from None
    meaning = _MEANINGS.get(name.lower(), PLAIN)
    if len(name) <= _SIZE:
        _FIELDS.learn(name, meaning)
    return meaning


def content_length(value: str) -> int:
    """The value of a Content-Length that an application gave; raises `ResponseError`."""
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()):
        raise ResponseError(f"not a Content-Length: {value!r}")
    return int(value)


def check_value(value: str) -> None:
    """See that a field's value is text without control characters (but tabs); raises `ResponseError`."""
    if not isinstance(value, str):
        raise ResponseError(f"a header value must be text, not {value!r}")
    if _CONTROL(value):
        raise ResponseError(f"a header value with a control character in it: {value!r}")


class Clock:
    """The Date field, rendered once a second."""

    __slots__ = ("expires", "field", "last_field")

    def __init__(self) -> None:
        #: when `field` is out of date, by the monotonic clock
        self.expires = 0.0
        #: ``Date: …`` with its line end
        self.field = ""
        #: the same with the empty line after a head
        self.last_field = ""

    def renew(self, now: float) -> None:
        wall = time.time()
        self.field = f"Date: {http_date(wall)}\r\n"
        self.last_field = self.field + "\r\n"
        self.expires = now + 1.0 - wall % 1.0


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(seconds: float) -> str:
    """A moment (seconds since the epoch) as HTTP writes it. (To import the library's way takes 6 ms.)"""
    at = time.gmtime(seconds)
    return (f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} "
            f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT")


def plain(
    status: int, text: str, date: str, extra: Iterable[tuple[str, str]] = (), close: bool = True
) -> tuple[bytes, bytes]:
    """Head and body of a short response of the server's own, with the text as its body."""
    phrase = HTTPStatus(status).phrase
    body = (f"{status} {phrase}: {text}\n" if text else f"{status} {phrase}\n").encode()
    fields = "".join(f"{name}: {value}\r\n" for name, value in extra)
    if close:
        fields += "Connection: close\r\n"
    head = (f"HTTP/1.1 {status} {phrase}\r\n{date}Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n{fields}\r\n")
    return head.encode(), body


def refusal(refused: Refused, date: str) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request that is refused."""
    extra = [("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")] if refused.status == 405 else []
    return plain(refused.status, refused.reason, date, extra)
