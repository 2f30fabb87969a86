"""Subjects of reports, with placeholders for what happened and where."""

from __future__ import annotations

import os
import string
from typing import Any

from .. import narration
from ..errors import ConfigurationError, did_you_mean
from . import _options

#: characters of a value; a long message must not push out what follows it
_LONGEST = 150
NAMES = ("host", "title", "master", "worker", "pid", "generation", "type", "message", "doing", "count", "summary")


def check(plugin: str, value: Any) -> str:
    """A text of one line, with placeholders as ``{host}``. Raises `ConfigurationError`."""
    text = _options.text(plugin, "subject", value)
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigurationError(f"{plugin}: subject {text!r}: {error}; a brace itself is written twice") from None
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in NAMES:
            known = ", ".join(f"{{{one}}}" for one in NAMES)
            hint = did_you_mean(name, NAMES, f"; there are {known}; a brace itself is written twice")
            raise ConfigurationError(f"{plugin}: subject has an unknown placeholder {{{name}}}{hint}")
        if form or conversion:
            raise ConfigurationError(f"{plugin}: subject: a placeholder is its name only, {{{name}}}")
    return text


def has_placeholders(subject: str) -> bool:
    """Whether *subject*, which was checked, says itself what happened."""
    return any(name is not None for _, name, _, _ in string.Formatter().parse(subject))


def fill(subject: str, host: str, title: str, worker: Any, error: dict[str, Any],
         longest: int | None = _LONGEST) -> str:
    """*subject*, which was checked, for one exception: one line, whatever a worker says.

    *longest*: characters of a value.
    """
    values = {
        "host": host, "title": title, "master": os.getpid(), "worker": worker.id, "pid": worker.pid,
        "generation": worker.generation, "type": error["type"], "message": error["message"], "doing": error["doing"],
        "count": error["count"], "summary": narration.uncaught(worker, error),
    }
    return subject.format_map({name: _one_line(str(value), longest) for name, value in values.items()})


def _one_line(value: str, longest: int | None) -> str:
    """Without line ends of any kind, which would begin another header."""
    line = narration.printable(" ".join(value.split()))
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"
