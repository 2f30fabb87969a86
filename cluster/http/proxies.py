"""Whom to believe about where a request came from: X-Forwarded-*, Forwarded and the PROXY protocol."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from ..errors import ConfigurationError
from . import grammar
from .errors import Refused
from .learned import Learned
from .request import Environ

#: addresses whose place is known: clients' too, which these choose in X-Forwarded-For
_KEPT = 4096


class Networks:
    """A set of peers: addresses, networks (``10.0.0.0/8``), ``unix`` for peers on unix sockets, ``*`` for all."""

    def __init__(self, peers: str | Iterable[str]) -> None:
        """Raises `ConfigurationError` for what is none of these."""
        if isinstance(peers, str):
            peers = [peer for peer in peers.replace(",", " ").split() if peer]
        self._all = False
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        unix = False
        for peer in peers:
            if peer == "*":
                self._all = True
            elif peer == "unix":
                unix = True
            else:
                try:
                    self._networks.append(ipaddress.ip_network(peer, strict=False))
                except ValueError as error:
                    raise ConfigurationError(f"not an address or network: {peer!r}") from error
        self._learned: Learned[str, bool] = Learned(_KEPT, {"": unix})
        self._known = self._learned.table

    def __contains__(self, address: str) -> bool:
        if self._all:
            return True
        known = self._known.get(address)
        if known is None:
            known = self._look(address)
            self._learned.learn(address, known)
        return known

    def _look(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any(parsed in network or (mapped is not None and mapped in network) for network in self._networks)


def as_networks(peers: Any) -> Networks | None:
    """The networks of an option; True means all peers, None and False none."""
    if peers is None or peers is False:
        return None
    if peers is True:
        return Networks("*")
    return peers if isinstance(peers, Networks) else Networks(peers)


#: what a trusted proxy may be believed to say, word by word
FORWARDED = ("for", "proto", "host", "port", "prefix", "forwarded")
#: what is believed unless somebody says otherwise: what a client cannot use to get at another application
DEFAULT_FORWARDED = ("for", "proto")


def as_forwarded(words: str | Iterable[str] | None) -> frozenset[str]:
    """The words of an option, in a list or one text; None means the default. Raises `ConfigurationError`."""
    if words is None:
        words = DEFAULT_FORWARDED
    elif isinstance(words, str):
        words = words.replace(",", " ").split()
    found = frozenset(word.lower() for word in words)
    unknown = sorted(found - set(FORWARDED))
    if unknown:
        raise ConfigurationError(f"forwarded headers are some of {', '.join(FORWARDED)}, not {unknown[0]!r}")
    if "forwarded" in found and found & {"for", "proto"}:
        # A proxy sets the one or the others, and what it does not set comes from the client.
        raise ConfigurationError("'forwarded' is read instead of 'for' and 'proto': name the ones that the proxy sets")
    return found


class TrustedProxies:
    """Applies what trusted peers say of a request to its environ; what others say stays mere fields.

    Each proxy of a chain adds an entry at the right, or sets the whole field. The client is the rightmost one of -For
    that is none of ours; scheme, host and the others are what the proxy that told of it saw, so they are taken from the
    same place in their fields, or from the leftmost one where these are shorter. What is left of that anybody may have
    written.

    :param peers: whom to believe
    :param forwarded: and what: words of `FORWARDED`. ``for``, ``proto``, ``host``, ``port`` and ``prefix`` are the
        fields X-Forwarded-…; ``forwarded`` is the field Forwarded (RFC 7239) instead of the first three, of which it
        says the host only where ``host`` is named, too. A proxy that does not set a field passes on the client's, so
        only those must be named that it sets or takes away.

    Raises `ConfigurationError` for words that are none of these.
    """

    def __init__(self, peers: Networks | str | Iterable[str], forwarded: str | Iterable[str] | None = None) -> None:
        self._trusted = peers if isinstance(peers, Networks) else Networks(peers)
        words = as_forwarded(forwarded)
        self._standard = "forwarded" in words
        self._for = "for" in words
        self._proto = "proto" in words
        self._host = "host" in words
        self._port = "port" in words
        self._prefix = "prefix" in words

    def apply(self, environ: Environ) -> None:
        """Replace the peer, the scheme and what else is believed by what a trusted peer says."""
        if environ["REMOTE_ADDR"] not in self._trusted:
            return
        place = 1  # from the right
        scheme = host = ""
        if self._standard:
            if "HTTP_FORWARDED" in environ:
                elements = _elements(environ["HTTP_FORWARDED"])
                place = self._apply_client(environ, [element.get("for", "") for element in elements])
                if elements:
                    scheme, host = elements[place - 1].get("proto", ""), elements[place - 1].get("host", "")
        else:
            if self._for and "HTTP_X_FORWARDED_FOR" in environ:
                place = self._apply_client(environ, reversed(environ["HTTP_X_FORWARDED_FOR"].split(",")))
            if self._proto:
                scheme = _entry(environ, "HTTP_X_FORWARDED_PROTO", place)
            if self._host:
                host = _entry(environ, "HTTP_X_FORWARDED_HOST", place)
        if scheme:
            apply_scheme(environ, scheme.lower())
        if self._host and host and grammar.HOST(host):
            environ["HTTP_HOST"] = host
            environ["SERVER_NAME"], port = _host_and_port(host)
            if port:
                environ["SERVER_PORT"] = port
        if self._port:
            _apply_port(environ, _entry(environ, "HTTP_X_FORWARDED_PORT", place))
        if self._prefix:
            prefix = unquote_to_bytes(_entry(environ, "HTTP_X_FORWARDED_PREFIX", place)).decode("latin-1")
            if _PREFIX(prefix):
                environ["SCRIPT_NAME"] = prefix.rstrip("/")

    def _apply_client(self, environ: Environ, entries: Iterable[str]) -> int:
        """Take the first address that is not one of ours, *entries* being read from the right; returns its place."""
        client = None
        place = 0
        for entry in entries:
            address = _address(entry.strip(" \t"))
            if address is None:
                break
            client = address
            place += 1
            if address not in self._trusted:
                break
        if client is not None:
            environ["REMOTE_ADDR"] = client
            environ["REMOTE_PORT"] = ""  # the proxy's own would be misleading
        return max(place, 1)


def apply_scheme(environ: Environ, scheme: str) -> None:
    """Let the environ say what the client spoke with the proxy; anything but http and https changes nothing."""
    if scheme == "https":
        environ["wsgi.url_scheme"] = scheme
        environ["SERVER_PORT"] = "443"
        environ["HTTPS"] = "on"
    elif scheme == "http":
        environ["wsgi.url_scheme"] = scheme
        environ["SERVER_PORT"] = "80"
        environ.pop("HTTPS", None)


#: a path, not what a browser takes for another host, and nothing that ends a path
_PREFIX = re.compile(r"/(?![/\\])[^\x00-\x1f\x7f?#\\]*").fullmatch
#: an element of Forwarded. Quoted values have no comma, semicolon or backslash: what it tells us of has none, and with
#: them an open quote of the client's could swallow what the proxy added
_PAIR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|\"[^\",;\\]*\")"
_ELEMENT = re.compile(rf"[ \t]*{_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*[ \t]*").fullmatch


def _elements(forwarded: str) -> list[dict[str, str]]:
    """The elements of a Forwarded field from the right, up to the first that is malformed."""
    found = []
    for text in reversed(forwarded.split(",")):
        if _ELEMENT(text) is None:
            break
        pairs: dict[str, str] = {}
        for pair in text.split(";"):
            name, _, value = pair.partition("=")
            pairs.setdefault(name.strip(" \t").lower(), value.strip(" \t").strip('"'))
        found.append(pairs)
    return found


def _entry(environ: Environ, field: str, place: int) -> str:
    entries = environ.get(field, "").split(",")
    return str(entries[-min(place, len(entries))].strip(" \t"))


def _host_and_port(host: str) -> tuple[str, str]:
    """Name and port of a Host field; the port is empty where there is none."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and (port.isdigit() or not port) else (host, "")


def _apply_port(environ: Environ, port: str) -> None:
    """The port that the client connected to: in URLs, too, which applications make from Host."""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        return
    environ["SERVER_PORT"] = port = str(int(port))
    if environ.get("HTTP_HOST"):
        name = _host_and_port(environ["HTTP_HOST"])[0]
        usual = port == ("443" if environ["wsgi.url_scheme"] == "https" else "80")
        environ["HTTP_HOST"] = name if usual else f"{name}:{port}"


def _address(text: str) -> str | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:
        return None  # a zone of somebody else's network, and whatever text may follow
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: the longest header of version 1, and of version 2 that is accepted
_LONGEST_1, _LONGEST_2 = 107, 16 + 2048
#: bytes of addresses by family, in version 2
_ADDRESSES = {0: 0, 1: 12, 2: 36, 3: 216}
#: the addition about TLS, and the bit in its first byte that says that the client speaks it
_ABOUT_TLS, _SPEAKS_TLS = 0x20, 0x01


class Introduction(NamedTuple):
    """What a PROXY protocol header says."""

    #: the client's address and port; None when the proxy speaks for itself
    client: tuple[str, str] | None
    #: how many bytes it took
    size: int
    #: the client speaks TLS with the proxy
    secure: bool = False


def proxy_header(data: bytes) -> Introduction | None:
    """Read a PROXY protocol header, version 1 or 2, at the beginning of a connection.

    Returns None while it has not come as a whole. Raises `Refused` when it is none.
    """
    if data.startswith(_SIGNATURE[: len(data)]) and data[:1] == b"\r":
        return _version_2(data)
    if not data.startswith(b"PROXY "[: len(data)]):
        raise Refused(400, "no PROXY protocol header")
    end = data.find(b"\r\n", 0, _LONGEST_1)
    if end < 0:
        if len(data) >= _LONGEST_1 or b"\n" in data:
            raise Refused(400, "malformed PROXY protocol header")
        return None
    words = data[:end].split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return Introduction(None, end + 2)
    try:
        _, family, source, destination, port, other = (word.decode("ascii") for word in words)
        kind = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[family]
        kind(destination)
        if "%" in source or not all(text.isdigit() and len(text) <= 5 and int(text) < 65536 for text in (port, other)):
            raise ValueError(port)
        return Introduction((str(kind(source)), str(int(port))), end + 2)
    except (ValueError, KeyError) as error:
        raise Refused(400, "malformed PROXY protocol header") from error


def _version_2(data: bytes) -> Introduction | None:
    if len(data) < 16:
        return None
    version, family, length = struct.unpack("!BBH", data[12:16])
    size = 16 + length
    if version not in (0x20, 0x21) or size > _LONGEST_2:
        raise Refused(400, "malformed PROXY protocol header")
    if len(data) < size:
        return None
    if version == 0x20:  # LOCAL: a health check of the proxy's own
        return Introduction(None, size)
    body = data[16:size]
    addresses = _ADDRESSES.get(family >> 4, 0)
    if length < addresses:
        raise Refused(400, "malformed PROXY protocol header")
    secure = _says_tls(body[addresses:])
    if family == 0x11:
        client = socket.inet_ntop(socket.AF_INET, body[:4]), str(struct.unpack("!H", body[8:10])[0])
    elif family == 0x21:
        client = socket.inet_ntop(socket.AF_INET6, body[:16]), str(struct.unpack("!H", body[32:34])[0])
    else:
        return Introduction(None, size, secure)
    return Introduction(client, size, secure)


def _says_tls(additions: bytes) -> bool:
    """Whether the additions (type, length, value) of a header of version 2 say that the client speaks TLS."""
    at = 0
    while at < len(additions):
        kind, length = struct.unpack("!BH", additions[at : at + 3]) if at + 3 <= len(additions) else (0, _LONGEST_2)
        if at + 3 + length > len(additions):
            raise Refused(400, "malformed PROXY protocol header")
        if kind == _ABOUT_TLS and length:
            return bool(additions[at + 3] & _SPEAKS_TLS)
        at += 3 + length
    return False
