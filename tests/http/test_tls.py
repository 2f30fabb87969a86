# ruff: noqa: E501
"""H13: TLS as an option of a listener, several names, and certificates replaced while it runs."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import gevent
import http_helpers as helpers
import pytest
from gevent import socket as gsocket
from gevent.ssl import SSLContext

from cluster.errors import ConfigurationError
from cluster.http import AccessLog, Limits, Timeouts
from cluster.http import tls as own

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl program to make certificates")
TEXT = [("Content-Type", "text/plain")]


def make(folder, name):
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(certificate), str(key)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    return {name: make(folder, name) for name in ("one.test", "two.test")}


def app(environ, start_response):
    if environ["PATH_INFO"] == "/big":
        start_response("200 OK", TEXT)
        return [b"x" * 3_000_000]
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [f"{environ['wsgi.url_scheme']} {environ.get('HTTPS')} {len(body)}".encode()]


def client(served, name="one.test", trusted=None, alpn=True):
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if trusted:
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
    if alpn:
        context.set_alpn_protocols(["h2", "http/1.1"])
    sock = gsocket.create_connection(served.address)
    sock.settimeout(20)
    return context.wrap_socket(sock, server_hostname=name)


def get(sock, path="/", body=b""):
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return helpers.Reader(sock).next()


def test_h13_request_over_tls(serve, certificates):
    served = serve(app, binding={"tls": certificates["one.test"]})
    with client(served, trusted=certificates["one.test"][0]) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            assert get(sock).body == b"https on 0"
    helpers.until(lambda: served.server.active == 0)


def test_h13_large_bodies_both_ways(serve, certificates):
    served = serve(app, binding={"tls": certificates["one.test"]})
    with client(served) as sock:
        assert len(get(sock, "/big").body) == 3_000_000
        sending = gevent.spawn(get, sock, "/", b"y" * 5_000_000)
        assert sending.get(timeout=20).body == b"https on 5000000"


def test_h13_plain_and_tls_side_by_side(serve, certificates):
    import socket

    served = serve(app)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    binding = served.server.add_listener(listener, tls=certificates["one.test"])
    secure = helpers.Served(served.server, listener, binding, [])
    assert served.get().body == b"http None 0"
    with client(secure) as sock:
        assert get(sock).body == b"https on 0"
    listener.close()


def test_h13_names(serve, certificates):
    served = serve(
        app, binding={"tls": own.context(*certificates["one.test"], names={"two.test": certificates["two.test"]})}
    )
    for name in ("one.test", "two.test"):
        with client(served, name, trusted=certificates[name][0]) as sock:
            assert get(sock).status == 200
    with client(served, "other.test") as sock:
        assert get(sock).status == 200


def test_h13_certificates_from_memory(serve, certificates):
    texts = [Path(path).read_bytes() for path in certificates["one.test"]]
    served = serve(app, binding={"tls": tuple(texts)})
    with client(served, trusted=certificates["one.test"][0]) as sock:
        assert get(sock).status == 200
    both = serve(app, binding={"tls": own.context(texts[0] + texts[1])})
    with client(both) as sock:
        assert get(sock).status == 200


def test_h13_replaced_while_under_load(serve, certificates):
    served = serve(app, binding={"tls": certificates["one.test"]})
    failures = []
    count = 0
    stop = False

    def load():
        nonlocal count
        while not stop:
            try:
                with client(served) as sock:
                    for _ in range(3):
                        assert get(sock).status == 200
                        count += 1
            except (OSError, AssertionError) as error:
                failures.append(error)

    loads = [gevent.spawn(load) for _ in range(5)]
    with client(served, trusted=certificates["one.test"][0]) as old:
        assert get(old).status == 200
        for number in range(10):
            gevent.sleep(0.03)
            served.binding.set_tls(own.context(*certificates[("two.test", "one.test")[number % 2]]))
        served.binding.set_tls(own.context(*certificates["two.test"]))
        # a connection keeps what it was made with
        assert get(old).status == 200
    with client(served, "two.test", trusted=certificates["two.test"][0]) as sock:
        assert get(sock).status == 200
    stop = True
    gevent.joinall(loads, raise_error=True)
    assert not failures and count > 20


def test_h13_configuration_that_cannot_be(serve, certificates, tmp_path):
    for wrong in [
        ("/no/such", "/file"),
        (certificates["one.test"][0], certificates["two.test"][1]),
        (b"junk", b"junk"),
        5,
        "path",
    ]:
        with pytest.raises(ConfigurationError):
            own.as_context(wrong)
    with pytest.raises(ValueError):
        serve(app).binding.set_tls(own.context(*certificates["one.test"]))


def test_h13_plain_http_and_silence_on_a_tls_listener(serve, certificates, connect):
    served = serve(app, binding={"tls": certificates["one.test"]}, limits=Limits(timeouts=Timeouts(head=0.2)))
    sock = connect(served)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"200" not in helpers.read_all(sock)
    silent = connect(served)
    assert silent.recv(1) == b""
    helpers.until(lambda: served.server.active == 0)
    assert not served.errors


def test_h13_drain(serve, certificates):
    served = serve(app, binding={"tls": certificates["one.test"]})
    with client(served) as sock:
        assert get(sock).header("Connection") is None
        draining = gevent.spawn(served.server.drain, 0.2)
        gevent.sleep(0.02)
        assert get(sock).header("Connection") == "close"
        assert sock.recv(1) == b""
    draining.join(5)
    assert draining.dead


def test_h12_proxy_protocol_before_tls(serve, certificates):
    served = serve(app, binding={"tls": certificates["one.test"], "proxy_protocol": True})
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = gsocket.create_connection(served.address)
    sock.sendall(b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\n")
    with context.wrap_socket(sock) as secure:
        assert get(secure).status == 200


def test_h4_a_response_cut_short_is_no_whole_one_over_tls(serve, certificates):
    """Only the end of the connection tells its length, and a goodbye would say that this was its end (RFC 9112, 9.8)."""

    def failing(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"begun"
        raise ValueError("in the middle")

    served = serve(failing, binding={"tls": certificates["one.test"]})
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = gsocket.create_connection(served.address)
    with context.wrap_socket(sock, suppress_ragged_eofs=False) as secure:
        secure.settimeout(20)
        secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(OSError) as caught:
            while secure.recv(1000):
                pass
        assert not isinstance(caught.value, TimeoutError)
    assert [str(error) for error in served.errors] == ["in the middle"]


# --- handshakes that fail ---------------------------------------------------------------------------------------------

PLAIN_HTTP = "plain HTTP on a port that speaks TLS"
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [[HEAD], [b"G", HEAD[1:]], [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000)],
     [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], [b"get /\r\n"]],
)  # fmt: skip
@pytest.mark.parametrize("proxied", [False, True])
def test_plain_http_on_a_tls_port_is_told_so_in_plain_text(serve, certificates, connect, pieces, proxied):
    """Row T4: with an answer that arrives however much the client sends, a line in the access log, and a count."""
    lines: list[bytes] = []
    log = AccessLog(lines.append, "%(h)s %(s)s")
    served = serve(app, access_log=log, binding={"tls": certificates["one.test"], "proxy_protocol": proxied or None})
    sock = connect(served)
    if proxied:
        pieces = [b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + pieces[0], *pieces[1:]]
    for piece in pieces:
        sending = gevent.spawn(sock.sendall, piece)
        gevent.sleep(0.01)
    answer = helpers.Reader(sock).next()
    assert answer.status == 400 and answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert answer.body.decode() == f"400 Bad Request: {PLAIN_HTTP}\n" and answer.header("Connection") == "close"
    sock.close()
    sending.kill()
    helpers.until(lambda: served.server.active == 0)
    log.flush()
    assert b"".join(lines).decode() == f'{"1.2.3.4" if proxied else "127.0.0.1"} 400 "{PLAIN_HTTP}"\n'
    assert served.server._engine.refusals.counts == {("request", f"400 {PLAIN_HTTP}"): 1} and not served.errors
    if not proxied:
        with client(served) as other:
            assert get(other).status == 200


def test_a_client_of_a_tls_port_that_resets_after_plain_http(serve, certificates, connect):
    """Row T4: what is left of it breaks nothing."""
    import socket

    served = serve(app, binding={"tls": certificates["one.test"]})
    for wait in (False, True):
        sock = connect(served)
        sock.sendall(HEAD)
        if wait:
            sock.recv(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        helpers.until(lambda: served.server.active == 0)
    assert not served.errors


def test_failed_handshakes_are_counted_by_reason(serve, certificates, connect):
    """Row T4: but a look whether somebody listens is nothing to tell of."""
    served = serve(app, binding={"tls": certificates["one.test"]}, limits=Limits(timeouts=Timeouts(head=0.4, linger=0.1)))
    counts = served.server._engine.refusals.counts
    connect(served).close()
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

    def failed(reason, number=1):
        helpers.until(lambda: counts.get(("TLS handshake", reason)) == number)

    served.talk(hello)
    served.talk(hello[:1])
    failed("ended early", 2)
    late = connect(served)
    late.sendall(hello)
    failed("timed out")
    served.talk(b"\x16\x03\x01\x00\x05nonsense and more of it")
    with pytest.raises(ssl.SSLError):
        client(served, trusted=certificates["two.test"][0])
    failed("tlsv1 alert unknown ca")
    strange = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    strange.check_hostname, strange.verify_mode = False, ssl.CERT_NONE
    strange.maximum_version = ssl.TLSVersion.TLSv1_2
    strange.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # for another kind of certificate
    with gsocket.create_connection(served.address) as sock, pytest.raises(ssl.SSLError):
        sock.settimeout(20)
        shake(strange, sock)
    failed("no shared cipher")
    helpers.until(lambda: served.server.active == 0)
    assert {kind for kind, _ in counts} == {"TLS handshake"} and sum(counts.values()) == 6
    with client(served) as other:
        assert get(other).status == 200
    assert sum(counts.values()) == 6 and not served.errors


def shake(context, sock):
    """A handshake as a client, whatever class the context has."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            made.do_handshake()
            return
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
