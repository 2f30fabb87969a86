"""What can be served, and how: rows K3 to K6, E4."""

from __future__ import annotations

import re
import signal

import pytest

from ..harness import Workshop, connect, eventually, fetch


def test_k3_factory_and_file(shop: Workshop) -> None:
    """K3: a factory, and a file by relative path with a sibling module."""
    shop.write("sub/sibling.py", "WORD = 'sibling'\n")
    shop.write("sub/web.py", """
        import sibling
        def make(word="none"):
            def application(environ, start_response):
                start_response("200 OK", [])
                return [f"{word} {sibling.WORD}".encode()]
            return application
        application = make("default")
        """)
    for target, answer in (("./sub/web.py:make('made')", b"made sibling"), ("./sub/web.py", b"default sibling")):
        server = shop.script(f"trace(cluster({target!r}).set(workers=1)).listen(0, '127.0.0.1')").ready()
        assert server.get() == answer
        server.signal(signal.SIGTERM)
        server.wait_exit()


def test_k4_given_stream_server_and_subclass(shop: Workshop) -> None:
    """K4: the given gevent server object serves on the shared socket, in several workers, with its own pool."""
    server = shop.script("""
        from gevent.server import StreamServer
        class Echo(StreamServer):
            def handle(self, connection, address):
                connection.sendall(b"%d:" % os.getpid() + connection.recv(100))
        trace(cluster(Echo(("127.0.0.1", 1), spawn=2)).set(workers=2)).listen(0, "127.0.0.1")
        """).ready()
    seen = set()

    def both() -> bool:
        with connect(server.address()) as connection:
            connection.sendall(b"hello")
            pid, _, text = connection.recv(100).partition(b":")
        assert text == b"hello"
        seen.add(int(pid))
        return len(seen) == 2

    eventually(both, "both workers served")
    assert seen == set(server.workers())
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_k4_pool_limits_connections_and_resumes(shop: Workshop) -> None:
    """K4: a pool of one lets the second connection wait, and serves it when the first has ended."""
    server = shop.script("""
        from gevent.server import StreamServer
        def handle(connection, address):
            connection.sendall(b"hello")
            connection.recv(1)
        trace(cluster(StreamServer(("127.0.0.1", 1), handle, spawn=1)).set(workers=1)).listen(0, "127.0.0.1")
        """).ready()
    with connect(server.address()) as first:
        assert first.recv(5) == b"hello"
        with connect(server.address()) as second:
            second.settimeout(0.3)
            try:
                early = second.recv(5)
            except TimeoutError:
                early = b""
            assert early == b""
            first.sendall(b"x")
            second.settimeout(20)
            assert second.recv(5) == b"hello"
    server.signal(signal.SIGTERM)
    server.wait_exit()


def test_k4_given_pywsgi_server_without_listen(shop: Workshop) -> None:
    """K4: a WSGIServer subclass object; without listen its own address is used; it drains like ours."""
    server = shop.script("""
        import gevent
        from gevent.pywsgi import WSGIServer
        class Mine(WSGIServer):
            pass
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/slow":
                gevent.sleep(1)
            start_response("200 OK", [])
            return [environ["SERVER_PORT"].encode()]
        trace(cluster(Mine(("127.0.0.1", 0), app, log=None)).set(workers=1)).start()
        """).ready()
    assert server.get() == str(server.address()[1]).encode()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(server.address())
        server.signal(signal.SIGQUIT)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK") and b"\r\nConnection: close" in answer
    assert server.wait_exit() == 0


def test_k4_a_request_forges_no_lines(shop: Workshop) -> None:
    """K4: control characters in the path of a request to a pywsgi server reach neither stderr nor the event."""
    server = shop.script("""
        from gevent.pywsgi import WSGIServer
        def app(environ, start_response):
            raise ValueError("on purpose")
        trace(cluster(WSGIServer(("127.0.0.1", 0), app, log=None)).set(workers=1)).start()
        """).ready()
    assert fetch(server.address(), "/a%0acluster:%20all%20is%20lost%1b%5b31m")[0] == 500
    server.wait_for(r"^exception in GET /a\\x0acluster: all is lost\\x1b\[31m 127")
    server.wait_for(r"worker exception .*'doing': 'GET /a\\\\x0acluster")
    assert "\x1b" not in server.output
    server.signal(signal.SIGTERM)
    server.wait_exit()


def test_k4_tcp_handler(shop: Workshop) -> None:
    """K4: cluster.tcp(handler); an exception in one connection is reported and costs only that one."""
    server = shop.script("""
        def handle(connection, address):
            data = connection.recv(100)
            if data == b"bad":
                raise ValueError("a bad connection")
            connection.sendall(data)
        trace(cluster(package.tcp(handle)).set(workers=1)).listen(0, "127.0.0.1")
        """).ready()
    workers = server.workers()
    with connect(server.address()) as connection:
        connection.sendall(b"bad")
        assert connection.recv(100) == b""
    server.wait_for("ValueError: a bad connection")
    server.wait_for(r"EVENT \d+ worker exception .*'type': 'ValueError'")
    with connect(server.address()) as connection:
        connection.sendall(b"good")
        assert connection.recv(100) == b"good"
    assert server.workers() == workers
    server.signal(signal.SIGTERM)
    server.wait_exit()


CONNECTION_ENDS = """
import gevent
from gevent.server import StreamServer

def handle(connection, address):
    kind = connection.recv(100)
    if kind == b"timeout":
        with gevent.Timeout(0.01):
            gevent.sleep(30)
    if kind == b"exit":
        sys.exit(1)
    if kind == b"error":
        raise ValueError("on purpose")
    if kind == b"kill":
        gevent.getcurrent().kill()
    connection.sendall(b"whole " + kind)

class Subclass(StreamServer):
    def handle(self, connection, address):
        handle(connection, address)

"""


@pytest.mark.parametrize("what", [
    "package.tcp(handle)", "StreamServer(('127.0.0.1', 1), handle)", "StreamServer(('127.0.0.1', 1), handle, spawn=5)",
    "Subclass(('127.0.0.1', 1))",
])
def test_k4_one_connection_does_not_end_the_others(shop: Workshop, what: str) -> None:
    """K4: whatever a handler raises (an uncaught gevent.Timeout, SystemExit) is reported, the others go on."""
    server = shop.script(f"{CONNECTION_ENDS}\ntrace(cluster({what}).set(workers=1)).listen(0, '127.0.0.1')").ready()
    workers = server.workers()
    with connect(server.address()) as other:
        for kind in (b"timeout", b"exit", b"error", b"kill"):
            with connect(server.address()) as connection:
                connection.sendall(kind)
                assert connection.recv(100) == b""
        other.sendall(b"other")
        assert other.recv(100) == b"whole other"
    for kind in ("Timeout", "SystemExit", "ValueError"):
        server.wait_for(rf"EVENT \d+ worker exception .*'type': '{kind}'.*'doing': \"connection from")
    assert server.workers() == workers and server.output.count("worker exception") == 3
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


JOB = """
import gevent
def work(worker):
    say("WORKING", worker.id)
    try:
        gevent.sleep(30)
    finally:
        say("FINALLY", worker.closing)
trace(cluster(package.job(work)).set(workers=2)).start()
"""


def test_k5_quit_interrupts_a_sleeping_job(shop: Workshop) -> None:
    """K5: QUIT raises SystemExit in the job at once, and its finally blocks run."""
    server = shop.script(JOB).ready()
    server.wait_for("WORKING", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit(10) == 0
    assert server.lines.count("FINALLY True") == 2
    assert server.events("worker killed", "worker timeout") == []


def test_k5_returning_job_comes_back_and_counts_no_failure(shop: Workshop) -> None:
    """K5: a job that returns ends its worker with 0 and is respawned, as often as it likes."""
    shop.write("jobs.py", """
        from tracing import say
        def consume(worker):
            say("RUN", worker.uid)
        """)
    server = shop.script("""
        m = trace(cluster("jobs:consume").set(workers=2, abort_deaths=3))
        m.on("worker killed", lambda worker: say("ENDED", worker.exit_code))
        m.start()
        """).ready()
    server.wait_for("^RUN", 8)
    assert {line for line in server.lines if line.startswith("ENDED")} == {"ENDED 0"}
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_k5_job_that_handles_close_ends_by_itself(shop: Workshop) -> None:
    """K5: with a handler for `close` nothing is raised in the job."""
    server = shop.script("""
        import gevent
        from gevent.event import Event
        def work(worker):
            asked = Event()
            worker.on("close", asked.set)
            say("WORKING")
            asked.wait()
            gevent.sleep(0.1)
            say("DONE", worker.closing)
        trace(cluster(package.job(work)).set(workers=1)).start()
        """).ready()
    server.wait_for("WORKING")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert "DONE True" in server.lines


def test_k6_abstract_cluster(shop: Workshop) -> None:
    """K6: start() returns in workers; the master's exit hooks, finalizers and temporary directories stay its own."""
    server = shop.script("""
        import atexit, tempfile, weakref, gevent
        class Thing: pass
        thing, folder = Thing(), tempfile.TemporaryDirectory()
        named = tempfile.NamedTemporaryFile()
        weakref.finalize(thing, lambda: say("FINALIZER", os.getpid()))
        atexit.register(lambda: say("ATEXIT", os.getpid(), os.path.isdir(folder.name), os.path.exists(named.name)))
        m = trace(cluster().set(workers=2))
        m.expose("add", lambda a, b: a + b)
        m.start()
        if m.is_worker:
            atexit.register(lambda: say("WORKER HOOK", os.getpid()))
            say("SCRIPT", m.worker.id, m.call("add", 2, 3))
            if m.worker.uid < 2:
                sys.exit(3 if m.worker.uid else 0)
            gevent.sleep(60)
            say("NOT REACHED")
        else:
            say("MASTER", os.getpid())
        """).ready()
    server.wait_for("^SCRIPT . 5", 4)
    server.wait_for("worker killed", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert f"MASTER {server.pid}" in server.lines and "NOT REACHED" not in server.output
    assert [line for line in server.lines if line.startswith(("ATEXIT", "FINALIZER"))] == [
        f"FINALIZER {server.pid}", f"ATEXIT {server.pid} True True"] or [
        line for line in server.lines if line.startswith("ATEXIT")] == [f"ATEXIT {server.pid} True True"]
    assert all(line.endswith(str(server.pid)) for line in server.lines if line.startswith("FINALIZER"))
    assert len([line for line in server.lines if line.startswith("WORKER HOOK")]) == 4
    assert "Traceback" not in server.output


def test_e4_calls_in_order_while_the_master_is_busy(shop: Workshop) -> None:
    """E4: 4 workers with 250 calls of 10 kB while the master is busy for 1 s: all arrive, in order per worker."""
    server = shop.script("""
        import time, gevent
        seen = {}
        def note(worker, number, text):
            if not seen:
                time.sleep(1)
            assert len(text) == 10_000
            seen.setdefault(worker.id, []).append(number)
            return number
        def work(worker):
            calls = [gevent.spawn(worker.call, "note", number, "x" * 10_000) for number in range(250)]
            gevent.joinall(calls, raise_error=True)
            assert [call.value for call in calls] == list(range(250))
            worker.call("finished")
            gevent.sleep(60)
        def finished(worker):
            say("IN ORDER", worker.id, seen[worker.id] == list(range(250)))
        m = trace(cluster(package.job(work)).set(workers=4))
        m.expose("note", note, with_worker=True).expose("finished", finished, with_worker=True).start()
        """)
    server.wait_for("^IN ORDER . True", 4)
    server.signal(signal.SIGTERM)
    server.wait_exit()


def test_e4_what_is_not_exposed_is_refused(shop: Workshop) -> None:
    """E4: commands marked for workers run; anything else is an error in the worker and a line in the log."""
    server = shop.script("""
        import gevent
        def work(worker):
            for name in ("destroy", "__class__", "nonsense", "broken"):
                try:
                    worker.call(name)
                except package.RemoteError as error:
                    say("REFUSED", name, error)
            worker.call("spawn", 1)
            try:
                worker.call("give")
            except package.RemoteError as error:
                say("REFUSED give", error)
            gevent.sleep(60)
        def broken():
            raise KeyError("inside")
        m = trace(cluster(package.job(work)).set(workers=1))
        m.expose("broken", broken).expose("give", lambda: object()).start()
        """)
    server.wait_for("^REFUSED destroy no function of that name")
    server.wait_for("^REFUSED __class__")
    server.wait_for("^REFUSED broken KeyError: 'inside'")
    server.wait_for("^REFUSED give the result cannot be sent")
    server.wait_for(r"^cluster: worker 0 called 'nonsense'")
    server.wait_for(r"EVENT \d+ worker ready", 2)
    assert server.process.poll() is None
    server.signal(signal.SIGTERM)
    server.wait_exit()


def test_e4_send_and_worker_facts(shop: Workshop) -> None:
    """E4: worker.send reaches the worker; m.worker has id, uid, generation, options; `close` comes before its exit."""
    server = shop.script("""
        import gevent
        def work(worker):
            worker.on("greet", lambda *words: say("GREETED", worker.id, *words))
            @worker.on("close")
            def bye():
                say("BYE", worker.id)
                raise SystemExit
            say("FACTS", worker.id, worker.uid, worker.generation, worker.options["workers"],
                os.environ["CLUSTER_WORKER"], os.environ["CLUSTER_MASTER_PID"] == str(os.getppid()),
                package.worker() is worker)
            worker.ready()
            while not worker.closing:
                gevent.sleep(0.01)
        m = trace(cluster(package.job(work)).set(workers=1, ready="manual"))
        m.on("worker ready", lambda worker: worker.send("greet", "hello", [1, {"a": None}]))
        m.start()
        """).ready()
    server.wait_for(r"^FACTS 0 0 1 1 0 True True$")
    server.wait_for(r"^GREETED 0 hello \[1, \{'a': None\}\]$")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert "BYE 0" in server.lines


def test_e4_garbage_on_a_channel_costs_that_worker_only(shop: Workshop) -> None:
    """E4: a worker that writes garbage is killed and replaced; the other one and the master go on."""
    server = shop.script("""
        import gevent
        def work(worker):
            if worker.uid == 0:
                worker._channel._socket.send(os.environ["GARBAGE"].encode("latin-1"))
            gevent.sleep(60)
        trace(cluster(package.job(work)).set(workers=2)).start()
        """, environment={"GARBAGE": "\xff\xff\xff\xffgarbage"})
    match = server.wait_for(r"cluster: worker 0 \(pid (\d+)\) sent garbage")
    server.wait_for(rf"worker killed 0/{match[1]}")
    server.wait_for(r"EVENT \d+ worker ready 0/", 2)
    assert len(re.findall("worker killed", server.output)) == 1
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


BACKGROUND = """
    import os, threading, gevent
    kept = []
    def fail():
        raise LookupError("nobody hears of this")
    def claim(greenlet):
        try:
            greenlet.get()
        except LookupError:
            pass
    def leave():
        gevent.sleep(0.01)
        raise SystemExit(7)
    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/greenlet":
            gevent.spawn(lambda: 1 / 0)
            gevent.sleep(0.3)
        if path == "/thread":
            threading.Thread(target=lambda: {}["missing"]).start()
            gevent.sleep(0.3)
        if path == "/waited":
            claim(gevent.spawn(fail))
        if path == "/kept":
            kept.append(gevent.spawn(fail))
        if path == "/claimed":
            claim(kept.pop())
        if path == "/often":
            gevent.spawn(often)
        if path == "/leave":
            gevent.spawn(leave)
            gevent.sleep(0.3)
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]
    def mail():
        raise ConnectionError("no mail today")
    def often():
        while True:
            threading.Thread(target=mail).start()
            gevent.sleep(0.01)
    """


@pytest.mark.parametrize("patch", [True, False])
def test_background_failures_are_reported_and_the_worker_lives_on(shop: Workshop, patch: bool) -> None:
    """Row W5: a greenlet or a thread (native where nothing is patched) that fails in the background costs no worker."""
    shop.write("background.py", BACKGROUND)
    server = shop.script(f"""
        m = trace(cluster("background:app").set(workers=1, monkey_patch={patch}))
        m.on("worker exception", lambda worker, error: say("TOLD", error["type"], error["fatal"], error["count"],
                                                           "Traceback" in error["text"], error["doing"]))
        m.listen(0, "127.0.0.1")
        """).ready()
    worker = server.get("/waited")
    for path, error, doing in (("/greenlet", "ZeroDivisionError", "greenlet "), ("/thread", "KeyError", "thread ")):
        assert server.get(path) == worker
        server.wait_for(f"TOLD {error} False 1 True {doing}")
        server.wait_for(f"^exception in {doing}")
    assert server.get("/kept") == worker and server.get("/claimed") == worker
    assert server.get("/leave") == worker
    server.wait_for(r"worker 0 died \(exit code 7,")
    assert server.get() != worker
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.output.count("worker killed") == 1
    assert [line.split()[1] for line in server.lines if line.startswith("TOLD")] == ["ZeroDivisionError", "KeyError"]


def test_failures_that_come_again_and_again_are_counted(shop: Workshop) -> None:
    """Row W5: a mail thread that fails a hundred times a second costs neither requests nor the log: one traceback."""
    shop.write("background.py", BACKGROUND)
    server = shop.script("""
        from cluster.workers import repeats
        repeats.PAUSE = 0.3
        m = trace(cluster("background:app").set(workers=1))
        m.on("worker exception", lambda worker, error: say("TOLD", error["type"], error["count"]))
        m.listen(0, "127.0.0.1")
        """).ready()
    worker = server.get("/often")
    for _ in range(100):
        assert server.get() == worker
    server.wait_for(r"^exception in thread \S+ \(mail\): ConnectionError: no mail today; \d+ times more in \d+ s$", 3)
    server.wait_for(r"^TOLD ConnectionError ", 4)
    assert server.get() == worker
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.lines.count("Traceback (most recent call last):") == 1
    assert server.output.count("worker exception") <= 6


def test_background_failures_that_end_the_worker(shop: Workshop) -> None:
    """Row W5: as it is set, an exception that nobody waits for ends the worker, after its requests; it comes back."""
    shop.write("background.py", BACKGROUND)
    server = shop.script("""
        m = trace(cluster("background:app").set(workers=1, background_failures="exit"))
        m.on("worker exception", lambda worker, error: say("TOLD", error["type"], error["fatal"]))
        m.listen(0, "127.0.0.1")
        """).ready()
    first = server.get("/waited")
    assert server.get("/greenlet") == first  # in flight, so it is finished
    server.wait_for("^ZeroDivisionError")
    server.wait_for("^TOLD ZeroDivisionError True")
    server.wait_for("worker ready", 2)
    assert server.get("/thread") != first
    server.wait_for("^KeyError: 'missing'")
    server.wait_for("worker ready", 3)
    server.wait_for(r"worker 0 died \(exit code 1,", 2)
    server.get()
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
