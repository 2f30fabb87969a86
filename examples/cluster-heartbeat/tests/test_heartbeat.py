"""The plugin as installed, on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER = """
import cluster
def app(environ, start_response):
    cluster.worker().call("heartbeat says", "from a request")
    start_response("200 OK", [])
    return [b"ok"]
m = cluster.cluster(app).set(workers=1, restart_threshold=0)
m.use(cluster.pidfiles(), cluster.heartbeat("run/beat.json", interval=0.05), cluster.cli())
m.listen("unix:app.sock")
"""


def eventually(fact: Callable[[], Any]) -> Any:
    """Wait for a fact, at most 30 s."""
    deadline = time.monotonic() + 30
    while not (value := fact()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_a_life(tmp_path: Path) -> None:
    """It beats, over a restart too, takes a command, hears its workers, and leaves nothing running."""
    (tmp_path / "server.py").write_text(SERVER)
    server = subprocess.Popen([sys.executable, "server.py"], cwd=tmp_path)
    beat = tmp_path / "run" / "beat.json"

    def beats() -> dict[str, Any]:
        return dict(json.loads(beat.read_text())) if beat.exists() else {"beats": 0, "pid": 0, "said": ""}

    try:
        eventually(lambda: beats()["beats"] >= 3)
        eventually(lambda: beats()["said"] == "worker 0 is here")
        eventually((tmp_path / "pids" / "master.sock").exists)
        done = subprocess.run([sys.executable, "server.py", "beat"], cwd=tmp_path, capture_output=True, text=True)
        assert int(done.stdout) >= 4, done
        before = beats()["beats"]
        os.kill(server.pid, signal.SIGHUP)
        eventually(lambda: beats()["pid"] != server.pid)
        assert beats()["beats"] > before
        server.wait(30)
    finally:
        pid = beats()["pid"]
        if pid:
            os.kill(pid, signal.SIGQUIT)
    eventually(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """It ends the script, at its start."""
    (tmp_path / "run").write_text("")
    (tmp_path / "server.py").write_text(SERVER)
    done = subprocess.run([sys.executable, "server.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "heartbeat: cannot make" in done.stderr


def test_wrong_options() -> None:
    """What is wrong is said at once; the plugin is found by its name."""
    import pytest

    import cluster

    with pytest.raises(cluster.ConfigurationError, match="above 0"):
        cluster.heartbeat(interval=0)
    assert "heartbeat" in dir(cluster)
