"""What the fluent surface gathered: the supervisor's orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .calls import Calls
from .handover.protocol import Predecessor
from .listeners import Listeners
from .signals import Meanings


class Plan(NamedTuple):
    """All that a supervisor has to know, besides where events and complaints go."""

    settings: dict[str, Any]
    workers: int
    listeners: Listeners
    signals: Meanings
    calls: Calls
    #: runs a command by name, for signals
    command: Callable[[str], Any]
    callback: Callable[[], Any] | None
    predecessor: Predecessor | None
    taken: set[str]
    #: listener key → its ``tls`` option as the user gave it, with paths
    tls: dict[str, Any]
    #: directory that those paths are taken against
    base: str
    #: raises for certificates that cannot be used
    usable_tls: Callable[[Any], None]
    #: why reload() cannot bring new code, or None when it can
    same_code: str | None
    #: what brings other code by a reload, in words (``a file changes``), where a start that cannot succeed waits for it
    mended_by: str | None
