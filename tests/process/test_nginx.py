"""The nginx configurations that we ship, run by a real nginx, and clients who want to be somebody else (row T3)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..harness import Script, Workshop, connect, eventually

ROOT = Path(__file__).parents[2]

#: not in everybody's PATH
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian package nginx-light)")

#: asked for by its own name, each application tells its name and what it was told
APPS = """
import json

NAMES = ["REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO",
         "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PREFIX", "HTTP_FORWARDED", "HTTP_X_REAL_IP"]

def application(name):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"app": name, **{key: environ.get(key) for key in NAMES}}).encode()]
    return app

good, admin = application("good"), application("admin")
"""

#: what a client may add to make itself another one, or to be served by another application
HOSTILE = {
    "nothing": [],
    "host": ["X-Forwarded-Host: admin.internal"],
    "hosts": ["X-Forwarded-Host: admin.internal", "X-Forwarded-Host: admin.internal, admin.internal"],
    "server": ["X-Forwarded-Server: admin.internal", "X-Host: admin.internal", "X-Original-Host: admin.internal"],
    "underscores": ["X_Forwarded_Host: admin.internal", "X_Forwarded_For: 10.0.0.1", "X_Forwarded_Proto: https"],
    "standard": ["Forwarded: for=10.0.0.1;host=admin.internal;proto=https"],
    "unbalanced": ['Forwarded: host="admin.internal', "X-Forwarded-Host: admin.internal"],
    "address": ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 10.0.0.1", "X-Forwarded-Proto: https"],
    "addresses": ["X-Forwarded-For: 10.0.0.1, unix, 10.0.0.1", "X-Forwarded-Proto: https, https, https"],
    "place": ["X-Forwarded-Port: 443", "X-Forwarded-Prefix: //admin.internal", "X-Script-Name: /admin"],
}


def ours() -> str:
    """The configuration among the examples."""
    return (ROOT / "examples/behind_nginx/nginx.conf").read_text()


def documented() -> str:
    """The parts that docs/deployment.md shows, in their places of a whole configuration."""
    text = (ROOT / "docs/deployment.md").read_text()
    shown = re.search(r"^    upstream application \{\n(?:     .*\n)+    \}\n((?:    \w.*\n)+)", text, re.MULTILINE)
    assert shown is not None
    upstream, directives = shown[0][: shown.start(1) - shown.start()], shown[1]
    whole = f"""
        pid nginx.pid;
        events {{ worker_connections 64; }}
        http {{
            access_log off;
            client_body_temp_path temp_body; proxy_temp_path temp_proxy; fastcgi_temp_path temp_fastcgi;
            uwsgi_temp_path temp_uwsgi; scgi_temp_path temp_scgi;
            {upstream}
            server {{ listen 8080; location / {{ proxy_pass http://application; {directives} }} }}
        }}
        """
    return textwrap.dedent(whole)


Start = Callable[[str, Path], tuple[str, int]]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Start]:
    """Start an nginx with a configuration of ours in front of a unix socket; ended after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(configuration: str, application: Path) -> tuple[str, int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address: tuple[str, int] = probe.getsockname()
        # only where it listens and where the application is; and as whom it runs, so that it gets at our files
        configuration, listens = re.subn(r"listen 8080;", f"listen 127.0.0.1:{address[1]};", configuration)
        configuration, connects = re.subn(r"server unix:\S+ ", f"server unix:{application} ", configuration)
        assert listens == connects == 1
        folder = tmp_path / "nginx"
        folder.mkdir()
        (folder / "nginx.conf").write_text(configuration)
        options = "daemon off; master_process off;" + (" user root;" if os.geteuid() == 0 else "")
        log = (folder / "log").open("wb")
        with log:
            running.append(subprocess.Popen(
                [str(NGINX), "-p", str(folder), "-e", str(folder / "error"), "-c", "nginx.conf", "-g", options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            ))

        def accepts() -> bool:
            assert running[-1].poll() is None, (folder / "log").read_text() + (folder / "error").read_text()
            try:
                connect(address).close()
            except OSError:
                return False
            return True

        eventually(accepts, "nginx accepts")
        return address

    yield start
    for process in running:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def served(shop: Workshop, believed: str | None) -> tuple[Script, Path]:
    """Two applications by host name on a unix socket, that of the example's documentation."""
    shop.write("apps.py", APPS)
    option = f".set(forwarded_headers={believed!r})" if believed is not None else ""
    server = shop.script(f"""
        m = cluster(package.vhost({{"good.example": "apps:good", "admin.internal": "apps:admin"}}))
        trace(m.set(workers=1, trusted_proxies="unix"){option}).listen("unix:app.sock")
        """).ready()
    return server, shop.directory / "app.sock"


def ask(address: tuple[str, int], fields: list[str]) -> dict[str, str | None]:
    """What the application says that answers for good.example."""
    head = ["GET /page HTTP/1.1", "Host: good.example", "Connection: close", *fields]
    with connect(address) as client:
        client.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    body = answer.partition(b"\r\n\r\n")[2]
    found: dict[str, str | None] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return found


@pytest.mark.parametrize("configuration", [ours, documented])
@pytest.mark.parametrize("believed", [None, "for, proto, host, port, prefix", "forwarded, host"])
def test_no_client_of_nginx_chooses_another_application(
    shop: Workshop, nginx: Start, configuration: Callable[[], str], believed: str | None
) -> None:
    """Row T3: with what we ship in front, hostile fields change nothing, not even where all of them are believed."""
    server, application = served(shop, believed)
    address = nginx(configuration(), application)
    honest = ask(address, HOSTILE["nothing"])
    port = str(address[1])
    wanted = {"app": "good", "SERVER_NAME": "localhost", "SCRIPT_NAME": "", "wsgi.url_scheme": "http",
              "PATH_INFO": "/page", "HTTP_HOST": "good.example", "REMOTE_ADDR": "127.0.0.1", "SERVER_PORT": "80",
              "HTTP_X_FORWARDED_HOST": "good.example", "HTTP_X_FORWARDED_PREFIX": None, "HTTP_FORWARDED": None,
              "HTTP_X_REAL_IP": "127.0.0.1"}  # fmt: skip
    if believed == "for, proto, host, port, prefix":
        wanted |= {"SERVER_NAME": "good.example", "HTTP_HOST": f"good.example:{port}", "SERVER_PORT": port}
    elif believed == "forwarded, host":
        wanted |= {"REMOTE_ADDR": ""}  # nginx says nothing in that field, and neither can anybody else
    assert honest == wanted
    for name, fields in HOSTILE.items():
        assert ask(address, fields) == honest, name
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_a_careless_nginx_lets_no_client_choose_another_application(shop: Workshop, nginx: Start) -> None:
    """Row T3: by default X-Forwarded-Host is not believed, whoever passes it on."""
    careless = re.sub(r" *proxy_set_header (?!Connection|Host|X-Forwarded-(For|Proto)).*\n", "", ours())
    server, application = served(shop, None)
    address = nginx(careless, application)
    seen = ask(address, HOSTILE["host"])
    assert seen["HTTP_X_FORWARDED_HOST"] == "admin.internal"  # it comes through
    assert (seen["app"], seen["HTTP_HOST"], seen["SERVER_NAME"]) == ("good", "good.example", "localhost")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
