"""reload(): rows W1, W2."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import strict
from cluster.plugins.reload import IGNORED, differing, scan

from ..harness import DEADLINE, Script, Workshop, eventually, fetch

SERVER = """
trace(cluster("./shop.py").set(workers=2).use(package.reload({options}))).listen(0, "127.0.0.1")
"""

SHOP = """
import sys
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "{size}")])
    return [b"{text}"]
"""


def page(text: str) -> str:
    """An application that answers with *text*."""
    return SHOP.format(text=text, size=len(text))


def serve(shop: Workshop, options: str = "", **settings: str) -> Script:
    """A cluster that watches its directory."""
    shop.write("shop.py", page("v0"))
    return shop.script(SERVER.format(options=options), **settings).ready()


def shows(server: Script, text: str) -> None:
    """Wait until every answer is *text*."""
    eventually(lambda: {server.get() for _ in range(4)} == {text.encode()}, f"answers {text}")


def end(server: Script) -> None:
    """Close it."""
    server.signal(signal.SIGQUIT)
    server.assert_gone()


@contextlib.contextmanager
def load(server: Script) -> Iterator[None]:
    """Requests all the time, beside the block, on connections that are kept and on fresh ones; none may fail."""
    failed: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                status, body = fetch(server.address())
                if status != 200:
                    failed.append(repr(body))
            except (OSError, AssertionError) as error:
                failed.append(repr(error))

    fresh = threading.Thread(target=ask)
    fresh.start()
    try:
        with strict.load(server.address(), 8, timeout=DEADLINE) as traffic:
            yield
    finally:
        done.set()
        fresh.join(DEADLINE)
    assert traffic.report.clean and failed == [], (traffic.report, failed)


def test_w1_a_burst_is_one_reload(shop: Workshop) -> None:
    """W1: 20 saves in a second are one reload at the end state; same size, same second; no bytecode is left."""
    server = serve(shop, "interval=0.4")
    pause = threading.Event()
    for turn in range(1, 21):
        shop.write("shop.py", page(f"v{turn % 10}" if turn < 20 else "ok"))
        pause.wait(0.05)  # the burst is a stretch of time
    server.wait_for(r"EVENT \d+ reloaded")
    shows(server, "ok")
    assert server.events("reloading") == ["reloading"] and server.events("restarting") == []
    server.wait_for("^cluster: changed - shop.py$")
    for text in ("a1", "b2", "c3"):
        began = time.time()
        shop.write("shop.py", page(text))
        os.utime(shop.directory / "shop.py", ns=(int(began) * 10**9 + 5, int(began) * 10**9 + int(text[1])))
        shows(server, text)
    assert not list(shop.directory.rglob("*.pyc"))
    end(server)


def test_w1_new_and_deleted_files_and_what_is_ignored(shop: Workshop) -> None:
    """W1: new and deleted files count, those in ignored directories and of other kinds do not."""
    server = serve(shop)
    shop.write("venv/x.py", "")
    shop.write("notes.txt", "")
    shop.write("package/new.py", "")
    server.wait_for("changed - package/new.py")
    server.wait_for(r"EVENT \d+ reloaded")
    (shop.directory / "package" / "new.py").unlink()
    server.wait_for("changed - package/new.py", 2)
    server.wait_for(r"EVENT \d+ reloaded", 2)
    end(server)
    assert not re.search("venv|notes", "\n".join(line for line in server.lines if "changed" in line))


def test_w1_a_file_that_changes_all_the_time(shop: Workshop) -> None:
    """W1: what is written again and again does not keep other changes from counting."""
    server = serve(shop, "interval=0.02")
    done = threading.Event()

    def write() -> None:
        for turn in itertools.cycle(range(10)):
            if done.wait(0.005):
                return
            shop.write("generated.py", f"turn = {turn:{turn + 1}}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        server.wait_for(r"EVENT \d+ reloading")
        shop.write("shop.py", page("ok"))
        shows(server, "ok")
    finally:
        done.set()
        writer.join(DEADLINE)
    end(server)


def test_w2_what_changes_during_a_restart_that_fails(shop: Workshop) -> None:
    """W2: a change of the application, and a fix of the script, are not lost with the new master that fails."""
    server = serve(shop, "interval=0.02")
    script = shop.directory / "server.py"
    good = script.read_text()
    slow = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\nraise SystemExit('broken')\n"
    script.write_text(slow + good)
    server.wait_for(r"EVENT \d+ restarting")
    shop.write("shop.py", page("v1"))
    server.wait_for("changed - shop.py")
    shop.write("go", "")
    server.wait_for(r"EVENT \d+ restart failed")
    shows(server, "v1")
    (shop.directory / "go").unlink()
    script.write_text(slow + good + "# edited")
    server.wait_for(r"EVENT \d+ restarting", 2)
    script.write_text(good.replace("workers=2", "workers=1"))
    server.wait_for("changed - server.py", 3)
    shop.write("go", "")
    server.ready(2)
    eventually(lambda: len(server.workers()) == 1, "one worker")
    end(server)


def test_w1_a_master_that_stays(shop: Workshop) -> None:
    """W1, R5: where a restart only reloads, it is said that the script's change is not in effect."""
    shop.write("shop.py", page("v0"))
    server = shop.script(SERVER.replace("workers=2", "workers=1, restart='reload'").format(options="")).ready()
    script = shop.directory / "server.py"
    script.write_text(script.read_text().replace("workers=1", "workers=2"))
    server.wait_for("^cluster: reload: server.py takes effect when the cluster is started anew$")
    server.wait_for(r"EVENT \d+ reloaded 2$")
    end(server)


def test_w2_broken_code_under_load(shop: Workshop) -> None:
    """W2: code that does not import leaves the last good workers serving; the fix heals it; no request fails."""
    server = serve(shop)
    with load(server):
        for turn, broken in enumerate(("def app(:", "raise ValueError('not today')"), 1):
            shop.write("shop.py", broken)
            server.wait_for(r"EVENT \d+ reload failed", turn)
            server.wait_for("SyntaxError" if turn == 1 else "ValueError: not today")
            shows(server, f"v{turn - 1}")
            shop.write("shop.py", page(f"v{turn}"))
            shows(server, f"v{turn}")
            server.wait_for(r"EVENT \d+ reloaded", turn)  # its first worker answers before that
    end(server)


def test_a_start_that_cannot_succeed_waits_for_the_next_change(shop: Workshop) -> None:
    """Row W6: nothing is forked and nothing said while it waits; another broken version is told, and it waits on."""
    shop.write("shop.py", "import no_such_module")
    server = shop.script(SERVER.format(options=""))
    server.wait_for("^cluster: no worker can start before that is mended; waiting until a file changes$")
    eventually(lambda: server.workers() == [], "no worker")
    for turn, broken in enumerate(("raise ValueError('not today')", "from json import no_such_thing"), 1):
        shop.write("shop.py", broken)
        server.wait_for(r"EVENT \d+ reload failed", turn)
        eventually(lambda: server.workers() == [], "no worker again")
    assert server.output.count("ModuleNotFoundError: ") == 2  # on stderr, and with the event
    assert "no_such_thing" in server.output and "before any got ready" not in server.output
    shop.write("shop.py", page("healed"))
    shows(server.ready(), "healed")
    assert len(server.workers()) == 2
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker ready", 3)
    end(server)


def test_a_start_that_waits_can_be_ended_or_restarted(shop: Workshop) -> None:
    """Row W6: by a signal, and by a change of what the master has loaded."""
    shop.write("shop.py", "import no_such_module")
    server = shop.script(SERVER.format(options=""))
    server.wait_for("^cluster: no worker can start before that is mended; waiting")
    path = shop.directory / "server.py"
    path.write_text(path.read_text() + "# changed\n")
    assert "exit code 3" in server.wait_for(r"EVENT \d+ restart failed (.*)")[1]
    shop.write("shop.py", page("healed"))
    shows(server.ready(), "healed")
    end(server)
    shop.write("shop.py", "import no_such_module")
    server = shop.script(SERVER.format(options=""))
    server.wait_for("^cluster: no worker can start before that is mended; waiting")
    end(server)


def test_w1_what_the_master_has_loaded_restarts_it(shop: Workshop) -> None:
    """W1: editing the server script replaces the master, at once; W2: a broken one leaves the old master serving."""
    server = serve(shop)
    script = shop.directory / "server.py"
    good = script.read_text()
    with load(server):
        script.write_text(good.replace("workers=2", "workers=3"))
        server.wait_for("changed - server.py")
        server.ready(2)
        eventually(lambda: len(server.workers()) == 3, "three workers")
        script.write_text(good + "\n)")
        server.wait_for("SyntaxError")
        server.wait_for(r"EVENT \d+ restart failed")
        shows(server, "v0")
        script.write_text(good)
        server.ready(3)
        eventually(lambda: len(server.workers()) == 2, "two workers")
    assert "cyclic restart" not in server.events()
    end(server)


@pytest.mark.parametrize("options, reason", [
    ('"nowhere"', "reload: there is no "), ("interval=0", "interval is a number of seconds above 0"),
    ('signal="SIGNAL"', "no signal 'SIGNAL'"),
])
def test_wrong_options(shop: Workshop, options: str, reason: str) -> None:
    """What cannot be watched is said at once."""
    shop.write("shop.py", page("v0"))
    server = shop.script(SERVER.format(options=options))
    assert server.wait_exit() != 0 and reason in server.output


def test_scan(tmp_path: Path) -> None:
    """W1: nanoseconds and sizes count; files that are named count whatever they are called."""
    for name in ("a.py", "b.txt", "tests/c.py", "deep/er/d.py", "other/e.pyi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def look(*roots: str, extensions: tuple[str, ...] = (".py",)) -> dict[str, tuple[int, int]]:
        return scan([str(tmp_path / root) for root in roots], extensions, frozenset(IGNORED))

    assert sorted(os.path.relpath(path, tmp_path) for path in look(".")) == ["./a.py", "deep/er/d.py"] or sorted(
        os.path.relpath(path, tmp_path) for path in look(".")) == ["a.py", "deep/er/d.py"]
    assert len(look("b.txt", "nothing")) == 1 and len(look("other", extensions=(".pyi", ".txt"))) == 1
    before = look(".")
    os.utime(tmp_path / "a.py", ns=(1, before[next(path for path in before if path.endswith("a.py"))][0] + 1))
    assert [os.path.basename(path) for path in differing(before, look("."))] == ["a.py"]
    os.unlink(tmp_path / "deep/er/d.py")
    assert [os.path.basename(path) for path in differing(before, look("."))] == ["a.py", "d.py"]
