"""What the master is told of an exception, and believes of it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import reported
from cluster.reported import as_lines, believed, table


class Odd:
    """Something that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no")


def test_data_becomes_texts_of_limited_size() -> None:
    """Whatever the application passes, it is not harmed by it."""
    made = table({"a": 1, 2: "two", "long": "x" * 5000, "odd": Odd(), "why": ValueError("bad")})
    assert made == {"a": "1", "2": "two", "long": "x" * reported.VALUE, "why": "bad",
                    "odd": "<Odd that cannot be shown: ValueError>"}
    assert len(table(dict.fromkeys(range(1000)))) == reported.ROWS


def test_no_more_is_believed_than_an_honest_worker_says() -> None:
    """The limits hold in the master, too; control characters are shown."""
    error = believed({
        "type": "T" * 10_000, "message": "m" * 100_000, "text": "a" * 200_000 + "end", "doing": "d\r" * 5000,
        "fatal": True, "handled": True, "count": 10 ** 30, "log": [1, *["x\x1b" * 5000] * 500],
        "data": {"n" * 200: "v" * 9000, "x\ny": "a\x1b[31m\nb", "no": ["text"], **{str(n): "" for n in range(9000)}},
    })
    assert [len(error[key]) for key in ("type", "message", "text")] == [200, 10_000, 100_000]
    assert error["text"].endswith("end") and "\r" not in error["doing"]
    assert error["handled"] is True and error["fatal"] is False and error["count"] == 1
    assert len(error["log"]) == reported.LINES and error["log"][0] == "x\\x1b" * (reported.LINE // 2)
    assert 90 < len(error["data"]) <= reported.ROWS and error["data"]["n" * reported.NAME] == "v" * reported.VALUE
    assert error["data"]["x\\x0ay"] == "a\\x1b[31m\nb" and "no" not in error["data"]


@pytest.mark.parametrize("message", [
    {}, {"type": 1, "message": [], "text": None, "data": []}, {"handled": 1, "data": {"a": "b"}},
    {"handled": "yes", "count": -1, "log": "lines"}, {"count": True, "data": "x"},
])
def test_nonsense_is_an_error_without_it(message: dict[str, Any]) -> None:
    """Handlers get all keys, of the right types."""
    assert believed(message) == {"type": "", "message": "", "text": "", "doing": "", "handled": False, "fatal": False,
                                 "count": 1, "data": {}, "log": []}


def test_a_table_for_people() -> None:
    """Values begin at the same column, also those of several lines."""
    assert as_lines({"a": "1", "order": "x\ny"}) == ["a      1", "order  x\n       y"]
    assert as_lines({}) == []
