"""Taking up changed certificates: the master reads the files again and hands them to its workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import certificates
from .complaints import Complaints
from .crew import Crew
from .errors import ConfigurationError
from .inbox import Inbox
from .listeners import Listeners


class Renewal:
    """Looks at the files of all listeners with TLS every `certificates.LOOK` seconds; not at all when there are none.

    *options*: listener key → its ``tls`` option with paths; *base*: what these are taken against; *usable* raises
    `ConfigurationError` for certificates that cannot be used.
    """

    def __init__(
        self,
        inbox: Inbox,
        crew: Crew,
        listeners: Listeners,
        complaints: Complaints,
        options: dict[str, Any],
        base: str,
        usable: Callable[[Any], None],
    ) -> None:
        self._inbox = inbox
        self._crew = crew
        self._listeners = listeners
        self._complaints = complaints
        self._options = options
        self._base = base
        self._usable = usable
        self._seen = {key: certificates.stamp(option, base) for key, option in options.items()}
        if options:
            inbox.later(certificates.LOOK, self._look)

    def _look(self) -> None:
        for index, listener in enumerate(self._listeners):
            option = self._options.get(listener.key)
            if option is None:
                continue
            now = certificates.stamp(option, self._base)
            if now == self._seen[listener.key] or None in now:  # None: a file is being replaced just now
                continue
            self._seen[listener.key] = now
            try:
                material = certificates.load(option, self._base)
                self._usable(material)
            except ConfigurationError as error:  # told once; perhaps its other half is still on the way
                files = ", ".join(certificates.paths(option, self._base))
                self._complaints.say(f"{listener}: {error} (files: {files}); the old certificate stays in use")
                continue
            listener.options = {**listener.options, "tls": material}
            message = {"t": "tls", "listener": index, "material": certificates.to_text(material)}
            for worker in self._crew.members.values():
                self._crew.send(worker, message)
        self._inbox.later(certificates.LOOK, self._look)
