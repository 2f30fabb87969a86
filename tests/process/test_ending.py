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
    m = trace(cluster("failing:app").set(workers=1, timeout=0, background_failures="exit"))
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
    server = shop.script("""
        trace(cluster("collecting:app").set(workers=1, background_failures="exit")).listen(0, "127.0.0.1")
        """).ready()
    worker = server.get()
    assert server.get("/get") == server.get("/all") == worker
    assert fetch(server.address(), "/raise")[0] == 500
    for count, path in enumerate(("/dropped", "/kept"), 1):
        assert server.get(path) == worker  # so those before did not end it
        server.wait_for("worker exception .*on purpose.*'doing': 'greenlet ", count)
        worker = eventually(lambda old=worker: (pid := server.get()) != old and pid, "the successor serves")
    assert server.output.count("worker exception") == 3
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize(("end", "code", "told"), [
    ("pass", 0, None),
    ("sys.exit(0)", 0, None),
    ("sys.exit(3)", 3, None),
    ("raise SystemExit", 0, None),
    ("raise SystemExit(3)", 3, None),
    ("exit(3)", 3, None),
    ("raise SystemExit('a text')", 1, None),
    ("try: sys.exit(3)\nexcept SystemExit: pass", 0, None),
    ("1 / 0", 1, "ZeroDivisionError"),
    ("sys.excepthook = lambda *about: say('HOOKED')\n1 / 0", 1, "ZeroDivisionError"),
    ("gevent.spawn(lambda: 1 / 0)\ntry: gevent.sleep(30)\nexcept SystemExit: pass", 1, "ZeroDivisionError"),
], ids=lambda value: str(value).partition("\n")[0][:30])
def test_k6_an_abstract_worker_ends_with_the_code_of_its_script(
    shop: Workshop, end: str, code: int, told: str | None
) -> None:
    """K6: however the script says it, also where nothing but the interpreter knows the code."""
    body = "\n".join(" " * 8 + line for line in end.splitlines())
    server = shop.script(f"""
    import atexit, gevent
    m = trace(cluster().set(workers=1, background_failures="exit"))
    @m.on("worker killed")
    def stop(worker):
        say("KILLED", worker.exit_code)
        m.close()
    m.start()
    if m.is_worker:
        if m.worker.uid:
            gevent.sleep(60)
        atexit.register(say, "WORKER HOOK")
{body}
    else:
        say("MASTER", os.getpid())
    """)
    server.wait_for(f"^KILLED {code}$")
    assert server.wait_exit() == 0
    assert f"MASTER {server.pid}" in server.lines
    assert server.lines.count("WORKER HOOK") == 1
    found = re.findall("worker exception .*?'type': '(.*?)'", server.output)
    assert found == ([told] if told else []) == re.findall(r"^(\w+Error): ", server.output, re.M)  # printed once


@pytest.mark.parametrize("text", ["sys.exit(0)", "raise SystemExit"])
def test_u2_a_module_that_leaves_at_import_is_a_failed_start(shop: Workshop, text: str) -> None:
    """U2: exit code 0 is no success for what never served; told with a traceback, and the cluster gives up."""
    shop.write("leaving.py", f"import sys\n{text}\n")
    server = shop.script("trace(cluster('leaving:app').set(workers=1, abort_deaths=3)).listen(0, '127.0.0.1')")
    assert server.wait_exit() == 3
    assert f"    {text}" in server.lines and "cluster: 3 worker deaths before any got ready" in server.lines
    assert server.events("worker exception") == ["worker exception"] * 3


@pytest.mark.parametrize("kind", ["job", "abstract"])
def test_k5_quit_before_the_job_has_begun(shop: Workshop, kind: str) -> None:
    """K5: asked to end while the module is imported, or a handler of `after fork` runs, a worker begins no job."""
    shop.write("importing.py", """
        import os, gevent
        from tracing import say
        say("IMPORTING")
        while not os.path.exists("go"):
            gevent.sleep(0.005)
        def consume(worker):
            say("BEGUN")
        """)
    server = shop.script("""
        m = trace(cluster("importing:consume").set(workers=1))
        m.on("after fork", lambda worker: worker.on("close", lambda: say("CLOSE")))
        m.start()
        """ if kind == "job" else """
        m = trace(cluster().set(workers=1))
        @m.on("after fork")
        def prepare(worker):
            worker.on("close", lambda: say("CLOSE"))
            import importing
        m.start()
        if m.is_worker:
            say("BEGUN")
        """)
    server.wait_for("^IMPORTING")
    server.signal(signal.SIGQUIT)
    server.wait_for("EVENT .* kill 'SIGQUIT'")
    shop.write("go", "")
    assert server.wait_exit() == 0
    assert server.lines.count("CLOSE") == 1 and "BEGUN" not in server.output
    assert server.events("worker killed", "worker timeout") == []


def test_k6_an_abstract_worker_cleans_up_nothing_of_its_master(shop: Workshop) -> None:
    """K6: not even what only the script's own names refer to, which the interpreter drops when it ends."""
    server = shop.script("""
        import tempfile, gevent
        named = tempfile.NamedTemporaryFile()
        m = trace(cluster().set(workers=1)).start()
        if m.is_worker:
            gevent.sleep(60 if m.worker.uid else 0)
        else:
            say("MASTER", os.path.exists(named.name))
        """)
    server.wait_for("EVENT .* worker killed")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert "MASTER True" in server.lines


def test_o3_quit_to_the_group_forks_no_successor(shop: Workshop) -> None:
    """O3: workers that got the signal themselves are asked by their master a moment later."""
    shop.write("failing.py", FAILING)
    server = shop.script(SERVER.replace("workers=1", "workers=3")).ready()
    with connect(server.address()) as flying:
        flying.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
        server.get()
        os.killpg(server.session, signal.SIGQUIT)
        server.wait_for("^ENDED removed", 2)
        shop.write("go", "")
        assert flying.recv(65536).startswith(b"HTTP/1.1 200")
    assert server.wait_exit() == 0
    assert len(re.findall("^EVENT .* worker [0-9]", server.output, re.M)) == 3 and "ENDED killed" not in server.output
