"""The new master's side of a handover: what it has from the old one, and from when on it is the master."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..announcer import Announcer
from ..channel import Channel, Message
from ..errors import ChannelError
from ..inbox import Inbox
from ..scoreboard import Scoreboard
from ..states import move
from .protocol import INCOMING_MOVES, Predecessor
from .protocol import Incoming as State

#: states in which the service is ours
_OURS = frozenset({State.IN_POWER, State.ALONE})


class Owner(Protocol):
    """The supervisor, as this side knows it."""

    def took_over(self) -> None:
        """The service is ours now."""

    def dismissed(self) -> None:
        """The old master serves on, and we are to end."""

    def passed_on(self, number: int) -> None:
        """A signal came to the old master that means the service."""

    def reopen(self) -> None:
        """The old master was told to open its logs anew."""


class Incoming:
    """Emits `restart` once the service is ours and all workers are ready, and what becomes of the old master.

    *predecessor*: None in a master that was started afresh. *taken*: keys of the listeners that it lends us.
    """

    def __init__(
        self, predecessor: Predecessor | None, taken: set[str], inbox: Inbox, announcer: Announcer,
        scoreboard: Scoreboard, owner: Owner,
    ) -> None:
        self.state = State.ALONE if predecessor is None else State.BORROWED
        self._predecessor = predecessor
        self._taken = taken
        self._inbox = inbox
        self._announcer = announcer
        self._scoreboard = scoreboard
        self._owner = owner
        self._channel: Channel | None = None
        self._ready = False
        self._told_restart = self._told_handed_over = False
        self._given_up = False
        self._released = False
        self._once_alone: list[Callable[[], None]] = []

    @property
    def pid(self) -> int | None:
        """The old master's, also when it has gone; None in a master that was started afresh."""
        return self._predecessor.pid if self._predecessor is not None else None

    @property
    def in_power(self) -> bool:
        """Whether the service is ours: sockets, pid files, the service manager."""
        return self.state in _OURS

    @property
    def alone(self) -> bool:
        """Whether there is no old master any more."""
        return self.state is State.ALONE

    def begin(self) -> None:
        """Go on counting where the old master is, and listen to it."""
        if self._predecessor is None:
            return
        self._scoreboard.inherit(self._predecessor.totals)
        self._channel = Channel(
            self._predecessor.connection,
            lambda message: self._inbox.put(self._heard, message),
            lambda reason: self._inbox.put(self._gone),
        )
        self._channel.start()
        self._tell({"t": "begun"})

    def ready(self) -> None:
        """All our workers are ready: the old master may go."""
        self._ready = True
        if self.state is State.BORROWED:
            self._go(State.OFFERED)
            self._tell({"t": "ready", "taken": sorted(self._taken)})
        else:
            self._done()

    def _heard(self, message: Message) -> None:
        kind = message["t"]
        if kind == "totals":
            # what the old master has told somebody: those who ask us from now on are told no less
            self._scoreboard.inherit(dict(message.get("totals", {})))
            if self.state is State.OFFERED:  # it is the answer
                self._go(State.IN_POWER)
                self._owner.took_over()
                self._done()
        elif kind == "given up":
            self._given_up = True
            self._done()
        elif kind == "signal":
            number = message.get("number")
            if self.in_power and isinstance(number, int):
                self._owner.passed_on(number)
        elif kind == "reopen logs":
            self._owner.reopen()
        elif kind == "dismissed" and not self.in_power and self.state is not State.DISMISSED:
            self._go(State.DISMISSED)
            self._owner.dismissed()

    def _gone(self) -> None:
        """End of file: the old master has ended, or died."""
        if self.state is State.DISMISSED:
            return
        before = self.in_power
        self._go(State.ALONE)
        if not before:
            self._owner.took_over()
        self._given_up = True
        self._done()
        self._announcer.say("old master gone")
        waiting, self._once_alone = self._once_alone, []
        for act in waiting:
            act()

    def _done(self) -> None:
        """Say once what has come about: `restart`, then `handed over`."""
        if not self._ready or not self.in_power or self._predecessor is None:
            return
        if not self._told_restart:
            self._told_restart = True
            self._announcer.say("restart", self._predecessor.data)
        if self._given_up and not self._told_handed_over:
            self._told_handed_over = True
            self._announcer.say("handed over")

    def release(self) -> None:
        """The old master need not wait how we do: we are about to end, or to be replaced."""
        if self.in_power and not self._released:
            self._released = True
            self._tell({"t": "release"})

    def once_alone(self, act: Callable[[], None]) -> None:
        """Release the old master, and call *act* when it has ended: there are never three."""
        if self.alone:
            act()
        else:
            self._once_alone.append(act)
            self.release()

    def reopen_logs(self) -> None:
        """A program that rotates logs knows of one master; both write to them."""
        self._tell({"t": "reopen logs"})

    def _tell(self, message: Message) -> None:
        """When it has gone already, nobody needs to know."""
        try:
            if self._channel is not None:
                self._channel.send(message)
        except ChannelError:
            pass

    def _go(self, state: State) -> None:
        self.state = move(INCOMING_MOVES, self.state, state)

    def abandon(self) -> None:
        """In a forked child: the connection is the master's."""
        if self._channel is not None and self._channel.open:
            self._channel.abandon()

    def close(self) -> None:
        """Forget the old master."""
        if self._channel is not None:
            self._channel.close()
