"""Every example, run as it stands, with real clients, a real Redis and a real nginx."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness import Script, Workshop, connect, eventually, fetch

EXAMPLES = Path(__file__).parents[2] / "examples"

#: what debug() says; the examples have no tracing
LISTENING = r"listening for connections on \S+?:(\d+)$"
STARTED = r"master started \(pid (\d+)\)"
SPAWNED = r"worker (\d+) spawned \(pid (\d+)\)"
READY = "all workers ready$"


#: as `sitecustomize`, which Python imports at its start: tests do not wait until a master is old enough for a restart
AT_ONCE = """
from cluster.settings import SETTINGS
SETTINGS["restart threshold"] = SETTINGS["restart threshold"]._replace(default=0.0)
"""


def run(shop: Workshop, path: str | Path, cwd: Path | None = None, **environment: str) -> Script:
    """Start an example on a port that is free."""
    site = shop.write("site/sitecustomize.py", AT_ONCE).parent
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return shop.run(sys.executable, str(EXAMPLES / path), cwd=cwd,
                    environment={"PORT": "0", "PYTHONPATH": os.pathsep.join(paths), **environment})


def serving(shop: Workshop, name: str, **environment: str) -> tuple[Script, tuple[str, int]]:
    """Start an example; returns it with its address once it is ready."""
    script = run(shop, name, **environment)
    port = int(script.wait_for(LISTENING)[1])
    script.wait_for(READY)
    return script, ("127.0.0.1", port)


def restart(script: Script) -> None:
    """Replace the master, and wait until the old one has gone. `Script.pid` is the new one then."""
    script.signal(signal.SIGHUP)
    took_over(script)


def took_over(script: Script) -> None:
    """Wait for the end of a restart that is under way."""
    script.wait_for("restart complete")
    script.pid = int(script.wait_for(STARTED, 2)[1])
    assert script.wait_exit() == 0


def close(script: Script, number: int = signal.SIGQUIT) -> None:
    """End it, by the last master there is, and see that nothing is left and nothing went wrong."""
    script.signal(number)
    script.assert_gone()
    if script.pid == script.process.pid:
        assert script.wait_exit() == 0
    assert "Traceback" not in script.output


def pid_in(answer: tuple[int, bytes]) -> int:
    """The pid that an example answers with, as its last word or as JSON."""
    status, body = answer
    assert status == 200, answer
    return int(json.loads(body)["pid"]) if body.startswith(b"{") else int(body.split()[-1])


def test_every_example_is_run_here() -> None:
    """An example that nobody runs will not work for long."""
    text = Path(__file__).read_text() + (Path(__file__).parent / "test_plugin_packages.py").read_text()
    scripts = [path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.py") if "cluster import" in path.read_text()]
    assert scripts
    assert [str(path) for path in scripts
            if f'"{path}"' not in text and f'"{path.parent}"' not in text and f'"{path.parts[0]}"' not in text] == []


def test_basic(shop: Workshop) -> None:
    """README's tour: answers, survives kill -9, is replaced by a new master, ends at Ctrl-C."""
    script, address = serving(shop, "basic.py")
    killed = pid_in(fetch(address))
    assert killed in script.workers()
    os.kill(killed, signal.SIGKILL)
    script.wait_for(r"worker \d died \(signal 9")
    assert pid_in(fetch(address)) != killed
    restart(script)
    assert pid_in(fetch(address)) in script.workers()
    close(script, signal.SIGINT)


def test_environments(shop: Workshop) -> None:
    """Settings and plugins of one environment count in that one only."""
    script, address = serving(shop, "environments.py")
    assert script.wait_for("^listening$")
    assert len(script.workers()) == 2
    assert header(address, "X-Stage").startswith("development, worker ")
    close(script)

    script = run(shop, "environments.py", CLUSTER_ENV="production", PORT=str(address[1]))
    script.wait_for("^listening$")
    assert len(script.workers()) == 3
    assert header(address, "X-Stage").startswith("production, worker ")
    os.kill(pid_in(fetch(address)), signal.SIGKILL)
    script.wait_for(r"^worker \d died: signal 9$")
    assert "spawned" not in script.output  # debug() is for development
    close(script)


def header(address: tuple[str, int], name: str) -> str:
    """A header of the answer to a GET."""
    with connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return next(line.partition(": ")[2] for line in answer.split("\r\n") if line.startswith(name))


@pytest.mark.parametrize(("name", "module"), [("flask_site/serve.py", "flask"), ("django_site/serve.py", "django")])
def test_frameworks(shop: Workshop, name: str, module: str) -> None:
    """Flask and Django answer, with their own pages for what is not there."""
    pytest.importorskip(module)
    script, address = serving(shop, name)
    assert pid_in(fetch(address)) in script.workers()
    assert fetch(address, "/nowhere")[0] == 404
    close(script)


@pytest.mark.parametrize(("target", "folder", "module"), [
    ("site_app:app", "flask_site", "flask"), ("mysite.wsgi", "django_site", "django")])
def test_frameworks_by_the_program(shop: Workshop, target: str, folder: str, module: str) -> None:
    """The same with `cluster serve`; a reload goes on with new processes."""
    pytest.importorskip(module)
    script = program(shop, target, "--chdir", str(EXAMPLES / folder), "--bind", "127.0.0.1:0")
    address = ("127.0.0.1", int(script.wait_for(LISTENING)[1]))
    script.wait_for(READY)
    before = script.workers()
    assert pid_in(fetch(address)) in before
    reload(script)
    assert pid_in(fetch(address)) not in before
    close(script)


def program(shop: Workshop, *arguments: str, **environment: str) -> Script:
    """Run `cluster serve`, with two workers, so that SIGHUP means reload."""
    return shop.run(sys.executable, "-m", "cluster", "serve", *arguments, "--workers", "2", "--set", "restart=reload",
                    environment=environment)


def reload(script: Script) -> None:
    """Replace the workers, and wait until the old ones have gone."""
    old = set(script.workers())
    script.signal(signal.SIGHUP)
    script.wait_for(r"reload complete \(generation 2\)")
    eventually(lambda: not old & set(script.workers()), "the old workers have gone")


def test_gevent_server(shop: Workshop) -> None:
    """The given object serves, with what its class changes."""
    script, address = serving(shop, "gevent_server.py")
    status, body = fetch(address)
    assert (status, body.split()[0]) == (200, b"Server")
    assert int(body.split()[-1]) in script.workers()
    close(script)


def test_echo(shop: Workshop) -> None:
    """What goes in comes out; a connection that is open when the cluster closes is served to its end."""
    script, address = serving(shop, "echo.py")
    payload = os.urandom(50_000)
    with connect(address) as connection:
        connection.sendall(b"before")
        assert read(connection, 6) == b"before"
        script.signal(signal.SIGQUIT)
        script.wait_for(r"waiting on 1 connections$")
        connection.sendall(payload)
        assert read(connection, len(payload)) == payload
        assert script.workers()
    assert script.wait_exit() == 0
    script.assert_gone()


def read(connection: Any, count: int) -> bytes:
    """Exactly *count* bytes."""
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        assert piece, f"end of file after {len(data)} of {count} bytes"
        data += piece
    return data


def test_abstract(shop: Workshop) -> None:
    """The workers do their part of the script, report to the master, and the master gets to its end."""
    script = shop.run(sys.executable, str(EXAMPLES / "abstract.py"))
    script.wait_for(r"primes below [2-9]\d{4}$")
    close(script)
    told = re.findall(r"^(\d+) primes below (\d+)$", script.output, re.MULTILINE)
    assert told == [(str(primes(int(limit))), limit) for _, limit in told]


def primes(limit: int) -> int:
    """How many there are below *limit*, by Eratosthenes."""
    left = set(range(2, limit))
    for number in range(2, int(limit**0.5) + 1):
        left -= set(range(number * number, limit, number))
    return len(left)


# -- jobs in Redis


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a unix socket's name, and that another user may enter."""
    made = tempfile.mkdtemp(prefix="cx-")
    os.chmod(made, 0o755)
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made)


@pytest.fixture
def redis_url(shop: Workshop) -> Iterator[str]:
    """A Redis server of this test's own, on a unix socket, with nothing on disk."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    pytest.importorskip("redis")
    with short_directory() as directory:
        path = directory / "redis.sock"
        server = shop.run(program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no",
                          "--dir", str(directory))
        server.wait_for("ready to accept connections")
        yield f"unix://{path}"
        server.signal(signal.SIGTERM)
        server.assert_gone()


class Squares:
    """The queue of the example, as its user sees it."""

    def __init__(self, shop: Workshop, url: str) -> None:
        import redis

        self.redis = redis.Redis.from_url(url)
        self.count = 0
        self._shop = shop
        self._url = url

    def add(self, count: int) -> None:
        """Queue the next *count* numbers."""
        self.redis.rpush("squares:waiting", *range(self.count, self.count + count))
        self.count += count

    def add_by_script(self, count: int) -> None:
        """The same with the example's own script."""
        self._shop.run(sys.executable, str(EXAMPLES / "redis_jobs/enqueue.py"), str(count),
                       environment={"REDIS_URL": self._url}).wait_for(f"^{count} jobs queued$")
        self.count += count

    def done(self) -> int:
        """How many results there are."""
        return int(self.redis.llen("squares:done"))

    def assert_done_once(self) -> None:
        """Each number has one result, and nothing else is left in Redis."""
        expected = sorted(f"{n}:{n * n}".encode() for n in range(self.count))
        assert sorted(self.redis.lrange("squares:done", 0, -1)) == expected
        assert self.redis.keys("*") == [b"squares:done"]
        self.redis.close()


def test_redis_jobs_are_done_once_over_a_killed_worker_and_a_restart(shop: Workshop, redis_url: str) -> None:
    """kill -9 in the middle of jobs, then a new master."""
    squares = Squares(shop, redis_url)
    squares.add_by_script(300)
    script = run(shop, "redis_jobs/serve.py", REDIS_URL=redis_url)
    eventually(lambda: squares.done() > 20, "some jobs done")
    os.kill(script.workers()[0], signal.SIGKILL)
    script.wait_for(r"worker \d died \(signal 9")
    script.signal(signal.SIGHUP)
    script.wait_for("restarting: starting a new master")
    squares.add(300)
    took_over(script)
    squares.add(100)
    eventually(lambda: squares.done() >= squares.count, "all jobs done")
    close(script)
    squares.assert_done_once()


def test_redis_jobs_are_done_once_over_a_reload(shop: Workshop, redis_url: str) -> None:
    """With the program: `cluster serve jobs:consume --job`."""
    squares = Squares(shop, redis_url)
    squares.add(200)
    script = program(shop, "jobs:consume", "--job", "--chdir", str(EXAMPLES / "redis_jobs"), REDIS_URL=redis_url)
    script.wait_for(READY)
    eventually(lambda: squares.done() > 20, "some jobs done")
    squares.add(100)  # so that there is work at the reload, however long it took to come here
    reload(script)
    eventually(lambda: squares.done() >= squares.count, "all jobs done")
    close(script)
    squares.assert_done_once()


# -- behind nginx


def test_behind_nginx(shop: Workshop) -> None:
    """nginx reaches the cluster over the unix socket, also over a restart; the socket's file goes at the end."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian package nginx)")
    with short_directory() as directory:
        folder = directory / "n"
        shutil.copytree(EXAMPLES / "behind_nginx", folder)
        config = folder / "nginx.conf"
        front = directory / "front.sock"
        config.write_text(config.read_text().replace("listen 8080;", f"listen unix:{front};"))
        script = run(shop, folder / "serve.py", cwd=folder)
        script.wait_for(READY)
        nginx = shop.run(program, "-p", ".", "-e", "stderr", "-c", "nginx.conf", "-g", "daemon off;", cwd=folder)
        eventually(lambda: answers(str(front)), "nginx answers")
        status, body = fetch(str(front))
        assert status == 200 and body.startswith(b"Hello "), body
        restart(script)
        assert pid_in(fetch(str(front))) in script.workers()
        close(script)
        assert not (folder / "app.sock").exists()
        nginx.signal(signal.SIGTERM)
        nginx.assert_gone()


def answers(path: str) -> bool:
    """Whether anybody accepts connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0
