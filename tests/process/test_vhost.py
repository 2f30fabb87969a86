"""vhost(): several applications in one server (issue 3)."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from cluster import vhost
from cluster.errors import ConfigurationError
from cluster.vhosts import find

from ..harness import Workshop, connect, eventually

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"{name}"]
"""


def ask(address: Any, host: str | None) -> str:
    """Status and body of a request for *host*."""
    with connect(address) as connection:
        head = f"Host: {host}\r\n" if host is not None else ""
        connection.sendall(f"GET / HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    text = answer.decode()
    return text.split()[1] + " " + text.rpartition("\r\n")[2].strip()


def test_hosts_on_a_cluster(shop: Workshop) -> None:
    """By name, wildcard and not at all; strings are imported by the workers, so a reload brings new code."""
    shop.write("one.py", APP.format(name="one"))
    shop.write("two.py", APP.format(name="two"))
    server = shop.script("""
        m = cluster(package.vhost({"foo.com": "one:app", "*.bar.com": "./two.py"})).set(workers=2)
        m.command("renew", m.reload).set("signals", {"SIGWINCH": "renew"})
        trace(m.use(package.debug())).listen(0, "127.0.0.1")
        say("LOADED", "one" in sys.modules)
    """).ready()
    address = server.address()
    for host, expected in (("foo.com", "200 one"), ("FOO.com:8080", "200 one"), ("foo.com.", "200 one"),
                           ("x.bar.com", "200 two"), ("a.b.bar.com", "200 two"), ("bar.com", "404 no such host here"),
                           ("other", "404 no such host here")):
        assert ask(address, host) == expected, host
    shop.write("one.py", APP.format(name="new"))
    server.signal(signal.SIGWINCH)
    eventually(lambda: {ask(address, "foo.com") for _ in range(4)} == {"200 new"}, "new code")
    assert "same code" not in server.output
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.lines[-1] == "LOADED False"


def test_a_reload_says_whose_code_is_new(shop: Workshop) -> None:
    """Strings and objects mixed: the named ones are new, the others are not."""
    shop.write("one.py", APP.format(name="one"))
    server = shop.script("""
        from app import app
        m = cluster(package.vhost({"foo.com": "one:app", "www.foo.com": "one:app", "*": app, "bar.com": app}))
        m.command("renew", m.reload).set("signals", {"SIGWINCH": "renew"})
        trace(m.set(workers=1)).listen(0, "127.0.0.1")
    """).ready()
    shop.write("one.py", APP.format(name="new"))
    server.signal(signal.SIGWINCH)
    server.wait_for(r"EVENT \d+ reloaded")
    eventually(lambda: ask(server.address(), "foo.com") == "200 new", "new code")
    said = [line for line in server.lines if line.startswith("cluster: reload: ")]
    assert said == ["cluster: reload: new code comes for 'one:app' only, as what serves '*', 'bar.com' was given as an "
                    "object, which lives in the master; restart brings new code"]
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_missing_applications_are_found_before_binding(shop: Workshop) -> None:
    """A string that names nothing fails at once."""
    server = shop.script('cluster(package.vhost({"foo.com": "nowhere:app"})).listen(0)')
    assert server.wait_exit() != 0 and "nowhere" in server.output and "EVENT" not in server.output


@pytest.mark.parametrize("table", [{}, {"": "a:b"}, {"http://foo.com": "a:b"}, {"a.*.com": "a:b"}, {"foo.com": 3},
                                   {"foo.com": "a:b", "FOO.com": "c:d"}, ["foo.com"], {3: "a:b"}])
def test_wrong_tables(table: Any) -> None:
    """Each is refused at once."""
    with pytest.raises(ConfigurationError, match="vhost"):
        vhost(table)


@pytest.mark.parametrize(("host", "expected"), [
    ("foo.com", 1), ("a.foo.com", 2), ("a.b.foo.com", 2), ("x.deep.foo.com", 3), ("deep.foo.com", 2), ("[::1]:80", 4),
    ("", 5), ("*", 5), ("*.foo.com", 2),
])
def test_the_most_particular_wins(host: str, expected: int) -> None:
    """The name itself, then the longest wildcard, then the default."""
    table = {"foo.com": 1, "*.foo.com": 2, "*.deep.foo.com": 3, "[::1]": 4, "*": 5}
    assert find(table, host) == expected
