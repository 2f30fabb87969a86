"""Certificates of listeners: the master reads the files, so that workers without privileges need not, and again when
they change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .errors import ConfigurationError, unusable

#: seconds between two looks at the files; there are none when no listener has TLS
LOOK = 10.0


def paths(tls: Any, base: str) -> list[str]:
    """The files that a ``tls`` option names; PEM text given as bytes names none."""
    return [os.path.join(base, os.fspath(part)) for part in _parts(tls) if not isinstance(part, bytes | None)]


def load(tls: Any, base: str) -> Any:
    """The option with every path replaced by what the file holds. Raises `ConfigurationError` naming the file."""
    if isinstance(tls, Mapping):
        return {
            key: {name: load(pair, base) for name, pair in value.items()} if key == "names" else _read(value, base)
            for key, value in tls.items()
        }
    return tuple(_read(part, base) for part in tls)


def stamp(tls: Any, base: str) -> tuple[Any, ...]:
    """Changes when one of the files does."""
    found: list[Any] = []
    for path in paths(tls, base):
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)  # being replaced
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def check(tls: Any) -> None:
    """Whether a ``tls`` option is of a right form. Raises `ConfigurationError`."""
    right = isinstance(tls, Mapping) or (isinstance(tls, tuple | list) and len(tls) == 2)
    if right and isinstance(tls, Mapping):
        right = "certificate" in tls and set(tls) <= {"certificate", "key", "names"} and all(
            isinstance(pair, tuple | list) for pair in _named(tls))
    if not right or not all(isinstance(part, str | bytes | os.PathLike | None) for part in _parts(tls)):
        raise ConfigurationError("listener option 'tls' takes (certificate, key), or a mapping with 'certificate', "
                                 f"'key' and 'names' for other host names, not {tls!r}")


def _parts(tls: Any) -> list[Any]:
    if not isinstance(tls, Mapping):
        return list(tls)
    parts = [tls.get("certificate"), tls.get("key")]
    for pair in _named(tls):
        parts += pair
    return parts


def _named(tls: Mapping[str, Any]) -> list[Any]:
    names = tls.get("names") or {}
    return list(names.values()) if isinstance(names, Mapping) else [names]


def _read(part: Any, base: str) -> bytes | None:
    if part is None or isinstance(part, bytes):
        return part
    path = os.path.join(base, os.fspath(part))
    if reason := unusable(path):
        raise ConfigurationError(f"cannot read {path!r}: {reason}")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def to_text(material: Any) -> Any:
    """Loaded material as JSON can carry it."""
    if isinstance(material, Mapping):
        return {key: to_text(value) for key, value in material.items()}
    if isinstance(material, tuple | list):
        return [to_text(value) for value in material]
    return material.decode("latin-1") if isinstance(material, bytes) else material


def from_text(text: Any) -> Any:
    """What `to_text` made, as it was."""
    if isinstance(text, Mapping):
        return {key: from_text(value) for key, value in text.items()}
    if isinstance(text, list):
        return tuple(from_text(value) for value in text)
    return text.encode("latin-1") if isinstance(text, str) else text
