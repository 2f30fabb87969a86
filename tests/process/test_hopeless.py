"""What can never heal ends a start at once, and harms nothing that serves: row W6."""

from __future__ import annotations

import os
import re
import signal

import pytest

from ..harness import Script, Workshop, eventually

SERVER = """
m = trace(cluster({target!r}).set(workers=2, restart_threshold=0{more}))
m.listen(0, "127.0.0.1")
"""
ASGI = "async def app(scope, receive, send): pass"


def forked(server: Script, pid: int | None = None) -> int:
    """How many workers the master *pid*, or any, has forked."""
    return len(re.findall(rf"^EVENT {pid or '[0-9]+'} worker [0-9]", server.output, re.M))


def end(server: Script) -> None:
    """Close it, whichever master serves."""
    os.kill(int(re.findall(r"^EVENT (\d+) ready", server.output, re.M)[-1]), signal.SIGQUIT)
    server.assert_gone()


@pytest.mark.parametrize("text, target, told", [
    ("from json import no_such_thing", "broken:app", "ImportError: cannot import name 'no_such_thing'"),
    ("import no_such_module", "./broken.py", "ModuleNotFoundError: No module named 'no_such_module'"),
    ("def (:", "broken:app", "SyntaxError: invalid syntax"),
    ("app = 1", "broken:ap", "'broken:ap': no attribute 'ap'"),
    ("def make(): pass", "broken:make", "make() is not a WSGI application"),
    (ASGI, "broken:app", "ASGI applications are not supported yet"),
])
def test_one_report_and_the_end(shop: Workshop, text: str, target: str, told: str) -> None:
    """No worker is forked again, and nothing is said twice."""
    shop.write("broken.py", text)
    server = shop.script(SERVER.format(target=target, more=""))
    server.wait_for(r"EVENT \d+ listening")
    assert server.wait_exit(5) == 3
    assert forked(server) == 2 and server.events("worker exception") == ["worker exception"]
    assert sum(line.startswith(told) for line in server.lines) == 1, server.output
    assert sum(line.startswith("Traceback") for line in server.lines) == ("Error: " in told)
    assert server.lines.count("cluster: no worker can start before that is mended; giving up") == 1
    assert " died " not in server.output and "before any got ready" not in server.output
    server.assert_gone()


def test_a_restart_with_it_fails_at_once(shop: Workshop) -> None:
    """The replacement ends, the old master serves on, and a later restart takes the mended code."""
    shop.write("shop.py", "from app import app\n")
    server = shop.script(SERVER.format(target="shop:app", more=", restart_timeout=60")).ready()
    workers = server.workers()
    shop.write("shop.py", "from app import no_such_thing\n")
    server.signal(signal.SIGHUP)
    assert "exit code 3" in server.wait_for(r"^EVENT \d+ restart failed (.*)")[1]
    assert forked(server, server.pid) == 2 and forked(server) == 4
    assert server.output.count("ImportError: cannot import name") == 2  # on stderr, and with the event
    assert server.workers()[:2] == workers and int(server.get()) in workers
    shop.write("shop.py", "from app import app\n")
    server.signal(signal.SIGHUP)
    server.wait_for(r"^EVENT \d+ restart \{")
    server.ready(2)
    end(server)


def test_where_one_was_ready_it_is_tried_again(shop: Workshop) -> None:
    """Later it is a worker's death like any other: the others serve, its slot waits longer and longer, and heals."""
    shop.write("shop.py", "from app import app\n")
    server = shop.script(SERVER.format(target="shop:app", more=", abort_deaths=2")).ready()
    shop.write("shop.py", "def (:\n")
    first, other = server.workers()
    os.kill(first, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker killed", 6)
    assert int(server.get()) == other and "no worker can start" not in server.output
    shop.write("shop.py", "from app import app\n")
    eventually(lambda: {int(server.get()) for _ in range(4)} - {other}, "the slot is filled")
    end(server)


@pytest.mark.parametrize("origin", ["MemoryError()", "OSError(24, 'Too many open files')", "TimeoutError()"])
def test_what_may_pass_is_tried_again(shop: Workshop, origin: str) -> None:
    """An ImportError for want of memory, descriptors or a host says nothing about the code."""
    shop.write("shop.py", f"""
        import os
        from app import app
        if len(os.listdir("tries")) < 3:
            open(f"tries/{{os.getpid()}}", "w").close()
            raise ImportError("for now") from {origin}
        """)
    (shop.directory / "tries").mkdir()
    server = shop.script(SERVER.format(target="shop:app", more="")).ready()
    assert server.output.count("ImportError: for now") >= 3 and server.get()
    end(server)


def test_an_import_in_a_running_job_is_no_start(shop: Workshop) -> None:
    """What a job imports as it runs may be there the next time."""
    shop.write("jobs.py", "def work(worker):\n    import no_such_module\n")
    server = shop.script('trace(cluster("jobs:work").set(workers=1, ready="manual", abort_deaths=3)).start()')
    assert server.wait_exit() == 3
    assert "cluster: 3 worker deaths before any got ready" in server.lines and forked(server) == 3


def test_never_to_give_up_includes_it(shop: Workshop) -> None:
    """`abort deaths` = 0: tried again until the code is there."""
    shop.write("shop.py", "import no_such_module\n")
    server = shop.script(SERVER.format(target="shop:app", more=", abort_deaths=0"))
    server.wait_for(r"EVENT \d+ worker killed", 4)
    shop.write("shop.py", "from app import app\n")
    assert server.ready().get()
    end(server)
