"""H8, H9: what becomes of a message, however the network cuts it."""

from __future__ import annotations

import random

import http_helpers as helpers
import pytest
from http_corpus import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def recorded():
    """One server for all cases, as many of them must not disturb each other."""
    import socket

    from cluster.http import HTTPServer

    app = helpers.Recorder()
    errors = []
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = HTTPServer(listener, app, on_error=lambda info, environ: errors.append(info))
    yield app, helpers.Served(server, listener, server.bindings[0], errors)
    server.close()
    listener.close()
    assert not [error for error in errors if error[0].__name__ != "BodyError"]


def outcome(recorded, pieces):
    app, served = recorded
    app.requests.clear()
    statuses = helpers.feed(served, pieces)
    helpers.until(lambda: served.server.active == 0)
    return statuses, list(app.requests)


def check(case, statuses, requests):
    expected = [200] * len(case.requests) + ([case.refused] if case.refused else [])
    assert statuses == expected
    assert len(requests) == len(case.requests)
    for seen, wanted in zip(requests, case.requests, strict=True):
        for key, value in wanted.items():
            assert seen[key] == value, key


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_h8_whole(recorded, case):
    check(case, *outcome(recorded, [case.data]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_h8_no_message_changes_how_another_connection_is_read(recorded, case):
    """The parser is shared; found by fuzzing when a refused HTTP/1.0 request left it closed."""
    outcome(recorded, [case.data])
    statuses, requests = outcome(recorded, [b"GET /next HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"])
    assert statuses == [200] and requests[0]["path"] == "/next"
    assert requests[0]["headers"] == {"HTTP_HOST": "a", "HTTP_A": "b"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_h8_byte_by_byte(recorded, case):
    data = case.data
    # of long ones the middle comes at once: 8,000 equal bytes tell nothing
    pieces = [data[i : i + 1] for i in range(min(len(data), 400))]
    if len(data) > 400:
        pieces.append(data[400:-50] if len(data) > 450 else b"")
        pieces += [data[i : i + 1] for i in range(max(400, len(data) - 50), len(data))]
    check(case, *outcome(recorded, [piece for piece in pieces if piece]))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(CASES), st.lists(st.floats(0, 1), max_size=6))
def test_h8_split_anywhere(recorded, case, cuts):
    places = sorted({int(cut * len(case.data)) for cut in cuts} - {0, len(case.data)})
    pieces = [case.data[a:b] for a, b in zip([0, *places], [*places, len(case.data)], strict=True)]
    check(case, *outcome(recorded, pieces))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(CASES), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_h8_any_sequence_is_read_the_same_however_it_is_cut(recorded, cases, randomness):
    """Also messages that nobody thought of an outcome for: pieces of several, one behind the other."""
    data = b"".join(case.data for case in cases)[:20000]
    whole = outcome(recorded, [data])
    rng: random.Random = randomness
    places = sorted(rng.randrange(1, len(data)) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if b > a]
    assert outcome(recorded, pieces) == whole


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([case for case in CASES if len(case.data) < 400]),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["insert", "delete", "replace", "double"]), st.integers(0, 255)),
        min_size=1,
        max_size=3,
    ),
    st.floats(0, 1),
)
def test_h8_mutated_messages_are_read_the_same_however_they_are_cut(recorded, case, changes, cut):
    data = bytearray(case.data)
    for place, change, byte in changes:
        at = int(place * (len(data) - 1)) if data else 0
        if change == "insert":
            data[at:at] = bytes([byte])
        elif change == "delete":
            del data[at : at + 1]
        elif change == "replace" and data:
            data[at] = byte
        elif change == "double":
            data[at:at] = data[at : at + 10]
    data = bytes(data)
    whole = outcome(recorded, [data])
    at = int(cut * len(data))
    assert outcome(recorded, [data[:at], data[at:]] if 0 < at < len(data) else [data]) == whole
