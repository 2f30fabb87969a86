"""``wsgi.file_wrapper``: files that the kernel may copy to the socket by itself."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any


class FileWrapper:
    """An iterable over a file-like object, in blocks; `close` closes that object."""

    def __init__(self, filelike: Any, block_size: int = 65536) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block_size)
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

    def span(self) -> tuple[int, int, int] | None:
        """Descriptor, offset and size of what is left of a regular file; None for anything else, and for an empty one.

        A size of 0 need not be true: in /proc all files have it, and only reading tells what is in them.

        Only for what open() gives: whatever else has a descriptor may read something other than what is in the file,
        as bz2 does.
        """
        file = self.filelike
        if "tempfile" in sys.modules and type(file) is sys.modules["tempfile"]._TemporaryFileWrapper:
            file = file.file
        raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
        if type(raw) is not io.FileIO:
            return None
        try:
            descriptor = file.fileno()
            # tell() and not the descriptor's own offset: a buffered reader is ahead of what was taken from it
            offset = file.tell()
            status = os.fstat(descriptor)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        return descriptor, offset, max(status.st_size - offset, 0)
