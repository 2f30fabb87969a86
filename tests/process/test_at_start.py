"""What plugins check when the cluster is about to start: failures at start-up are loud, and leave nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from ..harness import Workshop, fetch

SERVER = """
m = trace(cluster("app:app").set(workers=1, restart_threshold=0).use({plugins}))
m.on("repl", lambda address: say("REPL", address))
m.bind("unix:http.sock").listen(0, "127.0.0.1")
"""


def fails(shop: Workshop, plugins: str, *arguments: str) -> str:
    """The error that ends the script before anything is forked; no file of a socket is left."""
    script = shop.script(SERVER.format(plugins=plugins), *arguments, name="failing.py")
    assert script.wait_exit() == 2
    script._reader.join(5)
    assert not script.events(), script.output
    assert not (shop.directory / "http.sock").exists()
    found = re.search(r"^cluster: (.*)", script.output, re.MULTILINE)
    assert found and "Traceback" not in script.output, script.output
    return found[1]


@pytest.mark.parametrize("address, reason", [
    ('"app.py"', "app.py: there is a file that is not a socket"),
    ('"app.py/x.sock"', "app.py/x.sock: Not a directory"),
    ('"%s.sock"' % ("x" * 200), "AF_UNIX path too long"),
    ('22222, host="1.2.3.4", secret="correct horse"', "1.2.3.4:22222: Cannot assign requested address"),
    ('22222, host="no.such.host.invalid", secret="correct horse"', "no.such.host.invalid:22222: "),
    ('22222, secret_file="app.py/secret"', "cannot keep a secret in "),
])
def test_repl_that_cannot_listen(shop: Workshop, address: str, reason: str) -> None:
    """T1: a REPL that cannot be is known before anything is forked."""
    message = fails(shop, f"package.repl({address})")
    assert message.startswith("repl") and reason in message
    assert not [path for path in shop.directory.iterdir() if "sock" in path.name]


def test_repl_makes_its_directories(shop: Workshop) -> None:
    """T1: the directories of the socket and of the secret are made, as those of every plugin are."""
    plugins = 'package.repl("run/deep/repl.sock"), package.repl(0, secret_file="kept/secret")'
    server = shop.script(SERVER.replace('.bind("unix:http.sock")', "").format(plugins=plugins)).ready()
    server.wait_for("^REPL .*/run/deep/repl.sock$")
    server.wait_for("^REPL 127")
    assert (shop.directory / "run/deep/repl.sock").is_socket() and (shop.directory / "kept/secret").is_file()
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_repl_where_another_process_listens(shop: Workshop) -> None:
    """T1: a port or a path that is taken; the other one is not disturbed, and its restart takes both over."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert fails(shop, f'package.repl({port}, secret="correct horse")') == (
            f"repl: cannot listen on 127.0.0.1:{port}: Address already in use")
    body = SERVER.replace('.bind("unix:http.sock")', "")
    server = shop.script(body.format(plugins='package.repl("repl.sock")')).ready()
    server.wait_for("^REPL ")
    assert fails(shop, 'package.repl("repl.sock")').endswith("repl.sock: another process listens there")
    server.signal(signal.SIGHUP)
    server.ready(2)
    server.wait_for("^REPL ", 2)
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def test_two_clusters_on_one_directory_of_pid_files(shop: Workshop) -> None:
    """P1: the second one does not start; the files of the first stay, over a restart, and a dead one's are taken."""
    body = SERVER.replace('.bind("unix:http.sock")', "")
    server = shop.script(body.format(plugins="package.pidfiles()")).ready()
    file = shop.directory / "pids" / "master.pid"
    message = fails(shop, "package.pidfiles()")
    assert re.fullmatch(rf"pidfiles: \S+/pids is used by a cluster that runs \(master {server.pid}\); .*", message)
    assert int(file.read_text()) == server.pid
    server.signal(signal.SIGHUP)
    server.ready(2)
    server.wait_for(r"EVENT \d+ old master gone")
    assert int(file.read_text()) == server.pid
    os.kill(server.pid, signal.SIGKILL)
    server.assert_gone()
    again = shop.run(*server.process.args).ready()
    assert int(file.read_text()) == again.pid
    again.signal(signal.SIGQUIT)
    again.assert_gone()


def test_a_failed_check_of_a_new_master(shop: Workshop) -> None:
    """At a restart the new master's failure leaves the old one's socket file and itself as they were."""
    server = shop.script(SERVER.format(plugins='package.repl("repl.sock")')).ready()
    server.wait_for("^REPL ")
    shop.write("server.py", (shop.directory / "server.py").read_text().replace(
        'package.repl("repl.sock")', "lambda m: m.at_start(lambda replacing: say('REPLACING', replacing, 1 / 0))"))
    server.signal(signal.SIGHUP)
    server.wait_for("ZeroDivisionError")
    server.wait_for(r"EVENT \d+ restart failed")
    assert fetch(str(shop.directory / "http.sock"))[0] == 200
    server.signal(signal.SIGQUIT)
    server.assert_gone()


#: what each plugin cannot write, as a file is in the way
UNWRITABLE = {"logger": 'package.logger("app.py/logs")', "pidfiles": 'package.pidfiles("app.py/pids")',
              "exceptions": 'package.exceptions("app.py/x")'}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_cannot_be_written_stops_the_start_only(shop: Workshop, name: str) -> None:
    """C2: who may write nothing may ask for the status; a start fails."""
    plugins = {key: value if key == name else f"package.{key}()" for key, value in UNWRITABLE.items()}
    used = ", ".join(plugins.values()) + ", package.cli()"
    script = shop.script(SERVER.format(plugins=used), "status", name="status.py")
    assert script.wait_exit() == 1
    script._reader.join(5)
    assert script.output.startswith("not running: no pid files in "), script.output
    assert not (shop.directory / "logs").exists(), "a log of a cluster that was not started"
    assert fails(shop, used).startswith(f"{name}: cannot ")


def test_c2_status_as_another_user(shop: Workshop, tmp_path: Path) -> None:
    """C2: no permission counts as alive, and it takes none to ask."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and not os.stat(folder).st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    # afterwards nothing can be imported where the interpreter's files are out of another user's reach
    used = ("lambda m: ([__import__(name) for name in ('encodings.ascii', 'logging.handlers', 'difflib')], "
            "os.setuid(65534)) if 'status' in sys.argv else None, "
            "package.logger(), package.exceptions(), package.pidfiles(), package.repl(0), package.cli()")
    server = shop.script(SERVER.format(plugins=used)).ready()
    status = shop.run(*server.process.args, "status")
    assert status.wait_exit() == 0, status.output
    status._reader.join(5)
    assert status.lines[0] == f"master {server.pid} alive"
    server.signal(signal.SIGQUIT)
    server.assert_gone()
