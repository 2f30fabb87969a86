"""repl() and `cluster repl`: rows T1, T2, T3, T4; S4."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import remote

from ..harness import DEADLINE, Script, Workshop, connect, descriptors, eventually
from ..lateness import late

SERVER = """
import gevent
package.repl.define("hello", lambda m, socket, *args: (socket.title("Greeting"), socket.row("hello", args)) and None,
                    "Say hello.")
m = cluster("app:app").set(workers=2, restart_threshold=0).use(package.stats(True, True), package.repl({address}))
m.on("repl", lambda address: say("REPL", address))
m.command("double", lambda n=1: n * 2, "Twice n.")
def chatter():
    while True:
        print("from another greenlet")
        gevent.sleep(0.01)
m.on("start", lambda: None if {quiet} else gevent.spawn(chatter))
trace(m).listen(0, "127.0.0.1")
"""


class Talk:
    """A client at the prompt, as `nc` is one."""

    def __init__(self, where: Any, prompt: bool = True) -> None:
        self.connection = connect(where)
        self.seen = ""
        if prompt:
            self.until("cluster> ")

    def until(self, end: str) -> str:
        """Read until *end* comes; returns what came before."""
        deadline = time.monotonic() + DEADLINE
        while end not in self.seen:
            self.connection.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.connection.recv(65536)
            assert data, f"ended after {self.seen!r}"
            self.seen += data.decode()
        found, _, self.seen = self.seen.partition(end)
        return found

    def __call__(self, line: str) -> str:
        """Send a line; returns what is shown before the next prompt."""
        self.connection.sendall(line.encode() + b"\n")
        return self.until("cluster> ")

    def rest(self) -> str:
        """Everything until the end of the connection."""
        self.connection.settimeout(DEADLINE)
        while data := self.connection.recv(65536):
            self.seen += data.decode()
        self.connection.close()
        return self.seen

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


def serve(shop: Workshop, address: str = '"repl.sock"', quiet: bool = True) -> Script:
    """A cluster with a REPL that listens."""
    server = shop.script(SERVER.format(address=address, quiet=quiet)).ready()
    server.wait_for("^REPL ")
    return server


def end(server: Script) -> None:
    """Close it."""
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_t1_evaluates_in_the_master(shop: Workshop) -> None:
    """T1: values, `_`, errors, blocks, prints, and nobody else's output; 0600; workers hold none of it open."""
    server = serve(shop, quiet=False)
    path = str(shop.directory / "repl.sock")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    talk, other = Talk(path), Talk(path)
    assert talk("import os; os.getpid()") == f"{server.pid}\n"
    assert talk("6 * 7") == "42\n" and talk("_ + 1") == "43\n" and other("_ if '_' in globals() else None") == ""
    assert talk("None") == "" and talk("x = 5") == "" and talk("x") == "5\n"
    assert "ZeroDivisionError" in talk("1/0") and "SyntaxError" in talk("a b")
    for raised in ("BaseException('b')", "SystemExit(3)", "__import__('gevent').Timeout(1)"):
        assert re.search("BaseException: b|SystemExit: 3|Timeout: 1", talk(f"raise {raised}"))
    assert "NameError" in other("x")
    assert "leaves the session" in talk("exit")
    another = Talk(path)
    another.connection.sendall(b"exit()\n")
    assert another.rest() == ""
    assert talk("import sys; sys.stdin.closed") == "False\n"
    assert talk("print('to err', file=sys.stderr)") == "to err\n"
    assert "UserWarning: careful" in talk("import warnings; warnings.warn('careful')")
    talk.connection.sendall(b"def twice(n):\n    return size * n\n\n")
    assert talk.until("cluster> ").count("... ") == 2
    assert talk("twice(2)") == "4\n"
    assert talk("print('to me')") == "to me\n" and talk("import pprint; pprint.pprint([1])") == "[1]\n"
    server.wait_for("from another greenlet", 20)
    assert talk("gevent = __import__('gevent'); gevent.sleep(0.1)") == ""
    assert not re.search("to me|to err|careful|ZeroDivisionError|BaseException|Timeout", server.output)
    inodes = set(descriptors(server.pid))
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker ready", 3)
    for worker in server.workers():  # one of them was forked while sessions were open
        assert not [name for name in descriptors(worker) if name.startswith("socket") and name in inodes
                    and name in _unix_sockets(path)]
    server.get()
    talk.close()
    other.close()
    end(server)


def _unix_sockets(path: str) -> set[str]:
    table = Path("/proc/net/unix").read_text().splitlines()
    return {f"socket:[{line.split()[6]}]" for line in table if path in line}


def test_t2_s4_functions_and_names(shop: Workshop) -> None:
    """T2: every function and name; S4: what stats() shows."""
    server = serve(shop)
    talk = Talk(str(shop.directory / "repl.sock"))
    helps = talk("help()")
    for expected in ("spawn(n=1, signal='SIGQUIT')", "pids()", "kill(id, signal='SIGTERM')", "shutdown()", "stop()",
                     "restart(signal='SIGQUIT')", "reload(signal='SIGQUIT')",
                     "resize(n, signal='SIGQUIT')", "select(field)", "echo(*words)",
                     "hello(*args)\n        Say hello.", "double(n=1)\n        Twice n.", "stats()"):
        assert expected in helps, helps
    assert talk("hello(1, 'a')") == "\n  Greeting\n    hello: (1, 'a')\n"
    assert talk("double(21)") == "42\n" and talk("echo('a', 1)") == "a 1\n"
    assert talk("size") == "2\n" and talk("size + 1") == "3\n" and talk("len(workers)") == "2\n"
    assert re.fullmatch(r"0: ready\n1: ready\n", talk("states")) and re.fullmatch(r"0: \d+ s\n1: \d+ s\n", talk("ages"))
    first, second = (int(pid) for pid in re.findall(r"worker \d: (\d+)", talk("pids()")))
    assert [first, second] == [int(line.split()[1]) for line in talk("select('pid')").splitlines()]
    assert "no field 'nothing'" in talk("select('nothing')")
    assert talk("spawn(2)") == "spawned 2\n" and len(server.workers()) == 4
    assert talk("spawn(-1, 'SIGTERM')") == "removed 1\n" and talk("resize(2)") == "2 workers\n"
    assert talk("size") == "2\n"
    assert talk("kill(0, 'SIGKILL')") == f"sent SIGKILL to {first}\n" and "there is no worker 9" in talk("kill(9)")
    assert "kill(0, 'SIGTERM'); m.kill('SIGTERM') sends it to all" in talk("kill('SIGTERM')")
    server.wait_for(r"EVENT \d+ worker killed 0/")
    eventually(lambda: talk("[w.ready for w in workers]") == "[True, True]\n", "a new worker is ready")
    for _ in range(3):
        server.get()
    assert talk("reload()") == "reload complete\n"
    shown = talk("stats()")
    for expected in (
        "  Master\n", "os: Linux ", "state: running\n", r"started: \d{4}-", r"uptime: \d+ s", "restarts: 0\n",
        "reloads: 1\n", "workers: [23]\n|workers: 4\n", "deaths: 1\n", "  Resources\n", r"load average: [\d. ]+\n",
        r"cores used: \d+ of \d+\n", r"memory at boot: [\d.]+ [MG]B\n", r"memory now: [\d.]+ [MG]B of", "  Workers\n",
        "connections total: 3\n", "connections active: 0\n", "requests total: 3\n", r"0: \d+ s  0\|\d\|\d  ",
    ):
        assert re.search(expected, shown), (expected, shown)
    talk.connection.sendall(b"shutdown()\n")
    told = talk.rest()
    assert "the cluster is closing" in told and "good-bye" in told
    assert server.wait_exit() == 0
    assert not (shop.directory / "repl.sock").exists()


def test_t1_the_port_needs_the_secret(shop: Workshop) -> None:
    """T1: on a port nothing is shown or evaluated before the secret; HTTP is dropped, also on the unix socket."""
    server = serve(shop, '0, secret="correct horse"')
    port = int(server.wait_for(r"^REPL 127.0.0.1:(\d+)")[1])
    marker = shop.directory / "evaluated"
    evil = f"open({str(marker)!r}, 'w')\n"
    where = ("127.0.0.1", port)
    for text in ("wrong\n" + evil, evil, f"POST / HTTP/1.1\r\nHost: x\r\n\r\n{evil}", f"\n{evil}",
                 f"POST /correct horse HTTP/1.1\r\n\r\ncorrect horse\n{evil}"):
        talk = Talk(where, prompt=False)
        talk.connection.sendall(text.encode())
        try:
            assert talk.rest() == ""
        except ConnectionResetError:
            talk.close()
    talk = Talk(where, prompt=False)
    talk.connection.sendall(b"correct horse\n")
    talk.until("cluster> ")
    assert talk("1 + 1") == "2\n"
    talk.close()
    with remote.Remote.at(f"127.0.0.1:{port}", "correct horse") as program:
        assert program.command("double", ["4"]) == 8
        program.send({"line": "21 * 2"})
        assert program.receive() == {"out": "42\n"} and program.receive() == {"more": False}
    assert not marker.exists()
    end(server)


def test_t1_http_on_the_unix_socket_and_the_kept_secret(shop: Workshop) -> None:
    """T1: a form post to the unix socket evaluates nothing; a secret that nobody gave is kept in a 0600 file."""
    server = serve(shop)
    marker = shop.directory / "evaluated"
    for pause in (False, True):
        talk = Talk(str(shop.directory / "repl.sock"), prompt=pause)
        talk.connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n\r\nopen({str(marker)!r}, 'w')\n".encode())
        try:
            assert "cluster>" not in talk.rest()
        except ConnectionResetError:
            talk.close()
    end(server)
    assert not marker.exists()
    server = serve(shop, "0")
    kept = shop.directory / "repl.secret"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and len(kept.read_text().strip()) >= 32
    port = int(server.wait_for(r"^REPL 127.0.0.1:(\d+)")[1])
    with remote.Remote.at(f"127.0.0.1:{port}", kept.read_text().strip()) as program:
        assert program.command("status")["pid"] == server.pid
    end(server)
    kept.chmod(0o644)
    server = shop.script(SERVER.format(address="0", quiet=True))
    assert server.wait_exit() != 0 and "others can read" in server.output


def test_t1_another_user_is_refused(shop: Workshop, tmp_path: Path) -> None:
    """T1: another user cannot connect to the unix socket, also when the file's mode would let them."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    server = visited(shop, "'repl.sock'")
    path = shop.directory / "repl.sock"
    program = (f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); "
               "s.sendall(b'1+1\\n'); print(repr(s.recv(100)))")
    for mode, expected in ((0o600, "PermissionError"), (0o666, "b''|ConnectionResetError|BrokenPipe")):
        path.chmod(mode)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
        assert re.search(expected, done.stdout + done.stderr), done
    server.wait_for(r"^REFUSED pid \d+, uid 65534 another user 1$")
    end(server)


@pytest.mark.parametrize("address, reason", [("", "needs a port or a socket path"), ("70000", "is no port"),
                                             ("0, secret='x'", "at least 8"), ("True", "needs a port")])
def test_t1_wrong_addresses(shop: Workshop, address: str, reason: str) -> None:
    """T1: `repl() needs a port or a socket path`."""
    server = shop.script(SERVER.format(address=address, quiet=True))
    assert server.wait_exit() != 0 and reason in server.output


def test_t4_a_restart_and_stale_files(shop: Workshop) -> None:
    """T4: clients are told and closed, the new master listens when the old one has gone; a stale file is replaced."""
    path = shop.directory / "repl.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    server = serve(shop)
    talk = Talk(str(path))
    talk.connection.sendall(b"restart()\n")
    assert "a new master takes over" in talk.rest()
    server.wait_for("^REPL ", 2)
    old, server.pid = server.pid, int(server.wait_for(r"EVENT (\d+) old master gone")[1])
    talk = Talk(str(path))
    assert talk("m.status()['pid'], m.predecessor") == f"({server.pid}, {old})\n"
    assert "restarts: 1\n" in talk("stats()")
    talk.connection.sendall(b"stop()\n")
    talk.rest()
    server.assert_gone()
    assert f"EVENT {server.pid} kill 'SIGQUIT'" in server.lines


def test_t4_clients_that_misbehave(shop: Workshop) -> None:
    """T4: one that vanishes, floods, does not read, or sends 10 MB without a newline harms nobody."""
    server = serve(shop)
    path = str(shop.directory / "repl.sock")
    before = len(descriptors(server.pid))
    Talk(path).close()
    endless = Talk(path)
    with pytest.raises(OSError):
        for _ in range(200):
            endless.connection.sendall(b"x" * 100_000)
    endless.close()
    flood = Talk(path)
    flood.connection.setblocking(False)
    with pytest.raises(BlockingIOError):  # it never reads, so at some time nobody reads it
        while True:
            flood.connection.send(b"'y' * 1000\n" * 1000)
    many = [Talk(path, prompt=False) for _ in range(20)]
    for talk in many:
        talk.until("cluster> ")
    crowd = [connect(path) for _ in range(30)]
    server.get()
    assert many[-1]("1 + 1") == "2\n"
    for talk in (*many, flood):
        talk.close()
    for one in crowd:
        one.close()
    eventually(lambda: len(descriptors(server.pid)) <= before, "all connections closed")
    stuck = Talk(path)  # does not read what it asked for while the cluster closes
    stuck.connection.sendall(b"'z' * 20_000_000\n")
    end(server)
    stuck.close()
    assert "Traceback" not in server.output, server.output[-3000:]


def test_t3_the_program_in_a_terminal(shop: Workshop) -> None:
    """T3: `cluster repl PATH` in a terminal: completion by the tab key, a block, an error, a restart in the middle."""
    server = serve(shop)
    master, slave = pty.openpty()
    environment = {**os.environ, "HOME": str(shop.directory), "TERM": "dumb", "INPUTRC": "/dev/null",
                   **late(shop.directory, "MICROSECONDS=20000")}  # where that cannot be, as it is
    client = subprocess.Popen([sys.executable, "-m", "cluster", "repl", "repl.sock"], cwd=shop.directory, stdin=slave,
                              stdout=slave, stderr=slave, env=environment, start_new_session=True)
    os.close(slave)
    screen = ""

    def see(pattern: str) -> None:
        nonlocal screen
        deadline = time.monotonic() + DEADLINE
        while not re.search(pattern, screen):
            assert time.monotonic() < deadline, (pattern, screen)
            if select.select([master], [], [], 0.1)[0]:
                screen += os.read(master, 65536).decode().replace("\r", "")
        screen = screen[re.search(pattern, screen).end():]  # type: ignore[union-attr]

    def type_in(text: str) -> None:
        os.write(master, text.encode())

    see("cluster> ")
    type_in("m.addre\t")
    see("m.addresses")
    type_in("[0]\n")
    see(r"'127.0.0.1:\d+'\n")
    type_in("def f():\n    return 'from a block'\n\nf()\n")
    see("'from a block'\n")
    type_in("1/0\n")
    see("ZeroDivisionError")
    type_in("kept = 5; print('kept')\n")
    see(r"\nkept\n(.*\n)*cluster> ")  # this prompt, not one from before: what is typed ahead outlives a signal
    for _ in range(5):  # also right before it begins to wait for the next key, or for the master's word
        type_in("def g(:")
        see(r"def g\(:")
        os.kill(client.pid, signal.SIGINT)
        see("cluster> ")
        type_in("print('be' + 'gun'); import gevent; gevent.sleep(3600)\n")
        see("begun")
        os.kill(client.pid, signal.SIGINT)
        see(r"KeyboardInterrupt\n(.*\n)*cluster> ")
    type_in("kept + 1\n")
    see("6\n")
    type_in("resize(3)\n")
    see("3 workers\n")
    type_in("restart()\n")
    see("a new master takes over")
    server.wait_for("^REPL ", 2)
    type_in("\n")
    see("connected to a new session")
    type_in("import os; os.getpid()\n")
    server.pid = int(server.wait_for(r"EVENT (\d+) old master gone")[1])
    see(rf"{server.pid}\n(.*\n)*.*cluster> ")  # the line editor has the terminal again
    type_in("\x04")
    assert client.wait(DEADLINE) == 0
    os.close(master)
    assert "restart()" in (shop.directory / ".cluster_history").read_text()
    end(server)


def test_t3_the_program_without_a_terminal(shop: Workshop) -> None:
    """T3: lines from a pipe; on a port with the secret, and exit code 1 without it or with nobody there."""
    server = serve(shop, '0, secret="correct horse"')
    address = server.wait_for(r"^REPL (\S+)")[1]

    def run(secret: str, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "cluster", "repl", address], input=text, capture_output=True,
                              text=True, timeout=DEADLINE, env={**os.environ, "CLUSTER_REPL_SECRET": secret})

    done = run("correct horse", "2 ** 10\n")
    assert done.returncode == 0 and "1024\n" in done.stdout
    done = run("wrong", "2 ** 10\n")
    assert done.returncode == 1 and "is the secret right?" in done.stderr and "1024" not in done.stdout
    end(server)
    done = run("correct horse", "2 ** 10\n")
    assert done.returncode == 1 and "nothing answers at" in done.stderr


def test_t3_ctrl_c_ends_the_line_and_keeps_the_session(shop: Workshop) -> None:
    """T3: Ctrl-C ends what runs, also while it prints without end; what catches that runs on, and it is said."""
    server = serve(shop)
    client = shop.run(sys.executable, "-m", "cluster", "repl", "repl.sock", stdin=subprocess.PIPE)

    def type_in(text: str) -> None:
        assert client.process.stdin is not None
        client.process.stdin.write(text.encode())
        client.process.stdin.flush()

    def press() -> None:
        client.process.send_signal(signal.SIGINT)

    type_in("import gevent, os; kept = 5\n")
    type_in("print('begun'); gevent.sleep(3600)\n")
    client.wait_for("begun$")
    press()
    client.wait_for("^KeyboardInterrupt")
    type_in("kept + 1\n")
    client.wait_for("6$")
    type_in("while True: print('flood')\n\n")
    client.wait_for("flood$", 100)
    press()
    client.wait_for("^KeyboardInterrupt", 2)
    type_in("kept + 2\n")
    client.wait_for("7$")
    type_in(f"""def stubborn():
    while not os.path.exists({str(shop.directory / "go")!r}):
        try:
            gevent.sleep(0.01)
        except KeyboardInterrupt:
            print("ignored")
    open({str(shop.directory / "ended")!r}, "w").close()

print("stubborn"); stubborn()
""")
    client.wait_for("stubborn$")
    press()
    client.wait_for("^ignored$")
    press()
    client.wait_for("connected to a new session; what was begun runs on in the master")
    assert not (shop.directory / "ended").exists()
    shop.write("go", "")
    eventually((shop.directory / "ended").exists, "it has run to its end")
    type_in("kept\n")
    client.wait_for("^NameError: name 'kept'")
    assert client.process.stdin is not None
    client.process.stdin.close()
    assert client.wait_exit() == 0
    assert "Traceback" not in server.output, server.output[-3000:]
    end(server)


def test_t4_a_client_waits_for_the_new_master_as_long_as_the_old_one_may_take(shop: Workshop) -> None:
    """T4: the new master listens when the old one has drained, within `timeout`; the client waits for that."""
    shop.write("app.py", """
    import os
    import gevent
    from tracing import say

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/hold":
            say("HOLDS")
            while not os.path.exists("go"):
                gevent.sleep(0.01)
        start_response("200 OK", [])
        return [b"done"]
    """)
    shop.write("hurried.py", "from cluster import console, program\nconsole.RECONNECT = 0.2\nprogram.main()\n")
    server = serve(shop)
    held = connect(server.address())
    held.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
    server.wait_for("^HOLDS$")
    client = shop.run(sys.executable, "-m", "hurried", "repl", "repl.sock", stdin=subprocess.PIPE)
    assert client.process.stdin is not None
    client.process.stdin.write(b"restart()\n1\n")
    client.process.stdin.flush()
    client.wait_for("waiting up to 60.2 s for a new master")
    shop.write("go", "")
    client.wait_for("connected to a new session")
    client.process.stdin.close()
    assert client.wait_exit() == 0 and b"200 OK" in held.recv(1000)
    held.close()
    server.pid = int(server.wait_for(r"EVENT (\d+) old master gone")[1])
    end(server)


def test_t3_a_socket_without_a_repl(shop: Workshop) -> None:
    """T3: `cluster repl` at the socket beside the pid files says that no REPL is there."""
    body = 'trace(cluster("app:app").set(workers=1).use(package.pidfiles())).listen(0, "127.0.0.1")'
    server = shop.script(body).ready()
    eventually((shop.directory / "pids" / "master.sock").exists, "the socket")
    done = subprocess.run([sys.executable, "-m", "cluster", "repl", "pids/master.sock"], cwd=shop.directory,
                          input="1\n", capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1 and "cluster> " not in done.stdout
    assert done.stderr.startswith("cluster: no REPL is at pids/master.sock") and done.stderr.count("\n") == 1
    end(server)


def test_t1_strangers_do_not_keep_the_operator_out(shop: Workshop) -> None:
    """T1: connections that do not send the secret are as many as they like; the oldest are dropped for new ones."""
    server = serve(shop, '0, secret="correct horse"')
    port = int(server.wait_for(r"^REPL 127.0.0.1:(\d+)")[1])
    known = Talk(("127.0.0.1", port), prompt=False)
    known.connection.sendall(b"correct horse\n")
    known.until("cluster> ")
    idle = [connect(("127.0.0.1", port)) for _ in range(40)]
    with remote.Remote.at(f"127.0.0.1:{port}", "correct horse") as program:
        assert program.command("double", ["4"]) == 8
    assert known("1 + 1") == "2\n"
    assert idle[0].recv(1) == b""
    for one in idle:
        one.close()
    known.close()
    end(server)


VISITED = """
import logging, sys
m = cluster("app:app").set(workers=1).use(package.repl({address}))
m.log.addHandler(logging.StreamHandler(sys.stdout))
m.log.setLevel("INFO")
m.on("repl", lambda address: say("REPL", address))
m.on("repl connection", lambda client, count: say("CAME", client, count))
m.on("repl refused", lambda client, reason, count: say("REFUSED", client, reason, count))
trace(m).listen(0, "127.0.0.1")
"""


def visited(shop: Workshop, address: str) -> Script:
    """A cluster that says who comes to its REPL."""
    server = shop.script(VISITED.format(address=address)).ready()
    server.wait_for("^REPL ")
    return server


def test_t1_connections_are_told(shop: Workshop) -> None:
    """T1: to the unix socket, with who it is; a page in a browser is refused."""
    server = visited(shop, "'repl.sock'")
    talk = Talk(str(shop.directory / "repl.sock"))
    who = f"pid {os.getpid()}, uid {os.geteuid()}"
    server.wait_for(f"^CAME {who} 1$")
    server.wait_for(f"^repl: connection from {who}$")
    talk.close()
    browser = Talk(str(shop.directory / "repl.sock"), prompt=False)
    browser.connection.sendall(b"GET / HTTP/1.1\r\n")
    server.wait_for(f"^REFUSED {who} speaks HTTP 1$")
    browser.close()
    crowd = [Talk(str(shop.directory / "repl.sock")) for _ in range(32)]
    connect(str(shop.directory / "repl.sock")).close()
    server.wait_for(f"^REFUSED {who} 32 clients are connected 1$")
    for one in crowd:
        one.close()
    end(server)


def test_t1_who_does_not_know_the_secret_is_told_and_a_flood_fills_no_log(shop: Workshop) -> None:
    """T1: each refused client of a port with why, as event and line; of many the number, at the latest at the end."""
    server = visited(shop, "0, secret='correct horse'")
    port = int(server.wait_for(r"^REPL 127.0.0.1:(\d+)")[1])

    def refused(line: bytes) -> str:
        with connect(("127.0.0.1", port)) as client:
            me = "127.0.0.1:" + str(client.getsockname()[1])
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        return me

    for line, reason in ((b"", "sent no secret"), (b"GET / HTTP/1.1\r\n", "speaks HTTP"), (b"horse\n", "wrong secret")):
        me = refused(line)
        server.wait_for(f"^REFUSED {me} {reason} 1$")
        server.wait_for(f"^repl: refused {me}: {reason}$")
    waiting = [connect(("127.0.0.1", port)) for _ in range(33)]
    me = "127.0.0.1:" + str(waiting[0].getsockname()[1])
    server.wait_for(f"^REFUSED {me} has not sent the secret, and others wait 1$")
    for one in waiting:
        one.close()
    for _ in range(200):
        refused(b"battery\n")
    with remote.Remote.at(f"127.0.0.1:{port}", "correct horse") as program:
        assert program.command("status")["pid"] == server.pid
    server.wait_for(r"^CAME 127.0.0.1:\d+ 1$")
    end(server)
    lines = [line for line in server.lines if line.startswith("repl: refused") and "wrong secret" in line]
    assert 2 <= len(lines) <= 30
    counts = [int(found[1]) if (found := re.search(r"; (\d+) in all", line)) else 1 for line in lines]
    assert sum(counts) == 201
    assert len([line for line in server.lines if line.startswith("REFUSED")]) <= 30


def test_t1_each_expression_is_shown(shop: Workshop) -> None:
    """T1: as at Python's prompt, each expression of a line and of a loop is shown, and `_` is the last."""
    server = serve(shop, quiet=False)
    talk = Talk(str(shop.directory / "repl.sock"))
    assert talk("5; 6") == "5\n6\n" and talk("_") == "6\n"
    talk.connection.sendall(b"for i in range(3): i\n\n")
    assert talk.until("cluster> ") == "     ... 0\n1\n2\n" and talk("_") == "2\n"
    assert talk("None; x = 1") == ""
    assert talk("__import__('sys').displayhook.__name__") == "'_display'\n"
    talk.close()
    end(server)


def test_t2_arguments_have_the_types_of_the_registry(shop: Workshop) -> None:
    """T2: a command's arguments are typed as on every surface; what is wrong is one line, without our frames."""
    server = serve(shop)
    talk = Talk(str(shop.directory / "repl.sock"))
    talk("def beat(n: int, loud: bool = False): return [n] * n, loud\n")
    talk("m.command('beat', beat) and None")
    talk.close()
    talk = Talk(str(shop.directory / "repl.sock"))
    assert talk("beat('3')") == talk("beat(3)") == talk("beat(n='3')") == "([3, 3, 3], False)\n"
    assert talk("beat(1, 'yes')") == talk("beat(loud=True, n=1)") == "([1], True)\n"
    assert talk("beat('x')") == "beat: n is a whole number, not 'x'\n"
    assert talk("beat()") == "beat(n, loud=False): missing a required argument: 'n'\n"
    assert talk("beat(1, 2, 3)") == "beat(n, loud=False): too many positional arguments\n"
    assert talk("pids(1)") == "pids(): too many positional arguments\n"
    assert talk("resize('2')") == "2 workers\n"
    assert talk("resize(-1)") == "resize() takes a number of workers, not -1\n"
    assert talk("spawn(1, 'SIGFOO')").startswith("no signal 'SIGFOO'") and talk("size") == "2\n"
    raised = talk("beat(None)")
    assert re.fullmatch(r'Traceback .*:\n  File "<repl>", line 1, in <module>\n  File "<repl>", line 1, in beat\n'
                        r"TypeError: can't multiply .*\n", raised), raised
    assert "the REPL has something else of that name" in talk("m.command('select', beat)")
    talk.close()
    end(server)
