"""The helper process of mail(): sends one message after the other."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from typing import Any

import gevent.subprocess

#: seconds that a mail server, or the sendmail command, may take
_TIMEOUT = 30.0


def handle(settings: dict[str, Any], message: dict[str, Any]) -> None:
    """Send one mail, as *settings* say. Raises OSError, smtplib.SMTPException."""
    mail = EmailMessage()
    mail["From"], mail["To"] = settings["sender"], ", ".join(settings["to"])
    mail["Subject"] = " ".join(_encodable(message["subject"]).split())[:200]
    mail.set_content(_encodable(message["body"]))
    if settings["sendmail"]:
        done = gevent.subprocess.run([*settings["sendmail"], *settings["to"]], input=mail.as_bytes(), timeout=_TIMEOUT,
                                     stdout=gevent.subprocess.DEVNULL, stderr=gevent.subprocess.PIPE)
        if done.returncode:
            raise OSError(f"{settings['sendmail'][0]} ended with {done.returncode}: "
                          f"{done.stderr.decode(errors='replace').strip()[:500]}")
        return
    with smtplib.SMTP(settings["host"], settings["port"], timeout=_TIMEOUT) as server:
        if settings["tls"]:
            server.starttls(context=ssl.create_default_context(cafile=settings["authorities"]))
        if settings["user"]:
            server.login(settings["user"], settings["password"] or "")
        server.send_message(mail)


def _encodable(text: str) -> str:
    """*text* with a lone surrogate, as in a file name that is not UTF-8, as its escape."""
    return text.encode(errors="backslashreplace").decode()
