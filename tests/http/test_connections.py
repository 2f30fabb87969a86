# ruff: noqa: E501
"""H9, H10, H11: limits, time-outs, lost clients, and the drain."""

from __future__ import annotations

import gc
import os
import socket
import time

import gevent
import http_helpers as helpers
import pytest
from gevent import socket as gsocket
from greenlet import greenlet

from cluster import counters as index
from cluster.errors import ConfigurationError
from cluster.http import UNLIMITED, HTTPServer, Limits, Timeouts
from cluster.http.wire import HEAD, LINGER

TEXT = [("Content-Type", "text/plain")]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def hello(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"hello"]


# --- H9 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"fields": 0}, {"head": -1}, {"max_body": "5"}, {"timeouts": 5}, {"connections": None}, {"field": True}, {"head": 8192.5},
              {"trailers": 1e6}, {"max_body": float("nan")}, {"max_body": -float("inf")}]
)
def test_h9_limits_that_cannot_be_right(wrong):
    with pytest.raises(ConfigurationError):
        Limits(**wrong)
    with pytest.raises(ConfigurationError):
        Timeouts(head=-1)
    with pytest.raises(ConfigurationError):
        Timeouts(body=float("nan"))


def test_h9_limits_can_be_set(serve):
    served = serve(hello, limits=Limits(request_line=50, field=60, fields=3, head=150))
    assert served.get("/" + "a" * 30).status == 200
    assert served.get("/" + "a" * 40).status == 414
    assert served.get("/", "A: " + "b" * 57).status == 200
    assert served.get("/", "A: " + "b" * 58).status == 431
    assert served.get("/", "A: b", "C: d").status == 200
    assert served.get("/", "A: b", "C: d", "E: f").status == 431
    assert served.get("/", "A: " + "b" * 50, "C: " + "d" * 50).status == 200
    assert served.get("/", "A: " + "b" * 57, "C: " + "d" * 57).status == 431


SIZES = [name for name in Limits.__dataclass_fields__ if name != "timeouts"]


@pytest.mark.parametrize("names", [SIZES, *([name] for name in SIZES)], ids=lambda names: "+".join(names)[:20])
def test_h9_each_limit_can_be_lifted(serve, names):
    """None of them fails where it is used, also when all are lifted at once."""
    served = serve(hello, limits=Limits(**dict.fromkeys(names, UNLIMITED)))
    long = "request_line" in names and "head" in names
    assert served.get("/" + "a" * (9000 if long else 10)).status == 200
    answers = helpers.responses(served.talk(
        b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-A: b\r\n\r\n"
        b"GET /2 HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\nGET /3 HTTP/1.1\r\nbad\r\n\r\n"
    ))
    assert [answer.status for answer in answers] == [200, 200, 400]
    pieces = [b"POST / HTTP/1.1\r\nHo", b"st: a\r\nTransfer-Encoding: chunked\r\n\r\n5", b";a=b\r\nhel", b"lo\r\n0\r\nX", b": y\r\n\r\n"]
    assert helpers.feed(served, pieces) == [200] and not served.errors


def test_h9_connections(serve, connect):
    goes_on = gevent.event.Event()

    def app(environ, start_response):
        goes_on.wait()
        return hello(environ, start_response)

    served = serve(app, limits=Limits(connections=3))
    socks = [connect(served) for _ in range(3)]
    for sock in socks:
        sock.sendall(REQUEST)
    helpers.until(lambda: served.server.counters[index.REQUESTS_ACTIVE] == 3)
    assert served.server.full
    # accepting by itself it leaves the fourth in the backlog until there is room
    waiting = connect(served)
    waiting.sendall(REQUEST)
    waiting.settimeout(0.05)
    with pytest.raises(TimeoutError):
        waiting.recv(1)
    waiting.settimeout(20)
    # given one by an acceptor of somebody else, it says so
    ours, theirs = gsocket.socketpair()
    served.server.accepted(theirs.detach(), "", helpers.FeedBinding(served.binding))
    assert ours.recv(1000).startswith(b"HTTP/1.1 503 ")
    ours.close()
    # what is in progress is never cut, but is the last one on its connection while somebody waits
    goes_on.set()
    answer = helpers.Reader(socks[0]).next()
    assert answer.status == 200 and answer.header("Connection") == "close"
    socks[0].close()
    assert helpers.Reader(waiting).next().status == 200


def test_h9_requests_sent_ahead_are_held_back(serve, connect):
    gate = gevent.event.Event()

    def app(environ, start_response):
        gate.wait()
        return hello(environ, start_response)

    served = serve(app, limits=Limits(pipelined=10000))
    sock = connect(served)
    count = 20000
    sender = gevent.spawn(sock.sendall, REQUEST * count)
    helpers.until(
        lambda: served.server._engine.connections and not next(iter(served.server._engine.connections))._reading
    )
    (connection,) = served.server._engine.connections
    assert len(connection.buffer) < 10000 + 65536
    gate.set()
    reader = helpers.Reader(sock)
    for _ in range(count):
        if len(reader.data) < 1000:
            gevent.sleep(0)
        assert reader.next().status == 200
    sender.join()


# --- H10 --------------------------------------------------------------------------------------------------------------


def test_h10_head(serve, connect):
    served = serve(hello, limits=Limits(timeouts=Timeouts(head=0.15)))
    silent, slow = connect(served), connect(served)
    started = time.monotonic()
    slow.sendall(b"GET / HTTP/1.1\r\n")

    def drip():
        # each byte within the time, but not all of them: it is a time-out of the whole
        try:
            while True:
                slow.sendall(b"A")
                gevent.sleep(0.02)
        except OSError:
            pass

    dripping = gevent.spawn(drip)
    assert helpers.Reader(slow).next().status == 408
    assert silent.recv(1) == b""
    assert 0.1 < time.monotonic() - started < 1
    dripping.kill()


def test_h10_keep_alive(serve, connect):
    served = serve(hello, limits=Limits(timeouts=Timeouts(keep_alive=0.15)))
    sock = connect(served)
    reader = helpers.Reader(sock)
    for _ in range(5):
        sock.sendall(REQUEST)
        assert reader.next().status == 200
        gevent.sleep(0.05)
    started = time.monotonic()
    assert sock.recv(1) == b""
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("draining", [False, True])
def test_h10_half_an_empty_line_begins_no_request(serve, connect, draining):
    """Old clients send one behind a body. A connection on which it comes in two halves is as idle as before."""
    limits = Limits(timeouts=Timeouts(head=1000, keep_alive=1000 if draining else 0.3))
    served = serve(hello, limits=limits)
    sock = connect(served)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    reader = helpers.Reader(sock)
    assert reader.next().status == 200
    (connection,) = served.server._engine.connections
    sock.sendall(b"\r")
    helpers.until(lambda: connection.state == HEAD)
    drain = gevent.spawn(served.server.drain, 0) if draining else None
    helpers.until(lambda: served.server._engine.ending == draining)
    sock.sendall(b"\n")
    helpers.until(lambda: served.server.active == 0 or connection.state == LINGER)
    assert reader.data == b"" and sock.recv(100) == b""
    sock.close()
    if drain is not None:
        drain.join(10)
        assert drain.dead


def test_h10_client_that_stops_reading(serve, connect):
    closed = []

    class Endless:
        def __iter__(self):
            return self

        def __next__(self):
            return b"x" * 100_000

        def close(self):
            closed.append(True)

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return Endless()

    served = serve(app, limits=Limits(timeouts=Timeouts(write=0.15)))
    sock = connect(served)
    sock.sendall(REQUEST)
    helpers.until(lambda: closed and served.server.active == 0)
    assert not served.errors


def test_h10_slow_reader_that_makes_progress_gets_all(serve, connect):
    served = serve(
        lambda environ, start: (start("200 OK", TEXT), [b"x" * 20_000_000])[1],
        limits=Limits(timeouts=Timeouts(write=0.2)),
    )
    sock = connect(served)
    sock.sendall(REQUEST)
    total = 0
    started = time.monotonic()
    while total < 20_000_000:
        piece = sock.recv(1_000_000)
        assert piece
        total += len(piece)
        gevent.sleep(0.01)
    assert time.monotonic() - started > 0.2


def test_h10_no_timer_without_connections(serve, connect):
    """An idle server must not wake up; see also the figure in the documentation."""
    served = serve(hello)
    engine = served.server._engine
    assert engine._sweeper is None
    sock = connect(served)
    sock.sendall(REQUEST)
    helpers.Reader(sock).next()
    assert engine._sweeper is not None
    sock.close()
    helpers.until(lambda: served.server.active == 0)
    assert engine._sweeper is None


def test_h8_refused_client_can_read_why_although_it_goes_on_sending(serve, connect):
    served = serve(hello, limits=Limits(max_body=10))
    sock = connect(served)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    try:
        for _ in range(200):
            sock.sendall(b"x" * 10000)
    except OSError:
        pytest.fail("it was cut before it could read the answer")
    assert helpers.Reader(sock).next().status == 413
    started = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < started + 10:
            sock.sendall(b"x" * 1000)
            gevent.sleep(0.01)
    assert 0.5 < time.monotonic() - started < 3


# --- lost clients, and leaks ------------------------------------------------------------------------------------------


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def test_client_that_resets(serve, connect):
    """In the middle of a response, of an upload, and while the application works: nothing is left, nothing is reported."""
    gate = gevent.event.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/wait":
            gate.wait()
        start_response("200 OK", TEXT)
        return [b"x" * 5_000_000]

    served = serve(app)
    for request in (
        REQUEST,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc",
        b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /",
    ):
        sock = connect(served)
        sock.sendall(request)
        gevent.sleep(0.01)
        reset(sock)
    gate.set()
    helpers.until(lambda: served.server.active == 0)
    assert not served.errors and served.server.counters[index.REQUESTS_ACTIVE] == 0


def test_half_closed_client_gets_its_answer(serve, connect):
    def app(environ, start_response):
        gevent.sleep(0.05)
        return hello(environ, start_response)

    served = serve(app)
    assert helpers.responses(served.talk(REQUEST * 3, half_close=True))[2].body == b"hello"


def test_no_leak_of_descriptors_greenlets_or_memory(serve):
    """Shortened: the figure for 100,000 connections is in the documentation."""
    served = serve(hello)

    def one(number):
        with gsocket.create_connection(served.address) as sock:
            if number % 5 == 0:
                sock.sendall(b"GET / HTTP/1.1\r\nbad\r\n\r\n")
            elif number % 7 == 0:
                sock.sendall(b"GET /")
                reset(sock)
                return
            else:
                sock.sendall(REQUEST)
            sock.recv(1000)

    def many(count):
        for number in range(count):
            one(number)
        helpers.until(lambda: served.server.active == 0)
        gc.collect()
        return (
            len(os.listdir("/proc/self/fd")),
            sum(isinstance(item, greenlet) for item in gc.get_objects()),
            len(gc.get_objects()),
        )

    many(200)
    before = many(200)
    after = many(1500)
    assert after[0] <= before[0] and after[1] <= before[1] and after[2] <= before[2] + 50


def test_h5_a_large_download_in_constant_memory(serve, connect):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return (b"x" * 100_000 for _ in range(1000))

    sock = connect(serve(app))
    sock.sendall(REQUEST)
    before = resident()
    total = 0
    while total < 100_000_000:
        total += len(sock.recv(1_000_000))
    assert resident() - before < 20_000_000


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# --- H11 --------------------------------------------------------------------------------------------------------------


def test_h11_in_flight_requests_are_finished_and_told(serve, connect):
    gate = gevent.event.Event()

    def app(environ, start_response):
        gate.wait()
        return hello(environ, start_response)

    served = serve(app)
    sock = connect(served)
    sock.sendall(REQUEST)
    helpers.until(lambda: served.server.counters[index.REQUESTS_ACTIVE] == 1)
    draining = gevent.spawn(served.server.drain, 0.05)
    gevent.sleep(0.1)
    assert not draining.dead
    gate.set()
    answer = helpers.Reader(sock).next()
    assert answer.status == 200 and answer.header("Connection") == "close"
    assert sock.recv(1) == b""
    sock.close()
    draining.join(5)
    assert draining.dead and served.server.active == 0


def test_h11_request_within_the_grace_is_answered_and_idle_ones_are_closed(serve, connect):
    served = serve(hello)
    busy, idle = connect(served), connect(served)
    readers = {sock: helpers.Reader(sock) for sock in (busy, idle)}
    for sock, reader in readers.items():
        sock.sendall(REQUEST)
        assert reader.next().header("Connection") is None
    draining = gevent.spawn(served.server.drain, 0.3)
    gevent.sleep(0.02)
    busy.sendall(REQUEST)
    assert readers[busy].next().header("Connection") == "close"
    assert busy.recv(1) == b""
    started = time.monotonic()
    assert idle.recv(1) == b""
    assert time.monotonic() - started > 0.1
    busy.close()
    idle.close()
    draining.join(5)
    assert draining.dead


def test_h11_drain_of_an_idle_server_returns_at_once(serve):
    started = time.monotonic()
    serve(hello).server.drain(5)
    assert time.monotonic() - started < 1


def test_h11_strict_clients_over_restarts(connect):
    """Clients that take every lost request for a failure, unless the server said that it would close."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    address = listener.getsockname()
    failures: list = []
    count = 0
    stop = False

    def client():
        nonlocal count
        sock = None
        while not stop:
            try:
                if sock is None:
                    sock = gsocket.create_connection(address)
                    reader = helpers.Reader(sock)
                sock.sendall(REQUEST)
                answer = reader.next()
                assert answer.status == 200
                count += 1
                if answer.header("Connection") == "close":
                    sock.close()
                    sock = None
            except (OSError, AssertionError) as error:
                failures.append(error)
                sock = None
            gevent.sleep(0.02)
        if sock is not None:
            sock.close()

    clients = [gevent.spawn(client) for _ in range(200)]
    server = HTTPServer(listener, hello)
    server.start_accepting()
    for _ in range(5):
        gevent.sleep(0.25)
        following = HTTPServer(listener, hello)
        following.start_accepting()
        server.drain(0.5)
        assert server.active == 0
        server = following
    stop = True
    gevent.joinall(clients, raise_error=True)
    server.close()
    listener.close()
    assert not failures and count > 3000


# --- counters and the table of requests -------------------------------------------------------------------------------


def test_counters(serve, connect):
    memory = memoryview(bytearray(8 * index.SIZE)).cast("Q")
    assert len(index.NAMES) == index.SIZE
    served = serve(
        lambda environ, start: (start(environ["PATH_INFO"][1:] + " X", TEXT), [b"hello"])[1], counters=memory
    )
    named = lambda name: memory[index.NAMES.index(name)]  # noqa: E731
    for status in ("200", "200", "302", "404", "500"):
        served.get("/" + status)
    served.talk(b"nonsense\r\n\r\n")
    helpers.until(lambda: named("connections_active") == 0)
    assert named("connections_total") == 6 and named("requests_total") == 6 and named("requests_active") == 0
    assert [named(f"responses_{n}xx") for n in range(1, 6)] == [0, 2, 1, 2, 1]
    assert named("bytes_received") > 100 and named("bytes_sent") > 400
    assert sum(memory[index.LATENCY : index.LATENCY + index.BUCKETS]) == 5 and memory[index.LATENCY_SUM] > 0
    with pytest.raises(ValueError):
        HTTPServer(None, hello, counters=[0])


def test_latency_histogram():
    buckets = [0] * index.BUCKETS
    for milliseconds in range(1, 1001):
        buckets[index.bucket(milliseconds / 1000)] += 1
    for q in (0.1, 0.5, 0.9, 0.99):
        assert q / 1.5 < index.quantile(buckets, q) < q * 1.5
    assert index.quantile([0] * index.BUCKETS, 0.5) is None
    for number in range(1, index.BUCKETS - 1):
        low, high = index.bounds(number)
        assert high == index.bounds(number + 1)[0]
        middle = (low * high) ** 0.5
        assert number < 12 or index.bucket(middle) == number
    assert index.bucket(0) == 0 and index.bucket(1e9) == index.BUCKETS - 1
    with pytest.raises(ValueError):
        index.quantile(buckets, 2)


def test_in_flight_table(serve):
    class Table:
        def __init__(self):
            self.now, self.seen = {}, []

        def begin(self, description, now):
            self.seen.append(description)
            self.now[len(self.seen)] = description
            return len(self.seen)

        def end(self, token):
            del self.now[token]

    table = Table()
    served = serve(hello, in_flight=table)
    served.get("/a?b")
    assert table.seen == [b"GET /a?b 127.0.0.1"] and not table.now


def test_observers(serve):
    told = []

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        environ.clear()
        return [b"hello"]

    served = serve(app, observers=[lambda event, data: told.append((event, data))])
    assert served.get("/a?b=c").status == 200
    helpers.until(lambda: len(told) == 4)
    about = {"method": "GET", "path": "/a", "query": "b=c", "remote": "127.0.0.1"}
    (_, connection), (_, request), (_, complete), (_, end) = told
    assert [event for event, _ in told] == [
        "client connection", "client request", "client request complete", "client disconnection"]
    assert connection == end == {"remote": "127.0.0.1"} and request == about
    assert 0 < complete.pop("seconds") < 10
    assert complete == {**about, "status": 200, "bytes": 5} and not served.errors


def test_serve_forever_until_stopped():
    listener = gsocket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = HTTPServer(listener, hello)
    serving = gevent.spawn(server.serve_forever)
    helpers.until(lambda: server._watchers)
    with gsocket.create_connection(listener.getsockname()) as sock:
        sock.sendall(REQUEST)
        assert helpers.Reader(sock).next().status == 200
    server.stop(0.1)
    serving.join(5)
    assert serving.dead
    listener.close()


def test_closing_flag(serve, connect):
    served = serve(hello)
    served.server.closing = True
    assert served.get().header("Connection") == "close"
