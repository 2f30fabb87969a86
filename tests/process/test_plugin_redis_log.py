"""redis_log(): on a real Redis server (issue 3)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from typing import Any

import pytest

from ..harness import Script, Workshop, eventually, fetch

redis = pytest.importorskip("redis")

SERVER = """
def app(environ, start_response):
    m.log_event("visit", {{"path": environ["PATH_INFO"]}})
    start_response("200 OK", [])
    return [b"ok"]
m = trace(cluster(app).set(workers=2).use(package.redis_log({options})))
m.listen(0, "127.0.0.1")
"""


def serve(shop: Workshop) -> tuple[Script, Any]:
    """A Redis server on a unix socket, and a client."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server")
    server = shop.run(program, "--port", "0", "--unixsocket", "redis.sock", "--save", "", "--daemonize", "no")
    client = redis.Redis(unix_socket_path=str(shop.directory / "redis.sock"))

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    eventually(answers, "Redis answers")
    return server, client


def entries(client: Any) -> list[dict[str, Any]]:
    """What the list holds."""
    return [json.loads(entry) for entry in client.lrange("cluster:log", 0, -1)]


def test_events_of_master_and_workers(shop: Workshop) -> None:
    """Both arrive, also the last; the list stays short; Redis going away and coming back harms nothing."""
    database, client = serve(shop)
    server = shop.script(SERVER.format(options=f'"unix://{shop.directory}/redis.sock", maximum=50')).ready()
    server.get("/hello")
    eventually(lambda: [e for e in entries(client) if e["type"] == "visit"], "the worker's event")
    visit = next(e for e in entries(client) if e["type"] == "visit")
    assert visit["data"] == {"path": "/hello"} and visit["worker"] in (0, 1) and visit["pid"] in server.workers()
    assert [e["type"] for e in entries(client)][:3] == ["start", "worker", "worker"]
    os.kill(visit["pid"], signal.SIGKILL)
    eventually(lambda: any(e["type"] == "worker killed" and e["data"]["ending"] == "signal 9" for e in entries(client)),
               "the death")
    server.wait_for(r"EVENT \d+ worker ready", 3)
    for _ in range(60):
        server.get("/many")
    eventually(lambda: len(entries(client)) == 50 and all(e["type"] == "visit" for e in entries(client)), "50 at most")
    database.process.terminate()
    database.wait_exit()
    for _ in range(5):
        server.get("/down")
    server.wait_for("^cluster: redis_log: ConnectionError")
    database, client = serve(shop)
    eventually(lambda: server.get("/again") and any(e["data"] == {"path": "/again"} for e in entries(client)), "again")
    server.wait_for(r"^cluster: redis_log: works again; \d+ more were lost$")
    lost = [int(number) for number in re.findall(r"redis_log: .*?(\d+) (?:lost|more were lost)$", server.output, re.M)]
    assert sum(lost) >= 5, "each is counted"
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert "closing" in [e["type"] for e in entries(client)]
    client.close()
    database.process.terminate()
    database.wait_exit()


def test_a_master_without_time_harms_no_request(shop: Workshop) -> None:
    """Fault: while the master was busy, log_event() waited 5 s and then raised gevent.Timeout into the application.

    Nor does a worker end because too much waits for the master.
    """
    database, client = serve(shop)
    script = SERVER.replace('start_response("', 'if environ["PATH_INFO"] == "/flood":\n'
                            '        for _ in range(200):\n            m.log_event("flood", "x" * 1_000_000)\n'
                            '    m.log_event("no JSON", object())\n    start_response("')
    server = shop.script(script.format(options=f'"unix://{shop.directory}/redis.sock"')).ready()
    workers = {int(server.wait_for(r"EVENT \d+ worker ready \d/(\d+)", number)[1]) for number in (1, 2)}
    server.signal(signal.SIGSTOP)
    assert server.get("/meanwhile") == server.get("/flood") == b"ok"
    server.signal(signal.SIGCONT)
    eventually(lambda: any(e["data"] == {"path": "/meanwhile"} for e in entries(client)), "meanwhile")
    eventually(lambda: any(e["type"] == "flood" for e in entries(client)), "some of the flood")

    # until the master has read the flood, that worker's entries are refused
    eventually(lambda: server.get("/after") and any(e["data"] == {"path": "/after"} for e in entries(client)), "after")
    assert workers <= set(server.workers())
    told = re.compile(r"redis_log: worker \d could not hand it on: the other side does not read; \d+ lost")
    # the worker says so with its next entry, and the other one may get the request
    eventually(lambda: server.get("/after") and told.search(server.output), "what the flood lost")
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    client.close()
    database.process.terminate()
    database.wait_exit()


def test_text_that_cannot_be_encoded(shop: Workshop) -> None:
    """A file name that is not UTF-8, in an event of the worker's own and in an exception; Redis takes only UTF-8."""
    database, client = serve(shop)
    script = SERVER.replace('start_response("', 'm.log_event("bad \\udcff type", "bad \\udcff name")\n'
                            '    if environ["PATH_INFO"] == "/odd":\n        raise ValueError("bad \\udcff text")\n'
                            '    start_response("')
    server = shop.script(script.format(options=f'"unix://{shop.directory}/redis.sock"')).ready()
    assert fetch(server.address(), "/odd")[0] == 500
    eventually(lambda: [e for e in entries(client) if e["type"] == "bad \udcff type"
                        and e["data"] == "bad \udcff name"], "the event")
    eventually(lambda: [e for e in entries(client) if e["type"] == "worker exception"
                        and e["data"]["message"] == "bad \udcff text"], "the exception")
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert "redis_log: " not in server.output
    client.close()
    database.process.terminate()
    database.wait_exit()


def test_what_is_no_json_is_logged_by_workers_as_by_the_master(shop: Workshop) -> None:
    """Fault: an entry of a worker whose data held a datetime or an exception was dropped without a word.

    One that is too large to be handed on is counted, and the master says so.
    """
    database, client = serve(shop)
    server = shop.script("""
        import datetime
        class Odd:
            def __repr__(self): raise ValueError("no repr")
        def log(log_event):
            loop = []; loop.append(loop)
            log_event("time", {{"at": datetime.datetime(2026, 1, 2), "why": ValueError("bad")}})
            log_event("keys", {{(1, 2): "tuple"}})
            log_event("number", float("nan"))
            log_event("loop", loop)
            log_event("odd", [Odd()])
            log_event(7)
        def app(environ, start_response):
            log(m.log_event if environ["PATH_INFO"] == "/m" else package.worker().log_event)
            if environ["PATH_INFO"] == "/large":
                m.log_event("large", "x" * 17_000_000)
            start_response("200 OK", [])
            return [b"ok"]
        m = trace(cluster(app).set(workers=1).use(package.redis_log({options})))
        m.on("ready", lambda: log(m.log_event))
        m.listen(0, "127.0.0.1")
    """.format(options=f'"unix://{shop.directory}/redis.sock"')).ready()
    wanted = {
        "time": {"at": "datetime.datetime(2026, 1, 2, 0, 0)", "why": "ValueError('bad')"},
        "keys": "{(1, 2): 'tuple'}", "number": "nan", "loop": "[[...]]",
        "odd": ["<Odd, whose repr raised ValueError>"], "7": None,
    }

    def logged() -> list[dict[str, Any]]:
        return [entry for entry in entries(client) if entry["type"] in wanted]

    for number, path in enumerate((None, "/m", "/worker"), start=1):
        if path is not None:
            server.get(path)
        eventually(lambda n=number: len(logged()) == n * len(wanted), "all of them")
        last = logged()[-len(wanted):]
        assert {entry["type"]: entry["data"] for entry in last} == wanted
        assert {entry["worker"] for entry in last} == {None if path is None else 0}
    server.get("/large")
    server.wait_for(r"^cluster: redis_log: worker 0 could not hand it on: a message of 17\d+ bytes.*; 1 lost$")
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    client.close()
    database.process.terminate()
    database.wait_exit()


@pytest.mark.parametrize("options", ['"http://x"', '"redis://x", maximum=0', "3"])
def test_wrong_options(shop: Workshop, options: str) -> None:
    """Said at once."""
    server = shop.script(SERVER.format(options=options))
    assert server.wait_exit() == 2
    server.wait_for("^cluster: redis_log: ")
    assert "Traceback" not in server.output
