"""pidfiles(): rows P1, P2, and the socket beside the files."""

from __future__ import annotations

import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from cluster import operating, remote
from cluster.errors import RemoteError

from ..harness import DEADLINE, Script, Workshop, eventually

SERVER = """
m = cluster("app:app").set(workers=2, restart_threshold=0, abort_deaths=4).use(package.pidfiles())
m.on("pidfile", lambda path, pid: say("PIDFILE", os.path.relpath(path), pid))
m.on("worker pidfile", lambda worker, path: say("WORKER PIDFILE", os.path.relpath(path), worker.pid))
say("AT ONCE", os.path.relpath(m.pidfiles), os.path.isdir(m.pidfiles), m.pidof("master"))
m.on("ready", lambda: say("PIDS", m.pidof("master"), m.pidof("worker.0"), *m.workerpids()))
trace(m).listen(0, "127.0.0.1")
"""


def read(shop: Workshop, name: str) -> int:
    """The pid in a file."""
    return int((shop.directory / "pids" / f"{name}.pid").read_text())


def agree(shop: Workshop, server: Script) -> bool:
    """Whether the files hold the pids of the master and its workers."""
    return read(shop, "master") == server.pid and sorted(
        read(shop, path.stem) for path in (shop.directory / "pids").glob("worker.*.pid")) == server.workers()


def ask(shop: Workshop, name: str, *words: str) -> object:
    """A command over the socket."""
    return operating.operate(str(shop.directory / "pids"), name, words, wait=DEADLINE)


def test_p1_p2_files_follow_the_processes(shop: Workshop) -> None:
    """P1, P2: over boot, a respawn, resizing, a failed reload, a failed and a successful restart, and shutdown."""
    server = shop.script(SERVER).ready()
    assert "AT ONCE pids True None" in server.lines
    server.wait_for(rf"^PIDFILE pids/master.pid {server.pid}$")
    server.wait_for(r"^WORKER PIDFILE pids/worker.1.pid \d+$")
    server.wait_for(rf"^PIDS {server.pid} {read(shop, 'worker.0')} {read(shop, 'worker.0')} {read(shop, 'worker.1')}$")
    assert agree(shop, server)
    before = read(shop, "worker.0")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: read(shop, "worker.0") != before and agree(shop, server), "the pid of the new worker")
    ask(shop, "resize", "3")
    eventually(lambda: agree(shop, server) and len(server.workers()) == 3, "a third file")
    ask(shop, "resize", "2")
    eventually(lambda: agree(shop, server) and len(server.workers()) == 2, "the third file removed")
    good = (shop.directory / "app.py").read_text()
    shop.write("app.py", "raise ValueError('broken')")
    with pytest.raises(RemoteError, match="reload: "):
        ask(shop, "reload")
    eventually(lambda: agree(shop, server), "the old workers' pids again")
    with pytest.raises(RemoteError, match="restart: "):
        ask(shop, "restart")
    assert agree(shop, server)
    shop.write("app.py", good)
    old = server.pid
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restart ")
    server.wait_for(rf"^EVENT {old} close$")
    server.wait_for(r"EVENT \d+ old master gone")
    server.pid = read(shop, "master")
    assert server.pid != old
    eventually(lambda: agree(shop, server), "the new master's pids")
    status = ask(shop, "status")
    assert isinstance(status, dict) and status["pid"] == server.pid
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    processes = remote.processes(str(shop.directory / "pids"))
    assert [str(process) for process in processes] == [
        f"master {server.pid} dead", *(f"worker {n} {read(shop, f'worker.{n}')} dead" for n in (0, 1))]
    assert sorted(path.name for path in (shop.directory / "pids").iterdir()) == [
        "master.pid", "worker.0.pid", "worker.1.pid"]


def test_the_socket_is_private_and_survives_nonsense(shop: Workshop) -> None:
    """The command socket: 0600, wrong requests are answered, a stale one is replaced, a deep directory works."""
    deep = "a" * 60 + "/" + "b" * 60
    server = shop.script(SERVER.replace("pidfiles()", f"pidfiles({deep!r})")).ready()
    path = shop.directory / deep / remote.SOCKET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for request in ({"command": "no such"}, {"command": "resize", "words": ["four"]}, {"command": "resize"},
                    {"command": ["x"]}, {"command": "spawn", "words": 3}, {"word": 1}):
        with remote.Remote.at(str(path)) as connection:
            connection.send(request)
            assert "error" in connection.receive()
    with remote.Remote.at(str(path)) as connection:
        connection._connection.sendall(b"[" * 100_000 + b"\n")
        assert "error" in connection.receive()
    assert not any("sock" in name for worker in server.workers() for name in _bound(worker))
    os.kill(server.pid, signal.SIGKILL)
    server.assert_gone()
    assert path.is_socket()
    again = shop.run(*server.process.args).ready()
    with remote.Remote.at(str(path)) as connection:
        assert connection.command("status")["pid"] == again.pid
    again.signal(signal.SIGQUIT)
    assert again.wait_exit() == 0


def test_what_became_of_a_command(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that was taken gets no signal as well: it outlasts the wait, or nobody tells its end."""
    commands = """
def slow():
    while not os.path.exists("go"):
        __import__("gevent").sleep(0.01)
m.command("slow", slow).command("vanish", lambda: os._exit(3))
"""
    server = shop.script(SERVER.replace("trace(m)", commands + "trace(m)")).ready()
    eventually((shop.directory / "pids" / "master.sock").exists, "the socket")
    monkeypatch.setattr(remote, "ANSWER", 1.0)
    pids = str(shop.directory / "pids")
    with pytest.raises(RemoteError, match=r"slow was taken, and is not done after 0.1 s"):
        operating.operate(pids, "slow", wait=0.1)
    shop.write("go", "")
    with pytest.raises(RemoteError, match=r"vanish was taken, and nobody knows what became of it"):
        operating.operate(pids, "vanish", by_signal={"vanish": signal.SIGHUP})
    server.assert_gone()
    assert not server.events("restarting")
    (shop.directory / "pids" / "master.sock").unlink()


def _bound(pid: int) -> list[str]:
    inodes = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    table = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    return [line for line in table if f"socket:[{line.split()[6]}]" in inodes]


def test_failures_at_start_are_loud(shop: Workshop) -> None:
    """A directory that cannot be made ends the script."""
    server = shop.script(SERVER.replace("pidfiles()", "pidfiles('app.py/x')"))
    assert server.wait_exit() == 2
    server.wait_for("^cluster: pidfiles: cannot make")
    assert "Traceback" not in server.output


def test_a_younger_process_is_somebody_elses(tmp_path: Path) -> None:
    """C2: a process that began after its pid file was written is dead; so is what is no pid."""
    path = tmp_path / "master.pid"
    path.write_text(f"{os.getpid()}\n")
    assert remote.processes(str(tmp_path))[0].alive
    os.utime(path, (1, 1))
    assert not remote.processes(str(tmp_path))[0].alive
    path.write_text("rubbish")
    with pytest.raises(remote.NotRunning):
        remote.processes(str(tmp_path))


def test_a_full_disk_leaves_no_pid_of_a_process_that_has_gone(shop: Workshop) -> None:
    """What cannot be written is taken away, with what was begun of it, said once, and written when it can be again."""
    (shop.directory / "pids").mkdir()
    (shop.directory / "pids" / ".worker.3.1").write_text("")  # of a master that was killed in the middle
    server = shop.script("""
        trace(cluster("app:app").set(workers=2).use(package.pidfiles())).listen(0, "127.0.0.1")
        """).ready()
    folder, own = shop.directory / "pids", shop.directory / "pids" / "worker.0.pid"
    eventually(lambda: own.exists() and (folder / "worker.1.pid").exists(), "the files")
    assert not (folder / ".worker.3.1").exists()
    before, hard = int(own.read_text()), resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))  # to whoever writes a file, as a full disk
    os.kill(before, signal.SIGKILL)
    server.wait_for(r"pidfiles: cannot write .*worker\.0\.pid: ")
    assert not own.exists()
    server.wait_for(r"EVENT \d+ worker ready", 3)
    assert {path.name for path in folder.glob("*.pid")} == {"master.pid", "worker.1.pid"}
    eventually(lambda: not list(folder.glob(".[mw]*")), "nothing half written")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
    eventually(own.exists, "the file again")
    assert int(own.read_text()) in server.family() and int(own.read_text()) != before
    assert int((folder / "master.pid").read_text()) == server.pid
    assert server.output.count("pidfiles: cannot write") == 1
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
