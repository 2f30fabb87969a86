"""What TERM and INT mean by who has started the cluster, and that what the master sends keeps its meaning."""

from __future__ import annotations

import os
import pty
import signal
import socket
import sys
from pathlib import Path

import pytest

from ..harness import Script, Workshop, connect, eventually, fetch

HEAD = "from cluster import cluster\nfrom tracing import trace\n"
#: an application that tells when it has begun, and whose exit hook tells that it ran
HOOKED = """
    import atexit, os
    from tracing import say
    from app import app as inner
    atexit.register(lambda: say("HOOK", os.getpid()))
    def app(environ, start_response):
        say("BEGUN", environ["PATH_INFO"])
        return inner(environ, start_response)
    """
SERVE = 'trace(cluster("hooked:app").set(workers=1, restart_threshold=0, probation=0)).listen(0, "127.0.0.1")\n'
#: takes the terminal, as a shell would give it to a job in the foreground
CLAIM = ("import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
         "os.execv(sys.executable, [sys.executable, 'server.py'])")


def asks(server: Script, path: str) -> socket.socket:
    """A connection with a request that the worker has begun to answer."""
    connection = connect(server.address())
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    server.wait_for(f"^BEGUN {path}$")
    return connection


def finishes(shop: Workshop, server: Script, connection: socket.socket) -> None:
    """The request that waits for the file `go` is answered, and the cluster ends in peace."""
    server.wait_for(r"EVENT \d+ kill 'SIGQUIT'")
    shop.write("go", "")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()
    assert server.wait_exit() == 0


def waiting(shop: Workshop, server: Script) -> socket.socket:
    """A request that ends when there is a file `go`."""
    return asks(server, f"/until/{shop.directory}/go")


@pytest.mark.parametrize("group", [False, True])
def test_the_programs_term_closes_gracefully(shop: Workshop, group: bool) -> None:
    """Row W4: `cluster serve` finishes what is in flight at TERM, also when it goes to the whole process group."""
    shop.write("hooked.py", HOOKED)
    shop.write("serve.py", "from cluster import program, Master\nfrom tracing import trace\n"
               "start = Master.start\nMaster.start = lambda self, *args: start(trace(self), *args)\nprogram.main()\n")
    server = shop.run(sys.executable, "serve.py", "serve", "hooked:app", "-w", "1", "-b", "127.0.0.1:0").ready()
    connection = waiting(shop, server)
    (os.killpg if group else os.kill)(server.session, signal.SIGTERM)
    finishes(shop, server, connection)


@pytest.mark.parametrize("name", ["runsv", "s6-supervise", "supervisord"])
def test_below_a_service_manager_term_closes_and_hup_reloads(shop: Workshop, name: str) -> None:
    """Rows W4, W10: below a program of that name a script's TERM is graceful, and HUP keeps the pid."""
    shop.write("hooked.py", HOOKED)
    shop.write("server.py", HEAD + SERVE)
    (shop.directory / name).symlink_to("/bin/sh")
    server = shop.run(str(shop.directory / name), "-c", f"{sys.executable} server.py; exit $?").ready()
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ reloaded 2")
    assert "restarting" not in server.events()
    eventually(lambda: len(server.workers()) == 1, "the old worker has gone")
    connection = waiting(shop, server)
    server.signal(signal.SIGTERM)
    finishes(shop, server, connection)


def test_what_term_means_is_handed_on_at_a_restart(shop: Workshop) -> None:
    """Row W4: the first master was started by systemd, which the second cannot see: it goes on as the first."""
    shop.write("hooked.py", HOOKED)
    shop.write("server.py", HEAD + SERVE)
    path = str(shop.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        start = f"SYSTEMD_EXEC_PID=$$ exec {sys.executable} server.py"
        server = shop.run("sh", "-c", start, environment={"NOTIFY_SOCKET": path}).ready()
        server.signal(signal.SIGHUP)
        server.ready(2)
        server.wait_for(r"EVENT \d+ old master gone")
        server.address(2)
        connection = connect(server.address(2))
        connection.sendall(f"GET /until/{shop.directory}/go HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        server.wait_for("^BEGUN ")
        server.signal(signal.SIGTERM)
        server.wait_for(rf"EVENT {server.pid} kill 'SIGQUIT'")
        shop.write("go", "")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()
        server.assert_gone()
    os.unlink(path)


def test_ctrl_c_closes_and_again_ends_at_once(shop: Workshop) -> None:
    """Row W4: in a terminal the first Ctrl-C waits for what is in flight and says how to end at once."""
    shop.write("hooked.py", HOOKED)
    shop.write("server.py", HEAD + SERVE)
    leader, follower = pty.openpty()
    server = shop.run(sys.executable, "-c", CLAIM, stdin=follower)
    os.close(follower)
    server.ready()
    connection = waiting(shop, server)
    endless = asks(server, "/sleep/600")
    os.write(leader, b"\x03")
    server.wait_for("^cluster: Ctrl-C again to end at once$")
    server.wait_for(r"EVENT \d+ kill 'SIGQUIT'")
    shop.write("go", "")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.process.poll() is None
    os.write(leader, b"\x03")
    assert server.wait_exit() == 0
    os.close(leader)
    endless.close()
    connection.close()
    assert server.events("worker killed", "worker timeout") == [] and "Traceback" not in server.output
    assert server.output.count("Ctrl-C again") == 1 and server.lines.count(f"HOOK {_pid(server)}") == 1


def _pid(server: Script) -> str:
    return server.wait_for(r"EVENT \d+ worker ready 0/(\d+)")[1]


@pytest.mark.parametrize("stuck", ["/sleep/600", "/loop"])
@pytest.mark.parametrize("how", ["m.destroy()", "m.restart('SIGTERM')", "m.remove(1, 'SIGTERM')", "m.kill('SIGTERM')",
                                 "m.kill('SIGINT', worker=0)", "m.restart_workers('SIGINT')"])
def test_what_the_master_sends_keeps_its_meaning(shop: Workshop, how: str, stuck: str) -> None:
    """Row W4: TERM and INT of operations end a worker at once, with its exit hooks, where TERM and INT mean close."""
    shop.write("hooked.py", HOOKED)
    number = "SIGINT" if "SIGINT" in how else "SIGTERM"
    server = shop.script(f"""
        m = cluster("hooked:app").set(workers=1, restart_threshold=0, restart="master", probation=0)
        m.set(signals={{"SIGTERM": "close", "SIGINT": ("close", "destroy")}})
        for name in ("worker killed", "worker removed"):
            m.on(name, lambda worker: say("ENDED", worker.pid, worker.signal))
        m.on("reopen logs", lambda: {how})
        trace(m).listen(0, "127.0.0.1")
        """).ready()
    pid = _pid(server)
    connection = asks(server, stuck)
    server.signal(signal.SIGUSR1)
    assert server.wait_for(rf"^ENDED {pid} (\S+)")[1] == number
    assert f"HOOK {pid}" in server.lines
    connection.close()
    if how == "m.restart('SIGTERM')":
        server.ready(2)
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_a_pair_means_the_second_as_long_as_the_first_is_under_way(shop: Workshop) -> None:
    """Row Y10: asked again it is the second command; `default` leaves a signal to the system."""
    shop.write("hooked.py", HOOKED)
    server = shop.script("""
        m = cluster("hooked:app").set(workers=1)
        m.set(signals={"SIGUSR2": ("reload", "destroy"), "SIGWINCH": "default"})
        trace(m).listen(0, "127.0.0.1")
        """).ready()
    for count in (2, 3):  # each when the one before was done
        server.signal(signal.SIGUSR2)
        server.wait_for(rf"EVENT \d+ reloaded {count}")
        server.wait_for(r"EVENT \d+ worker removed", count - 1)
    caught = int(next(line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines()
                      if line.startswith("SigCgt")).split()[1], 16)
    assert not caught >> (signal.SIGWINCH - 1) & 1 and caught >> (signal.SIGUSR2 - 1) & 1
    shop.write("hooked.py", "import time\nfrom tracing import say\nsay('SLOW')\ntime.sleep(600)\n")
    server.signal(signal.SIGUSR2)
    server.wait_for("^SLOW$")
    server.signal(signal.SIGUSR2)
    assert server.wait_exit() == 0
    assert "reload failed" not in server.events()


def test_signals_that_are_all_left_to_the_system(shop: Workshop) -> None:
    """Row Y10: with `signals` = False no signal asks the master for anything; its workers end with it."""
    server = shop.script("trace(cluster('app:app').set(workers=1, signals=False)).listen(0, '127.0.0.1')").ready()
    assert fetch(server.address())[0] == 200
    os.kill(server.workers()[0], signal.SIGKILL)  # CHLD is not among them
    server.wait_for(r"EVENT \d+ worker ready", 2)
    server.signal(signal.SIGUSR1)
    assert server.wait_exit() == -signal.SIGUSR1
    server.assert_gone()
