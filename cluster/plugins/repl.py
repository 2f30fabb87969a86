"""repl(): a Python prompt inside the running master, for who operates it."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import gevent.lock
import gevent.select

from ..errors import ConfigurationError
from ..remote import MORE, PROGRAM, PROMPT
from . import _answers, _operations, _options
from ._functions import define, functions
from ._gate import FULL, Gate, Line, Reader
from ._session import Namespace, Session, listen_to_prints, stop_listening
from ._visits import Visits

if TYPE_CHECKING:
    from ..master import Master

#: seconds that a client has to send the secret
_SECRET_TIME = 10.0
#: seconds within which a program says that it is one
_QUICK = 0.1
#: seconds that clients have to take in what they are told at the end
_TELL_TIME = 0.5
#: what comes of a connection that is not refused
_WELCOME = "connected"
_BROWSER = "speaks HTTP"
_HTTP = re.compile(r"[A-Za-z]+ \S+ HTTP/\d|(?:Host|Content-\w+|User-Agent): ", re.IGNORECASE)


class _Repl:
    """What ``cluster.repl`` is: call it for the plugin, `define` adds functions."""

    define = staticmethod(define)

    def __call__(
        self,
        address: str | int | None = None,
        host: str = "127.0.0.1",
        secret: str | None = None,
        secret_file: str = "repl.secret",
    ) -> Callable[[Master], None]:
        """The plugin.

        *address*: the path of a unix socket (taken against the script's directory; mode 0600, only the same user and
        root may connect), or a port on *host*. A client of a port has to send a line with the *secret* first; when
        none is given it is made and kept in *secret_file* (mode 0600). Raises `ConfigurationError`.
        """
        if isinstance(address, str) and address.isdecimal():
            address = int(address)
        if address is None or isinstance(address, bool) or not isinstance(address, int | str) or address == "":
            raise ConfigurationError("repl() needs a port or a socket path")
        if isinstance(address, str):
            _options.path("repl", "address", address)
        if isinstance(address, int) and not 0 <= address <= 65535:
            raise ConfigurationError(f"repl() needs a port or a socket path; {address} is no port")
        if secret is not None and (not isinstance(secret, str) or len(secret) < 8 or "\n" in secret):
            raise ConfigurationError("repl(): a secret is one line of at least 8 characters")
        where, on = address, _options.text("repl", "host", host).strip("[]")
        kept = _options.path("repl", "secret_file", secret_file)

        def plugin(master: Master) -> None:
            if isinstance(where, str):
                path = os.path.normpath(os.path.join(master.base, where.removeprefix("unix:")))
                _Server(master, path, None)
            else:
                _Server(master, (on, where), secret, os.path.join(master.base, kept))

        return plugin


def _kept_secret(path: str) -> str:
    """The secret in the file, made when there is none. Raises `ConfigurationError`."""
    try:
        _make_directory_of(path)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if os.stat(path).st_mode & 0o077:
                raise ConfigurationError(f"repl(): others can read {path}; chmod 600 it, or remove it") from None
            with open(path, encoding="utf-8") as file:
                found = file.read().strip()
            if len(found) < 8:
                raise ConfigurationError(f"repl(): there is no secret in {path}; remove it") from None
            return found
        with open(descriptor, "w", encoding="utf-8") as file:
            made = secrets.token_urlsafe(24)
            file.write(made + "\n")
        return made
    except OSError as error:
        raise ConfigurationError(f"repl(): cannot keep a secret in {path}: {error.strerror}") from None


def _make_directory_of(path: str) -> None:
    """Raises OSError."""
    directory = os.path.dirname(path)
    if not os.path.exists(directory):
        os.makedirs(directory, exist_ok=True)


class _Refused(Exception):
    """A client that is sent away; the text says why."""


class _Server:
    """Listens while this master is the one, and holds the sessions."""

    def __init__(self, master: Master, address: str | tuple[str, int], secret: str | None,
                 secret_file: str | None = None) -> None:
        self._master = master
        self._secret = secret
        self._secret_file = secret_file
        self._path = address if isinstance(address, str) else None
        self._visits = Visits(self._visited)
        self._gate = Gate(master, address, self._converse, strangers=secret is not None or secret_file is not None,
                          refused=self._visits.came)
        self._ended = False
        self._endings: dict[Any, Callable[..., None]] = {}
        master.at_start(self._check)
        master.on("listening", lambda: None if master.predecessor else self._open())
        master.on("handed over", self._open)
        master.on("resumed", self._open)
        master.on("closing", self._closing)
        master.on("close", self._close)
        master.on("after fork", lambda worker: stop_listening())

    def _check(self, replacing: bool) -> None:
        """See to it that we can listen later: now an error ends the script, then it is one line."""
        if self._secret is None and self._secret_file is not None:
            self._secret = _kept_secret(self._secret_file)
        try:
            if self._path is not None:
                _make_directory_of(self._path)
            if not replacing:  # else the old master listens, as it should
                self._gate.check()
        except OSError as error:
            raise ConfigurationError(self._cannot(error)) from None

    def _cannot(self, error: OSError) -> str:
        return f"repl: cannot listen on {self._gate.address}: {error.strerror or error}"

    def _open(self) -> None:
        try:
            self._gate.open()
        except OSError as error:
            self._master.complain(self._cannot(error))
            return
        self._master.log.info("repl listening on %s", self._gate.address)
        self._master.emit("repl", self._gate.address)

    def _visited(self, client: str, outcome: str, count: int) -> None:
        """Somebody came, or so many have whom nobody was told of; then *client* is the last of them."""
        more = f"; {count} in all since the last such line" if count > 1 else ""
        if outcome is _WELCOME:
            self._master.log.info("repl: connection from %s%s", client, more)
            event: tuple[Any, ...] = ("repl connection", client, count)
        else:
            self._master.log.warning("repl: refused %s: %s%s", client, outcome, more)
            event = ("repl refused", client, outcome, count)
        if not self._ended:  # nothing comes after `close`
            self._master.emit(*event)

    def _closing(self) -> None:
        """A drain may take long, and is worth watching; but where a new master takes over, it is to be asked."""
        if self._master.successor is None:
            self._tell_all("the cluster is closing")
            return
        # a client may wait for the new master, which listens once this one has ended
        self._tell_all("this master is replaced; the session ends here", drain=self._master.options["timeout"] or None)
        self._end()

    def _close(self) -> None:
        self._tell_all("the master has ended; good-bye")
        self._ended = True
        self._end()

    def _end(self) -> None:
        self._gate.close()
        self._gate.hang_up()
        self._visits.end()

    def _tell_all(self, text: str, **more: Any) -> None:
        def say(tell: Callable[..., None]) -> None:
            try:
                tell(text, **more)
            except OSError:
                pass

        # one that does not read must not hold up the events
        told = [gevent.spawn(say, tell) for tell in self._endings.values()]
        gevent.joinall(told, timeout=_TELL_TIME)
        gevent.killall(told, block=False)

    def _converse(self, connection: Any, client: str) -> None:
        try:
            self._receive(connection, client)
        except _Refused as refusal:
            self._visits.came(client, str(refusal))

    def _receive(self, connection: Any, client: str) -> None:
        """Until the client hangs up. Raises `_Refused`."""
        reader = Reader(connection)
        if self._secret is not None:
            self._ask_for_secret(reader)
            if not self._gate.admit():
                raise _Refused(FULL)
        # a program or a browser begins at once, a person waits for the prompt
        quick = reader.pending or bool(gevent.select.select([connection], [], [], _QUICK)[0])
        first = reader.line() if quick else None
        if quick and first is None:
            return
        if first is not None and _HTTP.match(first):
            raise _Refused(_BROWSER)
        self._visits.came(client, _WELCOME)
        listen_to_prints()
        here = gevent.getcurrent()
        try:
            _Conversation(self._master, connection, reader, self._endings, here).run(first)
        except Line as error:
            connection.sendall(f"{error}; good-bye\n".encode())
        finally:
            self._endings.pop(here, None)
            if not self._endings:
                stop_listening()

    def _ask_for_secret(self, reader: Reader) -> None:
        """Raises `_Refused` for who does not know it."""
        line = None
        with contextlib.suppress(OSError, Line), gevent.Timeout(_SECRET_TIME, False):
            line = reader.line()
        if line is None:
            raise _Refused("sent no secret")
        if _HTTP.match(line):
            raise _Refused(_BROWSER)
        if not hmac.compare_digest(line.strip().encode(), str(self._secret).encode()):
            raise _Refused("wrong secret")


class _Conversation:
    """With one client: at a prompt, or in JSON with a program that shows its own."""

    def __init__(
        self, master: Master, connection: Any, reader: Reader, endings: dict[Any, Callable[..., None]], here: Any
    ) -> None:
        self._master = master
        self._connection = connection
        self._reader = reader
        self._session = Session(Namespace({}), self._send_text)
        self._session.namespace.update(_operations.names(master, self._session))
        self._session.namespace.live.update(_operations.live_names(master))
        self._as_program = False
        self._one_at_a_time = gevent.lock.Semaphore()  # greenlets that the session spawned print, too
        endings[here] = self._tell

    def _send_text(self, text: str) -> None:
        if self._as_program:
            self._send({"out": text})
        else:
            self._send_bytes(text.encode("utf-8", "replace"))

    def _send(self, message: dict[str, Any]) -> None:
        self._send_bytes(_answers.encode(message))

    def _send_bytes(self, data: bytes) -> None:
        with self._one_at_a_time:
            self._connection.sendall(data)

    def _tell(self, text: str, **more: Any) -> None:
        """Show *text* whatever is going on; programs are told *more*."""
        if self._as_program:
            self._send({"told": text, **more})
        else:
            self._send_text(f"\n{text}\n")

    def run(self, first: str | None) -> None:
        """Until the client hangs up. Raises `_Refused`."""
        if self._is_program(first):
            self._with_program()
            return
        line = first
        if line is None:
            self._send_text(PROMPT)
            line = self._reader.line()
            if self._is_program(line):
                self._with_program()
                return
            if line is not None and _HTTP.match(line):
                raise _Refused(_BROWSER)
        while line is not None:
            more = self._session.push(line)
            if self._session.left:
                return
            self._send_text(MORE if more else PROMPT)
            line = self._reader.line()
            gevent.sleep(0)  # a client that sends a great deal must not keep the others waiting

    @staticmethod
    def _is_program(line: str | None) -> bool:
        return line is not None and line.strip() == PROGRAM

    def _with_program(self) -> None:
        """Answer requests, one at a time and each in a greenlet of its own: `interrupt` has to be heard meanwhile."""
        self._as_program = True
        running = None
        try:
            while (line := self._reader.line()) is not None:
                try:
                    request = json.loads(line)
                except (ValueError, RecursionError):
                    request = None
                if isinstance(request, dict) and "interrupt" in request:
                    self._session.interrupt()
                    continue
                if running is not None:
                    running.join()
                if not isinstance(request, dict):
                    self._send({"error": "a request is an object"})
                    return
                running = gevent.spawn(self._reply, request)
            if running is not None:  # the client may have ended its side only
                running.join()
        finally:
            if running is not None:
                running.kill(block=False)

    def _reply(self, request: dict[str, Any]) -> None:
        try:
            self._send(self._answer(request))
        except OSError:
            pass  # the client has gone, as the next line that is read from it says

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if isinstance(request.get("line"), str):
            more = self._session.push(request["line"])
            return {"more": more, "left": True} if self._session.left else {"more": more}
        if isinstance(request.get("complete"), str):
            return {"names": self._session.complete(request["complete"])}
        if "forget" in request:
            self._session.forget()
            return {"more": False}
        if "command" in request:
            return _answers.run_command(self._master, request, self._send)
        return {"error": "a request has a line, a command, or something to complete"}


repl = _Repl()

__all__ = ["functions", "repl"]
