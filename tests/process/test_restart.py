"""Replacing the master: rows R1, R2, R3, R6, O4, O5."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys

import pytest

from benchmarks.strict import load

from ..harness import Script, Workshop, connect, descriptors, eventually, fetch

SERVER = """
m = trace(cluster("app:app").set(workers=2, restart_threshold=0))
m.listen(0, "127.0.0.1")
"""


def restarted(server: Script, count: int) -> int:
    """Wait until the *count*-th restart is complete and the old master has gone; returns the new master's pid."""
    old = server.pid
    server.wait_for(r"^EVENT \d+ restart \{", count)
    server.ready(count + 1)
    eventually(lambda: old not in server.family(), "the old master has gone")
    return server.pid


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_r1_restart_under_load_fails_no_request(shop: Workshop, number: int) -> None:
    """R1: five restarts under load from 64 keep-alive connections: 0 failed requests, a new master each time."""
    server = shop.script(SERVER).ready()
    address, masters = server.address(), {server.pid}
    with load(address, connections=64, timeout=30) as traffic:
        for count in range(1, 6):
            server.signal(number)
            masters.add(restarted(server, count))
            traffic.wait_answered(500, 30)
    assert traffic.report.clean, traffic.report
    assert len(masters) == 6
    assert server.address(6) == address
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert server.events("worker killed", "restart failed") == []


def test_r1_request_in_flight_finishes(shop: Workshop) -> None:
    """R1: a request that is in flight when the new master takes over finishes."""
    server = shop.script(SERVER).ready()
    old = server.pid
    with connect(server.address()) as connection:
        connection.sendall(b"GET /until/go HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(server.address())
        server.signal(signal.SIGHUP)
        server.wait_for(rf"EVENT {old} closing")
        shop.write("go", "")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert restarted(server, 1) != old
    server.signal(signal.SIGTERM)
    server.assert_gone()


FACTS = """
import json
facts = dict(argv=sys.argv, orig=sys.orig_argv[1:], flags=[sys.flags.optimize, sys.flags.utf8_mode], cwd=os.getcwd(),
             pwd=os.environ.get("PWD"), extra=os.environ.get("EXTRA"), parent=os.environ.get("CLUSTER_PARENT_PID"),
             file=os.path.realpath(__file__), handover=os.environ.get("CLUSTER_HANDOVER"),
             worker=os.environ.get("CLUSTER_WORKER"))
m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
m.on("restarting", lambda data: data.update(gift=[1, {"a": "b"}]))
m.on("restart", lambda data: say("GOT", json.dumps(data)))
m.on("start", lambda: say("FACTS", json.dumps(facts), os.environ.get("CLUSTER_HANDOVER")))
m.listen(0, "127.0.0.1")
"""


def _facts(server: Script, count: int) -> dict[str, object]:
    line = server.wait_for(r"^FACTS (.*) None$", count)[1]
    facts: dict[str, object] = json.loads(line)
    return facts


@pytest.mark.parametrize("how", ["script", "module", "installed"])
def test_r1_the_new_master_is_started_the_same_way(shop: Workshop, how: str) -> None:
    """R1: environment, directory, sys.argv and interpreter flags are the same; data of `restarting` arrives once."""
    head = "import os, sys\nfrom cluster import cluster\nfrom tracing import say, trace\n"
    path = shop.write("server.py", head + FACTS)
    if how == "installed":
        path.write_text(f"#!{sys.executable} -O\n" + path.read_text())
        path.chmod(0o755)
    arguments = {
        "script": [sys.executable, "-O", "-X", "utf8", "server.py", "an argument", "--flag"],
        "module": [sys.executable, "-O", "-m", "server", "x"],
        "installed": [str(path), "y"],
    }[how]
    server = shop.run(*arguments, environment={"EXTRA": "kept"}).ready()
    first = _facts(server, 1)
    assert first["parent"] is None and first["extra"] == "kept"
    old = server.pid
    server.signal(signal.SIGHUP)
    restarted(server, 1)
    second = _facts(server, 2)
    assert second.pop("parent") == str(old)
    first.pop("parent")
    assert second.pop("handover") is not None and first.pop("handover") is None
    assert second == first
    assert [line for line in server.lines if line.startswith("GOT")] == ['GOT {"gift": [1, {"a": "b"}]}']
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_r1_a_current_symlink_is_followed_anew(shop: Workshop) -> None:
    """R1: started in a directory by the name of a symlink, a restart runs what the link points to then."""
    head = "import os, sys\nfrom cluster import cluster\nfrom tracing import say, trace\n"
    for release in ("one", "two"):
        shop.write(f"{release}/server.py", head + f"say('RELEASE {release}')\n" + SERVER)
        shop.write(f"{release}/app.py", "def app(environ, start_response):\n    start_response('200 OK', [])\n"
                                        f"    return [b'{release}']\n")
        shop.write(f"{release}/tracing.py", (shop.directory / "tracing.py").read_text())
    link = shop.directory / "current"
    link.symlink_to("one")
    server = shop.run("sh", "-c", f"cd {link} && exec {sys.executable} server.py", cwd=shop.directory).ready()
    assert server.get() == b"one"
    link.unlink()
    link.symlink_to("two")
    server.signal(signal.SIGHUP)
    restarted(server, 1)
    assert server.get() == b"two"
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_r2_broken_replacements_harm_nobody(shop: Workshop) -> None:
    """R2: a replacement with a syntax error, one that dies, one that hangs: `restart failed`, later one works."""
    good = """
        mode = open("mode").read()
        if os.environ.get("CLUSTER_HANDOVER"):
            if mode == "die": os._exit(9)
            if mode == "raise": raise RuntimeError("broken on purpose")
            if mode == "hang":
                import time
                time.sleep(60)
        m = trace(cluster("app:app").set(workers=2, restart_threshold=0, restart_timeout=1, abort_deaths=2))
        m.listen(0, "127.0.0.1")
        """
    shop.write("mode", "good")
    server = shop.script(good).ready()
    path = shop.directory / "server.py"
    source, app = path.read_text(), (shop.directory / "app.py").read_text()
    workers = server.workers()
    before = len(descriptors(server.pid))
    reasons = []
    for mode in ("die", "raise", "hang", "syntax", "application"):
        shop.write("mode", mode)
        path.write_text("def (:\n" if mode == "syntax" else source)
        (shop.directory / "app.py").write_text("1 / 0\n" if mode == "application" else app)
        server.signal(signal.SIGHUP)
        reasons.append(server.wait_for(r"^EVENT \d+ restart failed (.*)", len(reasons) + 1)[1])
        assert server.workers()[:2] == workers and int(server.get()) in workers
    assert "exit code 9" in reasons[0] and "exit code 1" in reasons[1] and "not ready after 1 s" in reasons[2]
    assert "exit code 1" in reasons[3] and "exit code 3" in reasons[4]
    assert "RuntimeError: broken on purpose" in server.output and "SyntaxError" in server.output
    shop.write("mode", "good")
    (shop.directory / "app.py").write_text(app)
    eventually(lambda: server.workers() == workers, "the replacements are gone")
    assert len(descriptors(server.pid)) == before
    server.signal(signal.SIGHUP)
    restarted(server, 1)
    assert int(server.get()) in server.workers()
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_r2_twenty_restarts(shop: Workshop) -> None:
    """R2: 20 restarts in a row leave one master, two workers, no descriptor leak; two requests → one replacement."""
    server = shop.script(SERVER).ready()
    before = len(descriptors(server.pid))
    for count in range(1, 21):
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGUSR2)
        restarted(server, count)
    eventually(lambda: len(server.workers()) == 2, "two workers")
    assert len(server.family()) == 3
    # one more than at first: the end of the old master's channel has been closed, nothing else is added
    assert len(descriptors(server.pid)) <= before + 1
    assert server.events().count("restarting") == 20
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_r3_restart_by_sigterm_cuts_the_old_workers_off(shop: Workshop) -> None:
    """R3: restart("SIGTERM") does not wait for what the old workers have in flight."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
        m.on("reopen logs", lambda: m.restart("SIGTERM"))
        m.listen(0, "127.0.0.1")
        """).ready()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /sleep/60 HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(server.address())
        server.signal(signal.SIGUSR1)
        assert connection.recv(1000) == b""
    restarted(server, 1)
    assert server.get().isdigit()
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_r6_changed_address(shop: Workshop) -> None:
    """R6: the new address is bound; the old one goes with the old master; unix sockets and their files, too."""
    shop.write("names", "a.sock b.sock")
    server = shop.script("""
        names = open("names").read().split()
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
        m.listen([f"unix:{name}" for name in names])
        """).ready()
    a, b, c = (str(shop.directory / f"{name}.sock") for name in "abc")
    assert fetch(a)[0] == fetch(b)[0] == 200
    kept = os.stat(b).st_ino
    shop.write("names", "b.sock c.sock")
    server.signal(signal.SIGHUP)
    restarted(server, 1)
    assert not os.path.exists(a) and os.stat(b).st_ino == kept
    assert fetch(b)[0] == fetch(c)[0] == 200
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert not os.path.exists(b) and not os.path.exists(c)


UNIX = """
    m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
    m.bind("unix:a.sock", mode=0o640).start()
    """


def test_r6_a_socket_file_that_was_removed_is_made_anew(shop: Workshop) -> None:
    """R6, R1: a restart heals an address whose file somebody has removed."""
    server = shop.script(UNIX).ready()
    path = shop.directory / "a.sock"
    path.unlink()
    server.signal(signal.SIGHUP)
    restarted(server, 1)
    assert fetch(str(path))[0] == 200 and stat.S_IMODE(path.stat().st_mode) == 0o640
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert not path.exists()


@pytest.mark.parametrize("what", ["link", "socket"])
def test_r6_what_is_not_ours_is_left_alone(shop: Workshop, what: str) -> None:
    """R6: what somebody has put in the place of our socket's file keeps mode and owner, and stays."""
    server = shop.script(UNIX).ready()
    path, victim = shop.directory / "a.sock", shop.write("victim", "theirs")
    victim.chmod(0o600)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        if what == "link":
            path.symlink_to(victim)
        else:
            theirs.bind(str(path))
            theirs.listen()
            path.chmod(0o600)
        server.signal(signal.SIGHUP)
        server.wait_for(r"EVENT \d+ restart failed")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and victim.read_text() == "theirs"
        server.signal(signal.SIGQUIT)
        server.assert_gone()
        assert path.is_symlink() or path.is_socket()
        path.unlink()


def test_r6_old_master_killed_in_the_middle(shop: Workshop) -> None:
    """R6: with the old master killed while the replacement starts, the replacement carries on."""
    server = shop.script("""
        if os.environ.get("CLUSTER_HANDOVER"):
            say("REPLACEMENT", os.getpid())
            sys.stdin.readline()
        m = trace(cluster("app:app").set(workers=1, restart_threshold=0))
        m.listen(0, "127.0.0.1")
        """, stdin=subprocess.PIPE).ready()
    server.signal(signal.SIGHUP)
    new = int(server.wait_for(r"^REPLACEMENT (\d+)")[1])
    server.signal(signal.SIGKILL)
    server.wait_exit()
    assert server.process.stdin is not None
    server.process.stdin.write(b"go on\n")
    server.process.stdin.close()
    server.ready(2)
    assert server.pid == new
    assert fetch(server.address(2))[0] == 200
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_o4_cyclic_restart_waits(shop: Workshop) -> None:
    """O4: a restart within the threshold waits to its end; `cyclic restart` once; more requests add nothing."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1, restart_threshold=1.5))
        m.listen(0, "127.0.0.1")
        """).ready()
    for _ in range(3):
        server.signal(signal.SIGHUP)
    seconds = float(server.wait_for(r"cyclic restart ([\d.]+)")[1])
    assert 0 < seconds <= 1.5
    restarted(server, 1)
    server.signal(signal.SIGTERM)
    server.assert_gone()
    assert server.events().count("cyclic restart") == 1 and server.events().count("restarting") == 1


def test_o5_unrelated_script_below_us_is_a_master(shop: Workshop) -> None:
    """O5: a cluster script started as a subprocess of a worker or of a replaced master comes up as a master."""
    shop.write("inner.py", """
        import os
        from cluster import cluster
        from tracing import say, trace
        m = trace(cluster("app:app").set(workers=1))
        m.on("ready", lambda: (say("INNER", os.getppid(), m.is_master, os.environ.get("CLUSTER_WORKER")), m.close()))
        m.listen(0, "127.0.0.1")
        """)
    server = shop.script("""
        import subprocess
        def start_inner():
            subprocess.Popen([sys.executable, "inner.py"])
        m = cluster("app:app").set(workers=1, restart_threshold=0)
        m.on("after fork", lambda worker: start_inner())
        m.on("restart", lambda data: start_inner())
        trace(m).listen(0, "127.0.0.1")
        """).ready()
    (worker,) = server.workers()
    server.wait_for(rf"^INNER {worker} True None")
    server.signal(signal.SIGHUP)
    server.wait_for(r"^EVENT \d+ restart \{")
    server.wait_for("^INNER", 3)
    masters = [int(match[1]) for line in server.lines if (match := re.match(r"EVENT (\d+) restart \{", line))]
    assert len(masters) == 1
    os.kill(masters[0], signal.SIGTERM)
    server.assert_gone()
