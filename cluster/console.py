"""``cluster repl``: a prompt with line editing, history and completion for the REPL of a running cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from .remote import MORE, PROMPT, NotRunning, Remote

#: seconds in which a new master is waited for, after the old one should have ended
RECONNECT = 30.0
_HISTORY = "~/.cluster_history"


class Console:
    """Talks to one REPL, and to its successor after a restart. *connect* makes a connection or raises `NotRunning`."""

    def __init__(self, connect: Callable[[], Remote]) -> None:
        self._connect = connect
        self._remote = connect()
        self._matches: list[str] = []
        #: seconds that the old master may take to end, after which the new one listens; None: as long as it likes
        self._drain: float | None = 0.0

    def run(self) -> int:
        """Until the end of the input or of the cluster. Returns the exit code."""
        prompt = PROMPT
        with self._editing():
            while True:
                try:
                    try:
                        line = input(prompt)
                    except KeyboardInterrupt:  # give up this statement, as Python's prompt does
                        click.echo()
                        self._ask({"forget": True})
                        prompt = PROMPT
                        continue
                    answer = self._run_line(line)
                    if answer.get("left"):
                        return 0
                    prompt = MORE if answer.get("more") else PROMPT
                except EOFError:
                    click.echo()
                    return 0
                except KeyboardInterrupt:  # answers may be on their way that nobody waits for: begin anew
                    click.echo()
                    if not self._reconnect("what was begun runs on in the master"):
                        return 1
                    prompt = PROMPT
                except NotRunning:
                    if not self._reconnect("the last line may not have been run to its end"):
                        return 1
                    prompt = PROMPT

    def _run_line(self, line: str) -> dict[str, Any]:
        """Have the session take *line*. Ctrl-C ends what runs, and the session stays; a second one waits no more.

        Raises `NotRunning`, KeyboardInterrupt.
        """
        pressed = False

        def press(number: int, frame: object) -> None:
            nonlocal pressed
            if pressed:
                raise KeyboardInterrupt
            pressed = True
            self._remote.send({"interrupt": True})

        self._remote.send({"line": line})
        # an exception might come in the middle of a message, whose beginning would then be lost
        before = signal.signal(signal.SIGINT, press)
        try:
            return self._answer()
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and show what comes until its answer. Raises `NotRunning`."""
        self._remote.send(request)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        while True:
            message = self._remote.receive(None)
            if "out" in message:
                sys.stdout.write(message["out"])
                sys.stdout.flush()
            elif "told" in message:
                self._hear(message)
            elif "error" in message:
                click.echo(message["error"])
                return message
            else:
                return message

    def _hear(self, message: dict[str, Any]) -> None:
        click.echo(f"* {message['told']}")
        if "drain" in message:
            self._drain = message["drain"]

    def _reconnect(self, fate: str) -> bool:
        """Begin a session, with the new master where there is one. *fate*: what became of the last line."""
        with contextlib.suppress(NotRunning):
            while True:  # its last words
                message = self._remote.receive(0.1)
                if "told" in message:
                    self._hear(message)
        self._remote.close()
        patience = None if self._drain is None else self._drain + RECONNECT
        began = time.monotonic()
        waiting = False
        while True:
            try:
                self._remote = self._connect()
            except NotRunning:
                if patience is not None and time.monotonic() - began > patience:
                    click.echo("* nobody listens any more", err=True)
                    return False
                if not waiting:
                    limit = "" if patience is None else f" up to {patience:g} s"
                    click.echo(f"* disconnected; waiting{limit} for a new master (Ctrl-C ends)")
                    waiting = True
                try:
                    time.sleep(0.1)
                except KeyboardInterrupt:
                    return False
            else:
                click.echo(f"* connected to a new session; {fate}")
                self._drain = 0.0
                return True

    # -- line editing

    @contextlib.contextmanager
    def _editing(self) -> Any:
        if not sys.stdin.isatty():
            yield
            return
        try:
            import readline
        except ImportError:
            yield
            return
        history = os.path.expanduser(_HISTORY)
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?")
        readline.parse_and_bind("tab: complete")
        try:
            yield
        finally:
            readline.set_history_length(1000)
            with contextlib.suppress(OSError):
                readline.write_history_file(history)
                os.chmod(history, 0o600)

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            self._matches = []
            with contextlib.suppress(NotRunning):
                if text:
                    self._matches = [str(name) for name in self._ask({"complete": text}).get("names", ())]
                else:
                    self._matches = ["\t"]
        return self._matches[state] if state < len(self._matches) else None
