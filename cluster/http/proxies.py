"""Whom to believe about where a request came from: X-Forwarded-* fields and the PROXY protocol."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Any

from ..errors import ConfigurationError
from . import grammar
from .errors import Refused
from .request import Environ

_KEPT = 4096


class Networks:
    """A set of peers: addresses, networks (``10.0.0.0/8``), ``unix`` for peers on unix sockets, ``*`` for all."""

    def __init__(self, peers: str | Iterable[str]) -> None:
        """Raises `ConfigurationError` for what is none of these."""
        if isinstance(peers, str):
            peers = [peer for peer in peers.replace(",", " ").split() if peer]
        self._all = False
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._known: dict[str, bool] = {"": False}
        for peer in peers:
            if peer == "*":
                self._all = True
            elif peer == "unix":
                self._known[""] = True
            else:
                try:
                    self._networks.append(ipaddress.ip_network(peer, strict=False))
                except ValueError as error:
                    raise ConfigurationError(f"not an address or network: {peer!r}") from error

    def __contains__(self, address: str) -> bool:
        if self._all:
            return True
        known = self._known.get(address)
        if known is None:
            known = self._look(address)
            if len(self._known) < _KEPT:
                self._known[address] = known
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


class TrustedProxies:
    """Applies X-Forwarded-For, -Proto and -Host of trusted peers to an environ; those of others stay mere fields.

    Each proxy of a chain adds an entry at the right, or sets the whole field. The client is the rightmost one of -For
    that is none of ours; scheme and host are what the proxy that told of it saw, so they are taken from the same place
    in their fields, or from the leftmost one where these are shorter. What is left of that anybody may have written.
    """

    def __init__(self, peers: Networks | str | Iterable[str]) -> None:
        self._trusted = peers if isinstance(peers, Networks) else Networks(peers)

    def apply(self, environ: Environ) -> None:
        """Replace the peer, the scheme and the host by what a trusted peer says."""
        if environ["REMOTE_ADDR"] not in self._trusted:
            return
        place = 1  # from the right
        if "HTTP_X_FORWARDED_FOR" in environ:
            client, place = self._client(environ["HTTP_X_FORWARDED_FOR"])
            if client is not None:
                environ["REMOTE_ADDR"] = client
                environ["REMOTE_PORT"] = ""  # the proxy's own would be misleading
        scheme = _entry(environ, "HTTP_X_FORWARDED_PROTO", place).lower()
        if scheme in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme
            environ["SERVER_PORT"] = "443" if scheme == "https" else "80"
            if scheme == "https":
                environ["HTTPS"] = "on"
            else:
                environ.pop("HTTPS", None)
        host = _entry(environ, "HTTP_X_FORWARDED_HOST", place)
        if host and grammar.HOST(host):
            environ["HTTP_HOST"] = host
            name, colon, port = host.rpartition(":")
            if colon and port.isdigit():
                environ["SERVER_NAME"], environ["SERVER_PORT"] = name, port
            else:
                environ["SERVER_NAME"] = host.rstrip(":")

    def _client(self, forwarded: str) -> tuple[str | None, int]:
        """The rightmost address that is not one of ours, and its place from the right."""
        client = None
        place = 0
        for entry in reversed(forwarded.split(",")):
            address = _address(entry.strip(" \t"))
            if address is None:
                break
            client = address
            place += 1
            if address not in self._trusted:
                break
        return client, max(place, 1)


def _entry(environ: Environ, field: str, place: int) -> str:
    entries = environ.get(field, "").split(",")
    return str(entries[-min(place, len(entries))].strip(" \t"))


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
#: the longest header of version 1, and of version 2 that is accepted (its additions are not used)
_LONGEST_1, _LONGEST_2 = 107, 16 + 2048


def proxy_header(data: bytes) -> tuple[tuple[str, str] | None, int] | None:
    """Read a PROXY protocol header, version 1 or 2, at the beginning of a connection.

    Returns the client's address and port (None when the proxy speaks for itself) and the size of the header; None while
    it has not come as a whole. Raises `Refused` when it is none.
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
        return None, end + 2
    try:
        _, family, source, destination, port, other = (word.decode("ascii") for word in words)
        kind = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[family]
        kind(destination)
        if "%" in source or not all(text.isdigit() and len(text) <= 5 and int(text) < 65536 for text in (port, other)):
            raise ValueError(port)
        return (str(kind(source)), str(int(port))), end + 2
    except (ValueError, KeyError) as error:
        raise Refused(400, "malformed PROXY protocol header") from error


def _version_2(data: bytes) -> tuple[tuple[str, str] | None, int] | None:
    if len(data) < 16:
        return None
    version, family, length = struct.unpack("!BBH", data[12:16])
    size = 16 + length
    if version not in (0x20, 0x21) or size > _LONGEST_2:
        raise Refused(400, "malformed PROXY protocol header")
    if len(data) < size:
        return None
    if version == 0x20:  # LOCAL: a health check of the proxy's own
        return None, size
    body = data[16:size]
    if family == 0x11 and length >= 12:
        return (socket.inet_ntop(socket.AF_INET, body[:4]), str(struct.unpack("!H", body[8:10])[0])), size
    if family == 0x21 and length >= 36:
        return (socket.inet_ntop(socket.AF_INET6, body[:16]), str(struct.unpack("!H", body[32:34])[0])), size
    if family in (0x11, 0x21):
        raise Refused(400, "malformed PROXY protocol header")
    return None, size
