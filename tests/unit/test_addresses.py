"""Parsing addresses and their options."""

from __future__ import annotations

import socket

import pytest

from cluster.addresses import check_options, parse
from cluster.errors import ConfigurationError
from cluster.listeners import Listeners


@pytest.mark.parametrize(("given", "shown"), [
    (80, "0.0.0.0:80"), ("80", "0.0.0.0:80"), (":80", "0.0.0.0:80"), ("*:80", "0.0.0.0:80"),
    ("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:80", "[::1]:80"), ("[::]:80", "[::]:80"), ("localhost:1", "localhost:1"),
    (("localhost", 5), "localhost:5"), ("unix:/run/x.sock", "unix:/run/x.sock"), ("/run/x.sock", "unix:/run/x.sock"),
    ("unix:x.sock", "unix:/base/x.sock"), ("./x.sock", "unix:/base/x.sock"), ("fd://3", "fd://3"),
    ("unix:///run/y", "unix:/run/y"),
])
def test_forms(given: object, shown: str) -> None:
    """Every form that the design names, and those that people know from elsewhere."""
    (address,) = parse(given, base="/base")
    assert str(address) == shown


def test_lists_hosts_and_sockets() -> None:
    """A list of addresses; a host for a bare port; a socket that is bound."""
    assert [str(a) for a in parse([80, "/x", [81]], base="/")] == ["0.0.0.0:80", "unix:/x", "0.0.0.0:81"]
    assert str(parse(80, "::1")[0]) == "[::1]:80"
    with socket.socket() as bound:
        with pytest.raises(ConfigurationError, match="bound"):
            parse(bound)
        bound.bind(("127.0.0.1", 0))
        assert str(parse(bound)[0]) == f"socket://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("given", [
    -1, 65536, "65536", "", " ", "x", "host:", ":port", "::1:80", "[::1]", "[::1:80", "http://x:80", "fd://x", "unix:",
    "/x/", None, True, 1.5, [], {}, ("a", "b"), "a\0b", "unix:/" + "x" * 200, object(),
])
def test_nonsense_is_refused(given: object) -> None:
    """Anything else is a configuration error that says what an address is."""
    with pytest.raises(ConfigurationError):
        parse(given, base="/")


def test_twice_the_same_is_refused_but_port_0_is_not() -> None:
    """Two listeners on one address cannot be; two on any free port can."""
    listeners = Listeners()
    listeners.add(parse(["127.0.0.1:0", "127.0.0.1:0"]), {}, 10)
    assert len({listener.key for listener in listeners}) == 2
    with pytest.raises(ConfigurationError, match="given twice"):
        listeners.add(parse(["/x", "/x"]), {}, 10)


def test_options() -> None:
    """Unknown options and wrong values are refused; None means not given."""
    assert check_options({"mode": 0o600, "owner": None}) == {"mode": 0o600}
    for wrong in ({"mode": 0o1777}, {"mode": "600"}, {"owner": ""}, {"tsl": 1}):
        with pytest.raises(ConfigurationError):
            check_options(wrong)
