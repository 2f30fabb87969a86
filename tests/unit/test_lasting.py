"""Which failures to load an application are there the next time, too: row W6."""

from __future__ import annotations

import errno
import os

import pytest

from cluster.errors import ApplicationNotFound, ConfigurationError
from cluster.workers.failures import is_lasting


def caused(
    error: BaseException, cause: BaseException | None = None, context: BaseException | None = None
) -> BaseException:
    """*error*, as Python raises it from another one, or while another one is handled."""
    error.__cause__ = cause
    error.__context__ = context
    return error


@pytest.mark.parametrize("error", [
    ImportError("no"), ModuleNotFoundError("no"), SyntaxError("no"), IndentationError("no"), ConfigurationError("no"),
    ApplicationNotFound("no"), caused(ImportError("no"), KeyError("x")),
    caused(ConfigurationError("no"), None, PermissionError(errno.EACCES, "no")),
    ImportError("libx.so: cannot open shared object file: No such file or directory"),
])
def test_what_lasts(error: BaseException) -> None:
    """The code, or the files around it, have to change."""
    assert is_lasting(error)


@pytest.mark.parametrize("error", [
    RuntimeError("no"), MemoryError(), OSError(errno.EMFILE, "no"), SystemExit(1), KeyboardInterrupt(),
    caused(ImportError("no"), MemoryError()), caused(ImportError("no"), None, OSError(errno.ENFILE, "no")),
    caused(ImportError("no"), caused(RuntimeError("no"), ConnectionRefusedError(errno.ECONNREFUSED, "no"))),
    caused(SyntaxError("no"), None, MemoryError()), caused(ConfigurationError("no"), OSError("without a number")),
    ImportError(f"libx.so: cannot open shared object file: {os.strerror(errno.EMFILE)}"),
    ImportError("libx.so: failed to map segment from shared object"),
])
def test_what_may_pass(error: BaseException) -> None:
    """It is no failure of the code, or comes from one that is none."""
    assert not is_lasting(error)


def test_a_chain_that_goes_round_ends() -> None:
    """Each origin is looked at once."""
    first, second = ImportError("one"), ImportError("two")
    first.__cause__, second.__cause__ = second, first
    assert is_lasting(first)
