"""The machinery of the strict client: connections, one request at a time on each, and every outcome counted once.

One thread, one selector, nothing but the standard library: the client must not stand on what it measures, and must
leave the processor to the servers. What to ask next is decided by the callers (`strict`, `arrivals`), not here.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from benchmarks.response import Malformed, Response

Address = tuple[str, int] | str
"""`(host, port)`, `"host:port"`, `"[::1]:80"`, or `"unix:/path"` (or any string with a slash)."""

KINDS = ("refused", "reset", "closed", "cut", "status", "timeout", "malformed")
"""Every kind of failure. `closed`: the connection ended under a request that had been sent, before any byte of the
response. `cut`: it ended in the middle of the response. `refused`: any failure to connect but a reset."""

MAXIMUM_DETAILS = 20
"""How many failures are described in words; all of them are counted."""


class State(Enum):
    """Where a connection is."""

    SHUT = "shut"
    CONNECTING = "connecting"
    ASKED = "asked"
    IDLE = "idle"


@dataclass
class Report:
    """What happened. Times are in seconds.

    :ivar requests: requests begun; each is either answered or one failure.
    :ivar answered: complete responses with a status of 200 to 299.
    :ivar failures: how many of each of `KINDS`.
    :ivar connections: connections that were established.
    :ivar reconnects: connections that the server announced to close (`Connection: close`); no failure.
    :ivar closed_idle: connections found closed in good order before the next request was sent; no failure.
    :ivar latencies: one for each answered request, from its begin (with connecting, where it had to) to its last byte.
    :ivar by_worker: connections by the pid that their first response's body held.
    :ivar details: the first failures in words.
    :ivar seconds: how long it all took.
    """

    requests: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    reconnects: int = 0
    closed_idle: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    by_worker: Counter[int] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.failures.values())

    @property
    def clean(self) -> bool:
        """Whether there were requests and none failed."""
        return self.answered > 0 and self.failed == 0

    def latency(self, share: float) -> float:
        """The latency that this share (0 to 1) of the answered requests kept within; 0.0 when there were none."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def unevenness(self, workers: int) -> float:
        """Connections of the busiest worker divided by the mean over this many workers: 1.0 is perfectly fair."""
        total = sum(self.by_worker.values())
        return max(self.by_worker.values()) * workers / total if total else 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{self.failures[kind]} {kind}" for kind in KINDS if self.failures[kind]) or "none"
        rate = self.answered / self.seconds if self.seconds else 0.0
        p50, p99, most = (self.latency(share) * 1000 for share in (0.5, 0.99, 1.0))
        lines = [
            f"requests     {self.requests} in {self.seconds:.1f} s, {rate:.0f} answered a second",
            f"failures     {self.failed} ({kinds})",
            f"connections  {self.connections}; {self.reconnects} closed as announced, {self.closed_idle} closed idle",
            f"latency      p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {most:.2f} ms",
        ]
        if self.by_worker:
            workers = ", ".join(f"{pid}: {count}" for pid, count in self.by_worker.most_common())
            lines.append(f"by worker    {workers}")
        return "\n".join(lines + [f"  {detail}" for detail in self.details])


class Connection:
    """One client: at most one connection at a time and one request at a time on it."""

    __slots__ = ("begun", "counted", "number", "response", "socket", "state")

    def __init__(self, number: int) -> None:
        self.number = number
        self.socket: socket.socket | None = None
        self.state = State.SHUT
        self.response = Response()
        self.begun = 0.0
        self.counted = False


class Client:
    """A set of connections to one address. A request that failed is never sent again.

    :param address: see `Address`.
    :param done: called after each request's end with the connection and whether it was answered. It must leave the
        next `begin` to the loop that calls `turn`: a refused connection ends at once, so it would call itself for ever.
    :param path: what to ask for.
    :param timeout: seconds from the begin of a request within which its response must be complete.
    :param pids: whether bodies hold the pid of the worker, to be counted in `Report.by_worker`.
    :param blind: to be a client that does not look whether an idle connection is still there: closed idle then counts
        as the failure `closed`, unless no further request was to come.
    """

    def __init__(
        self,
        address: Address,
        done: Callable[[Connection, bool], None],
        path: str = "/",
        timeout: float = 10.0,
        pids: bool = False,
        blind: bool = False,
    ) -> None:
        self.report = Report()
        self.timeout = timeout
        self._family, self._target, host = resolve(address)
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("ascii")
        self._done = done
        self._pids = pids
        self._blind = blind
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        # In the order of their deadlines, since all have the same time-out.
        self._pending: dict[Connection, float] = {}
        self._started = time.monotonic()

    @property
    def pending(self) -> int:
        """How many requests are under way."""
        return len(self._pending)

    def open(self) -> Connection:
        """One more client; it connects with its first request."""
        connection = Connection(len(self._connections))
        self._connections.append(connection)
        return connection

    def begin(self, connection: Connection) -> None:
        """Begins a request: connects where there is no connection, and sends it."""
        now = time.monotonic()
        self.report.requests += 1
        self._pending[connection] = now + self.timeout
        connection.begun = now
        if connection.state is State.IDLE and not self._look(connection):
            return
        if connection.state is State.SHUT:
            self._connect(connection)
        else:
            self._send(connection)

    def turn(self, wait: float) -> None:
        """Handles what has happened, after waiting for it at most this many seconds, and what is overdue."""
        for deadline in self._pending.values():
            wait = min(wait, deadline - time.monotonic())
            break
        for key, _ in self._selector.select(max(wait, 0.0)):
            self._advance(key.data)
        now = time.monotonic()
        while self._pending:
            connection, deadline = next(iter(self._pending.items()))
            if deadline > now:
                break
            self._fail(connection, "timeout", f"no complete response within {self.timeout:g} s")

    def close(self) -> Report:
        """Ends all connections and hands out the report.

        :raises RuntimeError: when a request was begun that is neither answered nor failed: a bug in this client.
        """
        for connection in self._connections:
            if connection.state is State.IDLE:
                self._look(connection, last=True)
            self.shut(connection)
        self._selector.close()
        report = self.report
        report.seconds = time.monotonic() - self._started
        if report.requests != report.answered + report.failed:
            raise RuntimeError(f"{report.requests - report.answered - report.failed} requests have no outcome")
        return report

    def _connect(self, connection: Connection) -> None:
        sock = connection.socket = socket.socket(self._family, socket.SOCK_STREAM)
        connection.counted = False
        try:
            if self._family == socket.AF_UNIX:
                # A non-blocking connect to a unix socket whose queue is full fails where any usual client waits.
                sock.settimeout(self.timeout)
                sock.connect(self._target)
                sock.setblocking(False)
                failure = 0
            else:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                failure = sock.connect_ex(self._target)
        except OSError as error:
            self._fail_to_connect(connection, error.errno or errno.ETIMEDOUT)
            return
        if failure not in (0, errno.EINPROGRESS):
            self._fail_to_connect(connection, failure)
            return
        connection.state = State.CONNECTING
        # A connected unix socket is writable at once, so both families go the same way from here.
        self._selector.register(sock, selectors.EVENT_WRITE, connection)

    def _fail_to_connect(self, connection: Connection, number: int) -> None:
        kind = "reset" if number == errno.ECONNRESET else "refused"
        self._fail(connection, kind, f"{errno.errorcode.get(number, number)} when connecting")

    def _look(self, connection: Connection, last: bool = False) -> bool:
        """Looks whether an idle connection is still there, as good clients do before they send.

        An orderly end is no failure, and leaves it shut. A reset is one, and so are bytes that nobody asked for.
        Returns False when the request that is being begun has failed with it. `last`: no request is to come.
        """
        assert connection.socket is not None
        try:
            unasked = connection.socket.recv(64, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError as error:
            self._fail(connection, "reset", f"{errno.errorcode.get(error.errno or 0)} while idle")
            return False
        if unasked:
            self._fail(connection, "malformed", f"bytes that nobody asked for: {unasked!r}")
            return False
        if self._blind and not last:
            # Nobody can answer what would be sent now, so there is no need to send it.
            self._fail(connection, "closed", "end of file while idle")
            return False
        self.report.closed_idle += 1
        self.shut(connection)
        return True

    def _send(self, connection: Connection) -> None:
        assert connection.socket is not None
        connection.response = Response()
        connection.state = State.ASKED
        try:
            sent = connection.socket.send(self._request)
        except OSError as error:
            self._fail(connection, "reset", f"{errno.errorcode.get(error.errno or 0)} when sending")
            return
        if sent != len(self._request):
            # The buffer of an idle socket holds any request of ours; it must not go unnoticed if one day it does not.
            self._fail(connection, "reset", f"only {sent} bytes of the request could be sent")

    def _advance(self, connection: Connection) -> None:
        if connection.state is State.ASKED:
            self._receive(connection)
        elif connection.state is State.CONNECTING:
            assert connection.socket is not None
            failure = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self._fail_to_connect(connection, failure)
                return
            self.report.connections += 1
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            # Sent without a look: a new connection that is closed at once has been refused service.
            self._send(connection)
        elif connection.state is State.IDLE:
            self._look(connection)

    def _receive(self, connection: Connection) -> None:
        assert connection.socket is not None
        try:
            data = connection.socket.recv(262144)
        except BlockingIOError:
            return
        except OSError as error:
            part = "in the middle of a response" if connection.response.started else "under a request"
            self._fail(connection, "reset", f"{errno.errorcode.get(error.errno or 0)} {part}")
            return
        response = connection.response
        if not data:
            kind = "cut" if response.started else "closed"
            self._fail(connection, kind, "end of file before a complete response")
            return
        try:
            complete = response.feed(data)
        except Malformed as error:
            self._fail(connection, "malformed", str(error))
            return
        if complete:
            self._complete(connection, response)

    def _complete(self, connection: Connection, response: Response) -> None:
        if response.close:
            self.report.reconnects += 1
            self.shut(connection)
        else:
            connection.state = State.IDLE
        if not 200 <= response.status < 300:
            self._fail(connection, "status", f"status {response.status}", keep=True)
            return
        del self._pending[connection]
        self.report.answered += 1
        self.report.latencies.append(time.monotonic() - connection.begun)
        if self._pids and not connection.counted and response.body.strip().isdigit():
            connection.counted = True
            self.report.by_worker[int(response.body)] += 1
        self._done(connection, True)

    def _fail(self, connection: Connection, kind: str, detail: str, keep: bool = False) -> None:
        """Counts one failure; the connection is given up unless `keep`."""
        report = self.report
        if len(report.details) < MAXIMUM_DETAILS:
            age = time.monotonic() - self._started
            report.details.append(f"at {age:.3f} s, connection {connection.number}: {kind}: {detail}")
        if not keep:
            self.shut(connection)
        report.failures[kind] += 1
        if self._pending.pop(connection, None) is None:
            # It happened between two requests: the next one was spoilt before it began.
            report.requests += 1
            return
        self._done(connection, False)

    def shut(self, connection: Connection) -> None:
        """Ends the connection of one client, if it has one and no request is under way on it."""
        if connection.socket is not None:
            if connection.state is not State.SHUT:
                self._selector.unregister(connection.socket)
            connection.socket.close()
        connection.socket = None
        connection.state = State.SHUT


def resolve(address: Address) -> tuple[socket.AddressFamily, str | tuple[str, int], str]:
    """The family, the target to connect to and the value of the Host header for an address.

    :raises ValueError: when it is neither a host with a port nor the path of a unix socket.
    """
    if isinstance(address, str):
        if address.startswith("unix:") or "/" in address:
            return socket.AF_UNIX, address.removeprefix("unix:"), "localhost"
        name, _, port = address.rpartition(":")
        if not name or not port.isdigit():
            raise ValueError(f"{address!r} is no address; HOST:PORT or unix:PATH would be one")
        address = (name.strip("[]"), int(port))
    host, number = address[0], address[1]
    family, _, _, _, target = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    return family, (str(target[0]), int(target[1])), f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
