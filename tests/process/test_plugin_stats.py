"""stats(): rows S1, S3, S5 (S4 is in test_plugin_repl.py, S2 is measured, see docs/stats.md)."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from cluster import operating, remote
from cluster.errors import RemoteError

from ..harness import DEADLINE, Workshop, connect, eventually, fetch

SERVER = """
m = cluster("app:app").set(workers=2, restart_threshold=0).use(package.pidfiles(), package.stats(True, True))
for name in {listen}:
    m.on(name, lambda worker, data, name=name: say("CLIENT", name, worker.id, sorted(data.items())))
m.command("listen", lambda: m.on("client request", lambda worker, data: say("LATE", data["path"])) and None)
m.command("silence", lambda: m.off("client request") and None)
trace(m).listen(0, "127.0.0.1")
"""


def ask(shop: Workshop, name: str, *words: str) -> Any:
    """A command over the socket."""
    return operating.operate(str(shop.directory / "pids"), name, words, wait=DEADLINE)


def test_s1_s5_counters_over_deaths_and_restarts(shop: Workshop) -> None:
    """S1, S5: right while active, after a death and after a restart; totals never go down; start is kept."""
    server = shop.script(SERVER.format(listen=())).ready()
    for _ in range(20):
        server.get()
    assert fetch(server.address(), "/raise")[0] == 500
    figures = ask(shop, "stats")
    totals = figures["totals"]
    assert totals["requests_total"] == 21 and totals["connections_total"] == 21 and totals["requests_active"] == 0
    assert totals["responses_2xx"] == 20 and totals["responses_5xx"] == 1 and totals["bytes_sent"] > 1000
    assert 0 < totals["p50"] <= totals["p95"] <= totals["p99"] < 5
    assert sum(worker["requests_total"] for worker in figures["workers"]) == 21
    assert (figures["restarts"], figures["deaths"], figures["workers_spawned"]) == (0, 0, 2)
    assert all(abs(worker["start"] - figures["start"]) < 30 for worker in figures["workers"])
    assert figures["memory_at_boot"] > 1_000_000
    with connect(server.address()) as slow:
        slow.sendall(b"GET /sleep/30 HTTP/1.1\r\nHost: t\r\n\r\n")
        busy = eventually(lambda: [one for one in ask(shop, "stats")["workers"] if one["requests_active"]], "active")[0]
        os.kill(busy["pid"], signal.SIGKILL)
        after = eventually(lambda: (now := ask(shop, "stats"))["deaths"] == 1 and now, "a death")
        assert after["totals"]["requests_active"] == after["totals"]["connections_active"] == 0
    assert after["totals"]["requests_total"] == 22
    server.wait_for(r"EVENT \d+ worker ready", 3)
    ask(shop, "reload")
    told = [22]
    ask(shop, "restart")
    server.wait_for(r"EVENT \d+ restart ")

    def total() -> int:
        try:
            told.append(ask(shop, "stats")["totals"]["requests_total"])
        except (remote.NotRunning, RemoteError):  # it was asked in its last moment
            pass
        return told[-1]

    server.get()
    eventually(lambda: total() >= 23, "the new master counts on")
    server.wait_for(r"EVENT \d+ old master gone")
    total()
    assert told == sorted(told) and told[-1] == 23
    new = ask(shop, "stats")
    assert new["start"] == figures["start"] and new["uptime"] > figures["uptime"]
    assert (new["restarts"], new["reloads"], new["deaths"], new["workers_spawned"]) == (1, 1, 1, 7)
    assert new["memory_at_boot"] == figures["memory_at_boot"]
    ask(shop, "restart")
    server.wait_for(r"EVENT \d+ old master gone", 2)
    assert ask(shop, "stats")["restarts"] == 2
    os.kill(ask(shop, "status")["pid"], signal.SIGQUIT)
    server.assert_gone()


def test_s1_totals_under_load_never_go_down(shop: Workshop) -> None:
    """S1: whoever reads all the time, over a restart under load, sees no total get smaller."""
    server = shop.script(SERVER.format(listen=())).ready()
    address, told, sent = server.address(), [0], 0
    ask(shop, "restart workers")
    for turn in range(2):
        server.signal(signal.SIGHUP)
        while len([line for line in server.lines if " restart {" in line]) <= turn:
            fetch(address)
            sent += 1
            try:
                told.append(ask(shop, "stats")["totals"]["requests_total"])
            except (remote.NotRunning, RemoteError):  # it was asked in its last moment
                pass
        server.wait_for(r"EVENT \d+ old master gone", turn + 1)
        server.pid = ask(shop, "status")["pid"]
    assert told == sorted(told)
    assert ask(shop, "stats")["totals"]["requests_total"] == sent
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_s1_a_new_master_is_asked_once_the_old_one_has_heard(shop: Workshop) -> None:
    """S1: ready or not, it leaves the pid files to the old master until it has all that this one counted."""
    server = shop.script(SERVER.format(listen=())).ready()
    address, old = server.address(), server.pid
    for _ in range(20):
        fetch(address)
    server.signal(signal.SIGHUP)
    server.wait_for(rf"EVENT (?!{old} )\d+ start")
    os.kill(old, signal.SIGSTOP)
    server.wait_for(rf"EVENT (?!{old} )\d+ ready")
    for _ in range(20):
        fetch(address)
    assert shop.pids()["master"] == old and not any(" restart {" in line for line in server.lines)
    os.kill(old, signal.SIGCONT)
    server.wait_for(r"EVENT \d+ old master gone")
    server.pid = shop.pids()["master"]
    assert server.pid != old and ask(shop, "stats")["totals"]["requests_total"] == 40
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_s3_events_only_while_someone_listens(shop: Workshop) -> None:
    """S3: the four events with their data; a handler added later hears; without one nothing is sent."""
    names = ("client connection", "client disconnection", "client request", "client request complete")
    server = shop.script(SERVER.format(listen=names)).ready()
    server.get("/hello?x=1")
    server.wait_for(r"CLIENT client connection \d \[\('remote', '127.0.0.1'\)\]")
    server.wait_for(r"CLIENT client request \d .*'GET'.*'/hello'.*'x=1'")
    server.wait_for(r"CLIENT client request complete \d .*\('status', 200\)")
    server.wait_for(r"CLIENT client disconnection \d \[\('remote', '127.0.0.1'\)\]")
    with connect(server.address()) as client:  # the last events of a worker arrive, too
        client.sendall(b"GET /sleep/0.3 HTTP/1.1\r\nHost: t\r\n\r\n")
        fetch(server.address())
        server.signal(signal.SIGQUIT)
        assert client.recv(100)
    assert server.wait_exit() == 0
    assert any("client request complete" in line and "/sleep/0.3" in line for line in server.lines)


def test_s3_handlers_come_and_go(shop: Workshop) -> None:
    """S3: events begin with the first handler and end with the last one."""
    server = shop.script(SERVER.format(listen=())).ready()
    server.get("/unheard")
    ask(shop, "listen")
    eventually(lambda: server.get("/heard") and any("LATE /heard" in line for line in server.lines), "heard")
    ask(shop, "silence")
    server.get("/silent")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert not any("/unheard" in line or "/silent" in line for line in server.lines)


OTHERS = {
    "pywsgi": """
        from gevent.pywsgi import WSGIServer
        from app import app
        server = WSGIServer(("127.0.0.1", 0), app, log=None)
    """,
    "tcp server": """
        from gevent.server import StreamServer
        server = StreamServer(("127.0.0.1", 0), lambda connection, address: connection.sendall(connection.recv(9)))
    """,
    "tcp handler": """
        from cluster import tcp
        server = tcp(lambda connection, address: connection.sendall(connection.recv(9)))
    """,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_s1_s3_on_other_servers(shop: Workshop, kind: str) -> None:
    """S1, S3: connections on any server, and requests on gevent's WSGIServer, are counted and told as on our own."""
    shop.write("other.py", OTHERS[kind])
    names = ("client connection", "client disconnection", "client request", "client request complete")
    server = shop.script(SERVER.format(listen=names).replace("app:app", "other:server")).ready()
    http = kind == "pywsgi"
    for _ in range(5):
        if http:
            assert fetch(server.address(), "/hello?x=1")[0] == 200
            continue
        with connect(server.address()) as client:
            client.sendall(b"hello")
            assert client.recv(9) == b"hello"
    server.wait_for(r"CLIENT client connection \d \[\('remote', '127.0.0.1'\)\]", 5)
    server.wait_for(r"CLIENT client disconnection \d \[\('remote', '127.0.0.1'\)\]", 5)
    if http:
        server.wait_for(r"CLIENT client request \d .*'GET'.*'/hello'.*'x=1'.*'127.0.0.1'", 5)
        server.wait_for(r"CLIENT client request complete \d .*\('status', 200\)", 5)
        assert fetch(server.address(), "/raise")[0] == 500
        server.wait_for(r"CLIENT client request complete \d .*'/raise'.*\('status', 500\)")
    totals = eventually(lambda: (now := ask(shop, "stats")["totals"])["connections_active"] == 0 and now, "all closed")
    assert totals["connections_total"] == (6 if http else 5) and totals["requests_active"] == 0
    requests = totals["requests_total"], totals["responses_2xx"], totals["responses_5xx"]
    assert requests == ((6, 5, 1) if http else (0, 0, 0))
    told = [line for line in server.lines if line.startswith("CLIENT")]
    assert len(told) == (24 if http else 10)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_s3_a_slow_handler_holds_up_its_own_events_only(shop: Workshop) -> None:
    """S3: events of clients that nobody has time for do not delay those of workers, nor the end."""
    server = shop.script("""
        import gevent
        m = cluster("app:app").set(workers=1).use(package.stats())
        m.on("client request complete", lambda worker, data: (say("HANDLED", data["path"]), gevent.sleep(1000)))
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    for turn in range(3):
        server.get(f"/{turn}")
        server.wait_for(r"^HANDLED /0")
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    server.wait_for(rf"EVENT \d+ worker killed 0/{worker}")
    server.wait_for(r"EVENT \d+ worker ready", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert len([line for line in server.lines if line.startswith("HANDLED")]) == 1
