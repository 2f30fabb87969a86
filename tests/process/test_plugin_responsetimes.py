"""responsetimes(): as an attribute, a command and a REPL function (issue 3)."""

from __future__ import annotations

import signal

from cluster import operating, remote

from ..harness import DEADLINE, Workshop


def test_on_a_cluster(shop: Workshop) -> None:
    """Requests of 0.2 s show as such, and a restart forgets none but in what is recent: that is the master's own.

    Fault: the shortest was below 0.2 s, and the mean outside of shortest and longest."""
    server = shop.script("""
        m = cluster("app:app").set(workers=2, restart_threshold=0)
        m.use(package.pidfiles(), package.responsetimes(), package.repl("repl.sock"))
        m.on("repl", lambda address: say("REPL"))
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    pids = str(shop.directory / "pids")
    assert operating.operate(pids, "responsetimes", wait=DEADLINE)["median"] is None
    for _ in range(3):
        server.get("/sleep/0.2")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ old master gone")
    server.wait_for("^REPL", 2)
    found = operating.operate(pids, "responsetimes", wait=DEADLINE)
    assert found["requests"] == 3 and 0.2 <= found["min"] <= found["median"] <= found["max"] < 3
    assert found["min"] <= found["mean"] <= found["max"] and found["recent"]["requests"] == 0
    server.get("/sleep/0.1")
    recent = operating.operate(pids, "responsetimes", wait=DEADLINE)["recent"]
    assert recent["requests"] == 1 and 0.1 <= recent["min"] == recent["mean"] == recent["max"] < 3
    server.pid = operating.operate(pids, "status")["pid"]
    with remote.Remote.at(str(shop.directory / "repl.sock")) as program:
        program.send({"line": "responsetimes()"})
        text = ""
        while "out" in (message := program.receive()):
            text += message["out"]
    assert "requests: 4\n" in text and "99.9%: " in text and "standard deviation: " in text
    assert "last 60 s" in text and text.count("requests: ") == 2
    server.signal(signal.SIGQUIT)
    server.assert_gone()
