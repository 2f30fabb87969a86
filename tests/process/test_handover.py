"""A restart that goes wrong at any point: what a replacement may touch, who serves when one of the two masters dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.strict import load

from ..harness import Script, Workshop, connect, eventually, fetch

HEAD = """
from cluster import pidfiles
m = trace(cluster("app:app").set(workers=2, restart_threshold=0{settings}).use(pidfiles()))
m.bind("unix:a.sock").listen(0, "127.0.0.1")
"""

#: enough that a queue of one or two does not do; each waits for a worker that is stopped
BURST = 50


def started(shop: Workshop, settings: str = "", **options: object) -> Script:
    """A cluster of two workers on a TCP port and on `a.sock`, with pid files."""
    return shop.script(HEAD.format(settings=settings and ", " + settings), **options).ready()


def master_of(server: Script, count: int) -> int:
    """The pid of the *count*-th master that got ready."""
    return int(server.wait_for(r"^EVENT (\d+) ready$", count)[1])


def tcp(server: Script) -> tuple[str, int]:
    """Where it listens for TCP."""
    match = server.wait_for(r"^ADDRESS .*127\.0\.0\.1:(\d+)")
    return "127.0.0.1", int(match[1])


def assert_queue_is_long(server: Script, address: tuple[str, int] | str) -> None:
    """Connections are queued, not refused or dropped, while nobody accepts."""
    workers = server.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    waiting: list[socket.socket] = []
    try:
        for _ in range(BURST):
            waiting.append(connect(address, timeout=5))
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("fault", ["the application does not import", "the import hangs"])
def test_a_failed_replacement_leaves_the_sockets_alone(shop: Workshop, fault: str) -> None:
    """It borrows them: the queue stays as long as it was, and the unix socket's file stays where it is."""
    server = started(shop, "restart_timeout=2, abort_deaths=2")
    path = str(shop.directory / "a.sock")
    file = os.stat(path).st_ino
    good = (shop.directory / "app.py").read_text()
    shop.write("app.py", "1 / 0\n" if "not" in fault else "import time\ntime.sleep(60)\n")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart failed")
    eventually(lambda: len(server.family()) == 3, "the replacement has gone")
    assert os.stat(path).st_ino == file
    for address in (tcp(server), path):
        assert_queue_is_long(server, address)
        assert fetch(address)[0] == 200
    shop.write("app.py", good)
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart \{")
    server.ready(2)
    for address in (tcp(server), path):
        assert fetch(address)[0] == 200
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert not os.path.exists(path)


def test_an_old_master_that_was_stopped_past_the_time_limit_harms_nobody(shop: Workshop) -> None:
    """The replacement has said that it is ready while the old master could not hear it: that counts."""
    server = started(shop, "restart_timeout=4")
    old = server.pid
    shop.write("app.py", "import os, gevent\nwhile not os.path.exists('go'): gevent.sleep(0.01)\n"
               + (shop.directory / "app.py").read_text())
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ listening", 2)
    os.kill(old, signal.SIGSTOP)
    shop.write("go", "")
    new = master_of(server, 2)
    end = time.monotonic() + 4.2
    eventually(lambda: time.monotonic() > end, "the time limit is over")
    os.kill(old, signal.SIGCONT)
    server.wait_for(r"EVENT \d+ restart \{")
    eventually(lambda: old not in server.family(), "the old master has gone")
    assert server.events("restart failed") == []
    server.pid = new
    for address in (tcp(server), str(shop.directory / "a.sock")):
        assert_queue_is_long(server, address)
    server.signal(signal.SIGQUIT)
    server.assert_gone()


@pytest.fixture
def manager(shop: Workshop) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's notify socket."""
    path = str(shop.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(path)
        opened.settimeout(20)
        yield opened, path
    os.unlink(path)


def test_a_failed_replacement_tells_the_service_manager_nothing(
    shop: Workshop, manager: tuple[socket.socket, str]
) -> None:
    """With NotifyAccess=all, its STOPPING=1 would end the old master, which serves."""
    told, path = manager
    server = started(shop, "abort_deaths=2", environment={"NOTIFY_SOCKET": path})
    assert told.recv(1000).startswith(b"READY=1\n")
    shop.write("app.py", "1 / 0\n")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart failed")
    eventually(lambda: len(server.family()) == 3, "the replacement has gone")
    server.signal(signal.SIGTERM)
    assert told.recv(1000) == b"STOPPING=1"
    server.assert_gone()
    told.setblocking(False)
    with pytest.raises(BlockingIOError):
        told.recv(1000)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("draining", [True, False], ids=["while the old one drains", "in its probation"])
def test_the_old_master_serves_again_when_the_new_one_dies(
    shop: Workshop, number: int, draining: bool, manager: tuple[socket.socket, str]
) -> None:
    """0 failed and 0 refused requests; pid files and the service manager name the one that serves."""
    told, path = manager
    server = started(shop, "probation=60", environment={"NOTIFY_SOCKET": path})
    old, address = server.pid, tcp(server)
    held = connect(address) if draining else None
    if held is not None:
        held.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
    with load(address, connections=16, timeout=30) as traffic:
        server.signal(signal.SIGHUP)
        server.wait_for(r"EVENT \d+ restart \{")
        new = master_of(server, 2)
        eventually(lambda: shop.pids().get("master") == new, "pid files name the new master")
        if not draining:
            eventually(lambda: not server.workers(old)[1:], "the old master has no workers")  # the new one is its child
            assert server.workers(old) == [new]
        traffic.wait_answered(200, 30)
        os.kill(new, number)
        server.wait_for(rf"^EVENT {old} resumed")
        traffic.wait_answered(500, 30)
    assert traffic.report.clean, traffic.report
    reason = server.wait_for(rf"^EVENT {old} restart failed (.*)")[1]
    assert signal.Signals(number).name in reason and "after it had taken over" in reason
    eventually(lambda: shop.pids().get("master") == old, "pid files name the old master again")
    if held is not None:
        shop.write("go", "")
        assert held.recv(1000).startswith(b"HTTP/1.1 200")
        held.close()
    eventually(lambda: len(server.family()) == 3, "two workers, and nothing of the new master")
    assert set(shop.pids().values()) == {old, *server.workers()}
    for where in (address, str(shop.directory / "a.sock")):
        assert_queue_is_long(server, where)
        assert fetch(where)[0] == 200
    lines = [told.recv(1000).split(b"\nSTATUS")[0] for _ in range(3)]
    assert lines == [b"READY=1", b"MAINPID=%d\nREADY=1" % new, b"MAINPID=%d\nREADY=1" % old]
    server.signal(signal.SIGHUP)  # and can be restarted again
    server.wait_for(r"EVENT \d+ restart \{", 2)
    server.ready(3)
    assert fetch(address)[0] == 200
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_a_new_master_that_was_closed_is_not_replaced_by_the_old_one(shop: Workshop) -> None:
    """Exit code 0: somebody has ended the service. Nobody waits for the end of the probation."""
    server = started(shop, "probation=60")
    old = server.pid
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart \{")
    new = server.ready(2).pid
    os.kill(new, signal.SIGQUIT)
    server.assert_gone()
    assert server.wait_exit() == 0
    assert server.events("resumed", "restart failed") == []
    assert f"EVENT {old} close" in server.output and f"EVENT {new} close" in server.output
    assert not (shop.directory / "a.sock").exists()


def test_a_new_master_that_fails_after_it_was_asked_to_end_is_not_replaced(shop: Workshop) -> None:
    """It has released the old one before."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0, probation=60))
        m.on("close", lambda: os._exit(7) if m.predecessor else None)
        m.bind("unix:a.sock").listen(0, "127.0.0.1")
        """).ready()
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart \{")
    server.ready(2).signal(signal.SIGTERM)
    server.assert_gone()
    assert server.events("resumed") == []


def test_the_probation_ends_by_itself(shop: Workshop) -> None:
    """After it the old master has gone, and the new one serves."""
    server = started(shop, "probation=0.5")
    old = server.pid
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart \{")
    server.ready(2)
    server.wait_for(rf"EVENT {server.pid} old master gone")
    assert server.wait_exit() == 0 and old not in server.family()
    assert fetch(tcp(server))[0] == 200
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_outside_development_the_probation_is_five_seconds(shop: Workshop) -> None:
    """Also where `CLUSTER_ENV` says nothing and nobody sits at a terminal."""
    server = shop.script("""
        from cluster.supervisor import _policy
        values = []
        for given in ("production", "", "development"):
            os.environ["CLUSTER_ENV"] = given
            values.append(_policy(cluster().options).probation)
        say(values)
        """)
    server.wait_for(r"^\[5\.0, 5\.0, 0\.0\]$")
    server.assert_gone()


def test_there_are_never_three_masters(shop: Workshop) -> None:
    """A restart of the new master waits until the old one, which is still draining, has gone."""
    server = started(shop, "probation=60")
    old = server.pid
    with connect(tcp(server)) as held:
        held.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(tcp(server))
        server.signal(signal.SIGHUP)
        server.wait_for(r"EVENT \d+ restart \{")
        new = server.ready(2).pid
        server.signal(signal.SIGHUP)
        server.wait_for(r"restart: waiting until the old master \(pid \d+\) has ended")
        assert server.events("restarting") == ["restarting"]
        assert old in server.family()
        shop.write("go", "")
        assert held.recv(1000).startswith(b"HTTP/1.1 200")
    server.wait_for(r"EVENT \d+ restart \{", 2)
    assert old not in server.family()
    server.ready(3)
    assert server.pid != new
    server.signal(signal.SIGTERM)  # in the probation of the second one, which need not wait either
    server.assert_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_to_the_old_pid_means_the_service(shop: Workshop, number: int) -> None:
    """Also when the new master serves already, as long as the old one lives."""
    server = started(shop, "probation=60")
    old = server.pid
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart \{")
    os.kill(old, number)
    server.assert_gone()
    assert server.wait_exit() == 0
    assert server.events("resumed", "restart failed") == []
    assert not (shop.directory / "a.sock").exists()


def test_signals_in_the_moments_of_a_handover_end_the_service(shop: Workshop) -> None:
    """HUP, then TERM after a while that is different each time: nothing is ever left."""
    for delay in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        server = shop.script(HEAD.format(settings=", probation=60"), name=f"server{delay}.py").ready()
        server.signal(signal.SIGHUP)
        end = time.monotonic() + delay
        eventually(lambda end=end: time.monotonic() >= end, "it is time", interval=0.001)
        server.signal(signal.SIGTERM)
        server.assert_gone()
        assert server.wait_exit() == 0, server.output
        assert not (shop.directory / "a.sock").exists(), delay


@pytest.mark.parametrize("second", [False, True])
def test_a_signal_to_the_group_acts_once_although_it_is_passed_on(shop: Workshop, second: bool) -> None:
    """The new master has its own copy, too. A second signal is a second one, though."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0, probation=60, close_delay=30)
                  .set(signals={"SIGINT": "close", "SIGTERM": "close"}))
        m.listen(0, "127.0.0.1")
        """).ready()
    old = server.pid
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart \{")
    new = server.ready(2).pid
    os.killpg(server.session, signal.SIGINT)
    server.wait_for(rf"EVENT {new} closing")
    eventually(lambda: old not in server.family(), "the old master was released")
    assert fetch(server.address())[0] == 200  # in its delay, which a second close would have cut short
    if second:
        os.killpg(server.session, signal.SIGINT)
    else:
        os.kill(new, signal.SIGTERM)
    server.assert_gone()


def test_what_the_new_master_did_not_want_is_there_again(shop: Workshop) -> None:
    """A listener was given up, a unix socket's file was removed by the new master's death: both are bound anew."""
    shop.write("names", "a.sock b.sock")
    server = shop.script("""
        names = open("names").read().split()
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0, probation=60))
        m.listen([f"unix:{name}" for name in names])
        """).ready()
    old = server.pid
    a, b, c = (str(shop.directory / f"{name}.sock") for name in "abc")
    shop.write("names", "b.sock c.sock")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ handed over")
    new = master_of(server, 2)
    assert not os.path.exists(a) and fetch(b)[0] == fetch(c)[0] == 200
    os.unlink(b)
    os.kill(new, signal.SIGKILL)
    server.wait_for(rf"EVENT {old} worker ready", 2)
    assert fetch(a)[0] == fetch(b)[0] == 200
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert not os.path.exists(a) and not os.path.exists(b)
    os.unlink(c)  # of a master that was killed


def test_consoles_are_the_new_masters_at_the_take_over(shop: Workshop) -> None:
    """Not only at the end of the probation, and the old one's again when it resumes."""
    server = shop.script("""
        from cluster import repl
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0, probation=60).use(repl("repl.sock")))
        m.listen(0, "127.0.0.1")
        """).ready()
    old, path = server.pid, shop.directory / "repl.sock"
    assert asked(path) == old
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ handed over")
    new = master_of(server, 2)
    assert eventually(lambda: asked(path), "the new master's console") == new
    os.kill(new, signal.SIGKILL)
    server.wait_for(rf"EVENT {old} resumed")
    assert eventually(lambda: asked(path), "the old master's console") == old
    server.signal(signal.SIGTERM)
    server.assert_gone()


def asked(path: Path) -> int | None:
    """The pid of the process whose REPL answers at *path*; None when none does."""
    try:
        with connect(str(path)) as console:
            console.sendall(b"import os; print('PID', os.getpid())\n")
            data = b""
            while not (found := re.search(rb"PID (\d+)", data)):
                piece = console.recv(1000)
                if not piece:
                    return None
                data += piece
            return int(found[1])
    except (ConnectionRefusedError, FileNotFoundError):
        return None


def test_a_dismissed_replacement_lets_its_requests_finish(shop: Workshop) -> None:
    """Its workers take connections while it is not ready: those are not cut when it comes to nothing."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=2, restart_threshold=0, restart_timeout=1.5))
        if os.environ.get("CLUSTER_HANDOVER"):
            m.set("ready", "manual")
            m.on("worker connected", lambda worker: say("NEW", worker.pid))
        m.listen(0, "127.0.0.1")
        """).ready()
    address, old = server.address(), server.workers()
    server.signal(signal.SIGHUP)
    server.wait_for("^NEW", 2)
    for pid in old:
        os.kill(pid, signal.SIGSTOP)
    held = connect(address)
    held.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
    fetch(address)
    for pid in old:
        os.kill(pid, signal.SIGCONT)
    server.wait_for(r"EVENT \d+ restart failed")
    shop.write("go", "")
    with held:
        assert held.recv(1000).startswith(b"HTTP/1.1 200")
    eventually(lambda: len(server.family()) == 3, "the replacement has gone")
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_a_close_during_a_restart_leaves_nothing(shop: Workshop) -> None:
    """The old master waits for the replacement's end: it would be taken for its death."""
    server = shop.script("""
        if os.environ.get("CLUSTER_HANDOVER"):
            say("REPLACEMENT", os.getpid())
            sys.stdin.readline()
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
        m.bind("unix:a.sock").listen(0, "127.0.0.1")
        """, stdin=subprocess.PIPE).ready()
    server.signal(signal.SIGHUP)
    server.wait_for(r"^REPLACEMENT (\d+)")
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert server.wait_exit() == 0
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.output.count("listening") == 1
