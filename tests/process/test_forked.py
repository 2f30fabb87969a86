"""Processes that an application forks from its worker are no workers: rows E4, O2."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ..harness import Workshop, connect, eventually, fetch

#: starts children that live until they are ended, in every way there is
FORKING = """
    import atexit, multiprocessing, os, subprocess, sys, time
    import gevent
    import cluster
    from tracing import say

    atexit.register(lambda: say("HOOK", os.getpid()))

    def child():
        while True:
            time.sleep(0.01)

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
            process.start()
            say("CHILD", process.pid)
        if path == "/fork":
            pid = os.fork()
            if not pid:
                child()
            say("CHILD", pid)
        if path == "/raise":
            if not os.fork():
                sys.exit(3)
            gevent.sleep(0.1)
        if path == "/through":
            os.fork()
        if path == "/until":
            while not os.path.exists("go"):
                gevent.sleep(0.01)
        if path == "/terminate":
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.terminate()
            process.join()
            start_response("200 OK", [])
            return [str(process.exitcode).encode()]
        if path == "/subprocess":
            start_response("200 OK", [])
            return [subprocess.run(["echo", "hello"], stdout=subprocess.PIPE, preexec_fn=os.getpid).stdout]
        if path == "/call":
            start_response("200 OK", [])
            return [str(cluster.worker().call("add", 2, 3)).encode()]
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]
    """
SERVING = """
    m = trace(cluster("forking:application").set(workers=1))
    m.expose("add", lambda a, b: a + b).listen(0, "127.0.0.1")
    """


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", ["multiprocessing", "fork"])
def test_e4_a_forked_child_takes_nothing_of_its_worker(shop: Workshop, how: str) -> None:
    """E4: connections, idle ones and requests in flight too, and the answers to calls go to the worker only."""
    shop.write("forking.py", FORKING)
    server = shop.script(SERVING).ready()
    worker = server.get()
    with connect(server.address()) as idle, connect(server.address()) as flying:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert idle.recv(65536).endswith(worker)
        flying.sendall(b"GET /until HTTP/1.1\r\nHost: test\r\n\r\n")
        assert server.get(f"/{how}") == worker
        child = int(server.wait_for(r"^CHILD (\d+)")[1])
        for _ in range(20):
            assert server.get() == worker
            assert server.get("/call") == b"5"
            idle.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert idle.recv(65536).endswith(worker)
        shop.write("go", "")
        assert flying.recv(65536).endswith(worker)
        flying.settimeout(0.2)
        with pytest.raises(TimeoutError):  # answered once
            flying.recv(1)
    assert not ended(child)
    # with the worker the port goes, although the child lives on
    server.signal(signal.SIGQUIT)
    if how == "fork":
        assert server.wait_exit() == 0
        with pytest.raises(ConnectionRefusedError):
            connect(server.address())
        assert not ended(child)
        os.kill(child, signal.SIGTERM)
    assert server.wait_exit() == 0
    eventually(lambda: ended(child), "the child has ended")
    assert re.findall(r"HOOK (\d+)", server.output) == [worker.decode()]


def test_o2_what_a_forked_child_ends_by_is_its_own(shop: Workshop) -> None:
    """O2: a child that is terminated dies of it, without the worker's exit hooks; its SystemExit answers no request."""
    shop.write("forking.py", FORKING)
    server = shop.script(SERVING).ready()
    worker = server.get()
    for _ in range(5):
        assert server.get("/terminate") == b"-15"
    assert server.get("/raise") == worker
    assert server.get("/through") == worker
    eventually(lambda: len(server.family()) == 2, "none but the master and the worker")
    assert server.get("/subprocess") == b"hello\n"
    assert server.get() == worker
    assert "HOOK" not in server.output and "exception in GET /raise" not in server.output
    assert fetch(server.address(), "/call") == (200, b"5")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_k5_a_job_that_forks(shop: Workshop) -> None:
    """K5: a child that leaves a job by an error or by its end is gone; its exit hooks run, the worker's do not."""
    server = shop.script("""
        import atexit, gevent
        def work(worker):
            worker.on("close", lambda: say("CLOSE", os.getpid() == worker.pid))
            atexit.register(lambda: say("HOOK", os.getpid() == worker.pid))
            for number in range(3):
                pid = os.fork()
                if not pid:
                    atexit.register(say, "HOOK OF THE CHILD")
                    assert package.worker() is None
                    if number == 0:
                        raise ValueError("in a child")
                    if number == 1:
                        sys.exit(5)
                    return
                say("ENDED", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            say("ALIVE", worker.call("add", 2, 3))
            while not worker.closing:
                gevent.sleep(0.01)
        m = trace(cluster(package.job(work)).set(workers=1))
        m.expose("add", lambda a, b: a + b).start()
        """).ready()
    server.wait_for("^ALIVE 5")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert [line for line in server.lines if line.startswith(("ENDED", "HOOK", "CLOSE"))] == [
        "HOOK OF THE CHILD", "ENDED 1", "HOOK OF THE CHILD", "ENDED 5", "HOOK OF THE CHILD", "ENDED 0",
        "CLOSE True", "HOOK True"]
    assert "ValueError: in a child" in server.output
    assert server.events("worker killed") == []
