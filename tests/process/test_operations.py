"""Operations: rows O1, O2, O6, and accepting fairly."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from benchmarks.arrivals import arrive

from ..harness import Workshop, connect, eventually, fetch

CONSOLE = """
import gevent, gevent.socket
m = trace(cluster("app:app").set(workers=2, restart_threshold=0, timeout=5))

def console():
    # a surface as a plugin would write one: a greenlet of the master's that takes operations from a socket
    while True:
        client, _ = door.accept()
        for line in client.makefile():
            try:
                result = eval(line)
                result = result.wait(20) if hasattr(result, "wait") else result
                say("ANSWER", line.strip(), "=", result)
            except Exception as error:
                say("ANSWER", line.strip(), "raised", type(error).__name__, error)

def open_door():
    global door
    door = gevent.socket.socket(gevent.socket.AF_UNIX)
    if os.path.exists("door"):
        os.unlink("door")
    door.bind("door")
    door.listen()
    gevent.spawn(console)

m.on("start", open_door)
m.on("after fork", lambda worker: door.close())
m.on("close", lambda: os.unlink("door"))
m.listen(0, "127.0.0.1")
"""


class Console:
    """Sends lines to the server's console, waits for the answers."""

    def __init__(self, shop: Workshop) -> None:
        self.server = shop.script(CONSOLE).ready()
        self._connection = connect(str(shop.directory / "door"))
        self._asked = 0

    def __call__(self, line: str) -> str:
        self._connection.sendall(line.encode() + b"\n")
        self._asked += 1
        return self.server.wait_for(rf"^ANSWER {re.escape(line)} (.*)")[1]

    def end(self) -> None:
        self._connection.close()
        self.server.signal(signal.SIGQUIT)
        assert self.server.wait_exit() == 0


def test_o1_how_many(shop: Workshop) -> None:
    """O1: spawn, remove, resize; highest slots go and do not come back; each is done when the count is right."""
    ask = Console(shop)
    first = ask.server.workers()
    assert ask("m.spawn(2)") == "= None"
    assert len(ask.server.workers()) == 4
    assert ask("[w.id for w in m.workers]") == "= [0, 1, 2, 3]"
    assert ask("m.remove(1)") == "= None" and len(ask.server.workers()) == 3
    assert ask("m.spawn(-1, 'SIGTERM')") == "= None" and ask.server.workers() == first
    assert ask("m.resize(5)") == "= None" and len(ask.server.workers()) == 5
    assert ask("m.resize(0)") == "= None" and ask.server.workers() == []
    assert ask("m.resize(2)").startswith("=") and len(ask.server.workers()) == 2
    assert ask("m.resize(-1)").startswith("raised ConfigurationError")
    assert ask("m.kill('SIGNONSENSE')").startswith("raised ConfigurationError no signal 'SIGNONSENSE'")
    assert ask.server.events("worker killed") == []
    ask.end()


def test_o1_several_at_once_leave_the_count_right(shop: Workshop) -> None:
    """O1: operations asked for at once queue, or are refused with a reason; the count is right at the end."""
    ask = Console(shop)
    ask("[m.spawn(1), m.remove(2), m.spawn(3), m.reload(), m.resize(4), m.restart_workers(), m.reload()] and 1")
    ask("m.resize(3)")
    eventually(lambda: len(ask.server.workers()) == 3, "three workers")
    assert ask("len(m.workers) == 3 and all(w.ready for w in m.workers)") == "= True"
    ask.end()


def test_o1_restart_workers_and_kill(shop: Workshop) -> None:
    """O1: restart_workers replaces all of the same generation; kill() sends a signal, those that end come back."""
    ask = Console(shop)
    before = ask.server.workers()
    assert ask("m.restart_workers()") == "= None"
    after = ask.server.workers()
    assert len(after) == 2 and not set(before) & set(after)
    assert ask("{w.generation for w in m.workers}") == "= {1}"
    assert ask("m.kill('SIGKILL')") == "= None"
    ask.server.wait_for("worker killed", 2)
    eventually(lambda: len(ask.server.workers()) == 2 and not set(after) & set(ask.server.workers()), "new ones")
    assert ask("m.reload()") == "= 2"
    assert ask("m.status()['generation']") == "= 2"
    ask.end()


def test_o1_wait_raises_where_it_would_stop_the_supervisor(shop: Workshop) -> None:
    """O1: .wait() in a handler that the supervisor waits for raises; in other handlers it blocks only handlers."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1))
        def refused():
            try:
                m.spawn(1).wait()
            except package.ClusterError as error:
                say("REFUSED", type(error).__name__)
        m.on("start", refused)
        m.once("ready", lambda: (m.resize(3).wait(20), say("RESIZED", len(m.workers))))
        m.listen(0, "127.0.0.1")
        """)
    server.wait_for("^REFUSED WouldBlock")
    server.wait_for("^RESIZED 3")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_o2_queued_connections_are_served(shop: Workshop) -> None:
    """O2: connections that wait in the kernel's queue when the close is asked for are served."""
    server = shop.script("trace(cluster('app:app').set(workers=1)).listen(0, '127.0.0.1')").ready()
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    waiting = [connect(server.address()) for _ in range(20)]
    for connection in waiting:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    server.signal(signal.SIGQUIT)
    server.wait_for("EVENT \\d+ kill")
    os.kill(worker, signal.SIGCONT)
    for connection in waiting:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()
    assert server.wait_exit() == 0


def test_o2_with_no_workers_and_repeated(shop: Workshop) -> None:
    """O2: with no workers a close ends at once; asked for ten times it ends as well."""
    server = shop.script("trace(cluster('app:app').set(workers=0)).listen(0, '127.0.0.1')").ready()
    for _ in range(10):
        if server.process.poll() is None:
            server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.events()[-1] == "close" and server.events().count("close") == 1


def test_o2_destroy_is_quick_whatever_workers_do(shop: Workshop) -> None:
    """O2: destroy() ends workers that are stopped, busy or ignore SIGTERM."""
    shop.write("deaf.py", """
        import signal, time
        from tracing import say
        def work(worker):
            if worker.id == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say("WORKING")
            while worker.id < 2:
                time.sleep(0.01) if worker.id == 0 else None
            import gevent
            gevent.sleep(60)
        """)
    server = shop.script("trace(cluster('deaf:work').set(workers=3)).start()")
    server.wait_for("^WORKING", 3)
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    assert server.events().count("worker removed") == 3


def test_close_delay_goes_on_serving_and_is_cut_short(shop: Workshop) -> None:
    """B5: `close delay`: `closing` at once, served on; a second signal cuts it short."""
    server = shop.script("trace(cluster('app:app').set(workers=1, close_delay=60)).listen(0, '127.0.0.1')").ready()
    server.signal(signal.SIGQUIT)
    server.wait_for(r"EVENT \d+ closing")
    assert server.get().isdigit()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.events().count("closing") == 1


def test_o3_changed_signals(shop: Workshop) -> None:
    """O3: set("signals", {"SIGTERM": "close"}): TERM drains, also when it goes to the whole group."""
    server = shop.script("""
        trace(cluster("app:app").set(workers=2, signals={"SIGTERM": "close", "SIGUSR2": None})).listen(0, "127.0.0.1")
        """).ready()
    server.signal(signal.SIGUSR2)
    with connect(server.address()) as connection:
        connection.sendall(b"GET /sleep/0.5 HTTP/1.1\r\nHost: test\r\n\r\n")
        fetch(server.address())
        os.killpg(server.session, signal.SIGTERM)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.wait_exit() == 0
    assert "restarting" not in server.events() and "worker killed" not in server.events()


def test_o6_titles(shop: Workshop) -> None:
    """O6: titles show in ps, {n} is the slot."""
    server = shop.script("""
        trace(cluster("app:app").set(workers=2, title="shop master", worker_title="shop {n}")).listen(0, "127.0.0.1")
        """).ready()
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0").decode() for pid in
              [server.pid, *server.workers()]]
    assert titles[0] == "shop master" and sorted(titles[1:]) == ["shop 0", "shop 1"]
    server.signal(signal.SIGTERM)
    server.wait_exit()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_o6_user_group_umask(shop: Workshop) -> None:
    """O6: dropped in workers before the application is imported, supplementary groups too; survives a restart."""
    for path in (shop.directory, *shop.directory.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    shop.write("who.py", """
        import os
        from tracing import say
        say("WHO", os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), os.umask(0o22))
        from app import app
        """)
    server = shop.script("""
        trace(cluster("who:app").set(workers=1, user="nobody", umask=0o27, restart_threshold=0)).listen(0, "127.0.0.1")
        """).ready()
    line = server.wait_for("^WHO (.*)")[1]
    import pwd

    nobody = pwd.getpwnam("nobody")
    expected = f"{nobody.pw_uid} {nobody.pw_uid} {nobody.pw_gid} {os.getgrouplist('nobody', nobody.pw_gid)} {0o27}"
    assert line == expected
    server.signal(signal.SIGHUP)
    server.ready(2)
    assert server.wait_for("^WHO (.*)", 2)[1] == expected
    server.signal(signal.SIGTERM)
    server.assert_gone()


def test_listeners_of_all_kinds(shop: Workshop) -> None:
    """Addresses: IPv4, IPv6, a unix socket with a mode, an inherited descriptor, a bound socket, in one cluster."""
    with socket.socket() as inherited:
        inherited.bind(("127.0.0.1", 0))
        inherited.listen()
        port = inherited.getsockname()[1]
        server = shop.script(f"""
            import socket
            mine = socket.socket()
            mine.bind(("127.0.0.1", 0))
            mine.listen()
            m = trace(cluster("app:app").set(workers=1))
            m.bind(0, "127.0.0.1").bind("[::1]:0").bind("unix:x.sock", mode=0o600)
            m.bind("fd://{inherited.fileno()}").bind(mine).start()
            """, pass_fds=(inherited.fileno(),))
    server.ready()
    words = server.wait_for("^ADDRESS (.*)")[1].split()
    assert len(words) == 5 and words[1].startswith("[::1]:") and words[3] == f"127.0.0.1:{port}"
    for word in words:
        if word.startswith("unix:"):
            assert os.stat(word[5:]).st_mode & 0o777 == 0o600
            assert fetch(word[5:])[0] == 200
        else:
            host, _, port = word.rpartition(":")
            assert fetch((host.strip("[]"), int(port)))[0] == 200
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert not (shop.directory / "x.sock").exists()


def test_both_families_on_one_port(shop: Workshop) -> None:
    """Every interface by IPv4, and by IPv6, with one port, as administrators write it."""
    with socket.socket(socket.AF_INET6) as probe:  # on both; free again when it is closed
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    server = shop.script(f"""
        trace(cluster("app:app").set(workers=1)).listen(["0.0.0.0:{port}", "[::]:{port}"])
        """).ready()
    assert fetch(("127.0.0.1", port))[0] == fetch(("::1", port))[0] == 200
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_an_inherited_socket_goes_on_queueing(shop: Workshop) -> None:
    """A socket that systemd keeps: connections that come while nothing runs wait in it for the next start."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        kept.listen()
        address, body = kept.getsockname(), f"trace(cluster('app:app').set(workers=2)).listen('fd://{kept.fileno()}')"
        server = shop.script(body, pass_fds=(kept.fileno(),)).ready()
        assert fetch(address)[0] == 200
        server.signal(signal.SIGQUIT)
        assert server.wait_exit() == 0
        clients = [connect(address) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        server = shop.script(body, pass_fds=(kept.fileno(),)).ready()
        for client in clients:
            with client:
                assert client.recv(999).startswith(b"HTTP/1.1 200")
        server.signal(signal.SIGQUIT)
        assert server.wait_exit() == 0


def test_stale_unix_socket_is_replaced_a_live_one_is_not(shop: Workshop) -> None:
    """U6: a socket file that nobody listens on is removed; one with a listener is left alone."""
    path = str(shop.directory / "s.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = shop.script("trace(cluster('app:app').set(workers=1)).listen('s.sock/../s.sock')").ready()
    assert fetch(path)[0] == 200
    second = shop.script("trace(cluster('app:app').set(workers=1)).listen('./s.sock')", name="second.py")
    assert second.wait_exit() == 1 and f"unix:{path}: already in use" in second.output
    assert fetch(path)[0] == 200
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("at_once", [1, 100])
def test_accepting_is_fair(shop: Workshop, at_once: int) -> None:
    """Must show 2: keep-alive connections are spread evenly over the workers, arriving singly and in a burst."""
    server = shop.script("trace(cluster('app:app').set(workers=4)).listen(0, '127.0.0.1')").ready()
    report = arrive(server.address(), 100, at_once)
    assert report.clean, report
    counts = sorted(report.by_worker.values())
    # 25 each; how even it is exactly is measured in benchmarks/lifecycle.py, on a quiet machine
    assert len(counts) == 4 and counts[-1] <= 50, counts
    server.signal(signal.SIGTERM)
    server.wait_exit()


@pytest.mark.parametrize("how", ["stopped", "busy"])
def test_a_stuck_worker_holds_up_nobody_else(shop: Workshop, how: str) -> None:
    """Must show 3: with one of four workers stuck, 400 new connections are all served, by the other three."""
    server = shop.script("trace(cluster('app:app').set(workers=4)).listen(0, '127.0.0.1')").ready()
    with connect(server.address()) as busy:
        if how == "busy":
            busy.sendall(b"GET /loop HTTP/1.1\r\nHost: test\r\n\r\n")
            server.wait_for("^LOOPING")
        else:
            os.kill(server.workers()[0], signal.SIGSTOP)
        report = arrive(server.address(), 400, 1, hold=False)
    assert report.clean and report.answered == 400, report
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_operations_in_a_worker_are_refused_there(shop: Workshop) -> None:
    """E2, E4, O1: from `after fork` on, the master object knows that this is a worker, and operates nothing."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1))
        @m.on("after fork")
        def operate(worker):
            say("WORKER", m.is_worker, m.is_master, m.worker is worker, m.worker is package.worker(), m.workers)
            for operation in (m.spawn, m.remove, lambda: m.resize(3), m.kill, m.restart_workers, m.restart, m.reload,
                              m.close, m.destroy, m.reopen_logs):
                try:
                    operation()
                except Exception as error:
                    say("REFUSED", type(error).__name__, error)
        m.listen(0, "127.0.0.1")
        """).ready()
    server.wait_for(r"^WORKER True False True True \[\]$")
    server.wait_for(r"^REFUSED OperationFailed [a-z ]+: this is a worker; its master does that \(worker.call\)$", 10)
    assert server.get().isdigit()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_a_long_drain_is_told_again_and_again(shop: Workshop) -> None:
    """E2: `worker waiting` comes for as long as a draining worker has connections."""
    server = shop.script("""
        from cluster.workers import runtime
        runtime.WAITING = 0.1
        trace(cluster("app:app").set(workers=1, drain_grace=0.1)).listen(0, "127.0.0.1")
        """).ready()
    with connect(server.address()) as connection:
        connection.sendall(f"GET /until/{shop.directory}/go HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        server.get()
        server.signal(signal.SIGQUIT)
        server.wait_for(r"EVENT \d+ worker waiting \S+ 1$", 4)
        shop.write("go", "")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.wait_exit() == 0
