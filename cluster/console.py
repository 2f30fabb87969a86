"""``cluster repl``: a prompt with line editing, history and completion for the REPL of a running cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from .remote import MORE, PROMPT, NotRunning, Remote
from .system import close_descriptor

#: seconds in which a new master is waited for, after the old one should have ended
RECONNECT = 30.0
_HISTORY = "~/.cluster_history"


class Interrupts:
    """Has Ctrl-C acted upon wherever the program waits. A context manager, for the main thread.

    Python looks for signals before it begins to wait and when one comes while it waits; one that comes in between is
    seen with the next key, or the next word of the master. So a thread hears of each, and sends the program another one
    until that is seen, which then acts: raised by the first, an exception would be in the way of the second. A SIGINT
    that is ignored, as in the background of a shell script, stays so.
    """

    #: seconds between those
    PAUSE = 0.05

    def __init__(self) -> None:
        #: what Ctrl-C does; None: it raises KeyboardInterrupt
        self.act: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}
        self._pressed = False
        self._looked = False
        self._listening = False

    def __enter__(self) -> Interrupts:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._listening = True
        self._thread = threading.Thread(target=self._listen, args=(threading.get_ident(),), daemon=True)
        self._thread.start()
        for number, handler in ((signal.SIGINT, self._press), (signal.SIGURG, self._look)):
            self._before[number] = signal.signal(number, handler)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *about: object) -> None:
        if self._listening:
            self._listening = False
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            close_descriptor(self._writer)
            self._thread.join()
            close_descriptor(self._reader)

    def _press(self, number: int, frame: object) -> None:
        self._pressed = True

    def _look(self, number: int, frame: object) -> None:
        self._looked = True
        if self._pressed:
            self._pressed = False
            if self.act is None:
                raise KeyboardInterrupt
            self.act()

    def _listen(self, program: int) -> None:
        while data := os.read(self._reader, 1):
            if data[0] == signal.SIGINT:
                self._looked = False
                while self._listening and not self._looked:
                    signal.pthread_kill(program, signal.SIGURG)
                    time.sleep(self.PAUSE)


class Console:
    """Talks to one REPL, and to its successor after a restart. *connect* makes a connection or raises `NotRunning`."""

    def __init__(self, connect: Callable[[], Remote]) -> None:
        self._connect = connect
        self._remote = connect()
        self._interrupts = Interrupts()
        self._matches: list[str] = []
        #: seconds that the old master may take to end, after which the new one listens; None: as long as it likes
        self._drain: float | None = 0.0

    def run(self) -> int:
        """Until the end of the input or of the cluster. Returns the exit code."""
        prompt = PROMPT
        with self._interrupts, self._editing():
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

        def press() -> None:
            nonlocal pressed
            if pressed:
                raise KeyboardInterrupt
            pressed = True
            self._remote.send({"interrupt": True})

        self._remote.send({"line": line})
        # an exception might come in the middle of a message, whose beginning would then be lost
        self._interrupts.act = press
        try:
            return self._answer()
        finally:
            self._interrupts.act = None

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
