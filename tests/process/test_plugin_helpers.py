"""The helper process of mail() and redis_log(): what it runs, how it ends, and what is told of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from ..harness import Script, Workshop, eventually, fetch

ROOT = Path(__file__).parents[2]

#: nothing but what a test waits for may end the wait for a helper
SERVER = """
from cluster.plugins import _errand
_errand._REST = 600.0
trace(cluster({app!r}).set("abort deaths", 2).set(workers=1).use({plugin})).listen(0, "127.0.0.1")
"""

MAIL = "package.mail('a@example.com', sendmail='./sendmail', interval=0)"
REDIS = "package.redis_log('redis://127.0.0.1:1')"


def sendmail(shop: Workshop) -> Path:
    """Make a sendmail command that waits for the file `go`; returns where it puts the mails."""
    shop.write("sendmail", "#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.05; done\necho X-Helper: $PPID >> mails\n"
               "kill -0 $CLUSTER_MASTER_PID 2> /dev/null && echo X-Master: lives >> mails\ncat >> mails\n").chmod(0o755)
    return shop.directory / "mails"


def helper(server: Script) -> int:
    """Wait for the pid of the master's helper."""

    def look() -> list[int]:
        found = []
        for pid in server.workers():
            with contextlib.suppress(FileNotFoundError):
                if b"_start_helper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    return int(eventually(look, "a helper")[0])


def busy_helper(server: Script) -> int:
    """Have the application raise, and wait until the helper has begun with the mail; returns its pid."""
    assert fetch(server.address(), "/raise")[0] == 500
    pid = helper(server)
    eventually(lambda: server.workers(pid), "the sendmail command runs")
    return pid


@pytest.mark.parametrize("plugin, told", [
    ("package.mail('a@example.com', port=1)", "mail: ConnectionRefusedError"), (REDIS, "redis_log: ConnectionError"),
])
def test_code_that_lies_about_is_not_run(shop: Workshop, plugin: str, told: str) -> None:
    """Fault: a module in the current directory was run in place of the real one; nor is one beside the script."""
    elsewhere = shop.directory / "elsewhere"
    for name in ("smtplib.py", "redis.py", "elsewhere/smtplib.py", "elsewhere/redis.py"):
        shop.write(name, "open(__file__ + '.run', 'w').close()")
    server = shop.script(SERVER.format(app="app:app", plugin=plugin), cwd=elsewhere).ready()
    assert fetch(server.address(), "/raise")[0] == 500
    server.wait_for(f"^cluster: {told}")
    assert list(shop.directory.rglob("*.run")) == []
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_the_helper_runs_the_masters_own_package(shop: Workshop) -> None:
    """One that lies beside the script, and is not the one that is installed."""
    mails = sendmail(shop)
    shop.write("go", "")
    shutil.copytree(ROOT / "cluster", shop.directory / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    copy = shop.directory / "cluster/plugins/_send_mail.py"
    copy.write_text(copy.read_text().replace('mail["From"]', 'mail["X-Copy"], mail["From"]').replace(
        'settings["sender"],', '"yes", settings["sender"],'))
    server = shop.script(SERVER.format(app="app:app", plugin=MAIL), environment={"PYTHONPATH": ""}).ready()
    assert fetch(server.address(), "/raise")[0] == 500
    eventually(lambda: mails.exists() and "X-Copy: yes" in mails.read_text(), "the copy's mail")
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_a_package_that_cannot_be_imported_is_told(shop: Workshop) -> None:
    """Fault: the traceback went to stderr and the messages nowhere. The package is found by PYTHONPATH, as ever."""
    shop.write("lib/redis.py", "raise ImportError('this one is broken')")
    path = os.pathsep.join([str(shop.directory / "lib"), os.environ.get("PYTHONPATH", "")])
    server = shop.script(SERVER.format(app="app:app", plugin=REDIS), environment={"PYTHONPATH": path}).ready()
    server.wait_for(r"^cluster: redis_log: ImportError: this one is broken; \d+ lost$")
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    server.wait_for(r"^cluster: redis_log: the cluster has ended; \d+ may be lost$")  # the same reason is told once
    assert "Traceback" not in server.output and len(server.output.split("redis_log")) == 3


def test_a_helper_that_dies_is_told(shop: Workshop) -> None:
    """Fault: what it had to do was lost without a word. The next message has a new one."""
    mails = sendmail(shop)
    server = shop.script(SERVER.format(app="app:app", plugin=MAIL)).ready()
    pid = busy_helper(server)
    assert fetch(server.address(), "/raise")[0] == 500
    server.wait_for("EVENT .* worker exception", 2)
    os.kill(pid, signal.SIGKILL)
    server.wait_for(r"^cluster: mail: the helper ended \(signal 9\); 2 lost$")
    (shop.directory / "go").touch()

    def mailed_by_another() -> bool:
        assert fetch(server.address(), "/raise")[0] == 500  # within a second of the last helper's start none is started
        text = mails.read_text() if mails.exists() else ""
        return len(set(re.findall(r"^X-Helper: (\d+)", text, re.MULTILINE)) - {str(pid)}) == 1

    eventually(mailed_by_another, "a mail by another helper")
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_a_graceful_end_waits_for_the_helper(shop: Workshop) -> None:
    """Also when the signal went to the whole process group: to the helper it means nothing."""
    mails = sendmail(shop)
    server = shop.script(SERVER.format(app="app:app", plugin=MAIL)).ready()
    pid = busy_helper(server)
    os.killpg(server.session, signal.SIGQUIT)
    server.wait_for("EVENT .* worker removed")
    assert server.workers() == [pid]
    (shop.directory / "go").touch()
    assert server.wait_exit() == 0
    server.assert_gone()
    assert "X-Master: lives" in mails.read_text() and "lost" not in server.output


def test_an_end_at_once_does_not_wait_for_the_helper(shop: Workshop) -> None:
    """Fault: `stop` took 5 s while mail hung. What the helper is busy with, it finishes."""
    mails = sendmail(shop)
    server = shop.script(SERVER.format(app="app:app", plugin=MAIL)).ready()
    busy_helper(server)
    server.signal(signal.SIGTERM)
    server.wait_exit()
    server.wait_for("^cluster: mail: the cluster has ended; 1 may be lost$")
    (shop.directory / "go").touch()
    server.assert_gone()
    assert "RuntimeError: raised on purpose" in mails.read_text() and "X-Master" not in mails.read_text()


def test_that_no_worker_gets_ready_is_mailed(shop: Workshop) -> None:
    """Nobody has asked for that end: who runs the service would kill what the master leaves behind."""
    mails = sendmail(shop)
    shop.write("broken.py", "def app(environ, start_response): pass\nraise RuntimeError('raised at import')")
    server = shop.script(SERVER.format(app="broken:app", plugin=MAIL))
    server.wait_for("^cluster: 2 worker deaths before any got ready")
    (shop.directory / "go").touch()
    assert server.wait_exit() == 3
    server.assert_gone()
    assert "X-Master: lives" in mails.read_text() and "raised at import" in mails.read_text()
