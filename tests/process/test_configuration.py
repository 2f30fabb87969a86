"""Wrong input is refused before anything is bound or forked: rows K7, K8, B1 to B4, and the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
import zipapp
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cluster
from cluster import ConfigurationError, Master
from cluster.plugins import bundled
from cluster.settings import SETTINGS

from ..harness import Workshop, eventually, fetch


def program(shop: Workshop, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the ``cluster`` program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], cwd=shop.directory, capture_output=True, text=True, timeout=30,
        env={**os.environ, **environment}, check=False,
    )


def test_k7_missing_module_fails_before_anything_is_imported_or_bound(shop: Workshop) -> None:
    """K7: looked for without importing any of it, parent packages neither."""
    shop.write("parent/__init__.py", "print('PARENT IMPORTED')\n")
    for target, words in (("parent.missing:app", "no module named 'parent.missing'"),
                          ("aap:app", "did you mean 'app'?"), ("./nowhere.py", "no such file"),
                          ("app:", "neither a name nor a call")):
        server = shop.script(f"trace(cluster({target!r})).listen(0)")
        assert server.wait_exit() == 2
        server.wait_for(f"^cluster: .*{re.escape(words)}")
        assert "PARENT IMPORTED" not in server.output and server.events() == []


def test_k7_missing_attribute_and_failing_import(shop: Workshop) -> None:
    """K7: "no attribute; did you mean"; an import that fails inside shows that module's own traceback."""
    shop.write("outer.py", "import json\nfrom json import no_such_thing\n")
    server = shop.script("trace(cluster('app:ap').set(workers=1, abort_deaths=2)).listen(0)")
    assert server.wait_exit() == 3
    assert server.lines.count("'app:ap': no attribute 'ap'; did you mean 'app'?") == 1
    assert "Traceback" not in server.output
    server = shop.script("trace(cluster('outer:app').set(workers=1, abort_deaths=1)).listen(0)")
    assert server.wait_exit() == 3
    assert re.search(r'File ".*outer\.py", line 2', server.output)
    assert "ImportError: cannot import name 'no_such_thing'" in server.output


async def asgi(scope: object, receive: object, send: object) -> None:
    """An ASGI application."""


class Asgi:
    """Another."""

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        """As Starlette has it."""


def no_application() -> None:
    """Takes no arguments."""


def maker(name: object = "world") -> object:
    """Makes a plugin."""
    return lambda master: None


def in_a_thread(act: Callable[[], object]) -> None:
    """Call it in a native thread, and raise what it raises."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(act).result()


def wsgi(environ: object, start_response: object) -> list[bytes]:
    """A WSGI application."""
    return []


@pytest.mark.parametrize(("act", "words"), [
    (lambda: cluster.cluster(42), "cannot serve 42"),
    (lambda: cluster.cluster(asgi), "ASGI applications are not supported yet"),
    (lambda: cluster.cluster(Asgi()), "ASGI applications are not supported yet"),
    (lambda: cluster.cluster(pytest), "pytest is a module"),
    (lambda: Master(wsgi).set("workers", "four"), "setting 'workers' cannot be 'four': it takes a whole number"),
    (lambda: Master(wsgi).set(workers=-1), "0 or more"),
    (lambda: Master(wsgi).set(workers=True), "whole number"),
    (lambda: Master(wsgi).set(timeout="soon"), "seconds"),
    (lambda: Master(wsgi).set(restart="never"), "one of auto, master, reload"),
    (lambda: Master(wsgi).set("signals", {"SIGNONE": "close"}), "no signal 'SIGNONE'"),
    (lambda: Master(wsgi).set("signals", {"SIGTERM": "clsoe"}), "no command 'clsoe'"),
    (lambda: Master(wsgi).set("signals", {"SIGKILL": "close"}), "SIGKILL cannot be given a meaning"),
    (lambda: Master(wsgi).use("logger"), "'logger' is none"),
    (lambda: Master(wsgi).use(pytest), "pytest is a module"),
    *[(lambda name=name: Master(wsgi).use(getattr(cluster, name)), f"use {name}(), with parentheses")
      for name in bundled()],
    (lambda: Master(wsgi).use(maker), "maker makes one: use maker(), with parentheses"),
    (lambda: Master(wsgi).use(no_application), "use no_application(), with parentheses"),
    (lambda: cluster.logger(3), "logger: directory is a path, not 3"),
    (lambda: cluster.logger(level=["info"]), "logger: level is one of"),
    (lambda: cluster.pidfiles(3), "pidfiles: directory is a path, not 3"),
    (lambda: cluster.exceptions(b"x"), "exceptions: directory is a path, not b'x'"),
    (lambda: cluster.reload(paths=3), "reload: paths is a list of paths, not 3"),
    (lambda: cluster.reload(paths=[3]), "reload: one of the paths is a path, not 3"),
    (lambda: cluster.reload(extensions=3), "reload: extensions is a list of texts such as '.py', not 3"),
    (lambda: cluster.reload(ignore=[3]), "reload: what to ignore is a text of one line, not 3"),
    (lambda: cluster.repl(1, host=3), "repl: host is a text"),
    (lambda: cluster.repl(1, secret_file=3), "repl: secret_file is a path"),
    (lambda: cluster.mail(3), "mail: to is a list of addresses, not 3"),
    (lambda: cluster.mail("a@b", port="x"), "mail: port is a number from 1 to 65535, not 'x'"),
    (lambda: cluster.mail("a@b", host=3), "mail: host is a text"),
    (lambda: cluster.mail("a@b", interval="x"), "mail: interval is a number of seconds, not 'x'"),
    (lambda: cluster.mail("a@b", subject="a\nb"), "mail: subject is a text of one line"),
    (lambda: cluster.mail("a@b", sendmail=3), "mail: sendmail is a command"),
    (lambda: cluster.mail("a@b", sendmail="/bin/'x"), "mail: sendmail is a command"),
    (lambda: cluster.redis_log("redis://localhost:99999/0"), "no address: port out of range 0-65535"),
    (lambda: cluster.redis_log(key=3), "redis_log: key is a text"),
    (lambda: Master(wsgi).do(3), "do() takes a function"),
    (lambda: Master(wsgi).in_(""), "in_() takes the name"),
    (lambda: Master(wsgi).bind("nonsense"), "cannot listen on 'nonsense'"),
    (lambda: Master(wsgi).bind(70000), "0 to 65535"),
    (lambda: Master(wsgi).bind([]), "an empty list"),
    (lambda: Master(wsgi).bind(80, 5), "a host is a name or an address, not 5"),
    (lambda: Master(wsgi).bind(80, tls={"certificate": "x", "names": 5}), "listener option 'tls' takes"),
    (lambda: Master(wsgi).on(None, wsgi), "the name of an event, not None"),
    (lambda: in_a_thread(lambda: Master(wsgi).listen(0)), "from the main thread"),
    (lambda: Master(wsgi).bind("http://localhost:80"), "has no scheme"),
    (lambda: Master(wsgi).bind("::1:80"), r"\[::1\]:port"),
    (lambda: Master(wsgi).bind(80, colour="red"), "no listener option 'colour'"),
    (lambda: Master(wsgi).bind("/x.sock", mode="rw"), "'mode' takes an octal number"),
    (lambda: Master(wsgi).start(), "nothing to listen on"),
    (lambda: Master(wsgi).set(working_directory="/no/such").listen(0), "there is no directory"),
    (lambda: Master(wsgi).set(user="no-such-user").listen(0), "there is no user 'no-such-user'"),
    (lambda: Master(no_application).listen(0), r"does not take \(environ, start_response\); a factory is called"),
    (lambda: Master(wsgi).listen(host="127.0.0.1"), "needs an address"),
    (lambda: Master(wsgi).spawn("two"), "a number of workers"),
    (lambda: Master(wsgi).expose("x", 3), "not callable"),
    (lambda: cluster.job(3), "job"), (lambda: cluster.tcp(3), "tcp"),
])
def test_k8_wrong_input_raises_at_once(act: object, words: str) -> None:
    """K8: each raises at once, saying what is wrong and what would be right."""
    with pytest.raises(ConfigurationError, match=words if "\\" in words else re.escape(words)):
        act()  # type: ignore[operator]


def test_k8_options_that_are_paths(tmp_path: Path) -> None:
    """K8: a path is text or a `os.PathLike`; a list of paths may be a single one."""
    master = Master(wsgi, base=str(tmp_path)).use(cluster.pidfiles(Path("run")), cluster.exceptions(tmp_path / "found"))
    assert master.pidfiles == str(tmp_path / "run") and (tmp_path / "found").is_dir()
    for paths in (".", Path("."), [".", Path("run")], None):
        cluster.reload(paths, extensions=".txt")


def test_k8_plugins_that_return_something() -> None:
    """K8: a plugin may return the master, as its methods do, or what nobody can call; methods are plugins, too."""
    calls = []

    class Plugin:
        def use(self, master: Master) -> None:
            calls.append(master)

    master = Master(wsgi).use(lambda m: m.on("ready", print), lambda m: 3, Plugin().use, calls.append)
    assert calls == [master, master]


def test_k8_operations_need_a_running_cluster() -> None:
    """O1: an operation before the start says so."""
    with pytest.raises(cluster.OperationFailed, match="not running yet"):
        Master(wsgi).reload()


def test_k8_second_listen_and_listen_in_a_worker(shop: Workshop) -> None:
    """K8: a second listen() while running, listen() in a worker, listen() after the close."""
    shop.write("nested.py", """
        from cluster import cluster
        from tracing import say
        try:
            cluster("app:app").listen(0)
        except ValueError as error:
            say("NESTED", error)
        from app import app
        """)
    server = shop.script("""
        m = trace(cluster("nested:app").set(workers=1))
        def again():
            try:
                m.listen(0)
            except ValueError as error:
                say("AGAIN", error)
        m.on("ready", again)
        m.listen(0)
        try:
            m.listen(0)
        except ValueError as error:
            say("AFTER", error)
        """).ready()
    server.wait_for("^NESTED this process is a worker of a cluster already")
    server.wait_for("^AGAIN this cluster runs already")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.lines[-1].startswith("AFTER this cluster has closed")


def test_b1_settings() -> None:
    """B1: one by one and by keyword, spaces and underscores, has, options, unknown names kept, close ones warned of."""
    master = Master(wsgi).set("workers", 3).set(startup_timeout=5, my_own=[1])
    assert master.options["startup timeout"] == 5.0 and master.options["my own"] == [1]
    assert master.has("workers") and master.has("startup_timeout") and not master.has("timeout")
    with pytest.warns(UserWarning, match="did you mean 'workers'"):
        master.set("worker", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        master.set("something entirely different", 3)
    assert set(SETTINGS) <= set(master.options)


def test_b2_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """B2: in_() limits what follows; calls that do not match do nothing and return the master."""
    monkeypatch.setenv("CLUSTER_ENV", "production")
    master, calls = Master(wsgi), []
    chained = (master.in_("development").set(workers=1).use(calls.append).do(calls.append).listen("nonsense")
               .on("ready", calls.append).in_("production").set(timeout=7).in_("all").do(calls.append))
    assert chained is master and calls == [master]
    assert not master.has("workers") and master.options["timeout"] == 7
    monkeypatch.delenv("CLUSTER_ENV")
    assert master.environment == "development"


def test_b4_handlers_and_prevent_default() -> None:
    """B4: several in order, once, off, decorator; prevent_default makes listen return at once."""
    master, calls = Master(wsgi), []
    master.on("custom event", lambda *args: calls.append(("first", *args)))
    master.once("custom_event", lambda *args: calls.append(("once", *args)))

    @master.on("custom event")
    def third(*args: object) -> None:
        calls.append(("third", *args))

    master.emit("custom event", 1).emit("custom_event", 2).off("custom event", third).emit("custom event", 3)
    assert calls == [("first", 1), ("once", 1), ("third", 1), ("first", 2), ("third", 2), ("first", 3)]
    with pytest.warns(UserWarning, match="unknown event 'worker kiled'; did you mean 'worker killed'"):
        master.on("worker kiled", print)
    master.prevent_default = True
    assert master.listen(0) is master and master.state == "new"
    master._over = True  # nor does one that has closed, or runs, complain
    assert master.listen(0) is master and master.start() is master


def test_k1_k2_module(shop: Workshop) -> None:
    """K1, K2: the callable module; importing it loads neither gevent nor plugins; dir() lists plugins."""
    code = """
        import sys, cluster
        assert not [name for name in sys.modules if name.startswith(("gevent", "cluster.plugins."))], sys.modules
        assert cluster.version == cluster.__version__
        from cluster import Master, cluster as function
        import cluster as module
        assert isinstance(module("app:app"), Master) and isinstance(function("app:app"), Master)
        assert {"debug", "Master", "cluster"} <= set(dir(module))
        assert callable(module.debug) and module.worker() is None
        try:
            module.debgu
        except AttributeError as error:
            print(error)
        """
    path = shop.write("module.py", code)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean 'debug'?" in done.stdout


def test_k2_plugins_of_installed_packages(shop: Workshop) -> None:
    """K2, K8: packages add plugins through entry points; two of one name, or one named like ours, are refused."""
    def package(name: str, entry: str) -> None:
        shop.write(f"site/{name}.py", "def plugin(m):\n    print('PLUGGED', m)\n")
        shop.write(f"site/{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        shop.write(f"site/{name}-1.0.dist-info/entry_points.txt", f"[cluster.plugins]\n{entry} = {name}:plugin\n")

    def use(expression: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import cluster; cluster.Master('app:app').use({expression})"],
            capture_output=True, text=True, cwd=shop.directory, check=False,
            env={**os.environ, "PYTHONPATH": import_path(shop.directory / "site")})
        return done.stdout + done.stderr

    package("first", "shiny")
    assert "PLUGGED <Master" in use("cluster.shiny")
    package("second", "shiny")
    answer = use("cluster.shiny")
    assert "two plugins are named 'shiny': first:plugin of first and second:plugin of second" in answer or (
        "two plugins are named 'shiny': second:plugin of second and first:plugin of first" in answer)
    package("second", "events")
    assert "plugin 'events' of second is named like cluster.events" in use("cluster.shiny")
    package("second", "debug")
    assert "plugin 'debug' of second is named like a bundled one" in use("cluster.shiny")


def test_program_serves_and_checks(shop: Workshop) -> None:
    """The `cluster` program: serve, check, --version; errors are one line and exit code 2."""
    server = shop.run(sys.executable, "-m", "cluster", "serve", "app:app", "--workers", "2", "--bind", "127.0.0.1:0",
                      "--set", "timeout=5")
    match = server.wait_for(r"info - listening for connections on 127.0.0.1:(\d+)")
    server.wait_for("info - all workers ready")
    assert fetch(("127.0.0.1", int(match[1])))[0] == 200
    assert len(eventually(lambda: server.workers(), "workers")) == 2
    server.signal(signal.SIGINT)
    assert server.wait_exit() == 0

    assert program(shop, "--version").stdout == f"cluster {cluster.__version__}\n"
    done = program(shop, "check", "app:app")
    assert (done.returncode, done.stderr) == (0, "") and "is a WSGI application" in done.stdout
    shop.write("raising.py", "raise LookupError('its own')\n")
    done = program(shop, "check", "raising")
    assert done.returncode == 2 and "LookupError: its own" in done.stderr and "raising.py" in done.stderr
    assert done.stderr.count("File ") == 1  # none of ours
    done = program(shop, "serve", "nothing:app", "--set", "tiemout=3")
    assert done.stderr.splitlines()[0] == "cluster: unknown setting 'tiemout'; did you mean 'timeout'?"
    for arguments, words in (
        (("check", "app:nothing"), "no attribute 'nothing'"),
        (("check", "nothing:app"), "no module named 'nothing'"),
        (("serve", "nothing:app"), "no module named 'nothing'"),
        (("serve", "app:app", "--set", "workers=four"), "setting 'workers' cannot be 'four'"),
        (("serve", "app:app", "--set", "workers"), "--set takes NAME=VALUE"),
        (("serve", "app:app", "--bind", "x"), "cannot listen on 'x'"),
        (("serve", "app:app", "--bind", "127.0.0.1:0", "--bind", "/a.sock", "--bind", "/a.sock"), "given twice"),
        (("serve", "app:app", "--job", "--bind", "1"), "a job has no address"),
    ):
        done = program(shop, *arguments)
        assert (done.returncode, done.stderr.count("\n"), done.stdout.replace("\n", "")[:8]) in (
            (2, 1, ""), (2, 1, "IMPORTED")), (arguments, done)
        assert done.stderr.startswith("cluster: ") and words in done.stderr, done.stderr


@pytest.mark.parametrize("line", [
    'cluster("app:app").set(workers="four").listen(0)', "cluster(print).start()", "package.job(3)",
    "package.logger(level='loud')", 'from cluster import tcp; cluster(tcp(lambda: 0)).listen(0)',
    "package.vhost({})", "cluster(package)", "cluster('app:app').bind('x')",
])
def test_a_script_that_is_configured_wrongly_ends_with_one_line(shop: Workshop, line: str) -> None:
    """Row W8: exit code 2, its hooks are run, no traceback; with CLUSTER_DEBUG=1 a traceback."""
    body = f"import atexit\natexit.register(say, 'HOOK')\nif True:\n    {line}\nsay('NOT REACHED')\n"
    server = shop.script(body)
    assert server.wait_exit() == 2
    server._reader.join(5)
    assert [line[:9] for line in server.lines] == ["cluster: ", "HOOK"], server.lines
    text = server.lines[0].removeprefix("cluster: ")
    server = shop.script(body, environment={"CLUSTER_DEBUG": "1"})
    assert server.wait_exit() == 1
    server.wait_for("^Traceback")
    server.wait_for("^HOOK$")
    assert f"cluster.errors.ConfigurationError: {text}" in server.output or " at 0x" in text


def test_other_hooks_for_what_nobody_caught_are_respected(shop: Workshop) -> None:
    """Row W8: other exceptions go to the hook that was there; one set later has all; an interactive one goes on."""
    hook = "sys.excepthook = lambda kind, error, trace: say('HOOKED', kind.__name__)\n"
    wrong = "cluster('app:app').set(workers='four')\n"
    for body, code, told in ((f"{hook}m = cluster('app:app')\n1 / 0\n", 1, "HOOKED ZeroDivisionError"),
                             (f"{hook}{wrong}", 2, "cluster: setting 'workers' cannot be 'four'"),
                             (f"m = cluster('app:app')\n{hook}{wrong}", 1, "HOOKED ConfigurationError"),
                             ("m = cluster('app:app')\n1 / 0\n", 1, "ZeroDivisionError: division by zero"),
                             (f"try: {wrong}except ValueError: pass\nsay('GOES ON')\n", 0, "GOES ON")):
        server = shop.script(body)
        assert server.wait_exit() == code, (body, server.output)
        server.wait_for("^" + re.escape(told))
    path = shop.write("wrong.py", "from cluster import cluster\n" + wrong)
    done = subprocess.run([sys.executable, "-i", str(path)], input="print('GOES ON')\n", cwd=shop.directory,
                          capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" in done.stderr and done.stdout == "GOES ON\n" and done.returncode == 0, done


def test_an_abstract_worker_that_is_configured_wrongly(shop: Workshop) -> None:
    """Row W8: the hook is the master's; in a worker the rest of the script dies as of any exception, told once."""
    server = shop.script("""
        m = trace(cluster().set(workers=1, abort_deaths=1))
        @m.on("worker killed")
        def stop(worker):
            say("KILLED", worker.exit_code)
            m.close()
        m.start()
        if m.is_worker:
            m.set(workers="four")
        """)
    server.wait_for("^KILLED 1$")
    server.wait_exit()
    server._reader.join(5)
    assert len([line for line in server.lines if "cannot be 'four'" in line and "EVENT" not in line]) == 1


@pytest.mark.parametrize("target, words", [
    ("shapes:make", "make() is not a WSGI application: it does not take (environ, start_response); a factory is called "
                    "in the string, as in 'module:make()'"),
    ("shapes:Made", "Made() is not a WSGI application: it does not take (environ, start_response); a factory is called "
                    "in the string, as in 'module:Made()'"),
    ("shapes:wrong", "wrong() is not a WSGI application: it does not take (environ, start_response)"),
    ("shapes:asgi", "ASGI applications are not supported yet"),
    ("shapes:instance", "object at 0x"),
    ("shapes:hosts", "vhost: 'shapes:asgi': ASGI applications are not supported yet"),
    ("shapes:nothing", "cannot serve None; a server is"),
    ("shapes:work", "to run it as a job use cluster.job(work), or --job on the command line"),
])
def test_check_finds_what_serve_refuses(shop: Workshop, target: str, words: str) -> None:
    """Row W8: in the same words, apart from addresses in memory; so does the master when it imports it itself."""
    shop.write("shapes.py", """
        from cluster import vhost
        nothing = None
        def make(size=3): return make
        def wrong(a, b, c): pass
        def work(worker): pass
        async def asgi(scope, receive, send): pass
        class Made:
            def __call__(self, environ, start_response): return []
        class Short:
            def __call__(self, environ): return []
        instance = Short()
        hosts = vhost({"one.example": "shapes:asgi"})
        """)

    def told(line: str) -> str:
        return re.sub(" at 0x[0-9a-f]+", "", line)

    done = program(shop, "check", target)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and words in done.stderr, done
    if target == "shapes:work":
        assert program(shop, "check", "--job", target).stdout == f"{target} is a job\n"
    imported = program(shop, "serve", target, "--preload", "--bind", "127.0.0.1:0")
    assert (imported.returncode, told(imported.stderr)) == (2, told(done.stderr))
    served = program(shop, "serve", target, "--bind", "127.0.0.1:0", "--workers", "1", "--set", "restart threshold=0")
    assert served.returncode != 0 and told(done.stderr[len("cluster: "):]).strip() in told(served.stderr), served


def test_k7_the_program_shows_what_is_the_applications(shop: Workshop) -> None:
    """K7: a ValueError of a module that is imported in the master comes with its traceback."""
    shop.write("broken.py", "PORT = int('')\n")
    server = shop.run(sys.executable, "-m", "cluster", "serve", "broken:app", "--preload", "--bind", "127.0.0.1:0")
    assert server.wait_exit() != 0
    server.wait_for("PORT = int")
    server.wait_for("^ValueError: invalid literal")


def test_a_script_in_an_archive(shop: Workshop) -> None:
    """A zipapp: its directory is the archive's, relative names are taken against that."""
    shop.write("package/__main__.py", "from cluster import cluster\nfrom tracing import trace\n"
               "def app(environ, start):\n    start('200 OK', [])\n    return [b'zipped']\n"
               "trace(cluster(app).set(workers=1)).listen(0, '127.0.0.1')\n")
    zipapp.create_archive(shop.directory / "package", shop.directory / "app.pyz")
    server = shop.run(sys.executable, "app.pyz", environment={"PYTHONPATH": import_path(shop.directory)}).ready()
    assert server.get() == b"zipped"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_a_directory_that_was_deleted(shop: Workshop) -> None:
    """The program says so in one line."""
    (shop.directory / "gone").mkdir()
    # some interpreters cannot import anything there
    command = "import os, sys\nfrom cluster import launch, master, program\nos.rmdir(os.getcwd())\n" \
              "sys.argv[1:] = ['serve', 'x:app']\nprogram.main()\n"
    server = shop.run(sys.executable, "-c", command, cwd=shop.directory / "gone")
    assert server.wait_exit() == 2
    server.wait_for("^cluster: the current directory has been deleted; go to another one, or use --chdir$")


def import_path(*first: Path) -> str:
    """PYTHONPATH with these before what is there."""
    return os.pathsep.join([*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_program_environment_variables(shop: Workshop) -> None:
    """WEB_CONCURRENCY and PORT are taken; --env sets the environment, --chdir the directory, --preload imports once."""
    shop.write("inside/where.py", """
        import os
        def app(environ, start_response):
            start_response("200 OK", [])
            return [f"{os.path.basename(os.getcwd())} {os.environ['CLUSTER_ENV']}".encode()]
        print("IMPORTED BY", os.getpid(), flush=True)
        """)
    server = shop.run(sys.executable, "-m", "cluster", "serve", "where:app", "--chdir", "inside", "--env", "production",
                      "--bind", "unix:w.sock", "--preload", environment={"WEB_CONCURRENCY": "3"})
    path = str(shop.directory / "inside" / "w.sock")
    assert server.wait_for(r"^IMPORTED BY (\d+)")[1] == str(server.pid)
    eventually(lambda: len(server.workers()) == 3, "three workers")

    def answer() -> bytes | None:
        try:
            return fetch(path)[1]
        except OSError:
            return None

    assert eventually(answer, "an answer") == b"inside production"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.output.count("IMPORTED BY") == 1
