"""Every setting: its name, unit, default, check and help. One table, from which `docs/settings.md` is generated."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .errors import ConfigurationError, did_you_mean, unusable
from .events import normal

Check = Callable[[Any], Any]


class Setting(NamedTuple):
    """One setting. ``check`` turns what the user gave into the value, or raises ValueError saying what is right."""

    name: str
    default: Any
    unit: str
    check: Check
    help: str


#: what the system's calls take
_INT = 2**31 - 1
_ID = 2**32 - 2


def _count(minimum: int, maximum: int = 2**63 - 1) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"a whole number, {minimum} or more")
        if not minimum <= value <= maximum:
            raise ValueError(f"{minimum} or more" if value < minimum else f"{maximum} at most")
        return value

    return check


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("seconds, as a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("seconds, as a number")
    if not 0 <= value <= _INT:
        raise ValueError("0 seconds or more" if not value > 0 else f"{_INT} seconds at most")
    return float(value)


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _choice(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return str(value)

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a non-empty text")
    return value


def _path(right: str) -> Check:
    def check(value: Any) -> str:
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        if not isinstance(path, str) or not path:
            raise ValueError(right)
        if reason := unusable(path):
            raise ValueError(f"{right}, and {reason}")
        return path

    return check


def _peers(value: Any) -> str | list[str]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
        return list(value)
    raise ValueError("addresses or networks, in a list or one text")


def _names(value: Any) -> str | list[str]:
    # which there are is known to who reads them
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    raise ValueError("names, in a list or one text")


def _identity(value: Any) -> int | str:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "" or (
        isinstance(value, int) and not 0 <= value <= _ID
    ):
        raise ValueError("a name or a numeric id")
    return value


def _umask(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = int(value, 8)
        except ValueError:
            raise ValueError("an octal number such as 0o027") from None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise ValueError("an octal number such as 0o027")
    return value


def _signal_map(value: Any) -> Any:
    # what is a signal and what is a command is known to `signals` and `commands`; Master checks with them
    if value == "auto" or value is False:
        return value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError('`auto`, False, or a map such as {"SIGTERM": "close"}')
    pairs = {key: tuple(given) if isinstance(given, list) else given for key, given in value.items()}
    for key, given in pairs.items():
        if isinstance(given, tuple) and len(given) != 2:
            raise ValueError(f'a pair of commands such as ("close", "destroy") for {key}, or one')
    return pairs


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("workers", None, "processes", _count(0),
                "How many workers are kept. Default: the CPUs this process may use (affinity and the container's CPU "
                "quota counted, rounded up), at least 1."),
        Setting("max workers", 512, "processes", _count(1, 10_000),
                "The most workers that `workers`, `resize` and `spawn` may ask for. Memory for their counters is "
                "laid out at the start, for twice as many: a new generation starts while the old one serves."),
        Setting("working directory", None, "path", _path("a directory"),
                "Where master and workers run. Default: the script's directory (`cluster serve`: the current one)."),
        Setting("backlog", 2048, "connections", _count(1, _INT),
                "How many connections the kernel queues per listener."),
        Setting("timeout", 60.0, "seconds", _seconds,
                "How long a worker that was asked to end may take before it is killed. 0: as long as it likes."),
        Setting("startup timeout", 60.0, "seconds", _seconds,
                "How long a worker may take to get ready before it is killed. 0: as long as it likes."),
        Setting("restart timeout", 120.0, "seconds", _seconds,
                "How long a new master may take to get all its workers ready. 0: as long as it likes."),
        Setting("restart threshold", 5.0, "seconds", _seconds,
                "A restart asked for sooner than this after the start waits until then. 0: never waits."),
        Setting("probation", None, "seconds", _seconds,
                "How long an old master stays, at the least, after a new one has taken over, to serve again if that "
                "dies. Default: 5; in `development` 0."),
        Setting("restart", "auto", "", _choice("auto", "master", "reload"),
                "What a restart does: `master` replaces the master, `reload` only the workers, `auto` decides (see "
                "docs/restart.md)."),
        Setting("ready", "auto", "", _choice("auto", "manual"),
                "`auto`: a worker is ready once its server accepts; `manual`: when it calls cluster.worker().ready()."),
        Setting("preload", False, "", _flag,
                "Import the application in the master before forking: less memory, but new code needs a restart."),
        Setting("monkey patch", True, "", _flag,
                "Apply gevent's monkey patch in the master, before the first worker is forked."),
        Setting("close delay", 0.0, "seconds", _seconds,
                "Go on accepting this long after a close was asked for, so that load balancers can turn away. A second "
                "signal cuts it short."),
        Setting("drain grace", 1.0, "seconds", _seconds,
                "How long a draining worker still answers requests that come in on idle keep-alive connections."),
        Setting("title", "cluster", "", _text, "The master's name in `ps`."),
        Setting("worker title", "cluster worker {n}", "", _text, "A worker's name in `ps`; {n} is its slot."),
        Setting("user", None, "name or id", _identity,
                "Workers run as this user; taken on before the application is imported."),
        Setting("group", None, "name or id", _identity, "Workers run as this group. Default: the user's."),
        Setting("umask", None, "octal", _umask, "File mode creation mask of the workers."),
        Setting("abort deaths", 20, "workers", _count(0),
                "Give up (exit code 3) after this many worker deaths before any worker was ready, and at once where "
                "trying again cannot help. 0: never."),
        Setting("background failures", "report", "", _choice("report", "exit"),
                "What a thread or greenlet that fails outside a request does to its worker: `report`: it is told, and "
                "the worker lives on; `exit`: it ends with code 1, after what it has in flight."),
        Setting("access log", None, "path", _path("a file's path, or `-`"),
                "Where requests are logged; `-`: standard output."),
        Setting("access log format", None, "", _text,
                "gunicorn's atoms, as in `%(h)s \"%(r)s\" %(s)s`, or `json`. Default: the combined format."),
        Setting("trusted proxies", None, "", _peers,
                "Peers whose `forwarded headers` are believed: addresses, networks, `unix`, or `*`."),
        Setting("forwarded headers", "for, proto", "", _names,
                "What trusted proxies are believed: `for`, `proto`, `host`, `port` and `prefix` (into SCRIPT_NAME) are "
                "X-Forwarded-…; `forwarded` is the field of RFC 7239 instead of `for` and `proto`. Name only what the "
                "proxy sets: the rest is the client's."),
        Setting("head timeout", 10.0, "seconds", _seconds, "How long a request's head may take. 0: for ever."),
        Setting("body timeout", 30.0, "seconds", _seconds, "How long a request's body may pause. 0: for ever."),
        Setting("keep alive", 5.0, "seconds", _seconds,
                "How long a connection may be idle between requests; 75 suits a server behind a proxy. 0: for ever."),
        Setting("write timeout", 30.0, "seconds", _seconds,
                "How long a client may take nothing of a response. 0: for ever."),
        Setting("max body", None, "bytes", _count(1), "The largest request body (413 beyond it). Default: no limit."),
        Setting("max request line", 8192, "bytes", _count(1), "The longest request line (414 beyond it)."),
        Setting("max header", 8192, "bytes", _count(1), "The longest header field (431 beyond it)."),
        Setting("max headers", 100, "fields", _count(1), "The most header fields of a request (431 beyond it)."),
        Setting("max head", 65536, "bytes", _count(1), "The longest request line and header fields together (431)."),
        Setting("max connections", 10000, "connections", _count(1),
                "The most connections of a worker; lowered to what `ulimit -Hn` allows. When it is full, those idle "
                "for longest make room for new ones."),
        Setting("signals", "auto", "", _signal_map,
                "What signals to the master mean. `auto`: see docs/signals.md. A map such as {\"SIGTERM\": \"close\"} "
                "changes what it names: to a command, a pair of them (the second for who asks again), None (ignored) "
                "or \"default\" (left to the system). False: all are left to the system."),
    )
}


def typed(name: str, value: Any) -> Any:
    """Return *value* as the setting *name* wants it; unknown names are taken as they are (plugins use them).

    Raises `ConfigurationError` that names the setting, what was given and what would be right.
    """
    setting = SETTINGS.get(name)
    if setting is None:
        return value
    if value is None and setting.default is None:
        return None
    try:
        return setting.check(value)
    except ValueError as error:
        raise ConfigurationError(f"setting {name!r} cannot be {value!r}: it takes {error}") from None


class Settings(Mapping[str, Any]):
    """The values of one cluster: a mapping in which underscores and spaces in names mean the same."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()}
        self._given: set[str] = set()

    def set(self, name: str, value: Any) -> None:
        """Set *name* to *value*. Raises `ConfigurationError`; warns when *name* is close to a known one."""
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"the name of a setting is a text, not {name!r}")
        key = normal(name)
        self._values[key] = typed(key, value)
        self._given.add(key)
        if key not in SETTINGS:
            hint = did_you_mean(key, SETTINGS, cutoff=0.8)
            if hint:
                warnings.warn(f"unknown setting {name!r}{hint}", UserWarning, stacklevel=4)

    def given(self, name: str) -> bool:
        """Whether *name* was set, to whatever value."""
        return normal(name) in self._given

    def __getitem__(self, name: str) -> Any:
        return self._values[normal(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({self._values!r})"
