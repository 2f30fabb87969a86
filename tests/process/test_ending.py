"""Workers that end by themselves, and what their ends look like: rows U1, U2, K5, K6."""

from __future__ import annotations

import os
import re
import signal

import pytest

from ..harness import Workshop, connect, eventually, fetch

#: /until/FILE answers once there is FILE; /fail leaves a greenlet behind that fails
FAILING = """
    import os, sys
    import gevent

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        while path.startswith("/until/") and not os.path.exists(path[7:]):
            gevent.sleep(0.005)
        if path == "/fail":
            gevent.spawn(lambda: 1 / 0)
        if path == "/leave":
            gevent.spawn(sys.exit, 4)
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]
    """
#: one worker of it, whose end is told
SERVER = """
    m = trace(cluster("failing:app").set(workers=1, timeout=0))
    m.on("worker killed", lambda worker: say("ENDED killed", worker.pid, worker.exit_code))
    m.on("worker removed", lambda worker: say("ENDED removed", worker.pid, worker.exit_code))
    m.listen(0, "127.0.0.1")
    """


@pytest.mark.parametrize(("how", "code"), [("/fail", 1), ("/leave", 4), ("QUIT", 0)])
def test_u1_a_worker_that_ends_unasked_has_a_successor_at_once(shop: Workshop, how: str, code: int) -> None:
    """U1: the slot is served while the old worker still finishes what it has in flight, which may take for ever."""
    shop.write("failing.py", FAILING)
    server = shop.script(SERVER).ready()
    old = server.get()
    with connect(server.address()) as flying:
        flying.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
        if how == "QUIT":
            os.kill(int(old), signal.SIGQUIT)
        else:
            server.get(how)
        new = eventually(lambda: (pid := server.get()) != old and pid, "the successor serves")
        assert sorted(server.workers()) == sorted([int(old), int(new)]) and "ENDED" not in server.output
        shop.write("go", "")
        assert flying.recv(65536).endswith(old)
    server.wait_for(f"^ENDED killed {old.decode()} {code}$")
    assert server.workers() == [int(new)]
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert [line.split()[1] for line in server.lines if line.startswith("ENDED")] == ["killed", "removed"]
    assert len(re.findall("^EVENT .* worker [0-9]", server.output, re.M)) == 2


def test_u1_a_worker_that_is_ending_can_be_asked_to(shop: Workshop) -> None:
    """U1: each end is told once; that of a worker whom a close has overtaken is one that was asked for."""
    shop.write("failing.py", FAILING)
    server = shop.script(SERVER).ready()
    old = server.get()
    with connect(server.address()) as flying:
        flying.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
        server.get("/fail")
        new = eventually(lambda: (pid := server.get()) != old and pid, "the successor serves")
        server.signal(signal.SIGQUIT)
        server.wait_for(f"^ENDED removed {new.decode()} 0$")
        shop.write("go", "")
        assert flying.recv(65536).endswith(old)
    assert server.wait_exit() == 0
    assert f"ENDED removed {old.decode()} 1" in server.lines and "ENDED killed" not in server.output


def test_an_error_that_is_collected_later_ends_no_worker(shop: Workshop) -> None:
    """A failed greenlet whose result somebody gets is that one's affair, also when it is asked for only afterwards."""
    shop.write("collecting.py", """
        import os
        import gevent
        kept = []
        def fail():
            raise ValueError("on purpose")
        def app(environ, start_response):
            path = environ["PATH_INFO"]
            if path in ("/get", "/all", "/raise"):
                greenlet = gevent.spawn(fail)
                while not greenlet.dead:
                    gevent.sleep(0.001)
                try:
                    gevent.joinall([greenlet], raise_error=True) if path == "/all" else greenlet.get()
                except ValueError:
                    if path == "/raise":
                        raise
            if path == "/dropped":
                greenlet = gevent.spawn(fail)
                while not greenlet.dead:
                    gevent.sleep(0.001)
            if path == "/kept":
                kept.append(gevent.spawn(fail))
            start_response("200 OK", [])
            return [str(os.getpid()).encode()]
        """)
    server = shop.script("trace(cluster('collecting:app').set(workers=1)).listen(0, '127.0.0.1')").ready()
    worker = server.get()
    assert server.get("/get") == server.get("/all") == worker
    assert fetch(server.address(), "/raise")[0] == 500
    for count, path in enumerate(("/dropped", "/kept"), 1):
        assert server.get(path) == worker  # so those before did not end it
        server.wait_for("worker exception .*on purpose.*'doing': ''", count)
        worker = eventually(lambda old=worker: (pid := server.get()) != old and pid, "the successor serves")
    assert server.output.count("worker exception") == 3
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
