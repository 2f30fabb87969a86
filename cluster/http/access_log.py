"""The access log: one line per request, in gunicorn's atoms or as JSON, written in batches.

Clients choose most of what is in a line, and none may make it look like another one: a text never ends the field that
it stands in. Between quotes that is what would end those; outside of them a space or a bracket would, too.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent.hub import get_hub

from .. import output
from ..errors import ConfigurationError
from .errors import BodyError, Refused
from .request import Environ

if TYPE_CHECKING:
    from .connection import Connection
    from .exchange import Exchange

#: the combined format
COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
#: one object per line
JSON = "json"
_JSON_TIME = "%Y-%m-%dT%H:%M:%S%z"

#: how long a line may wait for others, in seconds, and how many bytes of lines do not wait
_DELAY = 0.2
_BATCH = 65536

_ATOM = re.compile(r"%\((\{[^}]*\}[ioe]|[a-zA-Z]+)\)s|%%")
#: what is not printable ASCII could do anything to a terminal, such as to turn the direction of what follows
_UNSAFE = re.compile(r'[^ !#-\[\]-~]')
_UNSAFE_UNQUOTED = re.compile(r"[^!#-Z^-~]")
#: the same for atoms with spaces or brackets of their own, of which clients choose neither number nor place
_UNSAFE_IN = {"r": re.compile(r"[^ !#-Z^-~]"), "t": _UNSAFE}


class Record:
    """What is known of a request when it is over."""

    __slots__ = ("environ", "headers", "peer", "reason", "seconds", "sent", "status")

    def __init__(
        self, environ: Environ, peer: str, status: int, sent: int, seconds: float, headers: list[tuple[str, str]],
        reason: str | None = None,
    ) -> None:
        self.environ = environ
        self.peer = peer
        self.status = status
        self.sent = sent
        self.seconds = seconds
        self.headers = headers
        #: why the server refused it; None when it did not
        self.reason = reason

    @property
    def user(self) -> str | None:
        kind, _, rest = str(self.environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if kind.lower() != "basic":
            return None
        import base64
        import binascii

        try:
            return base64.b64decode(rest, validate=True).decode("utf-8", "replace").partition(":")[0] or None
        except (binascii.Error, ValueError):
            return None

    @property
    def request(self) -> str | None:
        environ = self.environ
        if "REQUEST_URI" not in environ:
            return None
        return f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} {environ['SERVER_PROTOCOL']}"

    def header(self, name: str) -> str | None:
        found = [str(value) for key, value in self.headers if str(key).lower() == name.lower()]
        return ", ".join(found) if found else None


_ATOMS: dict[str, Callable[[Record], Any]] = {
    "h": lambda record: record.environ.get("REMOTE_ADDR") or record.peer,
    "l": lambda record: None,
    "u": lambda record: record.user,
    "t": lambda record: time.strftime("[%d/%b/%Y:%H:%M:%S %z]"),
    "r": lambda record: record.request,
    "m": lambda record: record.environ.get("REQUEST_METHOD"),
    "U": lambda record: record.environ.get("PATH_INFO"),
    "q": lambda record: record.environ.get("QUERY_STRING"),
    "H": lambda record: record.environ.get("SERVER_PROTOCOL"),
    "s": lambda record: record.status,
    "st": lambda record: record.status,
    "b": lambda record: record.sent or None,
    "B": lambda record: record.sent,
    "f": lambda record: record.environ.get("HTTP_REFERER"),
    "a": lambda record: record.environ.get("HTTP_USER_AGENT"),
    "T": lambda record: int(record.seconds),
    "M": lambda record: int(record.seconds * 1000),
    "D": lambda record: int(record.seconds * 1_000_000),
    "L": lambda record: f"{record.seconds:.6f}",
    "p": lambda record: f"<{os.getpid()}>",
    "reason": lambda record: record.reason,
}

_FIELDS: dict[str, Callable[[Record], Any]] = {
    "time": lambda record: time.strftime(_JSON_TIME),
    "remote_addr": _ATOMS["h"],
    "user": _ATOMS["u"],
    "method": _ATOMS["m"],
    "target": lambda record: record.environ.get("REQUEST_URI"),
    "protocol": _ATOMS["H"],
    "host": lambda record: record.environ.get("HTTP_HOST"),
    "status": _ATOMS["s"],
    "bytes": _ATOMS["B"],
    "seconds": lambda record: round(record.seconds, 6),
    "referer": _ATOMS["f"],
    "user_agent": _ATOMS["a"],
    "pid": lambda record: os.getpid(),
}


def compile_format(text: str) -> Callable[[Record], str]:
    """A function that renders a line. Raises `ConfigurationError` for an atom that is none, and for a ``%`` alone.

    Where a request was refused, the reason follows the line in quotes unless the format has a place for it.
    """
    if text == JSON:
        return _json
    rest = _ATOM.sub(" ", text)
    if "%" in rest:
        wrong = rest[rest.index("%") :].split()[0]
        raise ConfigurationError(f"no atom of an access log: {wrong} (they are like %(h)s; %% is a percent sign)")
    atoms = []
    parts = []
    end = 0
    quoted = False
    for match in _ATOM.finditer(text):
        literal, end, name = text[end : match.start()], match.end(), match[1]
        quoted ^= literal.count('"') % 2 == 1
        parts += [literal, "%%" if name is None else "%s"]
        if name is not None:
            atoms.append((_getter(name), _UNSAFE if quoted else _UNSAFE_IN.get(name, _UNSAFE_UNQUOTED)))
    template = "".join(parts) + text[end:]
    told = any(get is _ATOMS["reason"] for get, _ in atoms)

    def render(record: Record) -> str:
        line = template % tuple(_safe(get(record), unsafe) for get, unsafe in atoms)
        return line if told or record.reason is None else f'{line} "{_safe(record.reason, _UNSAFE)}"'

    return render


def _json(record: Record) -> str:
    fields = {name: get(record) for name, get in _FIELDS.items()}
    if record.reason is not None:
        fields["reason"] = record.reason
    return json.dumps(fields)


def _getter(name: str) -> Callable[[Record], Any]:
    if name.startswith("{"):
        key, kind = name[1:-2], name[-1]
        if kind == "i":
            own = key.upper().replace("-", "_")
            own = own if own in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + own
            return lambda record: record.environ.get(own)
        if kind == "o":
            return lambda record: record.header(key)
        return lambda record: record.environ.get(key)
    if name not in _ATOMS:
        raise ConfigurationError(f"no atom of an access log: %({name})s")
    return _ATOMS[name]


def _safe(value: Any, unsafe: re.Pattern[str]) -> str:
    if value is None or value == "":
        return "-"
    return unsafe.sub(_escaped, str(value))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class AccessLog:
    """Writes a line for each request to a file or to standard output.

    :param target: a path, ``-`` for standard output, or a function that is given bytes (whole lines)
    :param format: gunicorn's atoms, or ``json``

    Lines wait up to 0.2 s for others and leave in one write to a file opened for appending, so that those of
    several processes do not mix. No request waits for a log: lines that cannot be written are kept, up to 1 MiB of
    them; then they are dropped and counted, and a line in their place says so. Raises `ConfigurationError` for a format
    that cannot be, OSError for a file that cannot be opened.
    """

    def __init__(self, target: str | Callable[[bytes], object] = "-", format: str = COMBINED) -> None:
        self._render = compile_format(format)
        self._json = format == JSON
        self._target = target
        self._descriptor = -1
        self._output = output.STDOUT
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: Any = None
        if callable(target):
            return
        if target != "-":
            self._descriptor = output.open_to_append(target)
            self._output = output.Output(self._descriptor)
        self._output.notice = self._missing
        self._output.on_trouble = _complain

    def reopen(self) -> None:
        """Open the file again, after somebody has moved it away."""
        if isinstance(self._target, str) and self._descriptor >= 0:
            output.replace(self._descriptor, output.open_to_append(self._target))

    def _missing(self, count: int, reason: str) -> bytes:
        """The line that stands for lines that were dropped."""
        if self._json:
            found = {"time": time.strftime(_JSON_TIME), "pid": os.getpid(), "dropped": count, "reason": reason}
            return json.dumps(found).encode() + b"\n"
        return f"- {output.dropped(count, reason)}\n".encode()

    def add(self, exchange: Exchange) -> None:
        """Log an exchange that is over. Never raises."""
        seconds = exchange.finished - exchange.started
        peer = exchange.connection.peer
        fault = exchange.body.fault if exchange.body is not None else None
        reason = fault.reason if isinstance(fault, BodyError) and fault.status == exchange.code else None
        self._line(Record(exchange.environ, peer, exchange.code, exchange.sent, seconds, exchange.headers, reason))

    def add_refused(self, connection: Connection, refused: Refused, environ: Environ | None, size: int) -> None:
        """Log a request that was refused."""
        self._line(Record(environ or {}, connection.peer, refused.status, size, 0.0, [], refused.reason))

    def _line(self, record: Record) -> None:
        try:
            line = self._render(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception as error:  # noqa: BLE001 - the application may have put anything into the environ
            line = f"- cannot be logged: {type(error).__name__}\n".encode()
        self._lines.append(line)
        self._size += len(line)
        if self._size > _BATCH:
            self.flush()
        elif self._timer is None:
            self._output.attach()
            self._timer = get_hub().loop.timer(_DELAY)
            self._timer.start(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        lines, self._lines, self._size = b"".join(self._lines), [], 0
        if not lines:
            return
        if not callable(self._target):
            self._output.write(lines)
            return
        try:
            self._target(lines)
        except OSError as error:
            _complain(error)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        if not callable(self._target):
            self._output.finish()
        if self._descriptor >= 0:
            self._output.close()
            self._descriptor = -1


def _complain(reason: object) -> None:
    output.say(f"cluster: cannot write the access log: {reason}\n")
