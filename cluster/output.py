"""Lines for a descriptor at whose other end nobody may be: written now or later, dropped and counted, never waited for.

A pipe that nobody reads, a terminal that somebody stopped with Ctrl-S, a disk that is full: none of these may keep a
master from its workers or a worker from its requests. An inherited descriptor is not made non-blocking for that, as
whoever started us shares it: an open file description of our own is. Where none can be had (for sockets, and for what
belongs to another user) little enough is written at a time that it is taken at once.

Knows nothing of the package, so that `http` can use it, too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, TextIO

import gevent.monkey
import gevent.os
from gevent.hub import get_hub

#: bytes of lines that wait until they can be written; what comes beyond these is dropped
HELD = 1024 * 1024
#: seconds until the next try where nothing tells when writing works again, as on a full disk
AGAIN = 5.0
#: seconds that a process which ends gives to what waits
PATIENCE = 0.2
#: bytes that a pipe takes as a whole or not at all
PIECE = select.PIPE_BUF
#: what may pass without anybody telling
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: bytes by which the end of a half line is recognised
_TAIL = 64

#: how many lines were dropped, and why, in a line of the log that they are missing from
Notice = Callable[[int, str], bytes]

_RLock = gevent.monkey.get_original("threading", "RLock")
_thread_id = gevent.monkey.get_original("_thread", "get_ident")
_poll = gevent.monkey.get_original("select", "poll")
_close: Callable[[int], None] = gevent.os._close


def dropped(count: int, reason: str) -> str:
    """The usual words for a `Notice`."""
    return f"{count} {'line was' if count == 1 else 'lines were'} dropped here by process {os.getpid()}: {reason}"


def _notice(count: int, reason: str) -> bytes:
    return f"cluster: {dropped(count, reason)}\n".encode()


class Output:
    """Writes lines to *descriptor*, whatever that is at the moment; never waits, and raises nothing.

    What cannot be written now is kept, up to `HELD` bytes. What comes then is dropped until all of it has left, and how
    much that was is said in a line made by *notice*. Usable from any thread; a forked child begins with nothing of its
    parent's. Without `attach` nothing is tried again before there is more to write.
    """

    def __init__(self, descriptor: int, notice: Notice = _notice) -> None:
        self.descriptor = descriptor
        self.notice = notice
        #: called with the reason, once, when lines are late because nothing can be written, or are dropped
        self.on_trouble: Callable[[str], object] = lambda reason: None
        self._way: _Way | None = None
        self._identity: tuple[int, ...] = ()
        self._begin()

    def _begin(self) -> None:
        """In a new process: what waits is its parent's to write."""
        self._pid = os.getpid()
        self._lock = _RLock()
        self._held = bytearray()
        self._dropped = 0
        self._reason = ""
        self._troubled = False
        #: the last byte that was written is no line end
        self._within = False
        #: and the rest of that line will not follow
        self._torn = False
        self._loop: Any = None
        self._thread = 0
        self._watcher: Any = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            yield

    def attach(self) -> None:
        """Have the hub of the calling thread try again what could not be written at once."""
        with self._alone():
            if self._loop is None:
                self._loop, self._thread = get_hub().loop, _thread_id()
                self._push()

    def write(self, data: bytes) -> None:
        """Write lines: now, or as soon as that is possible, or not at all."""
        with self._alone():
            if self._dropped:
                self._try()
                if self._dropped:  # what comes now comes after what is missing, and after the line that says so
                    self._dropped += data.count(b"\n")
                    return
            self._held += data
            self._try()
            self._trim()

    def finish(self, seconds: float = PATIENCE) -> None:
        """The process is about to end: give a slow reader so many *seconds* at most, and nobody any afterwards."""
        with self._alone():
            self._stop_waiting()
            self._loop = None
            end = monotonic() + seconds
            while self._push() and self._way is not None and _writable(self._way.descriptor, end - monotonic()):
                pass

    def close(self) -> None:
        """Close the descriptor, for whom it is his. What waits is lost, and so is what comes."""
        with self._alone():
            self._stop_waiting()
            if self._way is not None and self._way.descriptor != self.descriptor:
                self._way.close()
            self._way, descriptor, self.descriptor = None, self.descriptor, -1
            self._loop = None
            if descriptor >= 0:
                _close(descriptor)

    # -- writing

    def _try(self) -> None:
        """Write what waits, unless the hub will: it knows when that is possible, but not of another descriptor."""
        if self._watcher is None:
            self._push()
        elif self._moved():
            if self._thread == _thread_id():
                self._push()
            else:
                self._loop.run_callback_threadsafe(self._again)

    def _push(self) -> bool:
        """Write what waits. Returns whether that has to wait for somebody who reads."""
        try:
            way = self._look()
            while self._held or self._dropped:
                if self._held:
                    del self._held[: self._put(way, self._piece(way))]
                    continue
                text = self.notice(self._dropped, self._reason)
                if self._put(way, text):
                    self._dropped = 0
        except BlockingIOError:
            self._reason = "nobody read them"
            self._await(True)
            return True
        except OSError as error:
            self._reason = error.strerror or str(error)
            if error.errno in _PASSING:
                self._await(False)
            else:  # nobody will read it any more
                self._dropped += self._held.count(b"\n")
                self._held.clear()
                self._torn = self._within
                self._stop_waiting()
            self._trouble()
            return False
        self._troubled = False
        self._stop_waiting()
        return False

    def _trouble(self) -> None:
        if not self._troubled:
            self._troubled = True
            self.on_trouble(self._reason)

    def _piece(self, way: _Way) -> bytes:
        """What to write next. In what is not a file only small pieces stay apart from what others write."""
        if way.keeps_together or len(self._held) <= PIECE:
            return bytes(self._held)
        return bytes(self._held[: self._held.rfind(b"\n", 0, PIECE) + 1 or self._held.find(b"\n") + 1 or None])

    def _put(self, way: _Way, data: bytes) -> int:
        """Write *data*; returns how many bytes of it need not be written again. Raises OSError."""
        before = b"\n" if self._torn else b""
        written = way.put(before + data) - len(before)
        done = data[:written]
        self._torn = False
        self._within = bool(done) and not done.endswith(b"\n")
        if not way.keeps_together or written == len(data):
            return written
        # The disk is full. Others may write before the rest of this line can be, which is then written anew.
        whole = done.rfind(b"\n") + 1
        if self._within:
            self._torn = self._within = not _end_half_line(self.descriptor, done[whole:])
        return whole

    def _trim(self) -> None:
        if len(self._held) > HELD:
            end = self._held.rfind(b"\n", 0, HELD) + 1
            self._dropped += max(1, self._held.count(b"\n", end))
            self._torn = self._torn or (self._within and not end)
            del self._held[end:]
            self._trouble()

    # -- trying again

    def _await(self, reader: bool) -> None:
        """Have the hub try again: when a *reader* has made room, or after a while."""
        if self._loop is None or self._way is None:
            return
        if self._thread != _thread_id():
            self._loop.run_callback_threadsafe(self._again)
            return
        self._stop_waiting()
        self._watcher = (self._loop.io(self._way.descriptor, 2, ref=False) if reader
                         else self._loop.timer(AGAIN, ref=False))
        self._watcher.start(self._again)

    def _again(self) -> None:
        with self._alone():
            if self._loop is not None:
                self._push()

    def _stop_waiting(self) -> None:
        if self._watcher is not None and self._thread == _thread_id():
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    # -- what the descriptor is

    def _moved(self) -> bool:
        """Whether the descriptor is something else than it was."""
        try:
            return _identity(os.fstat(self.descriptor)) != self._identity
        except OSError:
            return True

    def _look(self) -> _Way:
        """How to write to what the descriptor is by now: it may have been replaced. Raises OSError."""
        status = os.fstat(self.descriptor)
        if self._way is None or _identity(status) != self._identity:
            self._stop_waiting()
            if self._way is not None:
                self._way.close()
            self._way = _way_of(self.descriptor, status.st_mode)
            self._identity = _identity(status)
            self._within = self._torn = False
        return self._way


class _Way:
    """A way to write to *descriptor*. As it is: for files, and devices that never make anybody wait."""

    #: what is written by one call stays together, so a line that is not written to its end is begun anew
    keeps_together = True

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def put(self, data: bytes) -> int:
        """Write some of *data*; returns how much. Raises OSError, BlockingIOError where one would have to wait."""
        return os.write(self.descriptor, data)

    def close(self) -> None:
        """Give up what is ours."""


class _Opened(_Way):
    """Through an open file description of our own."""

    keeps_together = False

    def close(self) -> None:
        _close(self.descriptor)


class _Polled(_Way):
    """Little at a time, and only when there is room. Where others write, too, they might take it in between: this
    is for sockets, whose room is never that small, and the last resort for anything else."""

    keeps_together = False

    def put(self, data: bytes) -> int:
        if not _writable(self.descriptor):
            raise BlockingIOError
        return os.write(self.descriptor, data[:PIECE])


class _Spliced(_Way):
    """Into a pipe that we may not open: through one of our own, from which the kernel moves on without waiting."""

    keeps_together = False

    def put(self, data: bytes) -> int:
        reader, writer = os.pipe()
        try:
            size = os.write(writer, data[:PIECE])
            return os.splice(reader, self.descriptor, size, flags=os.SPLICE_F_NONBLOCK)
        finally:
            _close(reader)
            _close(writer)


class _Terminal(_Way):
    """A terminal that stops who writes in the background (``stty tostop``) is not to stop us.

    Were SIGTTOU caught, which asks for something else here, the write would be tried again and again.
    """

    keeps_together = False

    def __init__(self, way: _Way) -> None:
        super().__init__(way.descriptor)
        self._way = way

    def put(self, data: bytes) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            return self._way.put(data)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        self._way.close()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_rdev


def _way_of(descriptor: int, mode: int) -> _Way:
    terminal = stat.S_ISCHR(mode) and os.isatty(descriptor)
    if not terminal and not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        return _Way(descriptor)
    way: _Way
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        way = _Opened(os.open(f"/proc/self/fd/{descriptor}", flags))
    except OSError:
        way = _Spliced(descriptor) if stat.S_ISFIFO(mode) and hasattr(os, "splice") else _Polled(descriptor)
    return _Terminal(way) if terminal else way


def _writable(descriptor: int, seconds: float = 0.0) -> bool:
    poller = _poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(max(0.0, seconds * 1000)))


def _end_half_line(descriptor: int, half: bytes) -> bool:
    """Make the last byte of *half*, with which the file ends, a line end: for that there is room on a full disk, and
    whoever writes next need not know. Returns whether that was done."""
    try:
        file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        tail = half[-_TAIL:]
        end = os.fstat(file).st_size
        if os.pread(file, len(tail), end - len(tail)) != tail:
            return False
        return os.pwrite(file, b"\n", end - 1) == 1
    except OSError:
        return False
    finally:
        _close(file)


def open_to_append(path: str, mode: int = 0o666, flags: int = 0) -> int:
    """Open a log, made when missing, without waiting for a reader where it is a FIFO. Raises OSError.

    A FIFO is opened for reading as well: it keeps what is in it while its reader is restarted.
    """
    how = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | flags
    try:
        descriptor = os.open(path, os.O_WRONLY | how, mode)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        descriptor = os.open(path, os.O_RDWR | how, mode)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        with contextlib.suppress(OSError):
            both = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(both, descriptor, inheritable=False)
            _close(both)
    os.set_blocking(descriptor, True)  # programs that inherit it expect that
    return descriptor


def replace(descriptor: int, opened: int, inheritable: bool = False) -> None:
    """Have *descriptor* be what was *opened*, which is closed. Raises OSError."""
    try:
        os.dup2(opened, descriptor, inheritable=inheritable)
    finally:
        _close(opened)


# -- the process's own two

STDOUT = Output(1)
STDERR = Output(2)
#: the streams that `take_over` has replaced: name, before, ours
_taken: list[tuple[str, Any, Any]] = []


def say(text: str) -> None:
    """Write *text* to stderr, wherever that goes now."""
    stream: Any = sys.stderr
    usual: Any = sys.__stderr__
    if stream is usual is not None:
        STDERR.write(text.encode(stream.encoding, "backslashreplace"))
        return
    try:
        stream.write(text)
        stream.flush()
    except (AttributeError, OSError, ValueError):
        pass


class Saying(io.TextIOBase):
    """A text stream for which `say` does the work."""

    def write(self, text: str) -> int:
        """Take it."""
        say(text)
        return len(text)


class _Raw(io.RawIOBase):
    """What is below a text stream."""

    #: as `sys.stdout` has one
    name = "output"

    def __init__(self, output: Output) -> None:
        self._output = output

    def fileno(self) -> int:
        return self._output.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._output.descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._output.write(taken)
        return len(taken)

    def close(self) -> None:
        """Stays open: the descriptor belongs to the process."""


def take_over(*names: str) -> None:
    """Have the interpreter's streams *names* (``stdout``, ``stderr``) wait for nobody until `give_back`.

    For a process whose main thread must never stop. What somebody has put in their place is left alone.
    """
    for name in names:
        output = STDOUT if name == "stdout" else STDERR
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        ours = io.TextIOWrapper(_Raw(output), encoding=stream.encoding, errors=stream.errors, line_buffering=True,
                                write_through=getattr(stream, "write_through", False))
        output.attach()
        _taken.append((name, stream, ours))
        setattr(sys, name, ours)


def give_back(seconds: float = 0.0) -> None:
    """The end of `take_over`; what waits is given so many *seconds*."""
    while _taken:
        name, stream, ours = _taken.pop()
        with contextlib.suppress(OSError, ValueError):
            ours.flush()
        if getattr(sys, name) is ours:
            setattr(sys, name, stream)
    for output in (STDOUT, STDERR):
        output.finish(seconds)
