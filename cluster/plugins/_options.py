"""Checks of options that plugins share. Each raises `ConfigurationError` that says what is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..errors import ConfigurationError, unusable


def path(plugin: str, name: str, value: Any) -> str:
    """A path, given as text or as a `os.PathLike`."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise ConfigurationError(f"{plugin}: {name} is a path, not {value!r}")
    if reason := unusable(found):
        raise ConfigurationError(f"{plugin}: {name} cannot be {value!r}: {reason}")
    return found


def text(plugin: str, name: str, value: Any) -> str:
    """A text of one line that is not empty."""
    if not isinstance(value, str) or not value or any(sign in value for sign in "\r\n\0"):
        raise ConfigurationError(f"{plugin}: {name} is a text of one line, not {value!r}")
    return value


def port(plugin: str, name: str, value: Any) -> int:
    """A port to connect to."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ConfigurationError(f"{plugin}: {name} is a number from 1 to 65535, not {value!r}")
    return value


def seconds(plugin: str, name: str, value: Any) -> float:
    """A number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigurationError(f"{plugin}: {name} is a number of seconds, not {value!r}")
    return float(value)


def several(plugin: str, name: str, value: Any, of: str) -> list[Any]:
    """A list of what *of* says; one text or path stands for itself."""
    if isinstance(value, str | os.PathLike):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise ConfigurationError(f"{plugin}: {name} is a list of {of}, not {value!r}")
    return list(value)
