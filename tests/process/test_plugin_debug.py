"""debug(): row D1."""

from __future__ import annotations

import os
import pty
import re
import signal

import pytest

from ..harness import Workshop, fetch

SCRIPT = """
m = cluster("app:app").use(package.debug(%s)).set(workers=1, restart="reload")
m.on("listening", lambda: say("ADDRESS", *m.addresses))
m.listen(0, "127.0.0.1")
"""


def test_d1_what_is_told(shop: Workshop) -> None:
    """D1: the stages of a life at their levels, on stderr: boot, a death, an exception, a reload, the end."""
    server = shop.script(SCRIPT % "")
    server.wait_for("^  info - all workers ready$")
    host, port = server.address()
    assert fetch((host, port), "/raise")[0] == 500
    server.wait_for("^  error - worker 0 uncaught exception RuntimeError: raised on purpose$")
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    server.wait_for(r"^  info - worker 0 ready after \d+ ms$", 2)
    server.signal(signal.SIGHUP)
    server.wait_for(r"^  info - reload complete \(generation 2\)$")
    server.wait_for(r"^  info - worker 0 removed")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    told = [line for line in server.lines if line.startswith("  ") and " - " in line]
    told = [re.sub(r"\d+ ms|pid \d+|up [\d.]+ s|:\d+$", "#", line.strip()) for line in told]
    assert told == [
        "info - master started (#)", "info - worker 0 spawned (#)", "info - listening for connections on 127.0.0.1#",
        "info - worker 0 connected", "info - worker 0 ready after #", "info - all workers ready",
        "error - worker 0 uncaught exception RuntimeError: raised on purpose",
        "warning - worker 0 died (signal 9, #)", "info - worker 0 spawned (#)", "info - worker 0 connected",
        "info - worker 0 ready after #",
        "info - reloading: generation 2 is starting", "info - worker 0 spawned (#)", "info - worker 0 connected",
        "info - worker 0 ready after #", "info - reload complete (generation 2)", "info - worker 0 removed (#)",
        "info - shutting down", "warning - kill(SIGQUIT)", "info - worker 0 removed (#)", "info - shutdown complete",
    ]


@pytest.mark.parametrize(("options", "environment", "terminal", "coloured"), [
    ("", {}, False, False), ("colors=True", {}, False, True), ("", {}, True, True),
    ("", {"NO_COLOR": "1"}, True, False),
    ("colors=False", {}, True, False),
])
def test_d1_colours(
    shop: Workshop, options: str, environment: dict[str, str], terminal: bool, coloured: bool
) -> None:
    """D1: colours only on a terminal unless told; NO_COLOR respected."""
    body = SCRIPT % options
    if not terminal:
        server = shop.script(body, environment=environment)
        text = server.wait_for("master started").string
    else:
        leader, follower = pty.openpty()
        server = shop.script(f"os.dup2({follower}, 2)\n" + body, environment=environment, pass_fds=(follower,))
        os.close(follower)
        text = os.read(leader, 1000).decode()
        server.address()
    assert ("\x1b[" in text) is coloured, text
    server.signal(signal.SIGTERM)
    server.wait_exit()
    if terminal:
        os.close(leader)
