"""Our HTTP server in a cluster: its settings and the options of its listeners (rows H9, H12, H13)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from benchmarks.strict import load

from ..harness import Workshop, connect, eventually, fetch


def exchange(address: tuple[str, int] | str, request: bytes) -> bytes:
    """Send, and read to the end."""
    with connect(address) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_h9_limits_are_settings(shop: Workshop) -> None:
    """H9: limits by settings; wrong ones are refused before anything is bound."""
    server = shop.script("""
        m = trace(cluster("app:app").set(workers=1, max_body=10, max_request_line=50, keep_alive=0.2))
        m.listen(0, "127.0.0.1")
        """).ready()
    address = server.address()
    head = b"Host: a\r\nConnection: close\r\n"
    assert exchange(address, b"POST / HTTP/1.1\r\n" + head + b"Content-Length: 11\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert exchange(address, b"GET /" + b"x" * 60 + b" HTTP/1.1\r\n" + head + b"\r\n").startswith(b"HTTP/1.1 414 ")
    idle = exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # ends because the server closes what is idle
    assert idle.startswith(b"HTTP/1.1 200 ")
    server.signal(signal.SIGTERM)
    server.wait_exit()
    for setting, words in (("access_log_format='%(nonsense)s', access_log='-'", "nonsense"),
                           ("access_log_format='%(h)s %z'", "%z"), ("access_log='none/access.log'", "No such file"),
                           ("access_log='.'", "Is a directory"), ("access_log=''", "a file's path"),
                           ("trusted_proxies='nowhere'", "nowhere"), ("max_body=0", "1 or more")):
        server = shop.script(f"trace(cluster('app:app').set(workers=1, {setting})).listen(0)")
        assert server.wait_exit() == 2
        server.wait_for("^cluster: .*" + re.escape(words))
        assert server.events() == []


def test_h12_access_log_and_rotation(shop: Workshop) -> None:
    """H12: a line per request in a file; after a rename and USR1 in a new one, none lost; client address by proxy."""
    server = shop.script("""
        m = cluster("app:app").set(workers=2, access_log="access.log", access_log_format='%(h)s "%(r)s" %(s)s')
        trace(m.set(trusted_proxies="127.0.0.1")).listen(0, "127.0.0.1")
        """).ready()
    log, moved = shop.directory / "access.log", shop.directory / "moved.log"
    request = b"GET /%d HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.2.3\r\nConnection: close\r\n\r\n"
    for number in range(20):
        exchange(server.address(), request % number)
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 20, "20 lines")
    log.rename(moved)
    server.signal(signal.SIGUSR1)
    eventually(log.exists, "a new file")
    for number in range(20, 40):
        exchange(server.address(), request % number)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    lines = (moved.read_text() + log.read_text()).splitlines()
    assert sorted(lines) == sorted(f'10.1.2.3 "GET /{number} HTTP/1.1" 200' for number in range(40))


def test_h12_no_line_waits_for_ever(shop: Workshop) -> None:
    """H12: lines that wait to be written together are written when a worker is terminated, too."""
    server = shop.script("""
        m = cluster("app:app").set(workers=1, access_log="access.log", access_log_format='%(r)s')
        trace(m).listen(0, "127.0.0.1")
        """).ready()
    with connect(server.address()) as client:
        for number in range(20):
            client.sendall(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            assert client.recv(9999).startswith(b"HTTP/1.1 200")
    server.signal(signal.SIGTERM)
    server.assert_gone()
    lines = (shop.directory / "access.log").read_text().splitlines()
    # the end may have come between the last answer and its line
    assert lines[:19] == [f"GET /{number} HTTP/1.1" for number in range(19)] and len(lines) <= 20


def certificate(directory: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate for *name* and its key, made by the openssl program."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is missing")
    pem, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    return str(pem), str(key)


def common_name(address: tuple[str, int], asked: str | None = None) -> str:
    """Whom the certificate that is presented now is for, when *asked* is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(address) as plain, context.wrap_socket(plain, server_hostname=asked) as connection:
        pem = ssl.DER_cert_to_PEM_cert(connection.getpeercert(True) or b"")
    told = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, text=True, stdout=subprocess.PIPE,
                          check=True)
    match = re.search(r"CN ?= ?(\w+)", told.stdout)
    assert match, told.stdout
    return match[1]


def test_h13_names(shop: Workshop) -> None:
    """H13: other certificates by the name that a client asks for, in workers, where gevent has patched ssl."""
    one, two = certificate(shop.directory, "one"), certificate(shop.directory, "two")
    tls = {"certificate": one[0], "key": one[1], "names": {"two.test": two, "*.two.test": two}}
    server = shop.script(f"trace(cluster('app:app').set(workers=1)).listen(0, '127.0.0.1', tls={tls!r})").ready()
    for asked, shown in ((None, "one"), ("else.test", "one"), ("two.test", "two"), ("a.two.test", "two")):
        assert common_name(server.address(), asked) == shown
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_h13_tls_beside_plain_and_replaced_certificates(shop: Workshop) -> None:
    """H13: a listener with TLS beside a plain one; changed files are taken up, broken ones not; no request fails."""
    first, second = certificate(shop.directory, "first"), certificate(shop.directory, "second")
    server = shop.script("""
        from cluster import certificates
        certificates.LOOK = 0.05
        m = trace(cluster("app:app").set(workers=2))
        m.bind(0, "127.0.0.1").bind(0, "127.0.0.1", tls=("first.pem", "first.key")).start()
        """).ready()
    plain, secure = (("127.0.0.1", int(port)) for port in re.findall(r":(\d+)", server.wait_for("^ADDRESS .*")[0]))
    if shutil.which("curl"):
        done = subprocess.run(["curl", "-sk", f"https://127.0.0.1:{secure[1]}/"], capture_output=True, check=False)
        assert int(done.stdout) in server.workers()
    assert common_name(secure) == "first"
    with load(plain, connections=8) as traffic:
        Path(first[0]).write_text("broken")
        files = ", ".join(re.escape(str(Path(path).resolve())) for path in first)
        server.wait_for(rf"^cluster: .*cannot use .* \(files: {files}\); the old certificate stays in use")
        assert common_name(secure) == "first"
        shutil.copy(second[1], first[1])
        shutil.copy(second[0], first[0])
        eventually(lambda: common_name(secure) == "second", "the new certificate")
        traffic.wait_answered(50)
    assert traffic.report.clean, traffic.report
    (worker, _) = server.workers()
    os.kill(worker, signal.SIGKILL)  # one that is forked later has it, too
    server.wait_for("worker ready", 3)
    for _ in range(8):
        assert common_name(secure) == "second"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_h13_certificates_that_change_while_the_application_is_loaded(shop: Workshop) -> None:
    """H13: a worker that is still importing takes up the new ones, too."""
    first, second = certificate(shop.directory, "first"), certificate(shop.directory, "second")
    shop.write("importing.py", """
        import cluster, gevent
        from tracing import say
        listener = cluster.worker().listeners[0]
        before = listener.options["tls"]
        say("IMPORTING")
        while listener.options["tls"] == before:
            gevent.sleep(0.005)
        from app import app
        """)
    server = shop.script("""
        from cluster import certificates
        certificates.LOOK = 0.05
        trace(cluster("importing:app").set(workers=1)).listen(0, "127.0.0.1", tls=("first.pem", "first.key"))
        """)
    server.wait_for("^IMPORTING")
    shutil.copy(second[1], first[1])
    shutil.copy(second[0], first[0])
    server.ready()
    assert common_name(server.address()) == "second"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_h13_wrong_tls_is_refused_before_anything_is_bound(shop: Workshop) -> None:
    """H13: missing and broken files, wrong forms, and TLS for a TCP server: one line, nothing bound."""
    (shop.directory / "bad.pem").write_text("nonsense")
    for server, option, words in (
        ("'app:app'", "('none.pem', 'none.key')", "cannot read"), ("'app:app'", "('bad.pem', 'bad.pem')", "cannot use"),
        ("'app:app'", "'cert.pem'", "takes (certificate, key)"),
        ("package.tcp(print)", "('bad.pem', 'bad.pem')", "are for WSGI applications"),
    ):
        script = shop.script(f"trace(cluster({server}).set(workers=1)).listen(0, '127.0.0.1', tls={option})")
        assert script.wait_exit() == 2
        script.wait_for("^cluster: .*" + re.escape(words))
        assert script.events() == []


def test_h12_proxy_protocol_per_listener(shop: Workshop) -> None:
    """H12: PROXY protocol on one listener, from the peers that were named for it only."""
    shop.write("peer.py", """
        def app(environ, start_response):
            start_response("200 OK", [])
            return [environ["REMOTE_ADDR"].encode()]
        """)
    server = shop.script("""
        m = trace(cluster("peer:app").set(workers=1))
        m.bind("unix:plain.sock").bind(0, "127.0.0.1", proxy_protocol="127.0.0.1").start()
        """).ready()
    port = int(server.wait_for(r"^ADDRESS .* 127.0.0.1:(\d+)")[1])
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = exchange(("127.0.0.1", port), b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n" + request)
    assert answer.endswith(b"192.0.2.7")
    assert b" 200 " not in exchange(("127.0.0.1", port), request)
    assert fetch(str(shop.directory / "plain.sock"))[0] == 200
    server.signal(signal.SIGTERM)
    server.wait_exit()


def test_full_worker_leaves_connections_to_others(shop: Workshop) -> None:
    """H9: `max connections` of a worker: more wait in the queue, and are served when there is room."""
    server = shop.script("trace(cluster('app:app').set(workers=1, max_connections=2)).listen(0, '127.0.0.1')").ready()
    held: list[socket.socket] = []
    for _ in range(2):
        connection = connect(server.address())
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        held.append(connection)
    with connect(server.address()) as third:
        third.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        held.pop().close()
        assert third.recv(1000).startswith(b"HTTP/1.1 200 ")
    held.pop().close()
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0


def test_the_limit_of_descriptors_is_raised_and_what_does_not_fit_is_lowered(shop: Workshop) -> None:
    """Row F1: one line, and only when something had to be lowered."""
    shop.write("limited.py", '''
import resource


def app(environ, start_response):
    start_response("200 OK", [])
    return [str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).encode()]
''')
    server = shop.script("""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
        trace(cluster('limited:app').set(workers=2)).listen(0, '127.0.0.1')
    """).ready()
    assert server.get() == b"200"
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    assert server.output.count("max connections is 152 and not 10000: a process may have 200 descriptors") == 1


def test_what_was_refused_is_said_in_one_line(shop: Workshop) -> None:
    """Row T4: how many of which, by the worker that refused them, when it ends at the latest; the access log, too."""
    pair = certificate(shop.directory, "a.test")
    server = shop.script(f"""
        m = cluster("app:app").set(workers=1, access_log="access.log", access_log_format='%(s)s')
        trace(m).bind(0, "127.0.0.1", tls={pair!r}).listen(0, "127.0.0.1")
        """).ready()
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", server.wait_for(r"^ADDRESS .*")[0])]
    answer = exchange(("127.0.0.1", ports[0]), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b": plain HTTP on a port that speaks TLS\n")
    for _ in range(2):
        exchange(("127.0.0.1", ports[1]), b"GET / HTTP/1.1\r\n\r\n")
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0
    said = [line for line in server.lines if " refused within " in line]
    assert len(said) == 1 and said[0].endswith(
        ": 2 requests (400 missing Host), 1 request (400 plain HTTP on a port that speaks TLS)"
    )
    assert (shop.directory / "access.log").read_text().splitlines() == [
        '400 "plain HTTP on a port that speaks TLS"', *['400 "missing Host"'] * 2
    ]
