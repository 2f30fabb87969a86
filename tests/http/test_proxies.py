# ruff: noqa: E501
"""H12: the access log, X-Forwarded-* and the PROXY protocol."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct

import gevent
import http_helpers as helpers
import pytest

from cluster import counters as index
from cluster.errors import ConfigurationError
from cluster.http import AccessLog, HTTPServer, Limits, Timeouts, refusals
from cluster.http.access_log import COMBINED

TEXT = [("Content-Type", "text/plain")]


def who(environ, start_response):
    start_response("200 OK", [*TEXT, ("X-Own", "own")])
    names = ["REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "HTTPS", "SCRIPT_NAME"]
    return [json.dumps({name: environ.get(name) for name in names}).encode()]


# --- access log -------------------------------------------------------------------------------------------------------


def logged(serve, format, *requests, app=who, **options):
    lines: list[bytes] = []
    log = AccessLog(lines.append, format)
    served = serve(app, access_log=log, **options)
    for request in requests:
        served.talk(request)
    log.flush()
    return b"".join(lines).decode().splitlines()


def test_h12_combined_format(serve):
    (line,) = logged(
        serve,
        COMBINED,
        b"GET /a?b HTTP/1.1\r\nHost: x\r\nReferer: http://r/\r\nUser-Agent: me\r\nAuthorization: Basic am9lOng=\r\n\r\n",
    )
    assert re.fullmatch(
        r'127\.0\.0\.1 - joe \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b HTTP/1\.1" 200 \d+ "http://r/" "me"',
        line,
    )


def test_h12_all_atoms(serve):
    (line,) = logged(serve, "%(m)s|%(U)s|%(q)s|%(H)s|%(s)s|%(B)s|%(T)s|%(M)s|%(D)s|%(L)s|%(p)s|%({x-in}i)s|%({x-own}o)s|%({wsgi.url_scheme}e)s|%({nope}i)s|100%%",
                     b"GET /%20?b HTTP/1.1\r\nHost: x\r\nX-In: in\r\n\r\n")  # fmt: skip
    fields = line.split("|")
    assert fields[:5] == ["GET", "/\\x20", "b", "HTTP/1.1", "200"] and int(fields[5]) > 10 and fields[6] == "0"
    assert (
        float(fields[9]) < 1 and fields[10] == f"<{os.getpid()}>" and fields[11:] == ["in", "own", "http", "-", "100%"]
    )
    (line,) = logged(serve, "%%%(m)s%%", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert line == "%GET%"


@pytest.mark.parametrize("format", ["%(zz)s", "%(h)d", "%(h)s %z", "%", "100%", "%%%", "%({a}x)s", "%(h)", "%()s", "%s"])
def test_h12_formats_that_are_none(format):
    with pytest.raises(ConfigurationError, match="no atom of an access log"):
        AccessLog(print, format)


def test_h12_json_and_lines_that_clients_cannot_forge(serve):
    evil = b'GET /"},{"a":"b" HTTP/1.1\r\nHost: x\r\nUser-Agent: "\\" \xe9 200\r\n\r\n'
    (line,) = logged(serve, "json", evil)
    record = json.loads(line)
    assert record["target"] == '/"},{"a":"b"' and record["status"] == 200 and record["remote_addr"] == "127.0.0.1"
    (line,) = logged(serve, '"%(r)s" "%(a)s"', evil)
    assert line == '"GET /\\x22},{\\x22a\\x22:\\x22b\\x22 HTTP/1.1" "\\x22\\x5c\\x22 \\xe9 200"'
    (line,) = logged(serve, "%(U)s", b"GET /a%0d%0ab%1b[31m HTTP/1.1\r\nHost: x\r\n\r\n")
    assert line == "/a\\x0d\\x0ab\\x1b\\x5b31m"


#: ends of fields, of quotes and of lines; what terminals obey; a turn of direction; beyond 16 bits
HOSTILE = 'joe] 1 [x "quoted" \\ \x1b[31m \x7f \u202e \u2028 \u00a0 \U0001f600 \xe9'
ESCAPED = r"\x22quoted\x22 \x5c \x1b[31m \x7f \u202e \u2028 \xa0 \U0001f600 \xe9"


def test_h12_no_field_can_be_ended_by_a_client(serve):
    user = base64.b64encode(f"{HOSTILE}:secret".encode())
    head = b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + user + b"\r\nX-In: joe] 1 [x \"\r\n\r\n"
    unquoted = (r"joe\x5d 1 \x5bx " + ESCAPED.replace("[", r"\x5b")).replace(" ", r"\x20")
    assert logged(serve, "%(u)s", head) == [unquoted]
    assert logged(serve, '"%(u)s" %(u)s', head) == [f'"joe] 1 [x {ESCAPED}" {unquoted}']
    assert logged(serve, 'a"b %({x-in}i)s c" %({x-in}i)s', head) == [r'a"b joe] 1 [x \x22 c" joe\x5d\x201\x20\x5bx\x20\x22']
    # what has spaces and brackets of the server's own keeps them
    (line,) = logged(serve, "%(t)s %(r)s", head)
    assert re.fullmatch(r"\[[^ ]+ [+-]\d{4}\] GET /a HTTP/1\.1", line)
    assert logged(serve, "%(r)s", b"GET /[x] HTTP/1.1\r\nHost: x\r\n\r\n") == [r"GET /\x5bx\x5d HTTP/1.1"]
    assert json.loads(logged(serve, "json", head)[0])["user"] == HOSTILE


def test_h12_a_client_that_has_gone_is_logged_as_499(serve, connect):
    lines: list[bytes] = []
    log = AccessLog(lines.append, "%(s)s %(B)s")

    def app(environ, start_response):
        helpers.until(lambda: next(iter(served.server._engine.connections)).eof)
        environ["wsgi.input"].read()

    told: list[dict] = []
    served = serve(app, access_log=log, observers=[lambda event, data: told.append(data)])
    sock = connect(served)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    helpers.until(lambda: served.server.counters[2])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    helpers.until(lambda: served.server.active == 0)
    log.flush()
    assert lines == [b"499 0\n"] and not served.errors
    assert [data["status"] for data in told if "status" in data] == [499]
    assert not any(served.server.counters[index.RESPONSES_1XX : index.RESPONSES_5XX + 1])


#: requests that are refused, with status and reason
REFUSED = [
    (b"nonsense\r\n\r\n", 400, "malformed request line"),
    (b"GET / HTTP/1.1\r\n\r\n", 400, "missing Host"),
    (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501, "unknown method"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 400, "the body ended early"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\nab", 400, "the body ended early"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400, "malformed chunk size"),
]


def reader(environ, start_response):
    environ["wsgi.input"].read()
    return who(environ, start_response)


def test_h12_refused_requests_are_logged_with_their_reason(serve):
    """Row T4: behind the line where the format has no place for it, and in no other line."""
    requests = [request for request, _, _ in REFUSED]
    lines = logged(serve, "%(h)s %(s)s", *requests, REQUEST, app=reader)
    assert lines == [f'127.0.0.1 {status} "{reason}"' for _, status, reason in REFUSED] + ["127.0.0.1 200"]
    lines = logged(serve, "%(s)s [%(reason)s]", *requests, REQUEST, app=reader)
    assert lines == [f"{status} [" + reason.replace(" ", r"\x20") + "]" for _, status, reason in REFUSED] + ["200 [-]"]
    records = [json.loads(line) for line in logged(serve, "json", *requests, REQUEST, app=reader)]
    assert [(record["status"], record.get("reason")) for record in records] == [
        *((status, reason) for _, status, reason in REFUSED), (200, None)
    ]  # fmt: skip
    assert "reason" not in records[-1]


def test_h12_file_is_appended_to_in_batches_and_can_be_reopened(serve, tmp_path, connect):
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "%(U)s")
    served = serve(who, access_log=log)
    sock = connect(served)
    reader = helpers.Reader(sock)
    for number in range(10):
        sock.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        reader.next()
    helpers.until(lambda: path.read_text().count("\n") == 10)
    path.rename(tmp_path / "old")
    log.reopen()
    sock.sendall(b"GET /new HTTP/1.1\r\nHost: x\r\n\r\n")
    reader.next()
    log.close()
    assert path.read_text() == "/new\n"


# --- X-Forwarded ------------------------------------------------------------------------------------------------------


def forwarded(serve, trusted, *headers, believed=None):
    return json.loads(serve(who, trusted_proxies=trusted, forwarded_headers=believed).get("/", *headers).body)


def test_h12_forwarded_fields_of_strangers_change_nothing(serve):
    fields = ("X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil")
    for trusted in (None, [], ["10.0.0.0/8", "unix"]):
        seen = forwarded(serve, trusted, *fields)
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("127.0.0.1", "http", "test")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("9.9.9.9, 1.2.3.4", "1.2.3.4"),
        ("9.9.9.9, 1.2.3.4, 127.0.0.5", "1.2.3.4"),
        ("127.0.0.7, 127.0.0.5", "127.0.0.7"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("evil", "127.0.0.1"),
        ("1.2.3.4, unknown", "127.0.0.1"),
        ("1.2.3.4, evil, 127.0.0.5", "127.0.0.5"),
        ("fe80::1%] \"GET", "127.0.0.1"),
        ("[fe80::1%x]:80", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_h12_forwarded_for(serve, value, expected):
    assert forwarded(serve, "127.0.0.0/8", f"X-Forwarded-For: {value}")["REMOTE_ADDR"] == expected


def test_h12_forwarded_proto_and_host(serve):
    believed = "proto host"
    seen = forwarded(
        serve, ["127.0.0.1"], "X-Forwarded-Proto: https", "X-Forwarded-Host: a, public.example:8443", believed=believed
    )
    assert seen["wsgi.url_scheme"] == "https" and seen["HTTPS"] == "on"
    assert (seen["HTTP_HOST"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == (
        "public.example:8443",
        "public.example",
        "8443",
    )
    seen = forwarded(
        serve, ["127.0.0.1"], "X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b", believed=believed
    )
    assert seen["wsgi.url_scheme"] == "http" and seen["HTTP_HOST"] == "test"


#: what the environ says without anything forwarded, but for the port
PLAIN = {"REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http", "HTTP_HOST": "test", "SERVER_NAME": "127.0.0.1",
         "HTTPS": None, "SCRIPT_NAME": ""}  # fmt: skip
HTTPS = {"wsgi.url_scheme": "https", "HTTPS": "on"}
EVERYTHING = (
    "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 8443",
    "X-Forwarded-Prefix: /evil", "Forwarded: for=5.6.7.8;proto=https;host=worse",
)  # fmt: skip


@pytest.mark.parametrize(
    ("believed", "expected"),
    [
        (None, {"REMOTE_ADDR": "1.2.3.4", **HTTPS, "SERVER_PORT": "443"}),
        ([], {}),
        ("", {}),
        ("for", {"REMOTE_ADDR": "1.2.3.4"}),
        (["proto"], {**HTTPS, "SERVER_PORT": "443"}),
        ("host", {"HTTP_HOST": "evil", "SERVER_NAME": "evil"}),
        ("port", {"HTTP_HOST": "test:8443", "SERVER_PORT": "8443"}),
        ("prefix", {"SCRIPT_NAME": "/evil"}),
        ("forwarded", {"REMOTE_ADDR": "5.6.7.8", **HTTPS, "SERVER_PORT": "443"}),
        ("Forwarded, Host", {"REMOTE_ADDR": "5.6.7.8", **HTTPS, "SERVER_PORT": "443", "HTTP_HOST": "worse",
                             "SERVER_NAME": "worse"}),
        ("for proto host port prefix", {"REMOTE_ADDR": "1.2.3.4", **HTTPS, "SERVER_PORT": "8443", "HTTP_HOST": "evil:8443",
                                        "SERVER_NAME": "evil", "SCRIPT_NAME": "/evil"}),
    ],
)  # fmt: skip
def test_a_trusted_proxy_is_believed_what_it_is_named_for_and_no_more(serve, believed, expected):
    """Row T3."""
    seen = forwarded(serve, "127.0.0.1", *EVERYTHING, believed=believed)
    assert {name: seen[name] for name in {**PLAIN, **expected}} == {**PLAIN, **expected}


@pytest.mark.parametrize(
    ("port", "expected"),
    [("8080", ("test:8080", "8080")), ("80", ("test", "80")), ("443", ("test:443", "443")), ("080", ("test", "80")),
     ("1, 8081", ("test:8081", "8081")), *((wrong, None) for wrong in ("0", "65536", "+80", "8a", "", "999999999999"))],
)  # fmt: skip
def test_forwarded_port_becomes_the_port_of_urls(serve, port, expected):
    """Row T3: Host without the port that goes without saying."""
    seen = forwarded(serve, "127.0.0.1", f"X-Forwarded-Port: {port}", believed="port")
    if expected is None:
        assert seen["HTTP_HOST"] == "test" and seen["SERVER_PORT"] not in ("0", "65536")
    else:
        assert (seen["HTTP_HOST"], seen["SERVER_PORT"]) == expected


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("/app", "/app"), ("/a/b/", "/a/b"), ("/a%20%C3%A9", "/a \xc3\xa9"), ("/", ""), ("/x, /app", "/app"), ("app", ""),
     ("//evil.example", ""), ("/\\evil.example", ""), ("/%2Fevil.example", ""), ("/%5cevil.example", ""), ("/a%0d%0ab", ""), ("/a?b", ""), ("/a#b", "")],
)  # fmt: skip
def test_forwarded_prefix_is_a_path_of_this_host(serve, prefix, expected):
    """Row T3: nothing that a browser would take for another host's address."""
    seen = forwarded(serve, "127.0.0.1", f"X-Forwarded-Prefix: {prefix}", believed="prefix")
    assert seen["SCRIPT_NAME"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=1.2.3.4", {"REMOTE_ADDR": "1.2.3.4"}),
        ('For="[2001:db8::1]:4711"; Proto=HTTPS', {"REMOTE_ADDR": "2001:db8::1", **HTTPS}),
        ('for="1.2.3.4:80";host="a.example:81";by=x', {"REMOTE_ADDR": "1.2.3.4", "HTTP_HOST": "a.example:81"}),
        # the proxy that saw the client, and one of ours behind it
        ("for=1.2.3.4;proto=https;host=a, for=127.0.0.5;proto=http;host=b", {"REMOTE_ADDR": "1.2.3.4", **HTTPS, "HTTP_HOST": "a"}),
        # what the client wrote itself is left of that
        ("for=9.9.9.9;host=evil;proto=https, for=1.2.3.4", {"REMOTE_ADDR": "1.2.3.4"}),
        ("for=127.0.0.9;host=evil, for=_hidden", {}),
        # and cannot make what follows a part of it
        ('for="9.9.9.9, for=1.2.3.4', {"REMOTE_ADDR": "1.2.3.4"}),
        ('for=9.9.9.9;x="\\, for="[2001:db8::1]"', {"REMOTE_ADDR": "2001:db8::1"}),
        ("for=1.2.3.4;", {}),
        ("for=1.2.3.4 proto=https", {}),
        ("for=unknown", {}),
        ("for=9.9.9.9, ", {}),
        ("host=a b", {}),
        ('host="a b"', {}),
        ("for=1.2.3.4;for=5.6.7.8", {"REMOTE_ADDR": "1.2.3.4"}),
        ("", {}),
    ],
)  # fmt: skip
def test_the_standard_field(serve, value, expected):
    """Row T3: RFC 7239, from the right, and nothing beyond the first element that is malformed."""
    seen = forwarded(serve, "127.0.0.0/8", f"Forwarded: {value}", believed="forwarded host")
    wanted = {**PLAIN, **expected}
    wanted["SERVER_NAME"] = expected["HTTP_HOST"].partition(":")[0] if "HTTP_HOST" in expected else "127.0.0.1"
    assert {name: seen[name] for name in wanted} == wanted


def test_names_of_forwarded_headers_that_cannot_be():
    """Row T3: also not two fields for one thing, of which the client could set the one."""
    for names in ("hosts", ["for", "x"], "forwarded for", "forwarded, proto"):
        with pytest.raises(ConfigurationError, match="forwarded"):
            HTTPServer(None, who, trusted_proxies="*", forwarded_headers=names)


@pytest.mark.parametrize(
    ("client", "scheme", "host", "expected"),
    [
        # the proxy that saw the client said https, the one behind it was asked over http
        ("1.2.3.4, 127.0.0.5", "https, http", "public, inner", ("https", "public")),
        ("1.2.3.4, 127.0.0.6, 127.0.0.5", "https, http, http", "public, b, c", ("https", "public")),
        # what the client wrote itself is left of that
        ("9.9.9.9, 1.2.3.4, 127.0.0.5", "gopher, http, https", "evil, public, inner", ("http", "public")),
        ("9.9.9.9, 1.2.3.4", "http, https", "evil, public", ("https", "public")),
        # the last proxy sets the field
        ("1.2.3.4, 127.0.0.5", "https", "public", ("https", "public")),
        # nothing is said of the client
        (None, "http, https", "evil, public", ("https", "public")),
        ("evil", "http, https", "evil, public", ("https", "public")),
    ],
)
def test_h12_scheme_and_host_are_those_that_the_client_asked_for(serve, client, scheme, host, expected):
    """From the place in a chain of proxies at which the client is named."""
    fields = [f"X-Forwarded-Proto: {scheme}", f"X-Forwarded-Host: {host}"]
    if client is not None:
        fields.append(f"X-Forwarded-For: {client}")
    seen = forwarded(serve, "127.0.0.0/8", *fields, believed="for proto host")
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == expected


def test_h12_trusted_proxies_that_cannot_be():
    with pytest.raises(ConfigurationError):
        HTTPServer(None, who, trusted_proxies=["nonsense"])


# --- PROXY protocol ---------------------------------------------------------------------------------------------------

V2 = b"\r\n\r\n\0\r\nQUIT\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ADDRESSES = bytes([1, 2, 3, 4, 5, 6, 7, 8]) + struct.pack("!HH", 1234, 80)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\n", ("1.2.3.4", "1234")),
        (b"PROXY TCP6 2001:db8::1 ::1 1234 80\r\n", ("2001:db8::1", "1234")),
        (b"PROXY UNKNOWN\r\n", ("127.0.0.1", None)),
        (b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n", ("127.0.0.1", None)),
        (V2 + b"\x21\x11" + struct.pack("!H", 12) + ADDRESSES, ("1.2.3.4", "1234")),
        (V2 + b"\x21\x11" + struct.pack("!H", 17) + ADDRESSES + b"\x04\0\x02xx", ("1.2.3.4", "1234")),
        (
            V2 + b"\x21\x21" + struct.pack("!H", 36) + bytes(15) + b"\1" + bytes(16) + struct.pack("!HH", 9, 80),
            ("::1", "9"),
        ),
        (V2 + b"\x20\x00\0\0", ("127.0.0.1", None)),
    ],
)
@pytest.mark.parametrize("cut", [None, 3, 14])
def test_h12_proxy_protocol(serve, connect, header, expected, cut):
    served = serve(who, binding={"proxy_protocol": ["127.0.0.1"]})
    sock = connect(served)
    data = header + REQUEST
    if cut:
        sock.sendall(data[:cut])
        gevent.sleep(0.005)
        data = data[cut:]
    sock.sendall(data)
    seen = json.loads(helpers.Reader(sock).next().body)
    assert seen["REMOTE_ADDR"] == expected[0] and expected[1] in (None, seen["REMOTE_PORT"])


def addition(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


@pytest.mark.parametrize(
    ("family", "addresses"), [(0x11, ADDRESSES), (0x21, bytes(36)), (0x31, bytes(216)), (0x00, b"")]
)
@pytest.mark.parametrize(
    ("additions", "scheme"),
    [
        (addition(0x20, b"\1\0\0\0\0" + addition(0x21, b"TLSv1.3")), "https"),
        (addition(0x01, b"h2") + addition(0x20, b"\7\0\0\0\0"), "https"),
        (addition(0x20, b"\0\0\0\0\0"), "http"),
        (addition(0x20, b""), "http"),
        (addition(0x21, b"\1\0\0\0\0"), "http"),
        (b"", "http"),
    ],
)
def test_proxy_protocol_says_that_the_client_speaks_tls(serve, connect, family, addresses, additions, scheme):
    """Row T3: and only this client."""
    served = serve(who, binding={"proxy_protocol": True})
    for header, expected in (
        (V2 + b"\x21" + struct.pack("!BH", family, len(addresses + additions)) + addresses + additions, scheme),
        (V2 + b"\x20\x00\0\0", "http"),
    ):
        sock = connect(served)
        sock.sendall(header + REQUEST)
        seen = json.loads(helpers.Reader(sock).next().body)
        assert seen["wsgi.url_scheme"] == expected and seen["HTTPS"] == ("on" if expected == "https" else None)
        assert (seen["SERVER_PORT"] == "443") == (expected == "https")


@pytest.mark.parametrize(
    "header",
    [V2 + b"\x21\x11\0\x0e" + ADDRESSES + b"\x20\0", V2 + b"\x21\x11\0\x10" + ADDRESSES + b"\x20\0\x05\1", V2 + b"\x21\x31\0\x0c" + ADDRESSES,
     b"", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 80\r\n", b"PROXY TCP4 a b 1 2\r\n", b"PROXY TCP6 fe80::1%[x] ::1 1 2\r\n", b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY " + b"x" * 200,
     b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", V2 + b"\x31\x11\0\x0c" + ADDRESSES, V2 + b"\x21\x11\0\x02xx", V2 + b"\x21\x11\xff\xff"],
)  # fmt: skip
def test_h12_proxy_protocol_that_is_wrong_is_dropped(serve, header):
    served = serve(who, binding={"proxy_protocol": True})
    assert served.talk(header + REQUEST).replace(helpers.RESET, b"") == b""
    helpers.until(lambda: served.server.active == 0)


def test_h12_proxy_protocol_of_strangers_is_a_bad_request(serve):
    data = b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\n" + REQUEST
    for option in (None, ["10.0.0.1"]):
        assert helpers.responses(serve(who, binding={"proxy_protocol": option}).talk(data))[0].status == 400
    assert serve(who, binding={"proxy_protocol": ["10.0.0.1"]}).get().status == 200


def test_h12_waiting_for_a_proxy_header_does_not_stop_a_drain(serve, connect):
    served = serve(who, binding={"proxy_protocol": True})
    connect(served)
    helpers.until(lambda: served.server.active == 1)
    served.server.drain(0.05)
    assert served.server.active == 0


# --- what was refused is counted --------------------------------------------------------------------------------------


def test_missing_proxy_headers_are_counted_by_reason(serve, connect):
    """Row T4: but a look whether somebody listens is nothing to tell of."""
    served = serve(who, binding={"proxy_protocol": True}, limits=Limits(timeouts=Timeouts(head=0.2)))
    counts = served.server._engine.refusals.counts
    connect(served).close()
    served.talk(REQUEST)
    served.talk(REQUEST)
    served.talk(b"PROXY TCP4 1.2")
    served.talk(V2 + b"\x21\x11\0\x02xx")
    late = connect(served)
    late.sendall(b"PROXY ")
    silent = connect(served)
    helpers.until(lambda: served.server.active == 0)
    assert counts == {
        ("connection", "no PROXY protocol header"): 2,
        ("connection", "the PROXY protocol header ended early"): 1,
        ("connection", "malformed PROXY protocol header"): 1,
        ("connection", "the PROXY protocol header did not come"): 1,
    }
    silent.close()


def test_one_line_says_how_many_were_refused_and_why(serve, monkeypatch, capsys):
    """Row T4: once a minute, in which a server that refuses nothing has no timer."""
    monkeypatch.setattr(refusals, "MINUTE", 1.0)
    served = serve(reader)
    told = served.server._engine.refusals
    served.talk(REQUEST)
    assert told._timer is None
    for request, _, _ in REFUSED:
        served.talk(request)
    assert told._timer is not None and capsys.readouterr().err == ""
    helpers.until(lambda: told._timer is None)
    assert capsys.readouterr().err == (
        f"cluster: process {os.getpid()} refused within a minute: 2 requests (400 the body ended early), "
        "1 request (400 malformed chunk size), 1 request (400 malformed request line), 1 request (400 missing Host), "
        "1 request (501 unknown method)\n"
    )
    served.talk(REQUEST)
    assert told._timer is None and not told.counts
    served.talk(b"GET / HTTP/1.1\r\n\r\n")
    served.server.drain(0)
    assert capsys.readouterr().err.endswith(" refused within a minute: 1 request (400 missing Host)\n")


def test_what_clients_write_never_gets_into_the_line(serve):
    """Row T4: neither the text nor the number of entries is theirs to choose."""
    served = serve(reader)
    for number in range(200):
        served.talk(b"GET /%d NOISE/%d\r\n\r\n" % (number, number))
        served.talk(b"BREW%d / HTTP/1.1\r\nX%d: y\r\n\r\n" % (number, number))
    assert sum(served.server._engine.refusals.counts.values()) == 400
    assert len(served.server._engine.refusals.counts) < 5
