"""What signals do to workers, and to what these start: rows O3, U8."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ..harness import Workshop, connect, descriptors, eventually
from ..lateness import late
from .test_forked import FORKING, SERVING, ended


def mask(pid: int | str, name: str) -> set[int]:
    """The signals in a mask of a process: SigIgn, SigCgt, SigBlk."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name)]
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


@pytest.mark.parametrize("meaning", [None, "reopen logs"])
def test_o3_a_mapped_signal_to_the_group_harms_no_worker(shop: Workshop, meaning: str | None) -> None:
    """O3: workers ignore what means neither close nor destroy, INT and TERM too; Ctrl-C would have killed them all."""
    server = shop.script(f"""
        m = trace(cluster("app:app").set(workers=1, signals={{"SIGINT": {meaning!r}, "SIGTERM": {meaning!r}}}))
        m.listen(0, "127.0.0.1")
        """).ready()
    worker = server.get()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP if meaning is None else signal.SIGINT):
        if number != signal.SIGHUP:
            os.killpg(server.session, number)
        os.kill(int(worker), number)
        assert server.get() == worker
    if meaning is not None:
        server.wait_for("EVENT .* reopen logs", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.events("worker killed") == []


def test_o3_programs_inherit_no_ignored_signals(shop: Workshop) -> None:
    """O3: what a worker ignores means what it means to any program that the application starts."""
    shop.write("starting.py", """
        import os, subprocess
        def app(environ, start_response):
            reader, writer = os.pipe()
            actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
            pid = os.posix_spawnp("grep", ["grep", "SigIgn", "/proc/self/status"], os.environ, file_actions=actions)
            os.waitpid(pid, 0)
            os.close(writer)
            spawned = os.read(reader, 100)
            os.close(reader)
            ran = subprocess.run(["grep", "SigIgn", "/proc/self/status"], stdout=subprocess.PIPE).stdout
            start_response("200 OK", [])
            return [spawned, ran]
        """)
    server = shop.script("trace(cluster('starting:app').set(workers=1)).listen(0, '127.0.0.1')").ready()
    ignored = [int(line.split()[1], 16) for line in server.get().decode().splitlines()]
    assert len(ignored) == 2
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGINT):
        assert not [bits for bits in ignored if bits >> (number - 1) & 1], number
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_u8_exit_hooks_that_wait(shop: Workshop, number: signal.Signals) -> None:
    """U8: a worker that is terminated while it is idle, with a child whose end an exit hook waits for, ends quietly."""
    shop.write("forking.py", FORKING.replace(", daemon=True", ""))
    server = shop.script(SERVING).ready()
    worker = int(server.get("/multiprocessing"))
    child = int(server.wait_for(r"^CHILD (\d+)")[1])
    os.kill(worker, number)
    server.wait_for(f"^HOOK {worker}$")
    server.wait_for(rf"EVENT \d+ worker killed 0/{worker}")
    assert not ended(child)
    os.kill(child, signal.SIGTERM)
    eventually(lambda: ended(child), "the child has ended")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert f"died (signal {number.value}, " in server.output and "Traceback" not in server.output
    assert server.output.count(f"HOOK {worker}\n") == 1


def test_u8_exit_hooks_that_come_to_no_end(shop: Workshop) -> None:
    """U8, O3: a busy hook keeps neither the others from running nor the worker from ending."""
    shop.write("hooked.py", """
        import atexit
        from tracing import say
        atexit.register(say, "LAST HOOK")
        @atexit.register
        def hook():
            say("HOOK")
            while True:
                pass
        from app import app
        """)
    server = shop.script("trace(cluster('hooked:app').set(workers=1)).listen(0, '127.0.0.1')").ready()
    worker = int(server.get())
    os.kill(worker, signal.SIGTERM)
    server.wait_for(r"died \(signal 15, ")
    assert [line for line in server.lines if "HOOK" in line] == ["HOOK", "LAST HOOK"]
    assert "Traceback" not in server.output
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_right_before_the_hub_waits(shop: Workshop, number: signal.Signals) -> None:
    """O3: it ends the worker there and then, not at the next request, which would be cut."""
    environment = late(shop.directory, "EPOLL", "MICROSECONDS=3000")
    if not environment:
        pytest.skip("needs a C compiler, for a library in which the system's waits begin late")
    server = shop.script("trace(cluster('app:app').set(workers=8)).listen(0, '127.0.0.1')", environment=environment)
    server.ready().wait_for(r"EVENT \d+ ready$")
    workers = server.workers()
    with connect(server.address()):  # wakes them all, and they are about to wait again
        for worker in workers:
            os.kill(worker, number)
    for worker in workers:
        server.wait_for(rf"worker killed \d/{worker}")
    server.wait_for(r"EVENT \d+ worker ready", 16)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_what_wakes_the_hub_for_signals_stays_with_the_worker(shop: Workshop) -> None:
    """U3: a child that the application forks has no part in it: its signals wake no worker."""
    shop.write("forking.py", FORKING)
    server = shop.script(SERVING).ready()
    worker = int(server.get("/fork"))
    child = int(server.wait_for(r"^CHILD (\d+)")[1])

    def pipes(pid: int) -> set[str]:
        return {name for name in descriptors(pid) if name.startswith("pipe:")}

    own = pipes(worker) - pipes(server.pid)
    assert own
    eventually(lambda: not own & pipes(child), "the child has closed the worker's pipe")
    for _ in range(3):  # the child's signals are its own
        os.kill(child, signal.SIGURG)
    assert int(server.get()) == worker
    os.kill(child, signal.SIGTERM)
    eventually(lambda: ended(child), "the child has ended")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
