"""H8: a short run of the fuzzer; the long run is described in the documentation."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("h11")
from http_corpus import CASES
from http_fuzz import differential, fuzz
from test_corpus import outcome, recorded

__all__ = ["recorded"]


def test_h8_fuzz():
    assert fuzz(5, random.randrange(1 << 30)) > 10


@pytest.mark.parametrize("case", [case for case in CASES if case.requests], ids=lambda case: case.name)
def test_h8_h11_reads_the_same(recorded, case):
    _, requests = outcome(recorded, [case.data])
    differential(case.data, requests)
