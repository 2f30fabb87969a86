"""H7: applications that block, and what must not reach the next request on a reused greenlet."""

from __future__ import annotations

import contextvars
import time

import gevent
import gevent.local
import gevent.lock
import http_helpers as helpers
import pytest

TEXT = [("Content-Type", "text/plain")]


def simple(function):
    def app(environ, start_response):
        text = function(environ)
        start_response("200 OK", TEXT)
        return [str(text).encode()]

    return app


def test_h7_a_thousand_sleepers(serve):
    served = serve(simple(lambda environ: gevent.sleep(1)))
    started = time.monotonic()
    jobs = [gevent.spawn(served.get) for _ in range(1000)]
    gevent.joinall(jobs, raise_error=True)
    assert all(job.value.status == 200 for job in jobs)
    assert time.monotonic() - started < 3


def test_h7_blocking_on_sockets_locks_and_greenlets(serve):
    lock = gevent.lock.Semaphore(1)
    a, b = gevent.socket.socketpair()

    def work(environ):
        with lock:
            b.sendall(b"x")
            got = a.recv(1)
        return got + gevent.spawn(lambda: (gevent.sleep(0.01), b"y")[1]).get()

    served = serve(simple(work))
    jobs = [gevent.spawn(served.get) for _ in range(20)]
    gevent.joinall(jobs, raise_error=True)
    assert {job.value.body for job in jobs} == {b"b'xy'"}
    a.close()
    b.close()


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
LOCAL = gevent.local.local()


def leak_timeout():
    gevent.Timeout(0.03).start()


def leak_kill():
    gevent.kill(gevent.getcurrent())


def leak_local():
    LOCAL.value = "dirty"


def leak_context():
    VARIABLE.set("dirty")


def leak_attribute():
    gevent.getcurrent().value = "dirty"


def leak_switch():
    gevent.get_hub().loop.run_callback(gevent.getcurrent().switch, "stray")


def leak_lock_waiter():
    event = gevent.event.Event()
    event.rawlink(gevent.getcurrent().switch)
    gevent.get_hub().loop.run_callback(event.set)


@pytest.mark.parametrize(
    "leak", [leak_timeout, leak_kill, leak_local, leak_context, leak_attribute, leak_switch, leak_lock_waiter]
)
@pytest.mark.parametrize("blocks", [False, True])
def test_h7_nothing_reaches_the_next_request(serve, connect, capsys, leak, blocks):
    def work(environ):
        if blocks and environ["PATH_INFO"] == "/leak":
            gevent.sleep(0.001)
        if environ["PATH_INFO"] == "/leak":
            leak()
            return "leaked"
        state = f"{VARIABLE.get()} {getattr(LOCAL, 'value', 'clean')} {getattr(gevent.getcurrent(), 'value', 'clean')}"
        # long enough for whatever is on its way to arrive
        gevent.sleep(0.05)
        return state

    served = serve(simple(work))
    sock = connect(served)
    reader = helpers.Reader(sock)
    for _ in range(3):
        sock.sendall(b"GET /leak HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reader.next().body == b"leaked"
        others = [gevent.spawn(served.get) for _ in range(2)]
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reader.next().body == b"clean clean clean"
        gevent.joinall(others, raise_error=True)
        assert {job.value.body for job in others} == {b"clean clean clean"}
    assert not served.errors


def test_h7_timeout_and_kill_work_inside(serve):
    def work(environ):
        if environ["PATH_INFO"] == "/timeout":
            with gevent.Timeout(0.01, False):
                gevent.sleep(5)
            return "timed out"
        if environ["PATH_INFO"] == "/uncaught":
            with gevent.Timeout(0.01):
                gevent.sleep(5)
        current = gevent.getcurrent()
        gevent.spawn(lambda: gevent.kill(current))
        gevent.sleep(5)
        return "never"

    served = serve(simple(work))
    assert served.get("/timeout").body == b"timed out"
    assert not served.errors
    assert served.get("/uncaught").status == 500
    assert isinstance(served.errors[0], gevent.Timeout)
    # a killed request answers, so that the client need not guess
    assert served.get("/kill").status == 500
    assert served.get("/timeout").status == 200


def test_h7_exit_inside_a_request_ends_only_the_request(serve):
    def work(environ):
        raise SystemExit(3)

    served = serve(simple(work))
    assert served.get().status == 500 and served.get().status == 500
    assert isinstance(served.errors[0], SystemExit)


def test_h7_greenlets_are_reused(serve, connect):
    """Also those that blocked; otherwise the pool would be none."""
    seen = set()

    def work(environ):
        seen.add(id(gevent.getcurrent()))
        gevent.sleep(0)

    served = serve(simple(work))
    sock = connect(served)
    reader = helpers.Reader(sock)
    for _ in range(30):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        reader.next()
    assert len(seen) == 1
    assert served.server._engine.pool.idle == 1


def test_h7_context_variables_hold_within_a_request(serve):
    def work(environ):
        VARIABLE.set(environ["PATH_INFO"])
        gevent.sleep(0.005)
        return VARIABLE.get()

    served = serve(simple(work))
    jobs = [gevent.spawn(served.get, f"/{number}") for number in range(50)]
    gevent.joinall(jobs, raise_error=True)
    assert [job.value.body.decode() for job in jobs] == [f"/{number}" for number in range(50)]
