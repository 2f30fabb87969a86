"""Hooks that libraries give to `os.register_at_fork` run in the worker, on its hub: row W7."""

from __future__ import annotations

import signal
import sys

import pytest

from ..harness import Workshop, eventually

#: exports what it is given in a thread of its own, which it starts anew in each forked child, as OpenTelemetry's
#: BatchSpanProcessor does
EXPORTER = """
    import atexit, os, threading, weakref
    from tracing import say

    MASTER = os.getpid()

    class Exporter:
        def __init__(self):
            self.begin()
            hook = weakref.WeakMethod(self.begin)
            os.register_at_fork(after_in_child=lambda: hook()())

        def begin(self):
            self.queue = []
            self.condition = threading.Condition(threading.Lock())
            self.thread = threading.Thread(target=self.work, daemon=True)
            self.pid = os.getpid()
            if os.getpid() != MASTER:  # the master has one thread
                self.thread.start()
                atexit.register(self.end, self.pid)

        def give(self, what):
            with self.condition:
                self.queue.append(what)
                self.condition.notify()

        def work(self):
            while True:
                with self.condition:
                    while not self.queue:
                        self.condition.wait()
                    what, self.queue = self.queue, []
                for one in what:
                    say("EXPORTED", one)

        def end(self, pid):
            say("END", pid, os.getpid())

    exporter = Exporter()
    """
#: an application that uses it
SERVER = """
    import os, sys, exporter
    from cluster import cluster
    from tracing import trace
    def app(environ, start_response):
        exporter.exporter.give(environ["PATH_INFO"] + " " + str(os.getpid()))
        if environ["PATH_INFO"] == "/fork":
            pid = os.fork()
            if not pid:
                import gevent
                exporter.exporter.give("/child of " + str(os.getppid()))
                gevent.sleep(0.1)
                sys.exit(0)
            os.waitpid(pid, 0)
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]
    trace(cluster(app).set(workers=2)).listen(0, "127.0.0.1")
    """


@pytest.mark.parametrize("when", ["before", "patched", "after"])
def test_threads_that_fork_hooks_start_live_in_the_worker(shop: Workshop, when: str) -> None:
    """Row W7: whenever the hook was registered, every span is exported, and the exit hooks registered there run."""
    shop.write("exporter.py", EXPORTER)
    shop.write("start.py", {
        "before": "import exporter, server",
        "patched": "from gevent import monkey; monkey.patch_all()\nimport exporter, server",
        "after": "import cluster\ncluster.cluster\nimport exporter, server",
    }[when])
    shop.write("server.py", SERVER)
    server = shop.run(sys.executable, "start.py").ready()
    seen = []
    for number in range(20):
        seen.append(f"EXPORTED /{number} {server.get(f'/{number}').decode()}")
    worker = server.get("/fork").decode()
    server.wait_for(f"^EXPORTED /child of {worker}$")
    eventually(lambda: set(seen) <= set(server.lines), "all are exported")
    workers = server.workers()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    for pid in workers:
        assert f"END {pid} {pid}" in server.lines
    assert "Exception ignored" not in server.output and "Traceback" not in server.output
