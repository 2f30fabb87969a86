"""Whatever an application says, as what JSON can carry."""

from __future__ import annotations

import json
from typing import Any

#: characters of a text that stands for a value that is no JSON as a whole
_LONGEST = 10_000


def as_json(value: Any) -> str:
    """*value* as JSON. What is none in it (a datetime, an exception, a set) is its `repr`; where that is not enough (a
    tuple as a key, NaN, a list that holds itself) all of it is one text. Raises nothing."""
    try:
        return json.dumps(value, default=shown, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(shown(value)[:_LONGEST])


def plain(value: Any) -> Any:
    """The same as values again."""
    return json.loads(as_json(value))


def shown(value: Any) -> str:
    """Its `repr`, or its type for what has none that works."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - the application's own code, which must not fail the caller for a log line
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
