"""What must not stop a master: the system's refusals, failing handlers, and workers that talk nonsense."""

from __future__ import annotations

import os
import re
import signal
from textwrap import dedent

import pytest

from ..harness import Workshop, child_states, connect, descriptors, eventually

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
    server = shop.script(REFUSING + 'from cluster import crew\ncrew.FORK_PAUSE = 0.1\n'
                         'trace(cluster("app:app").set(workers=2)).listen(0, "127.0.0.1")\n')
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


def test_a_child_that_cannot_become_a_worker_harms_nobody(shop: Workshop) -> None:
    """Whatever fails between the fork and the worker ends that child only, not its brothers."""
    server = shop.script("""
        from cluster import system
        original = system.forget_master
        def forget():
            original()
            if os.path.exists("broken"):
                raise OSError(24, "Too many open files")
        system.forget_master = forget
        trace(cluster("app:app").set(workers=2)).listen(0, "127.0.0.1")
    """).ready()
    server.wait_for(r"EVENT \d+ ready")
    first, second = server.workers()
    shop.write("broken", "")
    os.kill(first, signal.SIGKILL)
    server.wait_for("worker killed", 2)
    assert second in server.workers()
    os.unlink(shop.directory / "broken")
    server.wait_for(r"EVENT \d+ worker ready", 3)
    assert "the supervisor failed" not in server.output
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_more_workers_than_the_scoreboard_holds_are_refused(shop: Workshop) -> None:
    """Too many at once: an answer, not an end; at the start, a configuration error."""
    server = shop.script("""
        from cluster import scoreboard
        import gevent
        m = cluster("app:app").set("workers", 1)
        @m.once("ready")
        def grow():
            for act in (m.resize, m.spawn):
                result = act(2_000_000)
                gevent.spawn(lambda result=result: (wait(result)))
        def wait(result):
            try:
                result.wait(20)
            except Exception as error:
                say("REFUSED", error)
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    server.wait_for("REFUSED .*at most 512 workers", 2)
    assert len(server.workers()) == 1 and server.get()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    server = shop.script('cluster("app:app").set(workers=2000).listen(0, "127.0.0.1")\n', name="many.py")
    assert server.wait_exit() == 2
    server.wait_for("^cluster: setting 'workers': 2000 is more than 'max workers', which is 512$")


@pytest.mark.parametrize("error", ["gevent.Timeout(1)", "SystemExit(3)", "ValueError(1)"])
def test_whatever_a_handler_raises_the_others_are_called(shop: Workshop, error: str) -> None:
    """A handler's or the callback's gevent.Timeout or SystemExit is a failure of its own, and the end still comes."""
    server = shop.script(f"""
        import gevent
        def fail(*args):
            raise {error}
        m = cluster("app:app").set("workers", 1)
        for event in ("start", "before fork", "worker", "listening", "ready", "closing"):
            m.on(event, fail)
        trace(m).listen(0, "127.0.0.1", callback=fail)
    """).ready()
    server.wait_for(r"EVENT \d+ ready")
    server.wait_for("of event 'ready' failed")
    server.wait_for("of event 'listen' failed")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.output.count(" failed\n") == 7
    server.wait_for(r"EVENT \d+ close")


@pytest.mark.parametrize("error", ["gevent.Timeout(1)", "SystemExit(3)"])
def test_whatever_an_exposed_function_raises_is_answered(shop: Workshop, error: str) -> None:
    """The worker is told; the master goes on."""
    server = shop.script(f"""
        import gevent
        def fail():
            raise {error}
        def work(worker):
            for _ in range(2):
                try:
                    worker.call("fail")
                except package.RemoteError as error:
                    say("ANSWER", error)
            gevent.sleep(100)
        m = trace(cluster(package.job(work)).set("workers", 1))
        m.expose("fail", fail)
        m.start()
    """)
    server.wait_for("ANSWER", 2)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("message", [
    '{"t": "waiting", "connections": "many"}',
    '{"t": "waiting", "connections": [1]}',
    '{"t": "waiting", "connections": 1e999}',
    '{"t": "exception", "type": "X", "message": 1, "text": [[' + "[" * 600 + "]" * 600 + ']], "fatal": true}',
    '{"t": "call", "id": 1, "name": "spawn", "args": [' + "[" * 600 + "]" * 600 + ']}',
    '{"t": "call", "id": 1, "name": "spawn", "args": [1e999]}',
    '{"t": "ready"}',
    '{"t": "reply", "id": 1}',
    '{"t": "event", "name": "close"}',
])
def test_nonsense_from_a_worker_harms_nobody(shop: Workshop, message: str) -> None:
    """What is a message, but not one of ours: the master goes on."""
    shop.write("message", message)
    server = shop.script("""
        import struct, gevent
        def work(worker):
            data = open("message", "rb").read().strip()
            if not os.path.exists("sent"):
                open("sent", "w").close()
                worker._channel._socket.send(struct.pack(">I", len(data)) + data)
            say("ANSWER", worker.call("hello"))
            gevent.sleep(100)
        m = trace(cluster(package.job(work)).set("workers", 1))
        m.expose("hello", lambda: "hello")
        m.start()
    """)
    server.wait_for("ANSWER hello")
    assert "the supervisor failed" not in server.output
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_signals_that_mean_commands_with_arguments(shop: Workshop) -> None:
    """A command that needs arguments cannot be meant by a signal; one that fails harms nobody."""
    server = shop.script('cluster("app:app").set("signals", {"SIGUSR1": "resize"}).listen(0, "127.0.0.1")\n')
    assert server.wait_exit() == 2
    assert server.output == "cluster: SIGUSR1: there is no command 'resize' that needs no argument"
    server = shop.script("""
        from cluster.commands import Command
        m = trace(cluster("app:app").set("workers", 1))
        def fail():
            raise ValueError("on purpose")
        m.commands.add(Command("fail", fail, "Fails."))
        m.set("signals", {"SIGUSR1": "fail"}).listen(0, "127.0.0.1")
    """, name="other.py").ready()
    server.signal(signal.SIGUSR1)
    server.wait_for("ValueError: on purpose")
    assert server.get()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("event", ["close", "ready"])
def test_a_second_destroy_ends_it_whatever_handlers_do(shop: Workshop, event: str) -> None:
    """A handler that never returns: asked a second time to end at once, the master does."""
    server = shop.script(f"""
        import gevent
        m = cluster("app:app").set("workers", 1)
        m.on({event!r}, lambda: (say("STUCK"), gevent.sleep(1000)))
        trace(m).listen(0, "127.0.0.1")
    """)
    if event == "ready":
        server.wait_for("STUCK")
    else:
        server.ready()
    server.signal(signal.SIGTERM)
    eventually(lambda: not server.workers(), "workers gone")
    if event == "close":
        server.wait_for("STUCK")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_what_is_asked_for_at_the_very_end_is_answered(shop: Workshop) -> None:
    """Every Result is resolved, also when the loop ends before its turn."""
    server = shop.script("""
        import gevent
        m = trace(cluster("app:app").set("workers", 1))
        results = []
        @m.on("close")
        def closing():
            supervisor = m._supervisor
            finish = supervisor._finish
            def late():
                supervisor.state = package.states.MasterState.RUNNING
                results.append(m.resize(3))
                supervisor.state = package.states.MasterState.CLOSED
                finish()
            finish_now = supervisor._inbox.put
            finish_now(late)
        import cluster.states
        package.states = cluster.states
        m.listen(0, "127.0.0.1")
        say("RESULTS", results)
    """)
    server.wait_for(r"EVENT \d+ ready")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    server.wait_for(r"RESULTS \[<Result of resize: .*closed")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_numeric_user_without_a_group_keeps_nothing_of_root(shop: Workshop) -> None:
    """User ids without an entry have no group; workers must not stay in root's."""
    server = shop.script('cluster("app:app").set(user=54321, workers=1).listen(0, "127.0.0.1")\n')
    assert server.wait_exit() != 0
    assert "group" in server.output and "54321" in server.output


@pytest.mark.parametrize("how", ["signal", "greenlet"])
def test_a_worker_that_drains_unasked_is_not_waited_for_for_ever(shop: Workshop, how: str) -> None:
    """It accepts no more: after `timeout` its master tells what it has in flight and kills it; its slot is filled."""
    shop.write("failing.py", """
        import gevent
        from app import app as other
        def fail():
            raise ValueError("in the background")
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/fail":
                gevent.spawn(fail)
            return other(environ, start_response)
    """)
    server = shop.script("""
        m = cluster("failing:app").set(workers=1, timeout=0.3, background_failures="exit")
        trace(m).listen(0, "127.0.0.1")
        """).ready()
    (worker,) = server.workers()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /sleep/100 HTTP/1.1\r\nHost: test\r\n\r\n")
        if how == "signal":
            eventually(lambda: server.get(), "serves")
            os.kill(worker, signal.SIGQUIT)
        else:
            server.get("/fail")
        server.wait_for(rf"timed out after 0.3 s \(pid {worker}; in flight: GET /sleep/100 127.0.0.1 for \d")
        server.wait_for(f"worker killed 0/{worker}", deadline=10)
    server.wait_for(r"EVENT \d+ worker ready", 2)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_a_restart_while_closing_is_delayed_is_refused(shop: Workshop) -> None:
    """Asked to close, it closes; a new master would go on. A second request cuts the delay short."""
    server = shop.script("""
        m = cluster("app:app")
        m.set({"workers": 1, "restart threshold": 0, "restart": "master", "close delay": 60})
        @m.once("closing")
        def ask():
            try:
                m.restart().wait(30)
            except package.OperationFailed as error:
                say("REFUSED", error)
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    server.signal(signal.SIGQUIT)
    server.wait_for("^REFUSED restart: the cluster is closing$")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert "restarting" not in server.output
    server.assert_gone()


def test_all_who_asked_for_a_restart_learn_that_it_succeeded(shop: Workshop) -> None:
    """Two requests, one replacement, two successes."""
    server = shop.script("""
        import gevent
        m = cluster("app:app").set({"workers": 1, "restart threshold": 0, "restart": "master"})
        @m.once("ready")
        def ask():
            if "CLUSTER_PARENT_PID" in os.environ:
                return
            for number, result in enumerate([m.restart(), m.restart()]):
                gevent.spawn(wait, number, result)
        def wait(number, result):
            try:
                say("RESULT", number, result.wait(20))
            except Exception as error:
                say("RESULT", number, error)
        trace(m).listen(0, "127.0.0.1")
    """)
    server.wait_for(r"RESULT 0 \d+")
    server.wait_for(r"RESULT 1 \d+")
    server.close()


@pytest.mark.parametrize("kind", ["wsgi", "tcp", "job", "abstract"])
def test_without_monkey_patch(shop: Workshop, kind: str) -> None:
    """`set("monkey patch", False)`: nothing is patched, and everything works."""
    body = {
        "wsgi": 'm = cluster("app:app"); go = lambda: m.listen(0, "127.0.0.1")',
        "tcp": 'm = cluster(package.tcp(lambda s, a: s.sendall(str(os.getpid()).encode())))\n'
               '        go = lambda: m.listen(0, "127.0.0.1")',
        "job": 'm = cluster(package.job(lambda w: gevent.sleep(1000))); go = m.start',
        "abstract": 'm = cluster(); go = m.start',
    }[kind]
    server = shop.script(f"""
        import gevent, socket
        {body}
        trace(m).set({{"workers": 2, "restart threshold": 0, "restart": "master", "monkey patch": False}})
        m.on("after fork", lambda worker: say("PATCHED", gevent.monkey.is_module_patched("socket")))
        go()
        if m.is_worker:
            gevent.sleep(1000)
    """)
    server.wait_for(r"EVENT \d+ ready")
    old = server.pid
    if kind in ("wsgi", "tcp"):
        with connect(server.address()) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert connection.recv(1000)
    (worker, *_) = server.workers()
    os.kill(worker, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker ready", 3)
    server.signal(signal.SIGHUP)
    line = server.wait_for(r"EVENT \d+ restart ")
    assert server.wait_exit() == 0
    new = int(str(getattr(line, "string", line)).split()[1])
    assert new != old
    assert "PATCHED True" not in server.output
    os.kill(new, signal.SIGQUIT)
    server.assert_gone()


def test_a_replacement_that_has_not_taken_over_does_not_restart(shop: Workshop) -> None:
    """A second restart asked of the new master before it serves would leave two masters."""
    server = shop.script("""
        import gevent
        m = cluster(package.job(lambda worker: (wait(worker), gevent.sleep(1000))))
        m.set({"workers": 1, "restart threshold": 0, "restart": "master", "ready": "manual"})
        def wait(worker):
            while "CLUSTER_PARENT_PID" in os.environ and not os.path.exists("go"):
                gevent.sleep(0.01)
            worker.ready()
        trace(m).start()
    """)
    server.wait_for(r"EVENT \d+ ready")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ worker connected", 2)
    (new,) = {int(line.split()[1]) for line in server.lines if line.startswith("EVENT ")} - {server.pid}
    os.kill(new, signal.SIGHUP)
    server.wait_for(rf"EVENT {new} restart failed")
    shop.write("go", "")
    server.wait_for(rf"EVENT {new} restart ")
    assert server.wait_exit() == 0
    os.kill(new, signal.SIGQUIT)
    server.assert_gone()


def test_broken_code_does_not_end_what_serves(shop: Workshop) -> None:
    """Row G5: a file is broken, a worker dies: its slot is tried again, few lines tell so, and the others serve on."""
    shop.write("changing.py", "from app import app\n")
    server = shop.script('m = cluster("changing:app").set(workers=3, abort_deaths=3)\n'
                         'trace(m).listen(0, "127.0.0.1")\n').ready()
    shop.write("changing.py", "raise ValueError('broken on purpose')\n")
    first, *others = server.workers()
    os.kill(first, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker killed", 8)
    assert server.get() and set(others) <= set(server.workers())
    assert "before any got ready" not in server.output
    told = [line for line in server.lines if line.startswith("cluster: worker") and " died (exit code 1" in line]
    assert 1 <= len(told) <= 4, told
    assert server.lines.count("ValueError: broken on purpose") == 1
    shop.write("changing.py", "from app import app\n")
    server.wait_for(r"EVENT \d+ worker ready", 4)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("where", ["crew.scoreboard.give_back", "crew._bring_back", "crew._on_change", "announcer.say",
                                   "dying.channel.read_rest", "dying.finish", "system.watch"])
def test_no_memory_while_a_death_is_dealt_with(shop: Workshop, where: str) -> None:
    """The slot is filled all the same, the others serve on, and it can be ended."""
    server = shop.script(f"""
        m = trace(cluster("app:app").set(workers=2))
        def no_memory(owner, name, times):
            original = getattr(owner, name)
            def act(*args, **named):
                nonlocal times
                times -= 1
                if times < 0:
                    return original(*args, **named)
                raise MemoryError
            setattr(owner, name, act)
        @m.once("ready")
        def arm():
            supervisor = m._supervisor
            *path, name = {where!r}.split(".")
            owner = {{"crew": supervisor.crew, "announcer": supervisor.announcer, "system": supervisor._system,
                     "dying": m.workers[0]}}[path[0]]
            for part in path[1:]:
                owner = getattr(owner, part)
            no_memory(owner, name, 2)
            say("ARMED", m.workers[0].pid)
        m.listen(0, "127.0.0.1")
    """).ready()
    dying = int(server.wait_for(r"^ARMED (\d+)")[1])
    (other,) = {*server.workers()} - {dying}
    os.kill(dying, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker ready", 3)
    eventually(lambda: len(server.workers()) == 2 and other in server.workers(), "two workers")
    assert server.get() and "the supervisor failed" not in server.output
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


@pytest.mark.parametrize("surface", ["", ".use(package.debug())", ".use(package.logger())"])
def test_a_killed_worker_is_reported_with_what_it_had_in_flight(shop: Workshop, surface: str) -> None:
    """Row W9, on every surface."""
    server = shop.script(f'trace(cluster("app:app").set(workers=1){surface}).listen(0, "127.0.0.1")\n').ready()
    (worker,) = server.workers()
    with connect(server.address()) as connection:
        connection.sendall(b"GET /sleep/50?x=%1b HTTP/1.1\r\nHost: test\r\n\r\n")
        assert server.get()
        os.kill(worker, signal.SIGSEGV)
        words = (r"worker 0 died \(signal 11, up \d+\.\d s; "
                 r"in flight: GET /sleep/50\?x=%1b 127\.0\.0\.1 for \d+\.\d s\)$")
        if "logger" in surface:
            log = shop.directory / "logs" / "master.log"
            eventually(lambda: re.search(words, log.read_text(), re.M), words)
        else:
            server.wait_for(words)
    server.wait_for(r"EVENT \d+ worker ready", 2)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_a_slow_shutdown_says_what_it_waits_for(shop: Workshop) -> None:
    """Row W9: also without a plugin."""
    server = shop.script('trace(cluster("app:app").set(workers=1, timeout=20)).listen(0, "127.0.0.1")\n').ready()
    with connect(server.address()) as connection:
        path = shop.directory / "done"
        connection.sendall(f"GET /until/{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert server.get()
        server.signal(signal.SIGQUIT)
        server.wait_for(r"cluster: worker 0 waiting for 1 request: GET /until/\S+ 127\.0\.0\.1 for \d+\.\d s$")
        path.write_text("")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait_exit() == 0


#: a new master that cannot go to its directory, or load its program, for as long as a file is there
HANGING = """
    import time
    original = os.%(what)s
    pause = time.sleep
    def hanging(*args):
        while os.path.exists("hang"):
            pause(0.01)
        original(*args)
    os.%(what)s = hanging
    m = cluster("app:app").set({"workers": 1, "restart threshold": 0, "restart": "master", "restart timeout": 1})
    trace(m).listen(0, "127.0.0.1")
"""


@pytest.mark.parametrize("what", ["chdir", "execvpe"])
def test_a_new_master_that_hangs_before_it_runs_holds_nobody_up(shop: Workshop, what: str) -> None:
    """A network mount that does not answer: the old master goes on, and gives the new one up at `restart timeout`."""
    server = shop.script(HANGING % {"what": what}).ready()
    (worker,) = server.workers()
    shop.write("hang", "")
    server.signal(signal.SIGHUP)
    server.wait_for(r"EVENT \d+ restarting")
    os.kill(worker, signal.SIGKILL)
    server.wait_for(r"EVENT \d+ worker ready", 2)
    assert server.get()
    server.wait_for(r"EVENT \d+ restart failed .*not ready after 1 s")
    eventually(lambda: len(server.family()) == 2, "the new master gone")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_an_interpreter_that_is_gone_is_named(shop: Workshop) -> None:
    """The reason is the system's, also now that nobody waits for the exec."""
    server = shop.script("""
        sys.executable = "/no/such/python"
        m = cluster("app:app").set({"workers": 1, "restart threshold": 0, "restart": "master"})
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    before = len(descriptors(server.pid))
    server.signal(signal.SIGHUP)
    server.wait_for("EVENT .* restart failed .*cannot be started.*No such file or directory: '/no/such/python'")
    eventually(lambda: "Z" not in child_states(server.pid), "no zombie")
    assert server.get() and len(descriptors(server.pid)) == before
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_as_many_workers_as_are_allowed_can_be_replaced(shop: Workshop) -> None:
    """No count that starts is one that cannot be reloaded."""
    server = shop.script("""
        m = cluster("app:app").set({"workers": 24, "max workers": 24, "signals": {"SIGHUP": "reload"}})
        trace(m).listen(0, "127.0.0.1")
    """).ready()
    server.signal(signal.SIGHUP)
    server.wait_for("EVENT .* reloaded 2")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
