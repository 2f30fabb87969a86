"""The operating system behind one seam: the only caller of fork, exec and kill, and the supervisor's clock."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import signal
import socket
import struct
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import gevent
import gevent.hub
import gevent.monkey
import gevent.os

_fork: Callable[[], int] = gevent.monkey.get_original("os", "fork")
_close: Callable[[int], None] = gevent.os._close  # the patched one is deferred by the hub: end-of-file arrives late
_sleep: Callable[[float], None] = gevent.monkey.get_original("time", "sleep")

#: what a forked child keeps of its master's hub, so that nothing of it is ever collected: collecting a greenlet
#: runs its `finally` blocks, and those would clean up for the master
_inherited: list[Any] = []

#: seconds until who has raised when told of a child's end is told again
AGAIN = 0.5

#: what a forked child has to undo while it still has its master's loop
undo_in_child: list[Callable[[], None]] = []


class System:
    """What the supervisor asks of the operating system."""

    def __init__(self) -> None:
        #: nohup(1) was asked for, and holds for the programs that we start
        self.hangup_ignored = False
        #: processes that are on their way to another program
        self._starting: dict[int, Start] = {}

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return time.monotonic()

    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def fork(self) -> int:
        """Fork, from the main greenlet. In the child (0) the hub is new and nothing of the master's runs on.

        All signals are blocked in the child until it calls `unblock_signals`: one that came before the child has
        its own handlers would go through the master's, into a pipe that master and child share.
        """
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        at_fork.go_first()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        at_fork.act = _forget_master_or_end
        try:
            pid = _fork()
        except BaseException:
            at_fork.act = None
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        at_fork.act = None
        if pid == 0:
            return 0
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def watch(self, pid: int, callback: Callable[[int, int], None]) -> Any:
        """Call ``callback(pid, wait status)`` once *pid* has ended. Keep what is returned; it must not be collected.

        When the callback raises, for want of memory perhaps, it is called again `AGAIN` seconds later.
        """

        def ended(pid: int, status: int) -> None:
            if pid in self._starting:
                self._starting[pid].look()
            callback(pid, status)

        return Child(pid, ended)

    def undo_fork(self, pid: int) -> None:
        """End a child that has just been forked and that nobody watches."""
        os.kill(pid, signal.SIGKILL)
        self.reap(pid)  # it runs nothing that could hold it up

    def kill(self, pid: int, number: int) -> bool:
        """Send a signal; False when there is no such process any more, or it is another user's and we are not root."""
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def reap(self, pid: int) -> None:
        """Block until the child *pid* has ended; it was killed."""
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:  # reaped already
            pass

    def execute(
        self, argv: list[str], environment: Mapping[str, str], directory: str, descriptors: Iterable[int],
        failed: Callable[[OSError], None] = lambda error: None,
    ) -> int:
        """Start another program with *descriptors* inherited under their numbers. Returns the pid of its process.

        Raises OSError when there can be no such process. To go to *directory* and to load the program is done in it,
        and may take for ever, on a file system that does not answer: nobody waits for that. When it fails, *failed* is
        called with the reason, from the hub, before who watches the process learns of its end.
        """
        keep = list(descriptors)
        reader, writer = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = _fork()
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _close(reader)
            _close(writer)
            raise
        if pid == 0:
            try:
                default_signals()
                if self.hangup_ignored:
                    signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                # it may stay here for long, and must not keep from its end what somebody waits to see the end of
                close_all_but({0, 1, 2, writer, *keep})
                os.chdir(directory)
                for descriptor in keep:
                    os.set_inheritable(descriptor, True)
                os.execvpe(argv[0], argv, dict(environment))
            except BaseException as error:  # noqa: BLE001 - nothing may escape into a copy of the master
                number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
                os.write(writer, struct.pack("=i", number))
            finally:
                os._exit(127)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _close(writer)
        try:
            self._starting[pid] = Start(reader, argv[0], lambda: self._starting.pop(pid, None), failed)
        except MemoryError:
            _close(reader)
            self.undo_fork(pid)
            raise
        return pid

    def exit(self, code: int) -> NoReturn:
        """End this process now, without any clean-up by the interpreter."""
        os._exit(code)

    def die_of(self, number: int) -> NoReturn:
        """End this process by signal *number*, so that whoever waits for it sees which."""
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)

    def threads(self) -> int:
        """How many native threads this process has."""
        try:
            return len(os.listdir("/proc/self/task"))
        except OSError:
            return len(sys._current_frames())


class AtFork:
    """What is to be done in each forked child before the hooks that libraries gave to `os.register_at_fork`.

    They are called inside the fork, in the order in which they were registered, which may have been before anybody
    thought of a cluster; and they may start threads, which are greenlets of the hub that is there.
    """

    def __init__(self) -> None:
        #: None: nothing
        self.act: Callable[[], None] | None = None
        hook = self._forked
        os.register_at_fork(after_in_child=hook)
        # the interpreter's own list of them, which nothing else gives; looked for while there is little to look at
        found = [one for one in gc.get_referrers(hook) if type(one) is list and one and one[-1] is hook]
        self._hooks: list[Any] = found[0] if len(found) == 1 else []

    def _forked(self) -> None:
        if self.act is not None:
            self.act()

    def go_first(self) -> None:
        """Take the place before all others, but for Python's own hook for threads, and gevent's.

        gevent's is registered when it patches, and expects that none before it has started a thread.
        """
        def place(hook: Any) -> int:
            module = getattr(hook, "__module__", None)
            name = getattr(hook, "__name__", None)
            if (module, name) == ("threading", "_after_fork"):
                return 0
            if (module, name) == ("gevent.threading", "after_fork_in_child"):
                return 1
            return 2 if hook == self._forked else 3

        self._hooks.sort(key=place)


def _forget_master_or_end() -> None:
    try:
        forget_master()
    except BaseException:  # noqa: BLE001 - nothing may escape into a copy of the master
        traceback.print_exc()
        os._exit(1)


class Child:
    """Waits for the end of a child of this process, and tells of it until that was taken."""

    def __init__(self, pid: int, callback: Callable[[int, int], None]) -> None:
        loop = gevent.get_hub().loop
        self._pid = pid
        self._callback: Callable[[int, int], None] | None = callback
        self._again = loop.timer(AGAIN, repeat=AGAIN)  # made now: later there may be no memory for it
        self._watcher = loop.child(pid, ref=True)
        self._watcher.start(self._ended)

    def _ended(self) -> None:
        # what a callback of the loop raises is printed and forgotten
        self._again.start(self._tell)
        self._tell()

    def _tell(self) -> None:
        if self._callback is not None:
            self._callback(self._pid, self._watcher.rstatus)
            self._callback = None
        self.stop()

    def stop(self) -> None:
        """Wait no more."""
        for watcher in (self._again, self._watcher):
            watcher.stop()
            watcher.close()


class Start:
    """Whether a new process gets as far as the program that it is to run; *over* is called once that is known.

    *reader*: the end of a pipe that the exec closes, and that an error number comes through when there is none.
    """

    def __init__(self, reader: int, program: str, over: Callable[[], Any], failed: Callable[[OSError], None]) -> None:
        self._reader = reader
        self._program = program
        self._over = over
        self._failed = failed
        os.set_blocking(reader, False)
        self._watcher = gevent.get_hub().loop.io(reader, 1)
        self._watcher.start(self.look)
        undo_in_child.append(self._close)

    def look(self) -> None:
        """See what has come of it."""
        try:
            failure = os.read(self._reader, 4)
        except BlockingIOError:
            return
        undo_in_child.remove(self._close)
        self._close()
        self._over()
        if failure:
            number = struct.unpack("=i", failure)[0]
            self._failed(OSError(number, os.strerror(number), self._program))

    def _close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        _close(self._reader)


def forget_master() -> None:
    """Make a forked child a process of its own: new hub, no inherited signal handlers, exit hooks or finalizers.

    Must run before anything can yield, or the master's greenlets would run on here (gevent's own documentation of
    `gevent.os.fork` warns of it; gevent issues 957 and 2202).
    """
    forget_hub(gevent.hub._get_hub())
    default_signals()
    gevent.get_hub()
    forget_exit_hooks()


at_fork = AtFork()


def forget_hub(hub: Any) -> None:
    """Leave *hub* (None: there is none) behind in a forked child: nothing of it runs here. The next one is new."""
    if hub is None:
        return
    gevent.reinit(hub)
    for undo in undo_in_child:
        undo()
    undo_in_child.clear()
    hub._threadpool = None
    hub._resolver = None
    loop = hub.loop
    gevent.hub.set_hub(None)
    _inherited.append((hub, loop))
    loop.destroy()


def forget_exit_hooks() -> None:
    """Drop exit hooks and finalizers in a forked child: they are its parent's."""
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # no public way: each would run at exit here too
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # the child's own shall run


def collect_no_more() -> None:
    """Have the interpreter collect nothing when it ends: finalizers and `finally` blocks of what a child has inherited
    are its parent's, and would remove its temporary files."""
    kept: list[Any] = [dict(vars(module)) for module in list(sys.modules.values())]
    kept.append(kept)  # refers to itself and is frozen: never freed
    gc.freeze()


def default_signals() -> None:
    """Take off every signal handler and the wake-up descriptor."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number in (signal.SIGKILL, signal.SIGSTOP):
            continue
        try:
            if number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)):
                signal.signal(number, signal.SIG_IGN)  # as Python itself starts
            else:
                signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError, RuntimeError):
            continue


class SignalAlarm:
    """Wakes the hub for signals whose handlers Python itself calls (`signal.signal`), as long as this is not closed.

    Without it, one that comes right before the hub begins to wait is acted upon only when something else wakes it. For
    the main thread.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        # `ref`: that a signal may come is no reason for a hub to wait when nothing else is there to wait for
        self._watcher = gevent.get_hub().loop.io(self._reader, 1, ref=False)
        self._watcher.start(self._rang)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def _rang(self) -> None:
        """The handler has run before this: that Python code is about to run was all that it waited for."""
        with contextlib.suppress(OSError):
            os.read(self._reader, 4096)

    def close(self) -> None:
        """In the process that made it, or in one that was forked from it: wake the hub no more."""
        writer = signal.set_wakeup_fd(-1)
        if writer not in (-1, self._writer):  # the application's own
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._watcher.stop()
        self._watcher.close()
        for descriptor in (self._reader, self._writer):
            close_descriptor(descriptor)


def tell_when_parent_dies(number: int) -> None:
    """Have the kernel send signal *number* to this process when its parent dies (Linux; elsewhere nothing happens).

    Becoming another user clears it.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    except (ImportError, OSError, AttributeError):
        pass


def unblock_signals() -> None:
    """Let signals through again, once a new child has its own handlers."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pause(seconds: float) -> None:
    """Block the whole process, hub included. Only where nothing else can run any more."""
    _sleep(seconds)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every other descriptor of this process."""
    first = 0
    for descriptor in sorted(set(kept)):
        if first < descriptor:  # closerange(0, 0) closes everything, in Python 3.11 at least
            os.closerange(first, descriptor)
        first = descriptor + 1
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(first, limit if limit > 0 else 65536)


def close_descriptor(descriptor: int) -> None:
    """Close at once, whatever is patched."""
    try:
        _close(descriptor)
    except OSError:
        pass


def peer(connection: Any, platform: str = sys.platform) -> tuple[int | None, int | None]:
    """Process id and user id of whoever is at the other end of a unix socket; None for what the system does not tell.

    Who asks in order to let somebody in must take None for a stranger. *platform*: as `sys.platform` names it.
    """
    pid = uid = None
    try:
        if platform == "linux":
            pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, 17, 12))  # SO_PEERCRED
        elif platform == "darwin":  # not in Python's socket module: SOL_LOCAL is 0, LOCAL_PEERCRED 1, LOCAL_PEERPID 2
            version, found = struct.unpack_from("=II", connection.getsockopt(0, 1, 76))  # struct xucred
            uid = found if version == 0 else None
            pid = struct.unpack("=i", connection.getsockopt(0, 2, 4))[0]
    except (OSError, struct.error):
        pass
    return pid or None, uid


def set_title(title: str, platform: str = sys.platform) -> None:
    """What `ps` shows for this process. Nothing happens on macOS, where setting it before and after a fork crashes."""
    if platform == "darwin":
        return
    from setproctitle import setproctitle

    setproctitle(title)


def flush_streams() -> None:
    """Write what the process has buffered, for it is about to end without the interpreter's help."""
    if "logging" in sys.modules:
        with contextlib.suppress(Exception):
            sys.modules["logging"].shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def launch_directory() -> str:
    """Where this process was started, by the name the shell gave it when that is the same directory.

    A deployment that switches a ``current`` symlink wants the link followed anew at a restart.
    """
    here = os.getcwd()
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, here):
            return named
    except OSError:
        pass
    return here


try:
    #: taken at import, before anybody changes directory
    STARTED_IN = launch_directory()
except OSError:  # the directory was removed under us
    STARTED_IN = "/"
