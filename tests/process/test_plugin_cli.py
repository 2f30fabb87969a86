"""cli(): rows C1, C2, C3."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from cluster import __version__

from ..harness import Script, Workshop, eventually

SERVER = """
package.cli.define("-x, --xx, xx", lambda m, *words: f"XX {m.pidof('master')} {' '.join(words)}", "an entry of mine")
m = cluster("app:app").set(workers=2, restart_threshold=0)
m.use(package.pidfiles())
m.command("add", lambda a, b=2: a + b, "Add two numbers.", arguments=[
    package.Argument("a", int, required=True), package.Argument("b", int, 2)])
m.use(package.cli())
trace(m).listen(0, "127.0.0.1")
say("AFTER")
"""


def run(shop: Workshop, *words: str, code: int = 0) -> list[str]:
    """Lines of ``python server.py WORDS``, which ends by itself in under 1 s (twice that on a loaded machine)."""
    began = time.monotonic()
    script = shop.script(SERVER, *words)
    assert script.wait_exit() == code, script.output
    assert time.monotonic() - began < 2
    script._reader.join(5)
    assert not any(line.startswith(("EVENT", "AFTER", "IMPORTED")) for line in script.lines)
    return script.lines


def started(shop: Workshop) -> Script:
    """The cluster itself: no argument, or one that is nobody's."""
    return shop.script(SERVER, "something", "else").ready()


def test_c1_not_running(shop: Workshop) -> None:
    """C1, C2: a message and exit code 1 when nothing runs; help and version work all the same."""
    for words in ("status", "-s", "restart", "-r", "reload", "shutdown", "-g", "stop", "-S"):
        lines = run(shop, words, code=1)
        assert lines[-1].startswith("not running: no pid files in "), lines
    assert run(shop, "resize", "3", code=1)[-1].startswith("not running")
    assert run(shop, "-v") == run(shop, "--version") == [__version__]
    helps = "\n".join(run(shop, "help"))
    assert helps == "\n".join(run(shop, "-h"))
    for expected in ("-s, --status, status", "-S, --stop, stop", "resize N [SIGNAL]", "-x, --xx, xx",
                     "an entry of mine", "add A [B]", "Add two numbers.", "reopen-logs"):
        assert expected in helps


def test_c1_c2_running(shop: Workshop) -> None:
    """C1, C2: every command on a running cluster; a plugin's command runs in the master."""
    server = started(shop)
    now = shop.pids()
    lines = [f"master {server.pid} alive", f"worker 0 {now['worker.0']} alive", f"worker 1 {now['worker.1']} alive"]
    assert run(shop, "status") == run(shop, "-s") == run(shop, "--status") == lines
    assert run(shop, "resize", "3") == ["resize: under way"]
    eventually(lambda: len(server.workers()) == 3, "three workers")
    assert run(shop, "resize", "four", code=2) == ["resize: n is a whole number, not 'four'"]
    assert run(shop, "resize", code=2) == ["resize needs n: resize N [SIGNAL]"]
    assert run(shop, "resize", "-1", code=2) == ["resize() takes a number of workers, not -1"]
    assert "no signal 'SIGFOO'" in run(shop, "spawn", "1", "SIGFOO", code=2)[0] and len(server.workers()) == 3
    for word in ("reopen-logs", "reopen_logs", "reopen logs"):
        assert run(shop, word)[0].startswith("reopen logs: ")
    assert run(shop, "add", "40") == ["42"] and run(shop, "add", "1", "1") == ["2"]
    assert run(shop, "xx", "a", "b") == [f"XX {server.pid} a b"]
    before = server.workers()
    run(shop, "reload")
    eventually(lambda: len(server.workers()) == 3 and not set(before) & set(server.workers()), "new workers")
    for word in ("restart", "-r"):
        old = server.pid
        run(shop, word)
        eventually(lambda old=old: shop.pids()["master"] != old, "a new master")
        server.pid = shop.pids()["master"]
        server.wait_for(f"EVENT {old} close")
    run(shop, "shutdown")
    server.assert_gone()
    assert run(shop, "status", code=1)[0] == f"master {server.pid} dead"
    for word, number in (("stop", "QUIT"), ("-S", "QUIT"), ("-g", "QUIT"), ("close", "QUIT"), ("destroy", "TERM")):
        server = started(shop)
        run(shop, word)
        server.assert_gone()
        assert f"EVENT {server.pid} kill 'SIG{number}'" in server.lines, word


def test_c2_signals_where_nobody_answers(shop: Workshop) -> None:
    """C2: without the socket signals do; with a dead master they go to the workers; a zombie or a stranger is dead."""
    server = started(shop)
    (shop.directory / "pids" / "master.sock").unlink()
    assert "no signal means that" in run(shop, "resize", "3", code=1)[0]
    assert run(shop, "-g") == [f"shutdown: sent SIGQUIT to {server.pid}"]
    server.assert_gone()
    server = started(shop)
    (shop.directory / "pids" / "master.sock").unlink()
    assert run(shop, "destroy") == [f"destroy: sent SIGINT to {server.pid}"]
    server.assert_gone()
    sleeper = shop.run("sleep", "60")
    (shop.directory / "pids" / "worker.0.pid").write_text(f"{sleeper.pid}\n")
    assert run(shop, "status", code=1)[1] == f"worker 0 {sleeper.pid} alive"
    assert run(shop, "destroy") == [f"destroy: the master is dead; sent SIGTERM to {sleeper.pid}"]
    assert sleeper.wait_exit() == -signal.SIGTERM
    stranger = Path(shop.directory / "pids" / "master.pid")
    stranger.write_text(f"{os.getpid()}\n")
    os.utime(stranger, (1, 1))
    assert run(shop, "status", code=1)[0] == f"master {os.getpid()} dead"


def test_c2_who_answers_lives(shop: Workshop) -> None:
    """C2: a master that listens is alive and is asked, whatever became of its pid file; so are its workers."""
    server = started(shop)
    path = shop.directory / "pids" / "master.pid"
    now = shop.pids()
    lines = [f"master {server.pid} alive", f"worker 0 {now['worker.0']} alive", f"worker 1 {now['worker.1']} alive"]
    for file in (path, path.with_name("worker.0.pid")):
        os.utime(file, (time.time() - 3600,) * 2)
    eventually(lambda: run(shop, "status") == lines, "the master answers in time")
    path.with_name("worker.0.pid").touch()
    for text in ("", "rubbish"):
        path.write_text(text)
        assert run(shop, "status") == lines
    path.unlink()
    assert run(shop, "status") == lines
    second = shop.script(SERVER, "something", name="second.py")
    assert second.wait_exit() != 0 and "is used by a cluster that runs" in second.output
    server.signal(signal.SIGSTOP)  # who listens is known all the same
    assert run(shop, "status")[0] == lines[0]
    server.signal(signal.SIGCONT)
    assert run(shop, "shutdown")[0].startswith("shutdown: ")
    server.assert_gone()


def test_c1_a_hung_master(shop: Workshop) -> None:
    """C1: a master that takes no commands gets the signal at once, and does not do it twice when it wakes up."""
    server = started(shop)
    server.signal(signal.SIGSTOP)
    assert re.fullmatch(f"restart: sent SIG(HUP|USR2) to {server.pid}", run(shop, "restart")[0])
    server.signal(signal.SIGCONT)
    server.wait_for(rf"^EVENT {server.pid} close$")
    server.pid = int(server.wait_for(r"EVENT (\d+) old master gone")[1])
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert len(server.events("restarting")) == 1


def test_a_command_that_takes_its_time(shop: Workshop) -> None:
    """A command that was taken is waited for, also beyond the time in which it has to be taken."""
    slow = """
import gevent
from cluster import remote
remote.ANSWER = 1.0
def slow():
    gevent.sleep(2 * remote.ANSWER)
    return "slept"
def refuse(n=0):
    raise package.OperationFailed("refuse: not today")
"""
    body = slow + SERVER.replace("m.use(package.cli())", "m.command('slow', slow).command('refuse', refuse)\n"
                                                         "m.use(package.cli())")
    server = shop.script(body).ready()
    client = shop.run(*server.process.args[:2], "slow")
    assert client.wait_exit() == 0 and client.lines == ["slow: slept"]
    refused = shop.run(*server.process.args[:2], "refuse")
    assert refused.wait_exit() == 1 and refused.lines == ["refuse: not today"]
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_c2_no_permission_counts_as_alive(shop: Workshop) -> None:
    """C2: a process that is not ours is alive; process 1 as anybody."""
    (shop.directory / "pids").mkdir()
    (shop.directory / "pids" / "master.pid").write_text("1\n")
    assert run(shop, "status") == ["master 1 alive"]


@pytest.mark.parametrize("body, reason", [
    ("cluster('app:app').use(package.cli())", "cli() needs pidfiles() before it"),
    ("package.cli.define('-s, mine', print)", "'-s' is taken"),
    ("package.cli.define('a b', print)", "'a b' is no word"),
    ("package.cli.define('mine', 3)", "not callable"),
])
def test_c1_c3_wrong_use(shop: Workshop, body: str, reason: str) -> None:
    """C1, C3: what is missing or wrong is said at once."""
    script = shop.script(body)
    assert script.wait_exit() != 0 and reason in script.output


def test_json_of_what_is_no_text(shop: Workshop) -> None:
    """A value that is no text is printed as JSON."""
    body = SERVER.replace("lambda a, b=2: a + b", "lambda a, b=2: {'sum': a + b}")
    server = shop.script(body, name="other.py").ready()
    assert json.loads("\n".join(run(shop, "add", "1"))) == {"sum": 3}
    server.signal(signal.SIGTERM)
    server.assert_gone()
