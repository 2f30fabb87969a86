"""H7, H8, H11: what is over, or belongs to another request, reaches nobody; and no fault leaves a connection behind."""

from __future__ import annotations

import bz2
import socket
import sys
import threading

import gevent
import gevent.event
import http_helpers as helpers
import pytest

from cluster import counters as index
from cluster.http import AccessLog, ClientGone, Limits, Timeouts

TEXT = [("Content-Type", "text/plain")]
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"


def hello(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"hello"]


@pytest.mark.parametrize("headers, result", [
    ([], lambda: iter([b"hello"])), ([("Content-Length", "5")], lambda: [b"hello"]), ([], lambda: [b"he", b"llo"]),
])
def test_h7_a_write_that_was_kept_reaches_no_other_response(serve, connect, headers, result):
    kept, raised = [], []

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/second":
            try:
                kept[0](b"EVIL!")
            except ClientGone as error:
                raised.append(error)
            return hello(environ, start_response)
        kept.append(start_response("200 OK", headers))
        return result()

    served = serve(app)
    reader = helpers.Reader(connect(served))
    for path in (b"/first", b"/second"):
        reader.sock.sendall(GET % path)
        assert reader.next().body == b"hello"
    assert len(raised) == 1 and reader.data == b""


def test_h7_a_body_that_was_kept_reads_no_other_request(serve, connect):
    kept, outcomes = [], []

    def read_on():
        try:
            outcomes.append(kept[0].read(1_000_000))
        except ClientGone:
            outcomes.append("over")

    def app(environ, start_response):
        body = environ["wsgi.input"]
        if environ["PATH_INFO"] == "/second":
            readers.append(gevent.spawn(read_on))
            gevent.sleep(0)
            start_response("200 OK", TEXT)
            return [str(len(body.read())).encode()]
        kept.append(body)
        readers.append(gevent.spawn(read_on))  # one that waits when the request ends, too
        return hello(environ, start_response)

    readers: list = []
    served = serve(app)
    reader = helpers.Reader(connect(served))
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    reader.sock.sendall(head % b"/first")
    assert reader.next().body == b"hello"
    reader.sock.sendall(b"x" * 100_000 + head % b"/second" + b"y" * 100_000)
    assert reader.next().body == b"100000"
    gevent.joinall(readers, timeout=10)
    assert outcomes == ["over", "over"] and not served.errors


def test_h4_nothing_follows_what_did_not_go_out_whole(serve, connect):
    def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        with gevent.Timeout(0.1, False):
            write(b"A" * 70_000_000)
        return [b"more"]

    served = serve(app)
    sock = connect(served)
    sock.sendall(GET % b"/")
    helpers.until(lambda: served.server.active == 0)
    assert not helpers.read_all(sock).removesuffix(helpers.RESET).endswith((b"more", b"0\r\n\r\n"))


@pytest.mark.parametrize("fault", ["log", "observer", "environ"])
def test_who_looks_on_keeps_no_connection(serve, fault):
    def app(environ, start_response):
        gevent.sleep(0.001)
        start_response("200 OK", TEXT)
        if fault == "environ":
            environ.clear()
        return [b"hello"]

    def fail(*args):
        raise ValueError("on purpose")

    options = {"log": {"access_log": AccessLog(fail)}, "observer": {"observers": [lambda event, data: (
        fail() if event == "client request complete" else None)]}, "environ": {}}[fault]
    served = serve(app, **options)
    assert served.get().body == b"hello"
    helpers.until(lambda: served.server.active == 0)
    if fault == "log":
        options["access_log"]._lines.clear()
        options["access_log"].close()


def test_an_application_that_fails_with_an_empty_environ(serve):
    def app(environ, start_response):
        environ.clear()
        raise RuntimeError("on purpose")

    served = serve(app)
    assert served.get().status == 500 and served.get(method="HEAD").status == 500


def test_headers_that_are_none(serve):
    def app(environ, start_response):
        gevent.sleep(0.001)
        start_response("200 OK", None)
        return [b"hello"]

    served = serve(app, access_log=AccessLog(lambda lines: None))
    assert served.get().status == 500
    helpers.until(lambda: served.server.active == 0)


def test_h6_a_204_that_cannot_go_out_is_a_whole_500(serve):
    def app(environ, start_response):
        start_response("204 No Content", [("X", "\u20ac")])
        return []

    answer = serve(app).get()
    assert answer.status == 500 and answer.whole and answer.body == b"500 Internal Server Error\n"


def test_h10_a_stalled_write_ends_while_another_greenlet_reads(serve, connect):
    ended = gevent.event.Event()

    def app(environ, start_response):
        reader = gevent.spawn(environ["wsgi.input"].read, 70_000)
        write = start_response("200 OK", TEXT)
        gevent.sleep(0)
        try:
            write(b"x" * 70_000_000)
        finally:
            reader.join()
            ended.set()
        return []

    served = serve(app, limits=Limits(timeouts=Timeouts(write=0.3)))
    sock = connect(served)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n")
    gevent.sleep(0.1)
    sock.sendall(b"y" * 70_000)
    assert ended.wait(10)
    helpers.until(lambda: served.server.active == 0)


@pytest.mark.parametrize("length, status", [(10, [200, 400]), (100_000, [200, 400])])
def test_half_a_body_behind_a_request_and_the_end(serve, length, status):
    def app(environ, start_response):
        gevent.sleep(0.1)
        environ["wsgi.input"].read()
        return hello(environ, start_response)

    served = serve(app)
    data = GET % b"/slow" + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nabc" % length
    with gevent.Timeout(5):
        answers = helpers.responses(served.talk(data))
    assert [answer.status for answer in answers] == status


@pytest.mark.parametrize("how", [b"HTTP/1.1\r\nHost: a\r\nConnection: close", b"HTTP/1.0"])
def test_a_line_end_behind_a_body_costs_no_answer(serve, how):
    """It comes while the application keeps the process busy, and is unread when the connection ends."""
    size, sent, got = 1_500_000, threading.Event(), []

    def app(environ, start_response):
        sent.wait(10)  # blocks the process
        start_response("200 OK", [("Content-Length", str(size))])
        return [b"x" * size]

    served = serve(app)
    # the kernel takes all of it: the connection ends before the client has read
    served.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    if sys.platform == "linux":
        served.listener.setsockopt(socket.IPPROTO_TCP, helpers.NOTSENT_LOWAT, 4_000_000)

    def client():
        with socket.create_connection(served.address) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.sendall(b"POST / %b\r\nContent-Length: 5\r\n\r\nhello" % how)
            counters = served.server.counters
            while not counters[index.REQUESTS_ACTIVE]:
                pass
            sock.sendall(b"\r\n")
            sent.set()
            while not counters[index.RESPONSES + 2]:
                threading.Event().wait(0.001)
            got.append(helpers.read_all(sock))

    thread = threading.Thread(target=client)
    thread.start()
    helpers.until(lambda: not thread.is_alive(), 20)
    assert len(got[0].partition(b"\r\n\r\n")[2]) == size


@pytest.mark.parametrize("data, status", [(b"HEAD / HTTP/1.1\r\n\r\n", 400), (
    b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417)])
def test_a_refused_head_has_no_body(serve, data, status):
    head, _, body = serve(hello).talk(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"Content-Length: " in head and body == b""


def test_h12_a_refused_request_line_is_logged(serve):
    lines: list[bytes] = []
    served = serve(hello, access_log=AccessLog(lines.append, '%(r)s %(s)s %(B)s'))
    body = served.talk(b"GET /there HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")[2]
    helpers.until(lambda: lines)
    assert lines == [b'GET /there HTTP/1.1 400 %d "missing Host"\n' % len(body)]


def test_h11_a_drain_ends_when_requests_come_at_its_end(serve, connect):
    """They are answered, in the hub and not in the greenlet that drains."""
    served = serve(hello)
    socks = [connect(served) for _ in range(50)]
    for sock in socks:
        sock.sendall(GET % b"/")
        assert sock.recv(999)

    class Closed(gevent.event.Event):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            for sock in socks:  # in the last moment of the grace: the loop does not run before the drain looks
                sock._sock.send(GET % b"/late")
            return False

    served.server._all_closed = Closed()
    with gevent.Timeout(10):
        served.server.drain(1)
    assert served.server.active == 0
    assert all(b"hello" in helpers.read_all(sock) for sock in socks)


def test_a_compressed_file_is_not_sent_raw(serve, tmp_path):
    path = tmp_path / "file.bz2"
    path.write_bytes(bz2.compress(b"what was compressed"))

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](bz2.open(path, "rb"))

    assert serve(app).get().body == b"what was compressed"


def test_a_file_that_reads_otherwise_is_not_sent_raw(serve, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    class Limited:
        def __init__(self, file):
            self._file, self._left = file, 4
            self.fileno, self.tell, self.close = file.fileno, file.tell, file.close

        def read(self, size):
            data = self._file.read(min(size, self._left))
            self._left -= len(data)
            return data

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](Limited(open(path, "rb")))

    assert serve(app).get().body == b"0123"
