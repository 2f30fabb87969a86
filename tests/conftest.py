"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Workshop, workshop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    """A directory to run clusters in. The test has to end them; what is left fails it."""
    with workshop(tmp_path) as made:
        yield made
