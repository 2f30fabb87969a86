"""How the plugins that log events put them into words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import narration

if TYPE_CHECKING:
    from ..master import Master

Words = Callable[..., "str | None"]
Tell = Callable[[str, Callable[..., None], Words], None]


def teller(master: Master) -> Tell:
    """``tell(event, level, words)``: at each *event*, have *level* log what *words* make of it; None: nothing."""

    def tell(event: str, level: Callable[..., None], words: Words) -> None:
        def handle(*args: Any) -> None:
            text = words(*args)
            if text is not None:
                level("%s", text)

        master.on(event, handle)

    return tell


def rarely(words: Callable[..., str]) -> Words:
    """The same words, but only while what the worker does is news."""
    return lambda worker, *args: words(worker, *args) if narration.is_news(worker) else None
