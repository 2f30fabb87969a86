"""What must not stop a master: the system's refusals, failing handlers, and workers that talk nonsense."""

from __future__ import annotations

import os
import signal
from textwrap import dedent

import pytest

from ..harness import Workshop, descriptors

#: `refuse("fork")` makes what the master asks of the system fail for as long as a file of that name is there
REFUSING = dedent("""
    import errno
    from cluster import channel, system

    def refusing(name, original, number):
        def act(*args):
            if os.path.exists(name):
                raise OSError(number, os.strerror(number))
            return original(*args)
        return act

    system._fork = refusing("fork", system._fork, errno.EAGAIN)
    channel.pair = refusing("pair", channel.pair, errno.EMFILE)
""")


@pytest.mark.parametrize("refused", ["fork", "pair"])
def test_refused_at_the_start_it_tries_again(shop: Workshop, refused: str) -> None:
    """Nothing can be forked at first: said, tried again, and ready in the end."""
    shop.write(refused, "")
    server = shop.script(REFUSING + 'trace(cluster("app:app").set(workers=2)).listen(0, "127.0.0.1")\n')
    server.wait_for("cannot fork a worker: ")
    os.unlink(shop.directory / refused)
    server.ready()
    server.wait_for(r"EVENT \d+ ready")
    assert len(server.workers()) == 2
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("refused", ["fork", "pair"])
def test_refused_at_a_reload_the_old_workers_serve_on(shop: Workshop, refused: str) -> None:
    """A generation that cannot be forked is rolled back, and the next one is not."""
    server = shop.script(REFUSING + dedent("""
        m = cluster("app:app").set("workers", 2).set("signals", {"SIGHUP": "reload"})
        trace(m).listen(0, "127.0.0.1")
    """)).ready()
    server.wait_for(r"EVENT \d+ ready")
    workers = server.workers()
    shop.write(refused, "")
    server.signal(signal.SIGHUP)
    server.wait_for("reload failed 2 'new worker 0 could not be forked'")
    assert server.workers() == workers and server.get().decode() in map(str, workers)
    os.unlink(shop.directory / refused)
    server.signal(signal.SIGHUP)
    server.wait_for("reloaded 3")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("refused", ["fork", "pair"])
def test_refused_at_a_restart_this_master_serves_on(shop: Workshop, refused: str) -> None:
    """No new master can be started: said, and this one goes on, hears signals, and leaks nothing."""
    server = shop.script(REFUSING + dedent("""
        m = cluster("app:app").set({"workers": 1, "restart threshold": 0, "restart": "master"})
        trace(m).listen(0, "127.0.0.1")
    """)).ready()
    server.wait_for(r"EVENT \d+ ready")
    before = len(descriptors(server.pid))
    shop.write(refused, "")
    for attempt in (1, 2):
        server.signal(signal.SIGHUP)
        server.wait_for("EVENT .* restart failed .*cannot be started", attempt)
    os.unlink(shop.directory / refused)
    assert server.get() and len(descriptors(server.pid)) == before
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
