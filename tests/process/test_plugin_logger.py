"""logger(): rows L1, L2, L3."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ..harness import Workshop, connect, descriptors, eventually, fetch

SERVER = """
trace(cluster("./shopfront.py").set(workers=2, timeout=0.5, restart_threshold=0).use(package.logger({options})))\\
    .listen(0, "127.0.0.1")
"""

SITE = """
import os, sys, time, subprocess
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise RuntimeError("raised on purpose")
    if path == "/stuck":
        time.sleep(60)
    if path == "/err":
        sys.stderr.write("to stderr\\n")
    if path == "/long":
        print("L" * 20000, flush=True)
    if path == "/parts":
        print("par", end="", flush=True); print("ts", flush=True)
    if path == "/child":
        subprocess.run(["echo", "from a child"], stdout=sys.stdout)
    print("request", path)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def logs(shop: Workshop, name: str) -> list[str]:
    """Lines of a log file."""
    return (shop.directory / "logs" / name).read_text().splitlines()


def has(shop: Workshop, name: str, pattern: str, count: int = 1) -> None:
    """Wait for *count* lines that match."""
    eventually(lambda: sum(bool(re.search(pattern, line)) for line in logs(shop, name)) >= count,
               f"{count} of {pattern!r} in {name}")


def test_l1_l2_a_whole_life(shop: Workshop) -> None:
    """L1, L2: each message at its level in master.log, workers' output in its files, nothing on the master's own."""
    shop.write("shopfront.py", SITE)
    server = shop.script(SERVER.format(options='level="debug"'))
    server.ready()
    for path in ("/", "/err", "/parts", "/long", "/child"):
        server.get(path)
    assert fetch(server.address(), "/raise")[0] == 500
    has(shop, "workers.access.log", r"^request /child$")
    access = logs(shop, "workers.access.log")
    assert {"request /", "parts", "L" * 20000, "from a child"} <= set(access)
    assert "to stderr" in logs(shop, "workers.error.log")
    assert "RuntimeError: raised on purpose" in logs(shop, "workers.error.log")
    has(shop, "master.log", r"\[ERROR\] worker \d uncaught exception RuntimeError: raised on purpose$")
    has(shop, "master.log", r"^    RuntimeError: raised on purpose$")
    victim = int(server.get())
    os.kill(victim, signal.SIGKILL)
    has(shop, "master.log", r"\[ERROR\] worker \d died \(signal 9, up \d+\.\d s\)$")
    server.wait_for("EVENT .* worker ready", 3)
    os.kill(server.pid, signal.SIGHUP)
    server.ready(2)
    has(shop, "master.log", r"\[INFO\] restart complete$")
    has(shop, "master.log", r"\[INFO\] shutdown complete$")
    with connect(server.address(2)) as stuck:
        stuck.sendall(b"GET /stuck HTTP/1.1\r\nHost: t\r\n\r\n")
        has(shop, "workers.access.log", "request /", 2)
        fetch(server.address(2))
        os.kill(server.pid, signal.SIGQUIT)
        server.assert_gone()
    text = "\n".join(logs(shop, "master.log"))
    for expected in (
        r"\[INFO\] master started$", r"\[INFO\] spawned worker 0", r"\[DEBUG\] worker 0 connected$",
        r"\[INFO\] worker 1 ready$", r"\[INFO\] restart requested$", r"\[WARNING\] shutting down master$",
        r"\[WARNING\] sent kill\(SIGQUIT\) to all workers$", r"\[WARNING\] worker \d timed out after 0.5 s",
    ):
        assert re.search(expected, text, re.M), (expected, text)
    foreign = [line for line in server.lines if not line.startswith(("EVENT ", "ADDRESS ", "IMPORTED "))]
    assert foreign == []


def test_l2_failures_of_reload_and_restart(shop: Workshop) -> None:
    """L2: a failed reload with its traceback, a failed restart, a cyclic one; L2 `reload complete`, waiting."""
    shop.write("shopfront.py", SITE)
    server = shop.script("""
        m = cluster("./shopfront.py").set(workers=1, restart_threshold=1.5, drain_grace=0.2).use(package.logger())
        m.command("renew", m.reload, workers=True)
        m.set("signals", {"SIGWINCH": "renew"})
        trace(m).listen(0, "127.0.0.1")
    """)
    server.ready()
    server.signal(signal.SIGWINCH)
    has(shop, "master.log", r"\[INFO\] reload complete \(generation 2\)$")
    shop.write("shopfront.py", "raise ValueError('broken site')")
    server.signal(signal.SIGWINCH)
    has(shop, "master.log", r"\[ERROR\] reload failed: ")
    has(shop, "master.log", r"^    ValueError: broken site$")
    shop.write("server.py", "raise SystemExit(9)")
    server.signal(signal.SIGHUP)
    has(shop, "master.log", r"\[ERROR\] restart failed: ")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert not re.search(r"debug|connected$", "\n".join(logs(shop, "master.log")).lower())


def test_l2_waiting_and_cyclic(shop: Workshop) -> None:
    """L2: `worker N waiting on C connections`, `cyclic restart detected, restarting in T s`."""
    shop.write("shopfront.py", SITE.replace("time.sleep(60)", "time.sleep(0.4)"))
    settings = "restart_threshold=60, drain_grace=0.1"
    server = shop.script(SERVER.format(options="").replace("timeout=0.5, restart_threshold=0", settings)).ready()
    server.signal(signal.SIGHUP)
    has(shop, "master.log", r"\[WARNING\] cyclic restart detected, restarting in \d+\.\d s$")
    with connect(server.address()) as slow:
        slow.sendall(b"GET /stuck HTTP/1.1\r\nHost: t\r\n\r\n")
        fetch(server.address())
        fetch(server.address())
        server.signal(signal.SIGQUIT)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait_exit() == 0
    has(shop, "master.log", r"\[INFO\] worker \d waiting for 1 request: GET \S+ 127\.0\.0\.1 for \d+\.\d s$")


def test_l3_json_and_reopening_under_load(shop: Workshop) -> None:
    """L3: `format="json"`, `m.log`, and a rotation by rename under load that loses and doubles no line."""
    shop.write("shopfront.py", SITE)
    server = shop.script("m = cluster('./shopfront.py').set(workers=2).use(package.logger(format='json'))\n"
                         "m.log.info('from the user\\nsecond %s', 'line')\ntrace(m).listen(0, '127.0.0.1')")
    server.ready()
    done = threading.Event()
    sent = [0]

    def load() -> None:
        while not done.is_set():
            server.get("/load")
            sent[0] += 1

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    folder = shop.directory / "logs"
    for turn in range(3):
        before = sent[0]
        eventually(lambda before=before: sent[0] > before + 30, "requests")
        for name in ("master.log", "workers.access.log", "workers.error.log"):
            (folder / name).rename(folder / f"{name}.{turn}")
        server.signal(signal.SIGUSR1)
        eventually(lambda: (folder / "workers.access.log").exists(), "the file made anew")
        has(shop, "workers.access.log", "request")
    done.set()
    for thread in threads:
        thread.join()
    server.get("/err")
    has(shop, "workers.error.log", "to stderr")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    lines = [line for path in folder.glob("workers.access.log*") for line in path.read_text().splitlines()]
    assert lines.count("request /load") == sent[0]
    entries = [json.loads(line) for path in folder.glob("master.log*") for line in path.read_text().splitlines()]
    assert any(e["message"] == "from the user" and e["detail"] == "second line" for e in entries)
    (end,) = [e for e in entries if e["message"] == "shutdown complete"]
    assert {"level": "info", "pid": server.pid}.items() <= end.items()


def test_l3_a_rotation_during_a_restart_reaches_both_masters(shop: Workshop) -> None:
    """L3: whoever rotates knows of one master. The other one, and its workers, write to the new files, too."""
    shop.write("shopfront.py", SITE.replace("time.sleep(60)", "wait('leave')") + """
def wait(name):
    while not os.path.exists(name):
        time.sleep(0.01)
if os.environ.get("CLUSTER_PARENT_PID"):
    wait("go")
""")
    server = shop.script("""
        m = cluster("./shopfront.py").set(workers=1, restart_threshold=0).use(package.logger(level="debug"))
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    old, folder = server.pid, shop.directory / "logs"

    def rotate(turn: int) -> None:
        for path in folder.glob("*.log"):
            path.rename(f"{path}.{turn}")
        server.signal(signal.SIGUSR1)
        eventually(lambda: not stale(), "nobody has the renamed files open")

    def stale() -> list[str]:
        return [name for pid in server.family() for name in descriptors(pid) if re.search(r"\.log\.\d$", name)]

    server.signal(signal.SIGHUP)
    server.wait_for(rf"EVENT (?!{old} )\d+ worker connected")  # it holds the files, and waits for `go`
    rotate(1)
    with connect(server.address()) as slow:
        slow.sendall(b"GET /stuck HTTP/1.1\r\nHost: t\r\n\r\n")
        server.get()
        has(shop, "workers.access.log", "^request /$")
        shop.write("go", "")
        server.ready(2)
        server.wait_for(rf"EVENT {old} closing")
        rotate(2)
        shop.write("leave", "")
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    has(shop, "master.log", rf"\[{old}\] \[INFO\] shutdown complete$")
    has(shop, "workers.access.log", "^request /stuck$")
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_a_message_cannot_forge_a_line(shop: Workshop) -> None:
    """L1: what is below the first line is indented, so that each line that begins with a time is the master's."""
    shop.write("shopfront.py", SITE.replace("raised on purpose", "first\\n[2026-01-01 00:00:00,000] [1] [INFO] forged"))
    server = shop.script(SERVER.format(options="")).ready()
    assert fetch(server.address(), "/raise")[0] == 500
    has(shop, "master.log", r"^    \[2026-01-01 00:00:00,000\] \[1\] \[INFO\] forged$")
    assert [line for line in logs(shop, "master.log") if line.endswith("forged") and not line.startswith(" ")] == []
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_link_is_given_away(shop: Workshop, link: Any) -> None:
    """With the setting `user` what somebody has put into the directory stays whose it is."""
    roots = shop.write("roots", "")
    (shop.directory / "logs").mkdir()
    server = shop.script("""
        m = cluster("app:app").set(workers=0, user="nobody").use(package.logger())
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    errors = shop.directory / "logs" / "workers.error.log"
    errors.unlink()
    link(roots, errors)
    server.signal(signal.SIGUSR1)
    server.wait_for("EVENT .* reopen logs")
    if link is os.symlink:
        has(shop, "master.log", "cannot open .*workers.error.log anew: ")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert roots.owner() == "root" and roots.read_text() == ""
    assert (shop.directory / "logs" / "master.log").owner() == "nobody"


def test_l3_fifty_respawns_leak_nothing(shop: Workshop) -> None:
    """L3: 50 respawns leave the master with as many descriptors as before."""
    shop.write("shopfront.py", SITE)
    server = shop.script("""
        m = trace(cluster("./shopfront.py").set(workers=2).use(package.logger()))
        m.command("renew", m.restart_workers)
        m.set("signals", {"SIGWINCH": "renew"}).listen(0, "127.0.0.1")
    """).ready()
    before = len(descriptors(server.pid))
    for turn in range(25):
        server.signal(signal.SIGWINCH)
        server.wait_for(r"EVENT \d+ worker ready", 2 * turn + 4)
        server.wait_for(r"EVENT \d+ worker removed", 2 * turn + 2)
    eventually(lambda: len(descriptors(server.pid)) == before, "as many descriptors as before")
    for worker in server.workers():
        assert sum("logs/" in name for name in descriptors(worker)) == 3
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("options", ['level="loud"', 'format="xml"', 'directory="app.py/logs"'])
def test_start_up_failures_are_loud(shop: Workshop, options: str) -> None:
    """Failures at start-up end the script with another code than 0, and say why."""
    shop.write("shopfront.py", SITE)
    server = shop.script(SERVER.format(options=options))
    assert server.wait_exit() == 2
    server.wait_for("^cluster: logger: ")
    assert "Traceback" not in server.output


def test_a_failed_start_is_on_the_terminal_too(shop: Workshop) -> None:
    """Failures at start-up are loud: an address that is taken, an application that does not start."""
    body = """
        cluster("./shopfront.py").set(workers=1, abort_deaths=2).use(package.logger()).listen("unix:site.sock")
    """
    shop.write("shopfront.py", SITE)
    first = shop.script(body)
    eventually((shop.directory / "logs" / "master.log").exists, "the log")
    has(shop, "master.log", "worker 0 ready")
    second = shop.run(*first.process.args)
    assert second.wait_exit() == 1
    second._reader.join(5)
    reason = f"cannot listen on unix:{shop.directory}/site.sock: already in use"
    assert second.lines == [f"cluster: {reason}"]
    has(shop, "master.log", rf"\[ERROR\] {reason}$")
    first.signal(signal.SIGQUIT)
    assert first.wait_exit() == 0 and first.output == ""
    shop.write("shopfront.py", "raise ValueError('broken site')")
    shop.write("checked.py", """
        from cluster import cluster, logger, repl
        cluster("./shopfront.py").use(logger(), repl("app.py/sock")).listen("unix:site.sock")
    """)
    checked = shop.run(sys.executable, "checked.py")
    assert checked.wait_exit() == 2
    has(shop, "master.log", r"\[ERROR\] .*app.py/sock: ")
    third = shop.run(*first.process.args)
    assert third.wait_exit() == 3
    third._reader.join(5)
    assert third.lines == ["cluster: 2 worker deaths before any got ready"]
    has(shop, "master.log", r"\[ERROR\] 2 worker deaths before any got ready$")


def test_l1_worker_of_another_user_can_rotate(shop: Workshop, tmp_path: Path) -> None:
    """L3 with the setting `user`: a worker without the master's rights opens the files anew."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for folder in (tmp_path, *tmp_path.parents):
        if not os.stat(folder).st_mode & 0o001:
            if folder.owner() != "root":
                continue
            folder.chmod(folder.stat().st_mode | 0o011)
    server = shop.script("""
        import gevent
        def work(worker):  # imports nothing: the interpreter's files may be out of its reach
            while True:
                print("tick")
                gevent.sleep(0.02)
        trace(cluster(package.job(work)).set(workers=1, user="nobody").use(package.logger())).start()
    """).ready()
    folder = shop.directory / "logs"
    has(shop, "workers.access.log", "tick")
    (folder / "workers.access.log").rename(folder / "old")
    server.signal(signal.SIGUSR1)
    eventually((folder / "workers.access.log").exists, "the file made anew")
    has(shop, "workers.access.log", "tick")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


LOGGING = """
    import os, cluster
    def app(environ, start_response):
        worker = cluster.worker()
        worker.log.info("asked for %s", environ["PATH_INFO"])
        worker.log.debug("too much")
        worker.log.warning("two lines\\n[2026-01-01 00:00:00,000] [1] [ERROR] forged")
        worker.log_event("visit", {"path": environ["PATH_INFO"]})
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("plugin", ["logger()", 'logger(format="json")', "exceptions()"])
def test_an_application_named_by_a_string_can_log(shop: Workshop, plugin: str) -> None:
    """Fault: it had no way to the log. They are in master.log, also while the master is stopped; else on stderr."""
    shop.write("logging_app.py", LOGGING)
    server = shop.script(f"""
        m = cluster("logging_app:app").set(workers=1).use(package.{plugin})
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    server.signal(signal.SIGSTOP)
    pid = server.get("/hello").decode()
    if plugin == "exceptions()":
        server.wait_for(rf"^\[[^]]+\] \[{pid}\] \[INFO\] asked for /hello$")
        server.wait_for("visit: {'path': '/hello'}$")
        lines = server.lines
    else:
        has(shop, "master.log", "visit: {'path': '/hello'}")
        has(shop, "master.log", "asked for /hello")
        lines = logs(shop, "master.log")
        assert "asked for" not in server.output
    server.signal(signal.SIGCONT)
    if "json" in plugin:
        entry = next(entry for entry in map(json.loads, lines) if entry["message"] == "asked for /hello")
        assert (entry["pid"], entry["worker"], entry["level"]) == (int(pid), 0, "info")
    else:
        assert not any(line.startswith("[2026-01-01") for line in lines)
        assert sum("forged" in line for line in lines) == 1
    assert not any("too much" in line for line in lines)
    server.signal(signal.SIGQUIT)
    server.assert_gone()
