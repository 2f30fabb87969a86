"""`cluster status|restart|reload|resize|shutdown|stop`: the program as a client of a running cluster (issue 3)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from ..harness import DEADLINE, Script, Workshop, connect, eventually

SERVER = """
m = cluster("app:app").set(workers=2, restart_threshold=0).use(package.pidfiles(), package.repl("repl.sock"))
trace(m).listen(0, "127.0.0.1")
"""


def run(shop: Workshop, *words: str, code: int = 0, module: str = "cluster") -> str:
    """What ``cluster WORDS`` prints. *module*: what to run in its place."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CLUSTER_")}
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=shop.directory, capture_output=True, text=True,
                          timeout=DEADLINE, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def test_a_life_through_the_program(shop: Workshop) -> None:
    """Every command, over the pid files' socket and over the REPL's; status as a table and as JSON."""
    assert "not running: no pid files in" in run(shop, "status", code=1)
    server = shop.script(SERVER).ready()
    for _ in range(3):
        server.get()
    lines = run(shop, "status").splitlines()
    assert lines[0].startswith("listening on 127.0.0.1:")
    assert " ".join(lines[1].split()) == "id pid state generation uptime connections requests p99 memory"
    assert re.match(rf"master +{server.pid} +running +1 +\d+ s +0 +3 +[\d.]+ ms +[\d.]+ MB$", lines[2])
    assert [line.split()[0] for line in lines[3:]] == ["0", "1"]
    found = json.loads(run(shop, "status", "--json"))
    assert found["pid"] == server.pid and len(found["workers"]) == 2
    assert found["p99"] > 0 and all(one["memory"] > 1_000_000 for one in (found, *found["workers"]))
    assert run(shop, "resize", "3", "--pidfiles", "pids") == "resize: done\n" and len(server.workers()) == 3
    assert run(shop, "resize", "2", "--socket", "repl.sock") == "resize: done\n" and len(server.workers()) == 2
    before = server.workers()
    assert run(shop, "reload") == "reload: done\n"
    good = (shop.directory / "app.py").read_text()
    eventually(lambda: not set(before) & set(server.workers()), "old workers gone")
    shop.write("app.py", "nonsense(")
    assert "reload: " in run(shop, "reload", code=1)
    shop.write("app.py", good)
    assert run(shop, "restart") == "restart: done\n"
    eventually(lambda: json.loads(run(shop, "status", "--json"))["pid"] != server.pid, "the new master")
    assert run(shop, "shutdown") == "shutdown: done\n"
    server.assert_gone()
    assert "not running: all processes named in" in run(shop, "reload", code=1)
    assert re.search(r"not running: master \d+ dead, worker 0", run(shop, "status", code=1))


def test_stop_and_who_is_not_there(shop: Workshop) -> None:
    """`stop` through the REPL's socket; without the socket, signals and pid files tell and do what they can."""
    server = shop.script(SERVER).ready()
    server.wait_for("EVENT .* ready$")
    eventually((shop.directory / "repl.sock").exists, "the REPL listens")
    (shop.directory / "pids" / "master.sock").unlink()
    told = run(shop, "status")
    assert re.search(rf"^the master does not answer.*\nmaster {server.pid} alive\nworker 0 \d+ alive", told)
    assert "no signal means that" in run(shop, "reload", code=1)
    assert "nothing answers at nothing.sock" in run(shop, "status", "--socket", "nothing.sock", code=1)
    run(shop, "stop", "--socket", "repl.sock", "--no-wait")
    server.assert_gone()
    server = shop.script(SERVER).ready()
    eventually((shop.directory / "pids" / "master.sock").exists, "the socket")
    (shop.directory / "pids" / "master.sock").unlink()
    assert run(shop, "shutdown") == f"shutdown: sent SIGQUIT to {server.pid}\n"
    server.assert_gone()


def test_commands_of_plugins(shop: Workshop) -> None:
    """Issue 3: what is in the registry, a plugin's too, is a command of the program with the same usage and errors."""
    missing = run(shop, "stats", code=1)
    assert "no such command 'stats'; did you mean 'status'?" in missing and "not running: no pid files in" in missing
    plugins = """
def beat(n: int, word="tick"):
    if n < 0:
        raise package.OperationFailed("beat: not backwards")
    return {"beats": [word] * n}
m.use(package.responsetimes()).command("beat it", beat)
m.command("say nothing", lambda: None).command("say", lambda *words: "said")
"""
    server = shop.script(SERVER.replace("trace(m)", plugins + "trace(m)")).ready()
    eventually((shop.directory / "repl.sock").exists, "the REPL listens")
    assert json.loads(run(shop, "beat-it", "2", "--pidfiles", "pids")) == {"beats": ["tick", "tick"]}
    assert json.loads(run(shop, "beat_it", "--socket", "repl.sock", "1", "tock")) == {"beats": ["tock"]}
    assert json.loads(run(shop, "responsetimes"))["requests"] == 0
    assert run(shop, "say-nothing") == "say-nothing: done\n" and run(shop, "say") == "say: said\n"
    assert run(shop, "spawn", "1") == "spawn: done\n" and len(server.workers()) == 3
    assert run(shop, "spawn", "-1", "SIGTERM", "--no-wait") == "spawn: under way\n"
    assert run(shop, "beat-it", code=2) == "cluster: beat it needs n: beat-it N [WORD]\n"
    assert run(shop, "beat-it", "x", code=2) == "cluster: beat it: n is a whole number, not 'x'\n"
    assert run(shop, "beat-it", "-3", code=1) == "cluster: beat: not backwards\n"
    assert "no command 'beat-them'; did you mean 'beat it'?" in run(shop, "beat-them", code=2)
    assert "Usage: " in run(shop, "beat-it", "1", "--pidfiles", "a", "--socket", "b", code=2)
    assert "asked of the running cluster" in re.sub(r"\s+", " ", run(shop, "--help"))
    _end(server)


@pytest.mark.parametrize("words", [("resize", "-1"), ("resize", "four"), ("resize",),
                                   ("status", "--pidfiles", "a", "--socket", "b")])
def test_wrong_usage(shop: Workshop, words: tuple[str, ...]) -> None:
    """Exit code 2."""
    assert "Usage: " in run(shop, *words, code=2)


def test_watch(shop: Workshop) -> None:
    """`--watch` shows it again and again, and ends by Ctrl-C."""
    server = shop.script(SERVER).ready()
    watch = shop.run(sys.executable, "-m", "cluster", "status", "--watch")
    watch.wait_for("listening on", 2)
    watch.process.send_signal(signal.SIGINT)
    assert watch.wait_exit() in (0, 1)
    _end(server)


def _end(server: Script) -> None:
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_a_refusal_is_no_success(shop: Workshop) -> None:
    """`stop` and `shutdown` say "done" only when it was taken on: not with a wrong secret, or when hung up on."""
    told = 'm.on("repl", lambda address: say("REPL", address))\ntrace'
    server = shop.script(SERVER.replace('"repl.sock"', '0, secret="correct horse"').replace("trace", told)).ready()
    address = server.wait_for("^REPL (.*)")[1]
    shop.write("wrong", "not the secret")
    shop.write("right", "correct horse")
    for command in ("stop", "shutdown", "restart"):
        told = run(shop, command, "--socket", address, "--secret-file", str(shop.directory / "wrong"), code=1)
        assert "done" not in told and "ended without an answer" in told
    held = [connect(str(shop.directory / "pids" / "master.sock")) for _ in range(40)]
    told = run(shop, "shutdown", "--socket", "pids/master.sock", code=1)
    assert "done" not in told and server.get()
    for client in held:
        client.close()
    assert run(shop, "resize", "1", "--no-wait") == "resize: under way\n"
    right = ("--socket", address, "--secret-file", str(shop.directory / "right"))
    assert run(shop, "shutdown", *right) == "shutdown: done\n"
    server.assert_gone()


def test_a_stuck_master(shop: Workshop) -> None:
    """A master that does not answer: status says what the pid files tell, in both forms."""
    server = shop.script(SERVER).ready()
    server.signal(signal.SIGSTOP)
    shop.write("hurried.py", "from cluster import program, remote\nremote.ANSWER = 0.3\nprogram.main()\n")
    found = json.loads(run(shop, "status", "--json", module="hurried"))
    assert found["answers"] is False
    assert found["processes"][0] == {"worker": None, "pid": server.pid, "alive": True} and len(found["processes"]) == 3
    server.signal(signal.SIGCONT)
    assert run(shop, "stop") == "stop: done\n"
    server.assert_gone()
    assert f"EVENT {server.pid} kill 'SIGQUIT'" in server.lines
    server = shop.script(SERVER).ready()
    assert run(shop, "destroy") == "destroy: done\n"
    server.assert_gone()
    assert f"EVENT {server.pid} kill 'SIGTERM'" in server.lines
