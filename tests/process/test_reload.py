"""Replacing the workers, and what a container or service manager makes of it: rows R4, R5."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from benchmarks.strict import load

from ..harness import Script, Workshop, child_states, connect, eventually, fetch

SERVER = """
m = trace(cluster("app:app").set(workers=2, restart="reload", startup_timeout=3%s))
m.listen(0, "127.0.0.1")
"""


def test_r4_reload_under_load_fails_no_request(shop: Workshop) -> None:
    """R4: five reloads under load: 0 failed requests, the master stays, a whole new generation each time."""
    server = shop.script(SERVER % "").ready()
    with load(server.address(), connections=64, timeout=30) as traffic:
        for count in range(1, 6):
            before = set(server.workers())
            server.signal(signal.SIGHUP)
            server.wait_for(rf"EVENT \d+ reloaded {count + 1}$")
            eventually(lambda before=before: len(server.workers()) == 2 and not before & set(server.workers()),
                       "only new workers")
            traffic.wait_answered(500, 30)
    assert traffic.report.clean, traffic.report
    assert server.process.poll() is None
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.events("worker killed", "reload failed") == []


def test_r4_new_ones_are_ready_before_old_ones_go_and_new_code_runs(shop: Workshop) -> None:
    """R4: the order of events; a reload brings new code."""
    server = shop.script(SERVER % "").ready()
    shop.write("app.py", "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'new']\n")
    server.signal(signal.SIGHUP)
    server.wait_for("worker removed", 2)
    assert server.get() == b"new"
    events = [event for event in server.events() if event != "before fork"]
    since = events[events.index("reloading"):]
    assert sorted(since[:7]) == sorted(["reloading", *["worker", "worker connected", "worker ready"] * 2])
    assert since[7:] == ["reloaded", "worker removed", "worker removed"]
    server.signal(signal.SIGTERM)
    server.wait_exit()


def test_o1_restart_that_becomes_a_reload_keeps_its_signal(shop: Workshop) -> None:
    """O1, R5: `restart(signal)` ends the old workers by that signal also where it is a reload."""
    server = shop.script("""
m = trace(cluster("app:app").set(workers=1, restart="reload"))
m.on("worker removed", lambda worker: say("ENDED", worker.exit_code, worker.signal))
m.once("ready", lambda: m.restart("SIGTERM"))
m.listen(0, "127.0.0.1")
""").ready()
    assert server.wait_for(r"^ENDED (.*)")[1] == "None SIGTERM"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("fault", ["1 / 0", "import os; os._exit(4)", "import gevent; gevent.sleep(60)"])
def test_r4_roll_back(shop: Workshop, fault: str) -> None:
    """R4: a new generation that dies or is not ready in time is dropped; the old pids go on; a fix works."""
    server = shop.script(SERVER % "").ready()
    pids, app = server.workers(), (shop.directory / "app.py").read_text()
    shop.write("app.py", fault + "\n")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ reload failed 2 ")
    eventually(lambda: server.workers() == pids, "the old pids, and only they")
    assert int(server.get()) in pids
    shop.write("app.py", app)
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ reloaded 3")
    eventually(lambda: len(server.workers()) == 2 and not set(pids) & set(server.workers()), "only new workers")
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for("worker ready", 5)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_r4_reload_during_a_reload_and_old_workers_that_die(shop: Workshop) -> None:
    """R4: a reload supersedes the one under way; old workers that die meanwhile are not replaced; resize waits."""
    shop.write("gate.py", """
        import os
        from tracing import say
        def open_():
            import gevent
            while not os.path.exists("open"):
                gevent.sleep(0.01)
        """)
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=2, restart="reload", startup_timeout=0))
        m.on("reopen logs", lambda: m.resize(3))
        m.listen(0, "127.0.0.1")
        """).ready()
    old = server.workers()
    app = (shop.directory / "app.py").read_text()
    shop.write("app.py", "import gate\ngate.open_()\n" + app)
    server.signal(signal.SIGHUP)
    server.wait_for("worker connected", 4)
    superseded = set(server.workers()) - set(old)
    os.kill(old[0], signal.SIGKILL)
    server.wait_for(rf"worker killed \d/{old[0]}")
    server.signal(signal.SIGUSR1)
    server.wait_for("reopen logs")
    server.signal(signal.SIGHUP)
    server.wait_for("worker connected", 6)
    eventually(lambda: not superseded & set(server.workers()), "the superseded ones are gone")
    assert len(server.workers()) == 3  # one old, two new: neither the dead one nor the resize was acted upon
    assert int(server.get()) == old[1]
    shop.write("open", "")
    server.wait_for(r"EVENT \d+ reloaded 3")
    eventually(lambda: len(server.workers()) == 3 and old[1] not in server.workers(), "resized to three new ones")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_r4_reload_of_an_object_says_so(shop: Workshop) -> None:
    """R4: reload() of an application that was given as an object says that it brings no new code."""
    server = shop.script("""
        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"x"]
        m = trace(cluster(app).set(workers=1, restart="reload"))
        m.listen(0, "127.0.0.1")
        """).ready()
    server.signal(signal.SIGHUP)
    server.wait_for(r"^cluster: reload: the new workers run the same code as before, as it was given as an object")
    server.wait_for(r"EVENT \d+ reloaded 2")
    server.signal(signal.SIGTERM)
    server.wait_exit()


HEAD = "from cluster import cluster\nfrom tracing import trace\n"
AUTO = """
m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
m.listen(0, "127.0.0.1")
"""


def _reloads(server: Script) -> None:
    """HUP reloads, and does not restart."""
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ reloaded 2")
    assert "restarting" not in server.events()


def test_r5_as_process_1(shop: Workshop) -> None:
    """R5: as process 1 HUP reloads; orphans are reaped."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("unshare is not permitted here")
    shop.write("orphan.py", """
        import subprocess, sys
        from app import app as inner
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/orphan":
                subprocess.run(["sh", "-c", "sleep 0.05 & echo $! > orphan.pid"])
            return inner(environ, start_response)
        """)
    shop.write("server.py", HEAD + AUTO.replace("app:app", "orphan:app"))
    server = shop.run("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "server.py")
    server.wait_for(r"^EVENT 1 ready$")
    outer = eventually(lambda: server.workers(server.process.pid), "the child of unshare")[0]
    server.pid = outer
    _reloads(server)
    server.get("/orphan")
    eventually(lambda: "Z" not in child_states(outer), "no zombie is left")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_r5_below_a_containers_init(shop: Workshop) -> None:
    """R5: below tini (here: a program of that name) HUP reloads."""
    shop.write("server.py", HEAD + AUTO)
    init = shop.directory / "tini"
    init.symlink_to("/bin/sh")
    server = shop.run(str(init), "-c", f"{sys.executable} server.py; exit $?").ready()
    _reloads(server)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_r5_below_systemd(shop: Workshop) -> None:
    """R5: under systemd without a notify socket HUP reloads; with one, READY, MAINPID and STOPPING are told."""
    shop.write("server.py", "import os\nos.environ['SYSTEMD_EXEC_PID'] = str(os.getpid())\n" + HEAD + AUTO)
    server = shop.run(sys.executable, "server.py").ready()
    _reloads(server)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0

    path = str(shop.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        server = shop.run(sys.executable, "server.py", environment={"NOTIFY_SOCKET": path}).ready()
        assert manager.recv(1000).startswith(b"READY=1\n")
        server.signal(signal.SIGHUP)
        server.ready(2)
        assert manager.recv(1000).startswith(b"MAINPID=%d\nREADY=1\n" % server.pid)
        server.signal(signal.SIGTERM)
        assert manager.recv(1000) == b"STOPPING=1"
        server.assert_gone()
    os.unlink(path)


def test_r4_keep_alive_connection_survives_in_order(shop: Workshop) -> None:
    """R4: an idle keep-alive connection of an old worker still gets an answer, announced as its last."""
    server = shop.script(SERVER % "").ready()
    with connect(server.address()) as connection:
        first = _ask(connection)
        assert b"onnection: close" not in first
        server.signal(signal.SIGHUP)
        server.wait_for(r"EVENT \d+ reloaded 2")
        last = eventually(lambda: b"\r\nConnection: close" in (answer := _ask(connection)) and answer, "the last one")
        assert last.split()[-1] == first.split()[-1]
        assert connection.recv(1000) == b""
    assert fetch(server.address())[0] == 200
    server.signal(signal.SIGTERM)
    server.wait_exit()


def _ask(connection: socket.socket) -> bytes:
    """One request, its whole answer (whose body is a pid)."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    answer = b""
    while not re.search(rb"\r\n\r\n\d+$", answer):
        piece = connection.recv(1000)
        assert piece, answer
        answer += piece
    return answer
