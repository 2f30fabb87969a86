"""What master and worker write waits for nobody: pipes that nobody reads, terminals, full disks. Rows F4, L1."""

from __future__ import annotations

import os
import pty
import re
import signal
import termios
import textwrap
from typing import Any

import pytest

from ..harness import Workshop, connect, eventually, fetch

READY = """
def tell(name):
    with open("facts", "a") as file:
        file.write(name + "\\n")
m.on("ready", lambda: tell(f"ready {os.getpid()} {m.addresses[0]}"))
m.on("worker ready", lambda worker: tell(f"worker {worker.pid}"))
"""


def facts(shop: Workshop, pattern: str, count: int = 1) -> re.Match[str]:
    """The *count*-th line of the file `facts` that matches, once it is there: the cluster's stderr says nothing."""
    path = shop.directory / "facts"

    def found() -> Any:
        lines = path.read_text().splitlines() if path.exists() else []
        matches = [match for line in lines if (match := re.search(pattern, line))]
        return matches[count - 1] if len(matches) >= count else None

    match: re.Match[str] = eventually(found, f"{count} of {pattern!r}")
    return match


def address(shop: Workshop) -> tuple[str, int]:
    """Where it listens."""
    match = facts(shop, r"^ready \d+ (\S+):(\d+)$")
    return match[1], int(match[2])


def full_pipe() -> tuple[int, int]:
    """A pipe into which nothing goes any more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for piece in (b"f" * 4095 + b"\n", b"\n"):
        try:
            while True:
                os.write(writer, piece)
        except BlockingIOError:
            pass
    os.set_blocking(writer, True)
    return reader, writer


def drain(reader: int, until: str) -> str:
    """Read from a pipe that was full until a line has come."""
    os.set_blocking(reader, False)
    data = b""

    def come() -> bool:
        nonlocal data
        try:
            while piece := os.read(reader, 65536):
                data += piece
        except BlockingIOError:
            pass
        return re.search(until, data.decode(), re.M) is not None

    eventually(come, f"{until!r} to be read")
    return data.decode().lstrip("f\n")


@pytest.mark.parametrize("plugin", ["", ".use(package.debug())"])
def test_a_full_pipe_stops_neither_master_nor_worker(shop: Workshop, plugin: str) -> None:
    """With stdout and stderr a pipe that nobody reads, requests that raise are answered, workers that die are replaced,
    a failing handler and a print harm nothing, TERM ends it; once somebody reads, the lines come, and where some are
    missing, how many. The pipe stays as it was for who shares it."""
    shop.write("quiet.py", "def app(environ, start_response):\n    raise RuntimeError('raised on purpose')\n")
    reader, writer = full_pipe()
    server = shop.script(f"os.dup2({writer}, 1); os.dup2({writer}, 2)\n" + f"""
m = cluster("./quiet.py").set(workers=1){plugin}
def fail(worker):
    print("printed by a handler", flush=True)
    raise ValueError("long" * 100000)
m.on("worker killed", fail)
""" + READY + "m.listen(0, '127.0.0.1')\n", pass_fds=(writer,))
    where = address(shop)
    for turn in range(4):
        assert fetch(where, "/")[0] == 500
        os.kill(int(facts(shop, r"^worker (\d+)$", turn + 1)[1]), signal.SIGKILL)
        facts(shop, r"^worker ", turn + 2)
    assert os.get_blocking(writer)
    text = drain(reader, r"^cluster: \d+ lines were dropped here by process \d+: nobody read them$")
    assert "printed by a handler" in text and "of event 'worker killed' failed" in text
    while True:  # full again
        os.set_blocking(writer, False)
        try:
            os.write(writer, b"f" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    os.close(reader)
    os.close(writer)


def test_a_pipe_whose_reader_is_gone(shop: Workshop) -> None:
    """Nobody will ever read it: nothing is raised, nothing waits, and the end comes."""
    reader, writer = os.pipe()
    server = shop.script(f"os.dup2({writer}, 2)\n" + 'm = cluster("app:app").set(workers=1)\n' + READY
                         + "m.on('worker killed', lambda worker: 1 / 0)\nm.listen(0, '127.0.0.1')\n",
                         pass_fds=(writer,))
    os.close(reader)
    os.close(writer)
    assert fetch(address(shop), "/raise")[0] == 500
    os.kill(int(facts(shop, r"^worker (\d+)$")[1]), signal.SIGKILL)
    facts(shop, r"^worker ", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_a_terminal_that_stops_who_writes_in_the_background(shop: Workshop) -> None:
    """`stty tostop`: the lines of master and workers are written, nobody is stopped, and no worker is removed by the
    SIGTTOU that the terminal would send."""
    leader, follower = pty.openpty()
    attributes = termios.tcgetattr(follower)
    attributes[3] |= termios.TOSTOP
    termios.tcsetattr(follower, termios.TCSANOW, attributes)

    server = shop.script(f"""
        import fcntl, termios
        fcntl.ioctl({follower}, termios.TIOCSCTTY, 0)
        if pid := os.fork():  # the foreground: the session's leader, which only waits
            os.close({follower})
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
        os.setpgid(0, 0)
        os.dup2({follower}, 2)
        m = cluster("app:app").use(package.debug()).set(workers=2)
    """ + textwrap.indent(READY + 'm.listen(0, "127.0.0.1")', " " * 8), pass_fds=(follower,))
    master = int(facts(shop, r"^ready (\d+) ")[1])
    assert fetch(address(shop), "/raise")[0] == 500
    text = drain(leader, r"uncaught exception RuntimeError")
    assert "master started" in text
    assert len(server.workers(master)) == 2
    os.kill(master, signal.SIGQUIT)
    assert server.wait_exit() == 0
    os.close(leader)
    os.close(follower)


@pytest.mark.parametrize("format", ["", ", access_log_format='json'"])
def test_f4_an_access_log_that_nobody_reads(shop: Workshop, format: str) -> None:
    """Row F4: requests are answered while nobody reads the FIFO; once somebody does, a line tells what is missing."""
    path = shop.directory / "access.fifo"
    os.mkfifo(path)
    server = shop.script(f"""
        m = cluster("app:app").set(workers=1, access_log="access.fifo"{format})
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    count = 120
    with connect(server.address()) as connection:
        for _ in range(count):
            connection.sendall(b"GET /?%s HTTP/1.1\r\nHost: t\r\nReferer: %s\r\n\r\n" % (b"q" * 8000, b"r" * 7000))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    text = drain(reader, r"lines were dropped here|\"dropped\": \d+")
    missing = re.search(r"(\d+) lines were dropped here|\"dropped\": (\d+)", text)
    assert missing is not None
    assert text.count("rrr\"") + int(missing[1] or missing[2]) == count
    server.get("/again")
    drain(reader, "/again")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    os.close(reader)


def test_l1_logs_that_are_fifos_or_full(shop: Workshop) -> None:
    """L1: with master.log and a worker's log FIFOs that nobody reads, and the third a device that is always full, all
    goes on; what a worker prints included."""
    shop.write("chatty.py", """
import sys
def app(environ, start_response):
    print("p" * 100000)
    sys.stderr.write("e" * 1000 + "\\n")
    start_response("200 OK", [])
    return [b"fine"]
""")
    folder = shop.directory / "logs"
    folder.mkdir()
    for name in ("master.log", "workers.access.log"):
        os.mkfifo(folder / name)
    (folder / "workers.error.log").symlink_to("/dev/full")
    server = shop.script("""
        m = cluster("./chatty.py").set(workers=1).use(package.logger())
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    for _ in range(30):
        assert server.get() == b"fine"
    with open(os.open(folder / "master.log", os.O_RDONLY | os.O_NONBLOCK), "rb"):
        pass
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker ready", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_a_half_line_on_a_full_disk_is_ended(shop: Workshop) -> None:
    """The log's limit is reached in the middle of a line; when there is room again, each line stands by itself."""
    limit = 20_000
    log = shop.directory / "access.log"
    server = shop.script(f"""
        import resource, threading
        m = cluster("app:app").set(workers=2, access_log="access.log", access_log_format="<%(U)s>")
        def limit(worker):
            from cluster import output
            output.AGAIN = 0.05
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, hard))
            import gevent
            def grow():
                while not os.path.exists("room"):
                    gevent.sleep(0.01)
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            gevent.spawn(grow)
        m.on("after fork", limit)
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    paths = [f"/{'x' * 700}{number}" for number in range(60)]
    for path in paths:
        server.get(path)
    eventually(lambda: log.stat().st_size >= limit, "the limit")
    server.wait_for("cannot write the access log: File too large")
    (shop.directory / "room").touch()
    whole = {f"<{path}>" for path in paths}
    eventually(lambda: whole <= set(log.read_text().splitlines()), "all lines, whole")
    odd = [line for line in log.read_text().splitlines() if line not in whole]
    assert len(odd) <= 2 and all(line.startswith("</") and line.count("<") == 1 for line in odd if line)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
