"""TLS: contexts from certificates, and a transport that looks like a non-blocking socket."""

from __future__ import annotations

import _ssl
import os
import ssl
from collections.abc import Mapping
from typing import Any, Union

from ..errors import ConfigurationError

#: a path, or the PEM text itself
PEM = Union[str, bytes, "os.PathLike[str]"]
#: certificate chain and private key; the key may be None when it is in the same text
Pair = tuple[PEM, PEM | None]


def context(certificate: PEM, key: PEM | None = None, names: Mapping[str, Pair] | None = None) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and later, ALPN ``http/1.1``.

    :param certificate: the chain as a path, or as PEM text in bytes, so that a master can read what its workers may not
    :param key: the private key likewise; None when it follows the certificate
    :param names: other certificates by the host name that a client asks for (SNI); ``*.example.com`` covers one label

    Raises `ConfigurationError` with one line that says what cannot be used.
    """
    made = _single(certificate, key)
    if names:
        others = {name.lower(): _single(*pair) for name, pair in names.items()}

        def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
            wanted = (name or "").lower()
            other = others.get(wanted) or others.get("*." + wanted.partition(".")[2])
            if other is not None:
                connection.context = other

        # Past the classes over it: gevent's wraps the callback in a way that fails for memory buffers.
        vars(_ssl._SSLContext)["sni_callback"].__set__(made, choose)
    return made


def as_context(tls: Any) -> ssl.SSLContext | None:
    """A context from a listener's option: a context, ``(certificate, key)``, or a mapping of `context`'s arguments."""
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    if isinstance(tls, Mapping):
        return context(**tls)
    if isinstance(tls, (tuple, list)) and len(tls) == 2:
        return context(tls[0], tls[1])
    raise ConfigurationError(f"tls must be an SSLContext or (certificate, key), not {tls!r}")


def _single(certificate: PEM, key: PEM | None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    opened: list[Any] = []
    try:
        made.load_cert_chain(_path(certificate, opened), _path(key, opened) if key is not None else None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        name = "the certificate" if isinstance(certificate, bytes) else str(certificate)
        raise ConfigurationError(f"cannot use {name} with its key: {error}") from error
    finally:
        for file in opened:
            file.close()
    return made


def _path(pem: PEM, opened: list[Any]) -> str:
    """A path for what OpenSSL reads only from files. The file is the owner's alone and is gone in a moment."""
    if not isinstance(pem, bytes):
        return os.fspath(pem)
    import tempfile  # few need it, and it is slow to import

    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed, and so removed, by the caller
    opened.append(file)
    file.write(pem)
    file.flush()
    return file.name


_HTTP = "plain HTTP on a port that speaks TLS"
_PROXY = "an unexpected PROXY protocol header on a port that speaks TLS"
#: troubles of clients that do not speak TLS, and can be told so
NOT_TLS = frozenset((_HTTP, _PROXY))


class Transport:
    """A TLS connection with the methods of a non-blocking socket that `Connection` uses.

    The handshake goes on inside `recv`. `send` behaves like OpenSSL's: after BlockingIOError it must be called again
    with the same data.
    """

    __slots__ = ("_accepted", "_ended", "_established", "_incoming", "_object", "_outgoing", "_pending", "_sock",
                 "trouble")

    def __init__(self, sock: Any, tls: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = tls.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established = False
        self._pending = b""  # encrypted and not yet taken by the kernel
        self._accepted = 0  # how much of the caller's data that is
        self._ended = False
        #: what is wrong with the handshake; None before it has begun, and once it is done
        self.trouble: str | None = None

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def setsockopt(self, *args: Any) -> None:
        self._sock.setsockopt(*args)

    def recv(self, size: int) -> bytes:
        """What has come, decrypted; b"" at the end. Raises BlockingIOError when that is nothing yet."""
        if self._ended:
            return b""
        # all that has come: nothing may stay in here that no event tells of
        raw = self._sock.recv(65536)
        return self.fed(raw)

    def fed(self, raw: bytes) -> bytes:
        """As `recv`, for bytes that were received already."""
        if not raw:
            self._ended = True
            return b""
        if not self._established and self.trouble is None:
            self._look(raw)
        self._incoming.write(raw)
        pieces = []
        try:
            if not self._established:
                self._shake_hands()
            while True:
                piece = self._object.read(65536)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        finally:
            # also when it failed: an alert tells the client why
            self._flush()
        if pieces or self._ended:
            return b"".join(pieces)
        raise BlockingIOError

    def _look(self, raw: bytes) -> None:
        """The first bytes: raises ConnectionError where they cannot be TLS, but can be something that we know."""
        if raw[:1].isalpha():
            self.trouble = _PROXY if raw.startswith(b"PROXY ") else _HTTP
            raise ConnectionError(self.trouble)
        self.trouble = "ended early"  # unless more comes

    def _shake_hands(self) -> None:
        try:
            self._object.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.trouble = (error.reason or "failed").lower().replace("_", " ")
            raise
        self._established = True
        self.trouble = None

    def too_late(self) -> None:
        """The time for the handshake is over, if it still goes on."""
        if self.trouble is not None:
            self.trouble = "timed out"

    def given_up(self) -> Any:
        """The socket below, for a client that does not speak TLS."""
        return self._sock

    def send(self, data: Any) -> int:
        """Take some of the data; returns how much, once the kernel has it."""
        if not self._accepted:
            if self._pending and not self._flush():
                raise BlockingIOError
            self._accepted = self._object.write(data[:65536])
        if not self._flush():
            raise BlockingIOError
        accepted, self._accepted = self._accepted, 0
        return accepted

    def _flush(self) -> bool:
        """Hand what is encrypted to the kernel; whether it took all of it."""
        self._pending += self._outgoing.read()
        while self._pending:
            try:
                sent = self._sock.send(self._pending)
            except BlockingIOError:
                return False
            except OSError:
                self._pending = b""
                raise
            self._pending = self._pending[sent:]
        return True

    def shutdown(self, how: int) -> None:
        self._say_goodbye()
        self._sock.shutdown(how)

    def close(self) -> None:
        self._say_goodbye()
        self._sock.close()

    def skip_goodbye(self) -> None:
        """Let the close that follows be no end in good order: the client must not take what it has for all."""
        self._established = False

    def _say_goodbye(self) -> None:
        if not self._established:
            return
        self._established = False
        try:
            self._object.unwrap()
        except (OSError, ValueError):
            pass  # it wants the client's goodbye, for which nobody waits
        try:
            self._flush()
        except OSError:
            pass


