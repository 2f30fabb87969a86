"""What the master is told of an exception in a worker: how much of it, and what is believed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .narration import harmless, printable

#: the most of a type's name, of a message, of a traceback, and of what was going on, in characters
LIMITS = {"type": 200, "message": 10_000, "text": 100_000, "doing": 1000}
#: the most of a table of data: rows, and characters of a name and of a value
ROWS, NAME, VALUE = 100, 100, 1000
#: the most of what a worker logged: lines, and characters of one
LINES, LINE = 100, 2000
#: a count that is more than this is none
_MANY = 1_000_000_000


def table(data: Mapping[Any, Any]) -> dict[str, str]:
    """*data* as texts, no more than a report holds. Raises nothing, whatever the values do."""
    rows: dict[str, str] = {}
    for name, value in data.items():
        if len(rows) == ROWS:
            break
        rows[in_words(name)[:NAME]] = in_words(value)[:VALUE]
    return rows


def in_words(value: Any) -> str:
    """A text itself, of another value its repr, of an exception its message."""
    try:
        return value if isinstance(value, str) else str(value) if isinstance(value, BaseException) else repr(value)
    except Exception as error:  # noqa: BLE001 - the application's code, and a report must not harm who makes it
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def believed(message: Mapping[str, Any]) -> dict[str, Any]:
    """The error that handlers of `worker exception` get, from the *message* of a worker, who may say anything."""
    error: dict[str, Any] = {}
    for key, most in LIMITS.items():
        value = message.get(key)
        # of a traceback the end says what went wrong
        error[key] = harmless(value[-most:] if key == "text" else value[:most]) if isinstance(value, str) else ""
    error["handled"] = message.get("handled") is True
    error["fatal"] = bool(message.get("fatal")) and not error["handled"]
    count = message.get("count")
    error["count"] = count if isinstance(count, int) and 1 < count < _MANY else 1
    data = message.get("data")
    rows = list(data.items())[:ROWS] if isinstance(data, dict) and error["handled"] else []
    error["data"] = {
        printable(name[:NAME]): harmless(value[:VALUE]) for name, value in rows if isinstance(value, str)
    }
    lines = message.get("log")
    error["log"] = [
        harmless(line[:LINE]) for line in (lines[-LINES:] if isinstance(lines, list) else []) if isinstance(line, str)
    ]
    return error


def as_lines(data: Mapping[str, str]) -> list[str]:
    """A table for people: names, and values beside each other."""
    width = min(30, max(map(len, data), default=0))
    return [f"{name:<{width}}  " + value.replace("\n", "\n" + " " * (width + 2)) for name, value in data.items()]
