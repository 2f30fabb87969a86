"""Messages, well-formed and not, with what must become of them.

A case that is accepted lists what the application sees of each request; one that is refused names the status. Sources
of the cases: RFC 9110 and 9112, published request-smuggling research, and the leniencies of other servers.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    #: requests that reach the application, each a dict of what to compare
    requests: tuple[dict[str, Any], ...] = ()
    #: the status of a refusal after them, None when there is none
    refused: int | None = None
    #: a fault that cannot be told from a request still under way: no answer, or this one
    silent: bool = False


H = b"Host: test\r\n"
G = b"GET / HTTP/1.1\r\n" + H
P = b"POST /p HTTP/1.1\r\n" + H
C = P + b"Transfer-Encoding: chunked\r\n\r\n"
CASES: list[Case] = []


def good(name: str, data: bytes, *requests: dict[str, Any]) -> None:
    CASES.append(Case(name, data, requests))


def bad(name: str, data: bytes, status: int = 400, *requests: dict[str, Any]) -> None:
    CASES.append(Case(name, data, requests, status))


# --- request lines ----------------------------------------------------------------------------------------------------
good("plain", G + b"\r\n", {"method": "GET", "target": "/", "path": "/", "query": "", "body": b""})
good("query", b"GET /a/b?c=d&e=%20 HTTP/1.1\r\n" + H + b"\r\n", {"path": "/a/b", "query": "c=d&e=%20"})
good(
    "percent",
    b"GET /a%20b%2Fc%C3%A9%zz HTTP/1.1\r\n" + H + b"\r\n",
    {"path": "/a b/c\xc3\xa9%zz", "target": "/a%20b%2Fc%C3%A9%zz"},
)
good("two slashes", b"GET //a//b HTTP/1.1\r\n" + H + b"\r\n", {"path": "//a//b", "target": "//a//b"})
good("two question marks", b"GET /?a?b HTTP/1.1\r\n" + H + b"\r\n", {"query": "a?b", "path": "/"})
good("empty lines first", b"\r\n\r\n" + G + b"\r\n", {"method": "GET"})
good("proxy-connection close", G + b"Proxy-Connection: close\r\n\r\n" + G + b"\r\n", {}, {"method": "GET"})
good("proxy-connection list", G + b"proxy-connection: a, close\r\nConnection: keep-alive\r\n\r\n", {"method": "GET"})
bad("content-length of 5,000 digits", P + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\nhello")
bad(
    "the same behind a request",
    G + b"\r\n" + P + b"Content-Length: " + b"0" * 5000 + b"36\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: aa\r\n\r\n",
    400,
    {"method": "GET"},
)
bad("content-length of 20 digits", P + b"Content-Length: 10000000000000000000\r\n\r\nhello")
good("http/1.0", b"GET / HTTP/1.0\r\n\r\n", {"version": "HTTP/1.0"})
good("http/1.0 with host", b"GET / HTTP/1.0\r\n" + H + b"\r\n", {"version": "HTTP/1.0"})
good(
    "absolute form",
    b"GET http://other:81/x?y HTTP/1.1\r\n" + H + b"\r\n",
    {"path": "/x", "query": "y", "target": "http://other:81/x?y", "headers": {"HTTP_HOST": "other:81"}},
)
good(
    "absolute form without path",
    b"GET http://other HTTP/1.1\r\n" + H + b"\r\n",
    {"path": "/", "headers": {"HTTP_HOST": "other"}},
)
good("absolute form with only a query", b"GET http://other?q HTTP/1.1\r\n" + H + b"\r\n", {"path": "/", "query": "q"})
good("asterisk", b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", {"method": "OPTIONS", "target": "*", "path": "/"})
for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "REPORT", "PURGE"]:
    good(f"method {method}", method.encode() + b" /m HTTP/1.1\r\n" + H + b"\r\n", {"method": method, "path": "/m"})
for name, line, status in [
    ("lower-case method", b"get / HTTP/1.1", 400),
    ("method with a bracket", b"G(T / HTTP/1.1", 400),
    ("unknown method", b"FROB / HTTP/1.1", 501),
    ("connect", b"CONNECT example.com:443 HTTP/1.1", 405),
    ("http/2 preface", b"PRI * HTTP/2.0", 400),
    ("http/0.9", b"GET /", 400),
    ("http/1.2", b"GET / HTTP/1.2", 400),
    ("http/2.0", b"GET / HTTP/2.0", 400),
    ("http/1", b"GET / HTTP/1", 400),
    ("http/1.10", b"GET / HTTP/1.10", 400),
    ("http/01.1", b"GET / HTTP/01.1", 400),
    ("http/+1.1", b"GET / HTTP/+1.1", 400),
    ("lower-case http", b"GET / http/1.1", 400),
    ("rtsp", b"GET / RTSP/1.0", 400),
    ("ice", b"SOURCE / ICE/1.0", 400),
    ("two spaces before the target", b"GET  / HTTP/1.1", 400),
    ("two spaces after the target", b"GET /  HTTP/1.1", 400),
    ("space at the end", b"GET / HTTP/1.1 ", 400),
    ("space at the beginning", b" GET / HTTP/1.1", 400),
    ("tab", b"GET\t/ HTTP/1.1", 400),
    ("vertical tab", b"GET\x0b/ HTTP/1.1", 400),
    ("no target", b"GET HTTP/1.1", 400),
    ("space in the target", b"GET /a b HTTP/1.1", 400),
    ("byte above ascii in the target", b"GET /\xc3\xa9 HTTP/1.1", 400),
    ("fragment", b"GET /a#b HTTP/1.1", 400),
    ("relative target", b"GET a/b HTTP/1.1", 400),
    ("asterisk without options", b"GET * HTTP/1.1", 400),
    ("asterisk and more", b"OPTIONS *a HTTP/1.1", 400),
    ("authority form", b"GET example.com:80 HTTP/1.1", 400),
    ("absolute form of another scheme", b"GET ftp://a/ HTTP/1.1", 400),
    ("absolute form without host", b"GET http:///a HTTP/1.1", 400),
    ("absolute form with user", b"GET http://u:p@a/ HTTP/1.1", 400),
    ("absolute form with a bad port", b"GET http://a:x/ HTTP/1.1", 400),
    ("empty target with query", b"GET ?a HTTP/1.1", 400),
    ("backslash first", b"GET \\a HTTP/1.1", 400),
]:
    bad(name, line + b"\r\n" + H + b"\r\n", status)
for byte in [*range(33), 127]:
    if byte not in (10, 13):
        bad(f"byte {byte} in the target", b"GET /a" + bytes([byte]) + b"b HTTP/1.1\r\n" + H + b"\r\n")

# --- Host -------------------------------------------------------------------------------------------------------------
bad("no host", b"GET / HTTP/1.1\r\n\r\n")
bad("two hosts", G + b"Host: other\r\n\r\n")
bad("two equal hosts", G + H + b"\r\n")
bad("two hosts, spelled differently", G + b"hOST: other\r\n\r\n")
bad("two hosts in http/1.0", b"GET / HTTP/1.0\r\n" + H + H + b"\r\n")
for host in [
    b"",
    b"a b",
    b"a/b",
    b"a@b",
    b"a?b",
    b"a#b",
    b"a,b",
    b"a:b",
    b"a:80:80",
    b"[::1",
    b"::1",
    b"[::1]x",
    b"a\\b",
    b"a\xc3\xa9",
    b"a%zz",
    b"a:123456",
    b'a"b',
    b"<a>",
    b"[]",
    b"http://a",
    b"a|b",
    b"a^b",
    b"a\tb",
    b":80",
]:
    if host != b"a,b":  # a comma is a sub-delim and may stand in a reg-name
        bad(f"host {host!r}", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
bad("malformed host in http/1.0", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n")
bad("malformed host and close", b"GET / HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n")
bad("malformed host and a body", b"POST / HTTP/1.1\r\nHost: a/b\r\nContent-Length: 5\r\n\r\nhello")
bad("malformed target in http/1.0", b"GET a HTTP/1.0\r\n\r\n")
for host in [
    "a",
    "a.example.com",
    "a:80",
    "a:",
    "127.0.0.1:8000",
    "[::1]",
    "[::1]:80",
    "a_b",
    "xn--caf-dma",
    "a%41",
    "A.B",
    "[v1.a:b]",
]:
    good(f"host {host}", b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n", {"headers": {"HTTP_HOST": host}})

# --- fields -----------------------------------------------------------------------------------------------------------
good("no space after the colon", G + b"A:b\r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": "b"}})
good("spaces around a value", G + b"A: \t b c \t \r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": "b c"}})
good("empty value", G + b"A:\r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": ""}})
good("value of spaces", G + b"A:   \r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": ""}})
good(
    "repeated field",
    G + b"A: b\r\nB: x\r\na: c\r\n\r\n",
    {"headers": {"HTTP_HOST": "test", "HTTP_A": "b, c", "HTTP_B": "x"}},
)
good(
    "repeated cookie",
    G + b"Cookie: a=b\r\nCookie: c=d\r\n\r\n",
    {"headers": {"HTTP_HOST": "test", "HTTP_COOKIE": "a=b; c=d"}},
)
good("underscore dropped", G + b"X_A: evil\r\nX-A: b\r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_X_A": "b"}})
good("underscored length dropped", G + b"Content_Length: 5\r\n\r\n", {"headers": {"HTTP_HOST": "test"}, "body": b""})
good(
    "underscored coding dropped",
    P + b"Transfer_Encoding: chunked\r\n\r\n",
    {"headers": {"HTTP_HOST": "test"}, "body": b""},
)
good("bytes above ascii in a value", G + b"A: caf\xe9\r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": "caf\xe9"}})
good(
    "content type",
    P + b"Content-Type: a/b\r\nContent-Length: 1\r\n\r\nx",
    {"headers": {"HTTP_HOST": "test", "CONTENT_TYPE": "a/b", "CONTENT_LENGTH": "1"}, "body": b"x"},
)
good(
    "odd but valid name",
    G + b"!#$%&'*+.^`|~9: b\r\n\r\n",
    {"headers": {"HTTP_HOST": "test", "HTTP_!#$%&'*+.^`|~9": "b"}},
)
good("colon in a value", G + b"A: b:c\r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": "b:c"}})
for name, field in [
    ("space before the colon", b"A : b"),
    ("tab before the colon", b"A\t: b"),
    ("no colon", b"A"),
    ("no name", b": b"),
    ("space first", b" A: b"),
    ("obs-fold", b"A: b\r\n c"),
    ("obs-fold with a tab", b"A: b\r\n\tc"),
    ("space in the name", b"A B: c"),
    ("bracket in the name", b"A(: c"),
    ("slash in the name", b"A/B: c"),
    ("byte above ascii in the name", b"A\xe9: c"),
    ("at sign in the name", b"A@: c"),
    ("bare cr in a value", b"A: b\rc"),
    ("bare cr before the end", b"A: b\r\r\n"[:-2]),
    ("bare lf in a value", b"A: b\nC: d"),
    ("lf cr", b"A: b\n\rC: d"),
    ("bare cr in a name", b"A\rB: c"),
    ("line of spaces", b"  "),
    ("repeated content type", b"Content-Type: a/b\r\nContent-Type: c/d"),
]:
    bad(name, G + field + b"\r\n\r\n")
for byte in [*range(32), 127]:
    if byte not in (9, 10, 13):
        bad(f"byte {byte} in a value", G + b"A: b" + bytes([byte]) + b"c\r\n\r\n")
        bad(f"byte {byte} at the end of a value", G + b"A: b" + bytes([byte]) + b"\r\n\r\n")
        bad(f"byte {byte} in a name", G + b"A" + bytes([byte]) + b"B: c\r\n\r\n")
for byte in b'"(),/:;<=>?@[\\]{}':
    if byte != 58:
        bad(f"delimiter {byte} in a name", G + b"A" + bytes([byte]) + b"B: c\r\n\r\n")
bad("lines ended by lf", b"GET / HTTP/1.1\nHost: test\n\n")
bad("head ended by lf", G + b"\n")
bad("request line ended by lf", b"GET / HTTP/1.1\n" + H + b"\r\n")
bad("lf first", b"\n" + G + b"\r\n")
bad("cr first", b"\r" + G + b"\r\n")
bad("tls hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n")
bad("zeros", b"\0" * 40)

# --- Content-Length ---------------------------------------------------------------------------------------------------
good("body", P + b"Content-Length: 5\r\n\r\nhello", {"method": "POST", "body": b"hello"})
good("no body", P + b"Content-Length: 0\r\n\r\n", {"body": b""})
good("leading zeros", P + b"Content-Length: 0005\r\n\r\nhello", {"body": b"hello"})
good("body of a get", G + b"Content-Length: 5\r\n\r\nhello", {"method": "GET", "body": b"hello"})
good("body of a 1.0 request", b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", {"body": b"hello"})
good("body with line breaks", P + b"Content-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n", {"body": b"\r\n\r\n\r\n\r\n"})
for value in [
    b"+5",
    b"-5",
    b"1_0",
    b"",
    b" ",
    b"5,5",
    b"5, 5",
    b"5 5",
    b"0x5",
    b"5.0",
    b"5e0",
    b"five",
    b"5;",
    b'"5"',
    b"\xb2",
    b"99999999999999999999999999",
    b"18446744073709551616",
    b"+0",
    b"-0",
    b"5\t5",
    b"0,0",
    b"NaN",
]:
    bad(f"content-length {value!r}", P + b"Content-Length: " + value + b"\r\n\r\nhello")
bad("two lengths", P + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")
bad("two equal lengths", P + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
bad("two lengths, apart", P + b"Content-Length: 5\r\nA: b\r\ncontent-length: 0\r\n\r\nhello")
bad("body without a length", P + b"\r\nhello\r\n\r\n", 400, {"body": b""})

# --- Transfer-Encoding ------------------------------------------------------------------------------------------------
good("chunked", C + b"5\r\nhello\r\n0\r\n\r\n", {"body": b"hello"})
good("chunked, upper case", P + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", {"body": b"hello"})
good("several chunks", C + b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", {"body": b"hello world"})
good("no chunks", C + b"0\r\n\r\n", {"body": b""})
good("hexadecimal", C + b"0000A\r\n0123456789\r\n00\r\n\r\n", {"body": b"0123456789"})
good("extensions", C + b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n', {"body": b"hello"})
bad("space before an extension", C + b"5 ; a\r\nhello\r\n0\r\n\r\n")
good(
    "trailers",
    C + b"5\r\nhello\r\n0\r\nA: b\r\nX-Y: z\r\n\r\n",
    {"body": b"hello", "headers": {"HTTP_HOST": "test", "HTTP_TRANSFER_ENCODING": "chunked"}},
)
good("line breaks in a chunk", C + b"4\r\n\r\n\r\n\r\n0\r\n\r\n", {"body": b"\r\n\r\n"})
for name, value, status in [
    ("identity", b"identity", 400),
    ("gzip", b"gzip", 400),
    ("chunked then gzip", b"chunked, gzip", 400),
    ("gzip then chunked", b"gzip, chunked", 501),
    ("chunked twice", b"chunked, chunked", 400),
    ("xchunked", b"xchunked", 400),
    ("chunkedx", b"chunkedx", 400),
    ("chunked with a parameter", b"chunked;a=b", 400),
    ("quoted", b'"chunked"', 400),
    ("empty coding", b"", 400),
    ("vertical tab", b"\x0bchunked", 400),
    ("comma first", b", chunked", 400),
    ("comma last", b"chunked,", 400),
    ("only a comma", b",", 400),
    ("identity, chunked", b"identity, chunked", 501),
    ("with a space in it", b"chun ked", 400),
]:
    bad(f"coding: {name}", P + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n", status)
bad("two coding fields", P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
bad(
    "two coding fields, identity last",
    P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
)
bad("coding in http/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
bad(
    "coding in http/1.0, kept alive",
    b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
bad("length with coding", P + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
bad("coding with length", P + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n")
bad(
    "coding with length, smuggled",
    P + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n" + H + b"\r\n",
)
bad("coding, space before the colon", P + b"Content-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n")
bad("coding, folded", P + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n")
for size in [
    b"+5",
    b"-5",
    b" 5",
    b"0x5",
    b"5_",
    b"g",
    b"",
    b"5 ",
    b"5\t",
    b"5,",
    b"\xb2",
    b"5\x00",
    b"00000000000000005",
    b"ffffffffffffffffff",
    b"5\x0b;a",
    b"10000000000000000",
]:
    bad(f"chunk size {size!r}", C + size + b"\r\nhello\r\n0\r\n\r\n")
bad("chunk ended by lf", C + b"5\nhello\r\n0\r\n\r\n")
bad("chunk data ended by lf", C + b"5\r\nhello\n0\r\n\r\n")
bad("chunk longer than its size", C + b"4\r\nhello\r\n0\r\n\r\n")
bad("chunk shorter than its size", C + b"6\r\nhello\r\n0\r\n\r\n")
bad("last chunk ended by lf", C + b"0\n\r\n")
bad("trailers ended by lf", C + b"0\r\n\n")
bad("bare cr after a size", C + b"5\rhello\r\n0\r\n\r\n")
bad("cr in an extension", C + b"5;a\rb\r\nhello\r\n0\r\n\r\n")
bad("lf in an extension", C + b"5;a\nb\r\nhello\r\n0\r\n\r\n")
bad("nul in an extension", C + b"5;a\0b\r\nhello\r\n0\r\n\r\n")
bad("long extension", C + b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n")
bad("long extension, unfinished", C + b"5;" + b"a" * 2000)
bad("trailers without a colon", C + b"0\r\nabc\r\n\r\n")
bad("trailer folded", C + b"0\r\nA: b\r\n c\r\n\r\n")
bad("trailer with a space before the colon", C + b"0\r\nA : b\r\n\r\n")
bad("trailer with nul", C + b"0\r\nA: \0\r\n\r\n")
bad("trailer that frames", C + b"0\r\nTransfer-Encoding: chunked\r\n\r\n")
bad("trailer with a length", C + b"0\r\nA: b\r\ncontent-LENGTH: 5\r\n\r\n")
bad("trailer that names a host", C + b"0\r\nHost: b\r\n\r\n")
bad("long trailers", C + b"0\r\n" + b"A: " + b"b" * 9000 + b"\r\n\r\n", 431)
bad("many trailers", C + b"0\r\n" + b"A: b\r\n" * 2000 + b"\r\n", 431)
bad("body that ends early", P + b"Content-Length: 50\r\n\r\nhello")
bad("chunks that end early", C + b"5\r\nhel")
bad("no last chunk", C + b"5\r\nhello\r\n")

# --- sizes (the defaults) ---------------------------------------------------------------------------------------------
good("long target", b"GET /" + b"a" * 8100 + b" HTTP/1.1\r\n" + H + b"\r\n", {"path": "/" + "a" * 8100})
bad("too long target", b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\n" + H + b"\r\n", 414)
bad("endless request line", b"GET /" + b"a" * 9000, 414)
bad("endless first word", b"A" * 9000, 414)
good("long field", G + b"A: " + b"b" * 8100 + b"\r\n\r\n", {"headers": {"HTTP_HOST": "test", "HTTP_A": "b" * 8100}})
bad("too long field", G + b"A: " + b"b" * 8200 + b"\r\n\r\n", 431)
bad("endless field", G + b"A: " + b"b" * 9000, 431)
bad("endless name", G + b"A" * 9000, 431)
good(
    "100 fields",
    b"GET / HTTP/1.1\r\n" + H + b"".join(b"A%d: b\r\n" % number for number in range(99)) + b"\r\n",
    {"method": "GET"},
)
bad("101 fields", b"GET / HTTP/1.1\r\n" + H + b"".join(b"A%d: b\r\n" % number for number in range(100)) + b"\r\n", 431)
bad("101 fields, two hosts", G + H + b"A: b\r\n" * 100 + b"\r\n", 431)
bad("101 equal fields", b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n" * 100 + b"\r\n", 431)
bad("too large head", G + b"".join(b"A%d: %s\r\n" % (number, b"b" * 7000) for number in range(10)) + b"\r\n", 431)
bad("too large head, unfinished", G + b"".join(b"A%d: %s\r\n" % (number, b"b" * 7000) for number in range(10)), 431)
bad(
    "long line with a control byte in it",
    b"GET /" + b"a" * 50 + b"\0" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n",
    400,
)
bad("long line with a control byte at its end", b"GET /" + b"a" * 9000 + b"\0 HTTP/1.1\r\n" + H + b"\r\n", 414)

# --- connections ------------------------------------------------------------------------------------------------------
good("pipelined", G + b"\r\n" + b"GET /2 HTTP/1.1\r\n" + H + b"\r\n", {"path": "/"}, {"path": "/2"})
good("pipelined after a body", P + b"Content-Length: 5\r\n\r\nhello" + G + b"\r\n", {"body": b"hello"}, {"path": "/"})
good("pipelined after chunks", C + b"5\r\nhello\r\n0\r\n\r\n" + G + b"\r\n", {"body": b"hello"}, {"path": "/"})
good("pipelined after trailers", C + b"0\r\nA: b\r\n\r\n" + G + b"\r\n", {"body": b""}, {"path": "/"})
good("three, with bodies", (P + b"Content-Length: 1\r\n\r\nx") * 3, *({"body": b"x"},) * 3)
good("after close", G + b"Connection: close\r\n\r\n" + G + b"\r\n", {"path": "/"})
good("after close among others", G + b"Connection: foo, Close\r\n\r\n" + G + b"\r\n", {"path": "/"})
good("after http/1.0", b"GET / HTTP/1.0\r\n\r\n" + G + b"\r\n", {"path": "/"})
good(
    "after http/1.0 kept alive",
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" + b"GET /2 HTTP/1.1\r\n" + H + b"\r\n",
    {"path": "/"},
    {"path": "/2"},
)
good("connection options", G + b"Connection: Keep-Alive, foo\r\n\r\n" + G + b"\r\n", {"path": "/"}, {"path": "/"})
good(
    "upgrade ignored",
    G + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"GET /2 HTTP/1.1\r\n" + H + b"\r\n",
    {"path": "/"},
    {"path": "/2"},
)
good(
    "upgrade with a body",
    P + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello" + G + b"\r\n",
    {"body": b"hello"},
    {"path": "/"},
)
good(
    "upgrade with chunks",
    P
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    + G
    + b"\r\n",
    {"body": b"hello"},
    {"path": "/"},
)
good(
    "upgrade with a request as its body",
    P + b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: %d\r\n\r\n" % len(G + b"\r\n") + G + b"\r\n",
    {"body": G + b"\r\n"},
)
bad("good, then bad", G + b"\r\n" + G + b"A : b\r\n\r\n", 400, {"path": "/"})
bad("bad, then good", G + b"A : b\r\n\r\n" + G + b"\r\n", 400)
bad("unknown expectation", P + b"Expect: a-miracle\r\nContent-Length: 5\r\n\r\nhello", 417)
good("expectation", P + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello", {"body": b"hello"})
good("expectation without a body", G + b"Expect: 100-continue\r\n\r\n", {"body": b""})
good(
    "expectation in http/1.0",
    b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    {"body": b"hello"},
)
