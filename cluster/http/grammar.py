"""What may stand where in a message, as tables and patterns. Nothing here keeps state about a request.

llhttp, which parses the heads, is lenient in places where two readers of one message could disagree. Each pattern
below closes one of those places; `first_fault` says what to answer, and says the same whether a head came in one
piece or byte by byte.
"""

from __future__ import annotations

import re

from .errors import Refused
from .learned import Learned
from .limits import Limits

#: methods that the application gets to see, by the bytes in the request line
METHODS: dict[bytes, str] = {
    name.encode(): name
    for name in (
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "COPY", "LOCK", "MKCOL", "MOVE",
        "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY",
        "CHECKOUT", "MERGE", "MKCALENDAR", "LINK", "UNLINK", "PURGE", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "QUERY",
    )
}  # fmt: skip

#: method, target, minor version; a "#" never belongs in a target, nor does anything outside visible ASCII
REQUEST_LINE = re.compile(rb'([A-Z-]+) ([!"$-~]+) HTTP/1\.([01])\r\n').match

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_HOST = (
    r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
    r"|\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\])"
    r"(?::[0-9]{0,5})?"
)
#: most values of a Host field, decided faster than by `HOST`
PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{0,5})?").fullmatch
#: the value of a Host field
HOST = re.compile(_HOST).fullmatch
#: a target in absolute form: host, then path with query
ABSOLUTE = re.compile(rf"[Hh][Tt][Tt][Pp][Ss]?://({_HOST})([/?].*)?").fullmatch

#: the size of a chunk (64 bits at most) and its extensions
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?").fullmatch
#: a field of a trailer section
#: (not one that says where the message ends or whom it is for: RFC 9110, 6.5.1 forbids to send those here, and a reader
#: that believed them would read another message than we do)
TRAILER = re.compile(
    rb"(?!(?i:transfer-encoding|content-length|host|trailer):)[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*"
).fullmatch

#: fields of requests: the registered ones, and what browsers, proxies and tracers send besides
_FIELDS = """
A-IM Accept Accept-Charset Accept-Datetime Accept-Encoding Accept-Language Access-Control-Request-Headers
Access-Control-Request-Method Alt-Used Authorization Cache-Control CDN-Loop Client-Cert Client-Cert-Chain Connection
Content-Digest Content-Disposition Content-Encoding Content-Language Content-Length Content-Location Content-MD5
Content-Range Content-Type Cookie Date Depth Destination DNT DPoP Early-Data Expect Forwarded From Host
HTTP2-Settings If If-Match If-Modified-Since If-None-Match If-Range If-Schedule-Tag-Match If-Unmodified-Since
Keep-Alive Last-Event-ID Last-Modified Lock-Token Max-Forwards MIME-Version OData-MaxVersion OData-Version Origin
Overwrite Pragma Prefer Priority Proxy-Authorization Proxy-Connection Range Referer Repr-Digest Save-Data
Schedule-Reply Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-Storage-Access Sec-Fetch-User Sec-GPC
Sec-Purpose Sec-Token-Binding Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol
Sec-WebSocket-Version Service-Worker Service-Worker-Navigation-Preload Signature Signature-Input SLUG SOAPAction TE
Timeout Traceparent Tracestate Baggage Trailer Transfer-Encoding TTL Topic Urgency Upgrade
Upgrade-Insecure-Requests User-Agent Via Want-Content-Digest Want-Repr-Digest
Device-Memory Downlink DPR ECT RTT Sec-CH-Device-Memory Sec-CH-Downlink Sec-CH-DPR Sec-CH-ECT
Sec-CH-Prefers-Color-Scheme Sec-CH-Prefers-Reduced-Motion Sec-CH-RTT Sec-CH-Save-Data Sec-CH-UA Sec-CH-UA-Arch
Sec-CH-UA-Bitness Sec-CH-UA-Full-Version Sec-CH-UA-Full-Version-List Sec-CH-UA-Mobile Sec-CH-UA-Model
Sec-CH-UA-Platform Sec-CH-UA-Platform-Version Sec-CH-UA-WoW64 Sec-CH-Viewport-Height Sec-CH-Viewport-Width
Viewport-Width Width
X-Amzn-Trace-Id X-Api-Key X-Auth-Token X-B3-Flags X-B3-ParentSpanId X-B3-Sampled X-B3-SpanId X-B3-TraceId B3
X-Client-IP X-Cloud-Trace-Context X-Correlation-ID X-CSRF-Token X-CSRFToken X-Do-Not-Track X-Forwarded
X-Forwarded-By X-Forwarded-For X-Forwarded-Host X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Proto
X-Forwarded-Scheme X-Forwarded-Server X-Forwarded-SSL X-Frontend-Https X-GitHub-Delivery X-GitHub-Event
X-HTTP-Method-Override X-Hub-Signature X-Hub-Signature-256 X-Original-Forwarded-For X-Original-Host X-Original-URI
X-Purpose X-Real-IP X-Request-ID X-Request-Start X-Requested-With X-Scheme X-Trace-ID X-UIDH X-XSRF-Token
HX-Boosted HX-Current-URL HX-History-Restore-Request HX-Prompt HX-Request HX-Target HX-Trigger HX-Trigger-Name
CF-Connecting-IP CF-IPCountry CF-Ray CF-Visitor CF-Worker True-Client-IP Fastly-Client-IP
"""


def _environ_key(name: bytes) -> str:
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


_SPELLINGS = {
    spelled.encode(): _environ_key(name.encode())
    for name in _FIELDS.split()
    for spelled in (name, name.lower(), name.title())
}
#: of others; these are short of what a client may call a field
_LEARNED = Learned(kept=1024, known=_SPELLINGS)
_LEARNED_SIZE = 64
#: environ keys by header name as spelled by the client. It is a table of names, not of requests: bounded, and it spares
#: each field the upper-casing (measured: 9 % of a request with ten fields). What it holds from the start stays whatever
#: clients send.
KEYS: dict[bytes, str] = _LEARNED.table


def environ_key(name: bytes) -> str | None:
    """The environ key for a header name that is not in `KEYS`, or None when it must not become one.

    A name with an underscore would collide with the same name spelled with a hyphen, which a proxy in front may have
    checked or removed; such fields are dropped, as nginx does.
    """
    if b"_" in name:
        return None
    key = _environ_key(name)
    if len(name) <= _LEARNED_SIZE:
        _LEARNED.learn(name, key)
    return key


#: what never belongs in a line, once its CRLF is off
_STRAY = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


def _request_line_fault(line: bytes) -> Refused | None:
    match = REQUEST_LINE(line + b"\r\n")
    if match is None:
        return Refused(400, "malformed request line")
    if match[1] == b"CONNECT":
        return Refused(405, "CONNECT is not supported")
    if match[1] not in METHODS:
        return Refused(501, "unknown method")
    return None


def _field_fault(line: bytes) -> Refused | None:
    name, colon, _ = line.partition(b":")
    return None if colon and _TOKEN(name) else Refused(400, "malformed header field")


_TOO_LONG = (lambda: Refused(414, "request line too long"), lambda: Refused(431, "header field too long"))


def first_fault(
    data: bytes, limits: Limits, start: int = 0, number: int = 0, clean: int = 0
) -> tuple[Refused | None, int, int, int]:
    """Look for the first fault in the lines of a head as far as it has come.

    `start` is the offset of the first line not yet looked at, `number` how many lines came before it, and `clean` how
    many bytes of it have been seen to be in order; all are returned anew, so that nothing of a head which comes in many
    pieces is looked at twice.

    Faults are ordered by the byte at which they show, never by kind: what is refused, and how, must not depend on how
    the network cut the message.
    """
    size = limits.head
    while True:
        newline = data.find(b"\n", start, size)
        complete = newline >= 0
        line = data[start : newline if complete else size]
        if line.endswith(b"\r"):
            line = line[:-1]
        elif complete:
            line += b"\n"  # a bare line feed is a stray byte like others
        longest = limits.field if number else limits.request_line
        if _STRAY(line, clean, longest):
            return Refused(400, "control byte or bare line break"), start, number, clean
        if len(line) > longest:
            return _TOO_LONG[number > 0](), start, number, clean
        if not complete:
            return (Refused(431, "head too large") if len(data) > size else None), start, number, len(line)
        if not line:
            return None, start, number, 0  # the end of the head
        fault = _field_fault(line) if number else _request_line_fault(line)
        if fault is None and number > limits.fields:
            fault = Refused(431, "too many header fields")
        if fault is not None:
            return fault, start, number, clean
        start = newline + 1
        number += 1
        clean = 0
