"""Exceptions that users may catch, and the exit codes of a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable

#: Exit codes of a master.
EXIT_CLOSED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_WORKERS = 3


class ClusterError(Exception):
    """Base of all errors that this package raises on purpose; its text is one line for the operator."""

    #: what a command line exits with when this error ends it
    exit_code = EXIT_FAILED


class ConfigurationError(ClusterError, ValueError):
    """A setting, address, name, signal or server that cannot be right. Raised before anything is forked."""

    exit_code = EXIT_USAGE


class ApplicationNotFound(ConfigurationError):
    """The string given as a server names no module, or a module without that attribute."""


class BindError(ClusterError, OSError):
    """An address that cannot be bound: taken, unresolvable, not permitted."""


class ChannelError(ClusterError):
    """A message that cannot be sent or understood, or a peer that has gone."""


class RemoteError(ClusterError):
    """A call over the channel that failed on the other side; the text is the other side's."""


class OperationFailed(ClusterError):
    """An operation (spawn, reload, restart …) that was refused, superseded or did not succeed."""


class WouldBlock(ClusterError, RuntimeError):
    """``Result.wait()`` was called where it would stop the supervisor itself."""


def unusable(name: str) -> str:
    """Why *name* can be the name of no file on this system; empty when it can."""
    if "\0" in name:
        return "it contains a zero byte"
    encoding = sys.getfilesystemencoding()
    try:
        name.encode(encoding, sys.getfilesystemencodeerrors())
    except UnicodeEncodeError as error:
        return (f"names of files have no {name[error.start]!r} here, where their encoding is {encoding}; with "
                "LC_ALL=C.UTF-8 or PYTHONUTF8=1 in the environment it is UTF-8")
    return ""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """A hint for a wrong *word*: ``; did you mean 'app'?``, or *otherwise* when nothing known is close to it."""
    import difflib  # needed only where something is wrong

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else otherwise
