"""``cluster repl``: a prompt with line editing, history and completion for the REPL of a running cluster."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from .remote import NotRunning, Remote

PROMPT = "cluster> "
MORE = "     ... "
#: seconds in which a new master is waited for, after the old one has ended
RECONNECT = 30.0
_HISTORY = "~/.cluster_history"


class Console:
    """Talks to one REPL, and to its successor after a restart. *connect* makes a connection or raises `NotRunning`."""

    def __init__(self, connect: Callable[[], Remote]) -> None:
        self._connect = connect
        self._remote = connect()
        self._matches: list[str] = []

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
                    answer = self._ask({"line": line})
                    if answer.get("left"):
                        return 0
                    prompt = MORE if answer.get("more") else PROMPT
                except EOFError:
                    click.echo()
                    return 0
                except (KeyboardInterrupt, NotRunning) as reason:
                    if isinstance(reason, KeyboardInterrupt):
                        click.echo()  # answers may be on their way that nobody waits for: begin anew
                    if not self._reconnect():
                        return 1
                    prompt = PROMPT

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and show what comes until its answer. Raises `NotRunning`."""
        self._remote.send(request)
        while True:
            message = self._remote.receive(None)
            if "out" in message:
                sys.stdout.write(message["out"])
                sys.stdout.flush()
            elif "told" in message:
                click.echo(f"* {message['told']}")
            elif "error" in message:
                click.echo(message["error"])
                return message
            else:
                return message

    def _reconnect(self) -> bool:
        with contextlib.suppress(NotRunning):
            while True:  # its last words
                message = self._remote.receive(0.1)
                if "told" in message:
                    click.echo(f"* {message['told']}")
        self._remote.close()
        deadline = time.monotonic() + RECONNECT
        waiting = False
        while True:
            try:
                self._remote = self._connect()
            except NotRunning:
                if time.monotonic() > deadline:
                    click.echo("* nobody listens any more", err=True)
                    return False
                if not waiting:
                    click.echo(f"* disconnected; waiting up to {RECONNECT:g} s for a new master (Ctrl-C ends)")
                    waiting = True
                try:
                    time.sleep(0.1)
                except KeyboardInterrupt:
                    return False
            else:
                click.echo("* connected to a new session; the last line was not run to its end")
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
