"""One REPL session: evaluates what a client sends, in the master, and shows it to that client only."""

from __future__ import annotations

import codeop
import contextlib
import contextvars
import io
import os
import rlcompleter
import sys
import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import gevent

from ..errors import ClusterError

#: whom what is printed goes to, in the greenlets of a session and those that they spawn; None: to the real stdout
_listener: contextvars.ContextVar[Session | None] = contextvars.ContextVar("listener", default=None)

_STREAMS = ("stdout", "stderr")
#: how the names of the files begin whose frames no traceback shows: what is between a line and what it calls
_OURS = os.path.join(os.path.dirname(__file__), "_")


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


def _display(value: object) -> None:
    """Stands for ``sys.displayhook``, which shows what an expression at the prompt gave."""
    session = _listener.get()
    if session is None:
        sys.__displayhook__(value)
    else:
        session.show(value)


def listen_to_prints() -> None:
    """Have ``sys.stdout``, ``sys.stderr`` and ``sys.displayhook`` tell apart who prints."""
    sys.displayhook = _display
    for name in _STREAMS:
        stream = getattr(sys, name)
        if not isinstance(stream, _Switch):
            setattr(sys, name, _Switch(stream))


def stop_listening() -> None:
    """Give them back, in a worker or when the last session has ended."""
    sys.displayhook = sys.__displayhook__
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
        #: the greenlet that runs a line, which `interrupt` may end
        self._running: Any = None
        self._sending = False
        self._interrupted = False
        #: the client has called exit()
        self.left = False
        # Python's own would close the standard input of the master
        namespace["exit"] = namespace["quit"] = _Leave(self)

    # -- what REPL functions use as their *socket*

    def write(self, text: str) -> None:
        """Show *text* as it is."""
        if gevent.getcurrent() is not self._running:
            self._send(text)
            return
        self._sending = True
        try:
            self._send(text)
        finally:
            self._sending = False
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def title(self, text: str) -> None:
        """Show a heading."""
        self.write(f"\n  {text}\n")

    def row(self, key: object, value: object) -> None:
        """Show one figure, as ``key: value``."""
        self.write(f"    {key}: {value}\n")

    # -- evaluating

    def push(self, line: str) -> bool:
        """Take one line. True when more are needed to make up a statement."""
        self._lines.append(line)
        source = "\n".join(self._lines)
        try:
            code = self._compile(source, "<repl>", "single")
        except (SyntaxError, OverflowError, ValueError, RecursionError, MemoryError) as error:
            self._lines.clear()
            self._say_error(error)
            return False
        if code is None:
            return True
        self._lines.clear()
        self._run(code)
        return False

    def forget(self) -> None:
        """Drop the lines of a statement that is not complete."""
        self._lines.clear()

    def _run(self, code: CodeType) -> None:
        """Run *code*. What its expressions give is shown by `_display`."""
        with self._printing_here():
            self._running, self._interrupted = gevent.getcurrent(), False
            try:
                exec(code, self.namespace)
            except gevent.GreenletExit:
                raise  # it is the session that is to end
            except BaseException as error:  # noqa: BLE001 - the client's own, a gevent.Timeout for one
                self._running = None
                self._say_error(error)
            finally:
                self._running = None

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the line that runs, if one does. The session and its names stay."""
        # in the hub: the line cannot end between the look and the throw
        gevent.get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._running is None:
            return
        if self._sending:  # half a message would be none to the client
            self._interrupted = True
        else:
            self._running.throw(KeyboardInterrupt)

    def show(self, value: Any) -> None:
        """Show a value, and keep it as ``_``."""
        if value is None:
            return
        self.namespace["_"] = value
        self.write(f"{value!r}\n")

    @contextlib.contextmanager
    def _printing_here(self) -> Iterator[None]:
        token = _listener.set(self)
        try:
            yield
        finally:
            _listener.reset(token)

    def _say_error(self, error: BaseException) -> None:
        if isinstance(error, ClusterError):
            self.write(f"{error}\n")  # its text is a line for the operator
        elif isinstance(error, SyntaxError):
            self.write("".join(traceback.format_exception_only(error)))
        else:
            self.write(_traceback(error))

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


def _traceback(error: BaseException) -> str:
    """The traceback of *error* and of what it came from, without our frames."""
    told = traceback.TracebackException.from_exception(error)
    chain = [told]
    for one in chain:
        one.stack = traceback.StackSummary.from_list([f for f in one.stack if not f.filename.startswith(_OURS)])
        chain += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "".join(told.format())
