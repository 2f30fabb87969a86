# ruff: noqa: E501
"""Fuzz a connection: mutated and spliced messages, cut at random places.

    python tests/http/http_fuzz.py SECONDS [SEED]

For every message: the server answers and closes (no hang), nothing comes out into the hub, the outcome is the same for
another cut, every request that the application saw is read the same way by h11, and no request follows a refusal.
"""

from __future__ import annotations

import random
import socket
import sys
import time
import traceback

import gevent
import h11
import http_helpers as helpers
from http_corpus import CASES

from cluster.http import HTTPServer, Limits

WORDS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b": ", b",", b";", b"\0", b"\x7f", b"\xff", b"0", b"5", b"+", b"-", b"_", b"0x", b"chunked",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Host: a\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Proxy-Connection: close\r\n", b"Content-Length: " + b"0" * 4400 + b"7\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD ", b"OPTIONS * ", b"http://a", b"%00", b"?", b"#", b"A: b\r\n", b"ffffffffffffffff", b"\r\n ", b"\x0b",
]  # fmt: skip
SEEDS = [case.data for case in CASES if len(case.data) < 1500]


def message(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        data += rng.choice(SEEDS)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(6)
        if change == 0:
            data[at:at] = rng.choice(WORDS)
        elif change == 1:
            del data[at : at + rng.choice((1, 1, 2, 5, 30))]
        elif change == 2 and at < len(data):
            data[at] = rng.randrange(256)
        elif change == 3:
            data[at:at] = data[at : at + rng.randrange(40)]
        elif change == 4:
            other = rng.choice(SEEDS)
            data[at:] = other[rng.randrange(len(other)) :]
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    places = sorted({rng.randrange(1, len(data)) for _ in range(rng.randrange(5))}) if len(data) > 1 else []
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if b > a]


def by_h11(data: bytes, count: int) -> list[tuple]:
    """What h11 makes of the first requests of a stream; an exception when it refuses one of them."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
    while data.startswith(b"\r\n"):
        data = data[2:]
    connection.receive_data(data)
    connection.receive_data(b"")
    found: list[tuple] = []
    while len(found) < count:
        request = connection.next_event()
        assert isinstance(request, h11.Request), repr(request)
        body = b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise AssertionError(repr(event))
        found.append((request.method.decode(), request.target.decode(), list(request.headers), body))
        if len(found) < count:
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            rest = connection.trailing_data[0]
            # it keeps no connection of HTTP/1.0
            if connection.our_state is h11.MUST_CLOSE and request.http_version != b"1.0":
                raise AssertionError("h11 would have closed")
            while rest.startswith(b"\r\n"):
                rest = rest[2:]
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
            connection.receive_data(rest)
            connection.receive_data(b"")
    return found


def environ_of(headers: list[tuple[bytes, bytes]], target: str) -> dict[str, str]:
    seen: dict[str, str] = {}
    for raw, value in headers:
        if b"_" in raw:
            continue
        name = raw.decode("latin-1").upper().replace("-", "_")
        key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name
        text = value.decode("latin-1")
        seen[key] = f"{seen[key]}{'; ' if key == 'HTTP_COOKIE' else ', '}{text}" if key in seen else text
    if not target.startswith(("/", "*")):
        seen.pop("HTTP_HOST", None)
    return seen


def differential(data: bytes, requests: list[dict]) -> None:
    """Every request that was accepted is read the same way by h11."""
    theirs = by_h11(data, len(requests))
    for ours, (method, target, headers, body) in zip(requests, theirs, strict=True):
        assert (ours["method"], ours["target"], ours["body"]) == (method, target, body)
        mine = dict(ours["headers"])
        if "HTTP_TRANSFER_ENCODING" in mine:  # h11 gives it in lower case
            mine["HTTP_TRANSFER_ENCODING"] = mine["HTTP_TRANSFER_ENCODING"].lower()
        if not target.startswith(("/", "*")):
            mine.pop("HTTP_HOST", None)
        assert mine == environ_of(headers, target)


def fuzz(seconds: float, seed: int, report=None) -> int:
    """Run for so long; returns how many messages were tried. Raises AssertionError with the message that fails."""
    rng = random.Random(seed)
    app = helpers.Recorder()
    problems: list = []
    hub = gevent.get_hub()
    original, hub.handle_error = hub.handle_error, lambda context, kind, error, trace: problems.append(error)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    end = time.monotonic() + seconds
    tried = 0
    data = b""
    try:
        servers = []
        for limit in (65536, 4):  # small bodies collected, and nearly all streamed
            server = HTTPServer(
                None, app, limits=Limits(buffered_body=limit), on_error=lambda info, environ: problems.append(info[1])
            )
            servers.append(helpers.Served(server, listener, server.add_listener(listener), []))
        while time.monotonic() < end:
            data = message(rng)
            outcomes = []
            for served in (servers[0], servers[0], servers[1]):
                app.requests = []
                with gevent.Timeout(10):
                    statuses = helpers.feed(served, cut(rng, data) if outcomes else [data])
                    helpers.until(lambda served=served: served.server.active == 0, 5)
                outcomes.append((statuses, list(app.requests)))
            assert outcomes[0] == outcomes[1], outcomes
            statuses, requests = outcomes[0]
            # while a body is streamed the application runs already, so only the answers are the same
            assert statuses == outcomes[2][0], outcomes
            assert not [error for error in problems if type(error).__name__ != "BodyError"], problems
            assert statuses.count(200) == len(requests) and 200 not in statuses[len(requests) :], statuses
            assert len(statuses) <= len(requests) + 1
            differential(data, requests)
            problems.clear()
            tried += 1
            if report and tried % 20000 == 0:
                report(tried)
    except BaseException:
        print(f"seed {seed}, after {tried} messages: {data!r}", file=sys.stderr)
        raise
    finally:
        hub.handle_error = original
        listener.close()
    return tried


if __name__ == "__main__":
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    try:
        print(fuzz(seconds, seed, lambda tried: print(f"{tried} messages", flush=True)), "messages, no finding")
    except BaseException:  # noqa: BLE001 - the end of a script
        traceback.print_exc()
        sys.exit(1)
