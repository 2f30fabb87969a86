"""Interpreters and systems that are set up otherwise: warnings as errors, an ASCII file system, a package in a zip."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from pathlib import Path

import pytest

import cluster

from ..harness import Workshop, fetch

PACKAGE = Path(cluster.__file__).parent

#: an interpreter whose names of files are ASCII
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_doubtful_setting_where_warnings_are_errors(shop: Workshop) -> None:
    """Fault: `cluster serve --set tiemout=1` printed a traceback."""
    server = shop.run(sys.executable, "-W", "error", "-m", "cluster", "serve", "app:app", "--bind", "127.0.0.1:0",
                      "--set", "tiemout=1")
    assert server.wait_exit() == 2
    assert server.output == "cluster: unknown setting 'tiemout'; did you mean 'timeout'?"


def test_a_helper_leaves_no_socket_open(shop: Workshop) -> None:
    """Fault: with warnings shown, the helper complained of its own socket when it ended."""
    body = """
    trace(cluster("app:app").set(workers=1).use(package.mail("a@example.com", port=1))).listen(0, "127.0.0.1")
    """
    server = shop.script(body, environment={"PYTHONWARNINGS": "default::ResourceWarning"}).ready()
    assert fetch(server.address(), "/raise")[0] == 500
    server.wait_for("^cluster: mail: ConnectionRefusedError")
    server.signal(signal.SIGQUIT)
    server.assert_gone()
    assert server.wait_exit() == 0 and "ResourceWarning" not in server.output, server.output


@pytest.mark.parametrize("code", [
    'cluster("app:app").use(package.pidfiles("p\\u00efds"))', 'cluster("app:app").use(package.logger("l\\u00f6gs"))',
    'cluster("app:app").use(package.repl("\\u00fc.sock"))', 'cluster("app:app").set(access_log="\\u00fc")',
    'cluster("app:app").bind("unix:\\u00fc.sock")', 'cluster("app:app", base="\\u00fc")',
    'cluster("app:app").bind(0, tls=("\\u00fc.pem", "\\u00fc.key")).set(workers=0)',
    'cluster("app:app").set(user="\\u00fc")',
])
def test_names_that_the_file_system_cannot_have(shop: Workshop, code: str) -> None:
    """Fault: a raw UnicodeEncodeError where names of files are ASCII."""
    server = shop.script(f"{code}.listen(0, '127.0.0.1')", environment=ASCII)
    assert server.wait_exit() == 2
    server.wait_for("^cluster: ")
    assert "Error" not in server.output and len(server.lines) == 1, server.output


def test_the_package_in_a_zip(shop: Workshop) -> None:
    """Fault: its own modules were looked for with os.listdir."""
    packed = shop.directory / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in PACKAGE.rglob("*.py"):
            archive.write(path, path.relative_to(PACKAGE.parent))
    body = """
    say("FROM", package.__file__)
    trace(cluster("app:app").set(workers=1).use(package.pidfiles()).use(package.stats())).listen(0, "127.0.0.1")
    """
    server = shop.script(body, environment={"PYTHONPATH": os.pathsep.join([str(packed), *filter(None, [
        os.environ.get("PYTHONPATH")])])}).ready()
    server.wait_for(r"^FROM .*packed\.zip")
    assert server.get()
    server.signal(signal.SIGQUIT)
    server.assert_gone()
