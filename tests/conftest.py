"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .harness import Workshop, workshop

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know whether their test has failed."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def shop(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """A directory to run clusters in. The test has to end them; what is left fails it."""
    with workshop(tmp_path) as made:
        yield made
        if request.node.stash.get(_FAILED, False):
            made.close()  # what went wrong is known; what it left is not worth waiting for
