"""reload(): replaces the workers when a file changes, for development.

Files are compared by scanning. The watchers of the event loop see times in whole seconds, so that a second save of the
same size within a second is never seen; the libraries that get events from the kernel run a thread, which a process
that forks must not have.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gevent

from .. import host
from ..errors import ClusterError, ConfigurationError
from ..signals import ending
from ..signals import name as signal_name
from . import _options

if TYPE_CHECKING:
    from ..master import Master

#: directories that are not looked into
IGNORED = ("__pycache__", ".git", "node_modules", "venv", ".venv", "test", "tests", "bin", "support")
#: looks after which a burst of changes that does not end is acted upon: something may write all the time
_BURST = 20
#: of its time a scan takes at most this part; large trees are looked at less often
_SHARE = 0.1

#: path → (time of modification in nanoseconds, size in bytes)
Snapshot = dict[str, tuple[int, int]]


def reload(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    signal: str = "SIGQUIT",
    interval: float = 0.25,
    extensions: Iterable[str] = (".py",),
    ignore: Iterable[str] = IGNORED,
) -> Callable[[Master], None]:
    """The plugin.

    *paths*: files and directories, taken against the script's; default the script's directory. *signal*: how the old
    workers end. *interval*: seconds between two looks. *extensions*: of the files that count in directories. *ignore*:
    names of directories that are not looked into. Emits `changed(path)`. Raises `ConfigurationError`.
    """
    many = _options.several("reload", "paths", paths if paths is not None else ["."], "paths")
    given = [_options.path("reload", "one of the paths", path) for path in many]
    endings = tuple(_options.text("reload", "an extension", one)
                    for one in _options.several("reload", "extensions", extensions, "texts such as '.py'"))
    ignored = frozenset(_options.text("reload", "what to ignore", one)
                        for one in _options.several("reload", "ignore", ignore, "names of directories"))
    if not isinstance(interval, int | float) or isinstance(interval, bool) or not interval > 0:
        raise ConfigurationError(f"reload: interval is a number of seconds above 0, not {interval!r}")
    by = signal_name(ending(signal))

    def plugin(master: Master) -> None:
        roots = [os.path.normpath(os.path.join(master.base, path)) for path in given]
        for root in roots:
            if not os.path.exists(root):
                raise ConfigurationError(f"reload: there is no {root}")
        _Watch(master, roots, endings, ignored, float(interval), by)

    return plugin


def scan(roots: Iterable[str], extensions: tuple[str, ...], ignored: frozenset[str]) -> Snapshot:
    """What is there now. Files named among *roots* count whatever their extension is."""
    found: Snapshot = {}
    for root in roots:
        try:
            if os.path.isdir(root):
                found.update(_below(root, extensions, ignored))
            else:
                status = os.stat(root)
                found[root] = (status.st_mtime_ns, status.st_size)
        except OSError:
            continue  # deleted under our eyes
    return found


def _below(
    directory: str, extensions: tuple[str, ...], ignored: frozenset[str]
) -> Iterator[tuple[str, tuple[int, int]]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in ignored:
                        yield from _below(entry.path, extensions, ignored)
                elif entry.name.endswith(extensions) and entry.is_file():
                    status = entry.stat()
                    yield entry.path, (status.st_mtime_ns, status.st_size)
            except OSError:
                continue


def differing(before: Snapshot, now: Snapshot) -> list[str]:
    """Files that are new, gone, or another version."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


class _Watch:
    """Looks every now and then, and acts when a burst of changes is over."""

    def __init__(self, master: Master, roots: list[str], extensions: tuple[str, ...], ignored: frozenset[str],
                 interval: float, signal: str) -> None:
        self._master = master
        self._look: Callable[[], Snapshot] = lambda: scan(roots, extensions, ignored)
        self._interval = interval
        self._signal = signal
        self._greenlet: Any = None
        # two versions within a second look the same to a cached one; so workers leave no cached ones
        sys.dont_write_bytecode = True
        master.set("restart threshold", 0)
        master.mended_by("a file changes")
        self._seen = self._look()
        self._distrust_our_own()
        #: what was there when a restart began
        self._before: Snapshot = self._seen
        # a new master that has not taken over can do nothing about changes; it sees them when it has
        master.on("listening", lambda: self._begin() if master.predecessor is None else None)
        master.on("restart", lambda data: self._begin())
        master.on("restarting", lambda data: self._remember())
        master.on("restart failed", lambda reason: self._forget())
        master.on("closing", self._end)
        master.on("resumed", self._begin)

    def _distrust_our_own(self) -> None:
        """What this process loaded while it was being changed: nobody knows which version that was."""
        # the age is rounded up; and an interpreter that is younger than that has not opened its script yet
        started = (time.time() - host.process_age() + 0.02) * 1e9
        loaded = _loaded()
        for path in self._seen:
            if self._seen[path][0] > started and os.path.realpath(path) in loaded:
                self._seen[path] = (0, 0)

    def _begin(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def _remember(self) -> None:
        self._before = self._seen

    def _forget(self) -> None:
        """What changed while a new master was on its way came to nothing with it: it is a change again."""
        self._seen = self._before

    def _end(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        last = self._seen
        took = 0.0
        looks = 0
        while True:
            gevent.sleep(max(self._interval, took / _SHARE))
            began = time.monotonic()
            now = self._look()
            took = time.monotonic() - began
            changed = differing(self._seen, now)
            looks = looks + 1 if changed else 0
            if changed and (looks >= _BURST or not differing(last, now)):
                looks = 0
                self._seen = now
                self._act(changed)
            last = now

    def _act(self, changed: list[str]) -> None:
        loaded = _loaded()
        for path in changed:
            shown = os.path.relpath(path, self._master.base)
            if not self._master.narrated:
                self._master.complain(f"changed - {shown}")
            self._master.emit("changed", shown)
            _forget_cached(path)
        try:
            masters = [path for path in changed if os.path.realpath(path) in loaded]
            if masters and host.restart_reloads(self._master.options["restart"]):
                shown = ", ".join(os.path.relpath(path, self._master.base) for path in masters)
                self._master.complain(f"reload: {shown} takes effect when the cluster is started anew")
            if masters:
                self._master.restart(self._signal)
            else:
                self._master.reload(self._signal)
        except ClusterError:
            pass  # it is ending


def _loaded() -> set[str]:
    """Files of the modules that the master itself has loaded: only a new master runs another version of them."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {os.path.realpath(file) for file in files if isinstance(file, str)}


def _forget_cached(path: str) -> None:
    """Remove the compiled version that somebody else has left: it may be taken for the new one's."""
    if path.endswith(".py"):
        try:
            os.unlink(importlib.util.cache_from_source(path))
        except (OSError, NotImplementedError):
            pass
