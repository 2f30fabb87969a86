"""Files that several processes append to, a line at a time.

Not pipes to the master: a line costs the worker one system call and the master nothing, and nothing is lost or held up
when the master is busy or has died. What is written by one call to a file opened for appending stays together, so a
line is written by one call.
"""

from __future__ import annotations

import io
import os
import stat
from typing import Any

import gevent.monkey

from ..output import Output, open_to_append, replace

#: bytes of an unfinished line that are kept; a longer one may be interleaved with lines of others
LONGEST = 1024 * 1024

_RLock = gevent.monkey.get_original("threading", "RLock")


def append_to(path: str, owner: tuple[int, int] | None = None) -> int:
    """Open *path* for appending, made when missing. *owner*: user and group id it is given to. Raises OSError.

    An owner that is somebody else may have put anything there: no link is followed then, and nothing is given away but
    a regular file that has no other name.
    """
    descriptor = open_to_append(path, 0o644, 0 if owner is None else os.O_NOFOLLOW)
    if owner is not None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.fchown(descriptor, *owner)
    return descriptor


def move(descriptor: int, path: str, inheritable: bool = False, owner: tuple[int, int] | None = None) -> None:
    """Have *descriptor* append to the file that has the name *path* now. Raises OSError; then it is as it was."""
    replace(descriptor, append_to(path, owner), inheritable)


class Lines(io.RawIOBase):
    """Writes whole lines to a descriptor; the beginning of a line waits for its end, also when it is flushed.

    A full disk, or a pipe that nobody reads, loses lines, and a line says how many: a log must not fail a request, nor
    have it wait.
    """

    #: as `sys.stdout` has one
    name = "lines"

    def __init__(self, descriptor: int) -> None:
        self.output = Output(descriptor)
        self.output.attach()
        self._waiting = bytearray()
        self._lock = _RLock()  # native threads of the application print, too

    def fileno(self) -> int:
        """The descriptor."""
        return self.output.descriptor

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes, and write those up to the last line end."""
        taken = bytes(data)
        with self._lock:
            self._waiting += taken
            end = self._waiting.rfind(b"\n") + 1 if len(self._waiting) <= LONGEST else len(self._waiting)
            if end:
                whole = bytes(self._waiting[:end])
                del self._waiting[:end]
                self.output.write(whole)
        return len(taken)

    def finish(self) -> None:
        """Write the last line, even though it has no end; the process is about to end."""
        with self._lock:
            rest = bytes(self._waiting)
            self._waiting.clear()
        if rest:
            self.output.write(rest + b"\n")
        self.output.finish()

    def close(self) -> None:
        """Stays open: the descriptor belongs to the process."""


def text_of(lines: Lines) -> io.TextIOWrapper:
    """A text stream that writes to *lines*, as ``sys.stdout`` should be."""
    return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", write_through=True)
