"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .harness import Workshop, workshop

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session", autouse=True)
def programs_heed_signals() -> Iterator[None]:
    """Programs that tests start heed Ctrl-C and the like, as they would in a terminal, wherever the tests run.

    A shell's background job ignores SIGINT and SIGQUIT, one under nohup SIGHUP, and so does whatever is executed from
    there. A handler ends with the exec; that of ours does nothing, as we were asked.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)}
    for number, action in before.items():
        if action is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's, with a short name: a unix socket's path has at most 107 bytes, and a user's $TMPDIR may be long."""
    return tmp_path_factory.mktemp("t")


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
