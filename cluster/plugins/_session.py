"""One REPL session: evaluates what a client sends, in the master, and shows it to that client only."""

from __future__ import annotations

import ast
import codeop
import contextlib
import contextvars
import io
import rlcompleter
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gevent

#: whom what is printed goes to, in the greenlets of a session and those that they spawn; None: to the real stdout
_listener: contextvars.ContextVar[Session | None] = contextvars.ContextVar("listener", default=None)

_STREAMS = ("stdout", "stderr")


class _Switch(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr`` while there are sessions. What others print goes where it did.

    gevent's own backdoor swaps ``sys.stdout`` at every switch of greenlets instead, so that other greenlets' output
    gets into the session.
    """

    def __init__(self, real: Any) -> None:
        self.real = real

    def write(self, text: str) -> int:
        session = _listener.get()
        if session is None:
            return int(self.real.write(text))
        session.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if _listener.get() is None:
            self.real.flush()

    def __getattribute__(self, name: str) -> Any:
        if name in ("fileno", "isatty", "encoding", "errors", "buffer", "name", "reconfigure"):
            return getattr(object.__getattribute__(self, "real"), name)
        return super().__getattribute__(name)


def listen_to_prints() -> None:
    """Have ``sys.stdout`` and ``sys.stderr`` tell apart who prints."""
    for name in _STREAMS:
        stream = getattr(sys, name)
        if not isinstance(stream, _Switch):
            setattr(sys, name, _Switch(stream))


def stop_listening() -> None:
    """Give them back, in a worker or when the last session has ended."""
    for name in _STREAMS:
        stream = getattr(sys, name)
        if isinstance(stream, _Switch):
            setattr(sys, name, stream.real)


class Namespace(dict[str, Any]):
    """The globals of a session: names in *live* are computed each time that they are looked up."""

    def __init__(self, live: dict[str, Callable[[], Any]]) -> None:
        super().__init__()
        self.live = live

    def __missing__(self, name: str) -> Any:
        if name in self.live:
            return self.live[name]()
        raise KeyError(name)


class _Leave:
    """What `exit` and `quit` are in a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, code: object = None) -> None:
        self._session.left = True

    def __repr__(self) -> str:
        return "exit() leaves the session, and Ctrl-D does; shutdown() ends the cluster"


class Session:
    """Takes lines, runs what they make up, writes what comes of it. *send* takes text for the client."""

    def __init__(self, namespace: Namespace, send: Callable[[str], None]) -> None:
        self.namespace = namespace
        self._send = send
        self._compile = codeop.CommandCompiler()
        self._lines: list[str] = []
        #: the client has called exit()
        self.left = False
        # Python's own would close the standard input of the master
        namespace["exit"] = namespace["quit"] = _Leave(self)

    # -- what REPL functions use as their *socket*

    def write(self, text: str) -> None:
        """Show *text* as it is."""
        self._send(text)

    def title(self, text: str) -> None:
        """Show a heading."""
        self._send(f"\n  {text}\n")

    def row(self, key: object, value: object) -> None:
        """Show one figure, as ``key: value``."""
        self._send(f"    {key}: {value}\n")

    # -- evaluating

    def push(self, line: str) -> bool:
        """Take one line. True when more are needed to make up a statement."""
        self._lines.append(line)
        source = "\n".join(self._lines)
        try:
            complete = self._compile(source, "<repl>", "single")
        except (SyntaxError, OverflowError, ValueError, RecursionError, MemoryError) as error:
            self._lines.clear()
            self._say_error(error, 0)
            return False
        if complete is None:
            return True
        self._lines.clear()
        self.run(source)
        return False

    def forget(self) -> None:
        """Drop the lines of a statement that is not complete."""
        self._lines.clear()

    def run(self, source: str) -> None:
        """Run *source*, and show the value when it ends in an expression."""
        with self._printing_here():
            try:
                tree = ast.parse(source, "<repl>")
                last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
                if tree.body:
                    exec(compile(tree, "<repl>", "exec"), self.namespace)
                if isinstance(last, ast.Expr):
                    self.show(eval(compile(ast.Expression(last.value), "<repl>", "eval"), self.namespace))
            except gevent.GreenletExit:
                raise  # it is the session that is to end
            except BaseException as error:  # noqa: BLE001 - the client's own, a gevent.Timeout for one
                self._say_error(error, 1)

    def show(self, value: Any) -> None:
        """Show a value, and keep it as ``_``."""
        if value is None:
            return
        self.namespace["_"] = value
        self._send(f"{value!r}\n")

    @contextlib.contextmanager
    def _printing_here(self) -> Iterator[None]:
        token = _listener.set(self)
        try:
            yield
        finally:
            _listener.reset(token)

    def _say_error(self, error: BaseException, skip: int) -> None:
        trace = error.__traceback__
        for _ in range(skip):
            trace = trace.tb_next if trace is not None else None
        if isinstance(error, SyntaxError):
            trace = None
        self._send("".join(traceback.format_exception(type(error), error, trace)))

    # -- completing

    def complete(self, text: str) -> list[str]:
        """Names that begin with *text*, as in ``m.wor``. Evaluates attribute access as Python's own completion does."""
        with self._printing_here():
            try:
                visible = {**dict.fromkeys(self.namespace.live), **self.namespace}
                for name in self.namespace.live:
                    if text.startswith(name + "."):
                        visible[name] = self.namespace[name]
                completer = rlcompleter.Completer(visible)
                matches = completer.attr_matches(text) if "." in text else completer.global_matches(text)
            except Exception:  # noqa: BLE001 - somebody's attribute raised; then there is nothing to complete
                return []
        return sorted(set(matches))
