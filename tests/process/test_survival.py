"""Keeping it up: rows U1 to U8."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.strict import load

from ..harness import Workshop, child_states, connect, descriptors, eventually, fetch

SERVER = 'trace(cluster("app:app").set(%s)).listen(0, "127.0.0.1")\n'


def test_u1_killed_worker_comes_back(shop: Workshop) -> None:
    """U1: `worker killed`, then `worker` with the same id; the next GET is served. The other exits come back, too."""
    server = shop.script(SERVER % "workers=1").ready()
    for round_, end in enumerate((signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGQUIT), 1):
        (worker,) = server.workers()
        os.kill(worker, end)
        server.wait_for(rf"worker killed 0/{worker}")
        server.wait_for(r"EVENT \d+ worker ready 0/", round_ + 1)
        assert server.get() != str(worker).encode()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /exit HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.recv(10) == b""
    server.wait_for("worker ready", 6)
    assert server.get().isdigit()
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_u2_gives_up_with_the_last_traceback_printed_once(shop: Workshop) -> None:
    """U2: 20 deaths before any got ready, by what might heal: said on stderr with the traceback, exit 3."""
    shop.write("broken.py", "raise RuntimeError('out of luck')\n")
    server = shop.script('trace(cluster("broken:app").set(workers=4)).listen(0, "127.0.0.1")\n')
    assert server.wait_exit() == 3
    assert "cluster: 20 worker deaths before any got ready" in server.lines
    assert server.events().count("worker killed") == 20
    text = [line for line in server.lines if line.startswith("RuntimeError: out of luck")]
    assert len(text) == 2  # the first time, and at the end
    assert any("broken.py" in line for line in server.lines)
    assert not any("cluster/importer" in line for line in server.lines)


def test_u2_backs_off_per_slot(shop: Workshop) -> None:
    """U2: a worker that dies young waits longer each time, also after others were ready; a good slot is not held up."""
    server = shop.script("""
        import time, gevent
        def work(worker):
            worker.ready()
            if worker.id == 1:
                os._exit(5)
            gevent.sleep(60)
        m = cluster(package.job(work)).set(workers=2)
        born = []
        m.on("worker", lambda worker: worker.id == 1 and say("BORN", time.monotonic()))
        trace(m).start()
        """)
    server.wait_for("^BORN", 6)
    born = [float(line.split()[1]) for line in server.lines if line.startswith("BORN")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(born)]
    for number, gap in enumerate(gaps[:5]):
        assert gap >= 0.1 * number, gaps
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert server.events().count("worker killed") >= 5


def test_u3_fifty_kills_leave_nothing(shop: Workshop) -> None:
    """U3: 50 times kill -9: no zombie, no descriptor leak, count right. (Ten slots, so that back-off stays short.)"""
    server = shop.script(SERVER % "workers=10").ready()
    before = len(descriptors(server.pid))
    for round_ in range(5):
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        server.wait_for("worker ready", 10 * (round_ + 2))
    assert server.events().count("worker killed") == 50
    eventually(lambda: len(server.workers()) == 10, "ten workers")
    assert len(descriptors(server.pid)) == before
    assert "Z" not in child_states(server.pid)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_u1_more_workers_than_abort_deaths_are_killed_at_once(shop: Workshop) -> None:
    """U1, U2: workers that had been ready come back, however many die; only those that never were count."""
    server = shop.script(SERVER % "workers=6, abort_deaths=3").ready()
    for pid in server.workers():
        os.kill(pid, signal.SIGSTOP)  # so that none comes back before all are gone
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker killed", 6)
    server.wait_for(r"EVENT \d+ worker ready", 12)
    assert server.get()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_e4_a_dead_worker_whose_child_floods_the_channel(shop: Workshop) -> None:
    """E4, U1: it costs that worker only: the next one comes, and the cluster can be ended."""
    shop.write("flooding.py", """
        import os, signal
        from cluster.channel import encode
        import cluster
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/flood":
                descriptor = os.dup(cluster.worker()._channel.fileno())
                if os.fork() == 0:
                    os.set_blocking(descriptor, True)
                    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                    frame = encode({"t": "event", "name": "x", "args": ["y" * 10000]}) * 20
                    while True:
                        os.write(descriptor, frame)
                os._exit(1)
            start_response("200 OK", [])
            return [b"served"]
    """)
    server = shop.script('trace(cluster("flooding:app").set(workers=1)).listen(0, "127.0.0.1")\n').ready()
    with contextlib.suppress(AssertionError, OSError):
        server.get("/flood")
    server.wait_for(r"EVENT \d+ worker killed")
    server.wait_for(r"EVENT \d+ worker ready", 2)
    assert server.get() == b"served"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    server.assert_gone()


def test_u3_random_kills_under_load_cost_only_the_killed(shop: Workshop) -> None:
    """U3: random kill -9 under load: the count is right at the end, connections not on a killed worker never fail."""
    server = shop.script(SERVER % "workers=4, abort_deaths=0").ready()
    killed: list[int] = []
    with load(server.address(), connections=32, pids=True) as traffic:
        for _ in range(10):
            victim = random.choice(eventually(lambda: [*{*server.workers()} - {*killed}], "a worker"))
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            traffic.wait_answered(200, 30)
        eventually(lambda: len(server.workers()) == 4, "four workers")
    report = traffic.report
    assert set(report.failures) <= {"reset", "closed", "cut"}, report  # cut: killed between head and body
    unanswered = report.connections - sum(report.by_worker.values())
    assert report.failed <= sum(report.by_worker[pid] for pid in killed) + unanswered, report
    assert server.events().count("worker killed") == len(killed)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_u4_no_orphans_when_the_master_is_killed(shop: Workshop) -> None:
    """U4: after kill -9 of the master every idle worker goes, and the port is free."""
    server = shop.script(SERVER % "workers=3").ready()
    address = server.address()
    with connect(address) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        idle.recv(1000)
        began = time.monotonic()
        server.signal(signal.SIGKILL)
        eventually(lambda: not server.family(), "no worker left", 5)
        assert time.monotonic() - began < 5
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(address)


def test_u4_an_orphan_answers_on_idle_connections_for_the_drain_grace(shop: Workshop) -> None:
    """U4: a worker with open connections drains as it would have been asked to; one without goes at once."""
    server = shop.script(SERVER % "workers=2, drain_grace=5").ready()
    with connect(server.address()) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        worker = int(connection.recv(1000).rpartition(b"\r\n")[2])
        server.signal(signal.SIGKILL)
        eventually(lambda: server.family() == [worker], "the idle worker has gone", 4)
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):  # not cut
            connection.recv(1)
        connection.settimeout(30)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
        assert connection.recv(1) == b""


def test_u4_orphan_finishes_its_request(shop: Workshop) -> None:
    """U4: a worker that has a request in flight when the master dies answers it first."""
    server = shop.script(SERVER % "workers=1").ready()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /sleep/0.5 HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(server.address())
        server.signal(signal.SIGKILL)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_u4_busy_orphan_ends_too(shop: Workshop) -> None:
    """U4: a worker in a busy loop, which cannot notice the end of its channel, does not outlive its master for long."""
    server = shop.script("from cluster.workers import runtime\nruntime.ORPHAN = 1\n" + SERVER % "workers=2").ready()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /loop HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for("^LOOPING")
        server.signal(signal.SIGKILL)
        eventually(lambda: not server.family(), "no worker left")


@pytest.mark.parametrize("stuck", ["loop", "stop"])
def test_u5_stuck_worker_is_killed_at_the_timeout(shop: Workshop, stuck: str) -> None:
    """U5: a stuck worker does not stop the close; what it had in flight is told before it is killed."""
    server = shop.script(SERVER % "workers=2, timeout=1").ready()
    with connect(server.address()) as connection:
        path = "/loop" if stuck == "loop" else "/sleep/9"
        connection.sendall(f"GET {path}?x=1 HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        if stuck == "stop":
            fetch(server.address())
            for pid in server.workers():
                os.kill(pid, signal.SIGSTOP)
        else:
            server.wait_for("^LOOPING")
        server.signal(signal.SIGQUIT)
        assert server.wait_exit() == 0
    assert re.search(rf"timed out after 1 s \(pid \d+; in flight: GET {path}\S* 127.0.0.1 for \d", server.output)
    assert "worker timeout" in server.events()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "?"


def test_u5_term_ends_a_busy_worker(shop: Workshop) -> None:
    """O3: TERM ends a worker in the middle of busy Python code."""
    server = shop.script(SERVER % "workers=1").ready()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /loop HTTP/1.1\r\nHost: test\r\n\r\n")
        (worker,) = server.workers()
        server.wait_for("^LOOPING")
        os.kill(worker, signal.SIGTERM)
        server.wait_for(rf"worker killed 0/{worker}")
    server.wait_for("worker ready", 2)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_u5_not_ready_in_time_is_killed(shop: Workshop) -> None:
    """U2, U5: an application that never gets ready is killed at the startup timeout, and the master gives up."""
    server = shop.script("""
        def work(worker):
            import gevent
            gevent.sleep(60)
        trace(cluster(package.job(work)).set(workers=1, ready="manual", startup_timeout=0.2, abort_deaths=2)).start()
        """)
    assert server.wait_exit() == 3
    assert server.events().count("worker timeout") == 2
    assert "cluster: 2 worker deaths before any got ready" in server.lines


def test_u6_addresses_that_cannot_be_bound(shop: Workshop) -> None:
    """U6: the address and the reason on stderr, exit 1, no worker was forked."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder = shop.directory / "folder"
        folder.mkdir()
        (shop.directory / "plain").write_text("")
        cases = [
            (port, f"127.0.0.1:{port}: already in use"),
            (str(folder), "there is a directory at that path"),
            (str(shop.directory / "plain"), "not a socket"),
            ("unix:/no/such/directory/x.sock", "no directory /no/such/directory"),
            ("no-such-host.invalid:80", "cannot be resolved"),
            ("fd://77", "fd://77"),
        ]
        for address, words in cases:
            server = shop.script(f"trace(cluster('app:app').set(workers=1)).listen({address!r}, "
                                 f"{'127.0.0.1' if isinstance(address, int) else None!r})\n")
            assert server.wait_exit() == 1, address
            assert words in server.output, address
            assert server.events() == [] and "Traceback" not in server.output


def test_u7_failing_handlers(shop: Workshop) -> None:
    """U7, B4: an exception in a handler is reported with its name and the event; the others run, the master lives."""
    server = shop.script("""
        m = cluster("app:app").set(workers=1)
        def bad(worker):
            raise RuntimeError("bad handler")
        m.on("worker ready", bad)
        m.on("worker ready", lambda worker: say("NEXT"))
        trace(m).listen(0, "127.0.0.1")
        """).ready()
    server.wait_for("^NEXT")
    server.wait_for(r"cluster: handler __main__.bad of event 'worker ready' failed")
    server.wait_for("RuntimeError: bad handler")
    assert server.get().isdigit()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_u7_failure_of_the_supervisor_itself(shop: Workshop) -> None:
    """U7: traceback, workers killed, exit 1."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=2))
        def sabotage():
            m._supervisor._inbox.put(lambda: {}["sabotage"])
        m.on("ready", sabotage)
        m.listen(0, "127.0.0.1")
        """)
    assert server.wait_exit() == 1
    assert "KeyError: 'sabotage'" in server.output
    assert "cluster: the supervisor failed; killing all workers" in server.lines


@pytest.mark.parametrize("how", ["closed", "null", "pipe", "terminal"])
def test_u8_whatever_stdin_is(shop: Workshop, how: str) -> None:
    """U8: works with stdin closed, /dev/null, a pipe, a terminal."""
    body = SERVER % "workers=2"
    leader = None
    if how == "terminal":
        leader, follower = pty.openpty()
        server = shop.script(body, stdin=follower)
        os.close(follower)
    elif how == "closed":
        server = shop.script(body, stdin=None, preexec=lambda: os.close(0))
    else:
        server = shop.script(body, stdin=subprocess.DEVNULL if how == "null" else subprocess.PIPE)
    server.ready()
    assert server.get().isdigit()
    server.signal(signal.SIGINT)
    assert server.wait_exit() == 0
    if server.process.stdin is not None:
        server.process.stdin.close()
    if leader is not None:
        os.close(leader)


def test_u8_ctrl_c_in_a_terminal(shop: Workshop) -> None:
    """U8, O3: Ctrl-C goes to the whole process group, ends it once, without tracebacks or repeated messages."""
    leader, follower = pty.openpty()
    shop.write("server.py", "from cluster import cluster\nfrom tracing import trace\n" + SERVER % "workers=3")
    claim = ("import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
             "os.execv(sys.executable, [sys.executable, 'server.py'])")
    server = shop.run(sys.executable, "-c", claim, stdin=follower)
    os.close(follower)
    server.ready()
    os.write(leader, b"\x03")
    assert server.wait_exit() == 0
    os.close(leader)
    assert server.events().count("closing") == 1 and server.events()[-1] == "close"
    assert server.events("worker killed") == []
    assert "Traceback" not in server.output and "KeyboardInterrupt" not in server.output


def test_o3_hangup_of_the_terminal_closes(shop: Workshop) -> None:
    """O3: HUP that comes from the terminal's going away closes instead of restarting."""
    leader, follower = pty.openpty()
    shop.write("server.py", "from cluster import cluster\nfrom tracing import trace\n"
               + SERVER % "workers=1, restart_threshold=0")
    claim = ("import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
             "os.execv(sys.executable, [sys.executable, 'server.py'])")
    server = shop.run(sys.executable, "-c", claim, stdin=follower)
    os.close(follower)
    server.ready()
    os.close(leader)
    assert server.wait_exit() == 0
    assert "restarting" not in server.events() and server.events()[-1] == "close"


#: a shell, as far as a terminal is concerned: it takes the terminal, starts the script in the background, and ends
SHELL = """
import fcntl, os, signal, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if {nohup}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
started = subprocess.Popen([sys.executable, "server.py"], process_group=0)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="process_group came with Python 3.11")
@pytest.mark.parametrize("nohup", [False, True])
def test_o3_hup_after_the_log_out_restarts(shop: Workshop, nohup: bool) -> None:
    """O3: a shell that has ended without a SIGHUP took its terminal along; one that comes later asks for a restart.

    With `nohup` that was asked for, also after a restart.
    """
    leader, follower = pty.openpty()
    shop.write("server.py", "from cluster import cluster, signals\nfrom tracing import trace\nsignals.HANGUP = 0.0\n"
               + SERVER % "workers=1, restart_threshold=0, restart='master'")
    server = shop.run(sys.executable, "-c", SHELL.format(nohup=nohup), stdin=follower)
    os.close(follower)
    server.ready()
    if nohup:
        server.signal(signal.SIGUSR2)
        server.ready(2)
    os.write(leader, b"log out\n")
    assert server.wait_exit() == 0
    os.close(leader)
    server.signal(signal.SIGUSR1)  # once round the loop: it knows by now that the shell has ended
    server.wait_for(r"EVENT \d+ reopen logs")
    server.signal(signal.SIGHUP)
    server.ready(3 if nohup else 2)
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_o3_signals_that_our_starter_has_blocked(shop: Workshop) -> None:
    """O3, U1: they are for us, and so is the news of a worker's death."""
    blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT}
    server = shop.script(SERVER % "workers=1",
                         preexec=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked) and None).ready()
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for("worker ready", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGQUIT])
def test_o3_signal_to_the_whole_group_acts_once(shop: Workshop, ending: int) -> None:
    """O3: HUP, USR1, TTIN, and TERM or QUIT, to the process group act once each."""
    server = shop.script(SERVER % "workers=1, restart='reload'").ready()
    os.killpg(server.session, signal.SIGTTIN)
    server.wait_for("worker ready", 2)
    os.killpg(server.session, signal.SIGUSR1)
    server.wait_for("reopen logs")
    os.killpg(server.session, signal.SIGHUP)
    server.wait_for("EVENT \\d+ reloaded 2")
    server.wait_for("worker removed", 2)
    os.killpg(server.session, signal.SIGTTOU)
    server.wait_for("worker removed", 3)
    os.killpg(server.session, ending)
    assert server.wait_exit() == 0
    events = server.events()
    assert (events.count("reloading"), events.count("reopen logs"), events.count("closing")) == (1, 1, 1)
    assert "worker killed" not in events
