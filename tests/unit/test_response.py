"""The strict client's reader of responses: it must never call a response complete that is not."""

from __future__ import annotations

import pytest

from benchmarks.response import MAXIMUM_HEAD, Malformed, Response

COMPLETE = {
    "counted": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "announces the close": (
        b"HTTP/1.1 200 OK\r\nconnection: Upgrade , CLOSE\r\ncontent-length:2\r\n\r\nok",
        200,
        b"ok",
        True,
    ),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        200,
        b"abc0123456789",
        False,
    ),
    "chunked with trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        200,
        b"x",
        False,
    ),
    "line ends in the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n", 200, b"\r\n" * 4, False),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", False),
    "not modified, with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", False),
    "interim": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\nx",
        500,
        b"x",
        False,
    ),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", True),
    "old but kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "the same length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
}

HEAD = b"HTTP/1.1 200 OK\r\n"
MALFORMED = {
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "a later HTTP": b"HTTP/2 200\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status out of range": b"HTTP/1.1 999 Oh\r\nContent-Length: 0\r\n\r\n",
    "switched protocols": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "no colon": HEAD + b"Content-Length 5\r\n\r\n",
    "space before the colon": HEAD + b"Content-Length : 5\r\n\r\n",
    "folded header": HEAD + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "no length": HEAD + b"Connection: close\r\n\r\nuntil the end",
    "no length and no body": HEAD + b"Connection: close\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": HEAD + b"Content-Length: +1\r\n\r\nx",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk that is too long": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
    "a chunk without an end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxab0\r\n\r\n",
    "bytes after a body": HEAD + b"Content-Length: 1\r\n\r\nxy",
    "bytes after chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1",
    "bytes after no content": b"HTTP/1.1 204 No Content\r\n\r\nx",
    "an endless head": HEAD + b"A: " + b"x" * MAXIMUM_HEAD,
    "an endless chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * (MAXIMUM_HEAD + 1),
}


@pytest.mark.parametrize(("raw", "status", "body", "close"), COMPLETE.values(), ids=COMPLETE)
def test_complete_only_with_the_last_byte(raw: bytes, status: int, body: bytes, close: bool) -> None:
    # Cut anywhere, the part before is incomplete and the rest completes it.
    for cut in range(1, len(raw)):
        response = Response()
        assert not response.feed(raw[:cut]), raw[:cut]
        assert response.started
        assert response.feed(raw[cut:])
        assert (response.status, response.body, response.close) == (status, body, close)


@pytest.mark.parametrize(("raw", "status", "body", "close"), COMPLETE.values(), ids=COMPLETE)
def test_byte_by_byte(raw: bytes, status: int, body: bytes, close: bool) -> None:
    response = Response()
    assert not response.started
    *firsts, last = (raw[at : at + 1] for at in range(len(raw)))
    assert not any(response.feed(byte) for byte in firsts)
    assert response.feed(last)
    assert (response.status, response.body, response.close) == (status, body, close)


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Response().feed(raw)
