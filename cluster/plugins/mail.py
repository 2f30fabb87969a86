"""mail(): mails exceptions of the workers, through SMTP or a sendmail command."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gevent

from .. import narration
from ..errors import ConfigurationError
from ..reported import as_lines
from . import _options, _subject
from ._errand import Errand

if TYPE_CHECKING:
    from ..master import Master

#: reports that one mail holds; of more it says how many
_MOST = 20


def mail(
    to: str | Iterable[str],
    sender: str | None = None,
    host: str = "localhost",
    port: int = 25,
    user: str | None = None,
    password: str | None = None,
    tls: bool | str | os.PathLike[str] = False,
    sendmail: str | Sequence[str] | None = None,
    subject: str | None = None,
    interval: float = 60.0,
) -> Callable[[Master], None]:
    """The plugin.

    *to*: one address or several. *sender*: default ``cluster@`` this host. *host*, *port*, *user*, *password*: the SMTP
    server. *tls*: STARTTLS first, with a certificate for *host* by an authority that the system trusts; a path instead
    of True: by one in that file, in which a self-signed certificate may stand for itself. *sendmail*: a command to use
    instead, such as ``/usr/sbin/sendmail``; the addresses follow as arguments. *subject*: default the title and host;
    the exception in one line follows, unless it has placeholders, as in ``"{type} on {host}: {message}"``: ``host``,
    ``title``, ``master`` (its pid), ``worker`` (its slot), ``pid``, ``generation``, ``type``, ``message``, ``doing``,
    ``count``, ``summary`` (that one line), of the first exception of a mail; ``{{`` is a brace. *interval*:
    seconds between two mails; exceptions of the time between are in the next one, and so are those of the time in which
    the cluster closes. With ``exceptions()`` the reports are its. Raises `ConfigurationError`; a file
    that cannot be read is an error when the cluster starts.
    """
    receivers = _options.several("mail", "to", to, "addresses")
    name = socket.gethostname()
    by = sender if sender is not None else f"cluster@{name}"
    for address in (*receivers, by):
        if not isinstance(address, str) or "@" not in address or any(sign in address for sign in "\r\n ,<>"):
            raise ConfigurationError(f"mail: {address!r} is no address, as in 'admin@example.com'")
    if not receivers:
        raise ConfigurationError("mail: to whom?")
    for option, value in (("user", user), ("password", password)):
        if value is not None:
            _options.text("mail", option, value)
    wanted = _subject.check("mail", subject) if subject is not None else "[{title} on {host}]"
    if subject is None or not _subject.has_placeholders(wanted):
        wanted += " {summary}"
    pause = _options.seconds("mail", "interval", interval)
    command = _command(sendmail)
    if command and not os.access(_options.path("mail", "sendmail", command[0]), os.X_OK):
        raise ConfigurationError(f"mail: cannot run {command[0]}")
    authorities = None if isinstance(tls, bool) else _options.path("mail", "tls", tls)
    settings = {"to": receivers, "sender": by, "host": _options.text("mail", "host", host),
                "port": _options.port("mail", "port", port), "user": user, "password": password,
                "tls": tls is not False, "sendmail": command}

    def plugin(master: Master) -> None:
        path = None
        if authorities is not None:
            path = os.path.normpath(os.path.join(master.base, authorities))
            master.at_start(lambda replacing: _check_readable(path))
        errand = Errand(master, "_send_mail", "mail", {**settings, "authorities": path})
        _Mailer(master, errand, lambda *what: _subject.fill(wanted, name, master.options["title"], *what), pause)

    return plugin


def _check_readable(path: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise ConfigurationError(f"mail: cannot read {path}: {error.strerror}") from error


def _command(sendmail: Any) -> list[str]:
    try:
        words = shlex.split(sendmail) if isinstance(sendmail, str) else list(sendmail or ())
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"mail: sendmail is a command such as '/usr/sbin/sendmail', not {sendmail!r}") from None
    return [_options.text("mail", "a word of sendmail", word) for word in words]


class _Mailer:
    """Gathers reports, and sends them at most once in an interval, and when the cluster has closed."""

    def __init__(self, master: Master, errand: Errand, subject: Callable[..., str], interval: float) -> None:
        self._master = master
        self._errand = errand
        self._subject = subject
        self._interval = interval
        self._reports: list[str] = []
        self._more = 0
        #: the subject, which is of the first exception
        self._first = ""
        self._timer: Any = None
        master.on("worker exception", self._exception)
        master.on("closing", self._gather)
        master.on("close", self._close)

    def _exception(self, worker: Any, error: dict[str, Any]) -> None:
        if len(self._reports) >= _MOST:
            self._more += 1
            return
        if self._master.has_attribute("exceptions"):
            text = self._master.exceptions.report(worker, error)
        else:
            doing = f"; while: {error['doing']}" if error["doing"] else ""
            line = narration.uncaught(worker, error)
            text = f"{line}\n(pid {worker.pid}, up {worker.uptime:.1f} s{doing})\n\n{error['text']}"
            if error.get("data"):
                text += "\n" + "\n".join(as_lines(error["data"])) + "\n"
        self._first = self._first or self._subject(worker, error)
        self._reports.append(text)
        if self._timer is None:
            self._send()
            self._gather()

    def _gather(self) -> None:
        """What comes within the interval waits for its end; also when the cluster is about to close, as all that is in
        flight may fail then."""
        if self._timer is None:
            self._timer = gevent.spawn_later(self._interval, self._over)

    def _send(self) -> None:
        body = ("\n\n" + "-" * 72 + "\n\n").join(self._reports)
        if self._more:
            body += f"\n\n… and {self._more} more\n"
        self._errand.send({"subject": self._first, "body": body})
        self._reports, self._more, self._first = [], 0, ""

    def _over(self) -> None:
        self._timer = None
        if self._reports:
            self._send()
            self._gather()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.kill(block=False)
        if self._reports:
            self._send()
        self._errand.finish()
