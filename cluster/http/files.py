"""``wsgi.file_wrapper``: files that the kernel may copy to the socket by itself."""

from __future__ import annotations

import os
import stat
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
        """Descriptor, offset and size of what is left of a regular file; None for anything else."""
        try:
            descriptor = self.filelike.fileno()
            # tell() and not the descriptor's own offset: a buffered reader is ahead of what was taken from it
            offset = self.filelike.tell()
            status = os.fstat(descriptor)
        except (AttributeError, OSError, ValueError):
            return None
        binary = "b" in str(getattr(self.filelike, "mode", "b"))
        if not isinstance(descriptor, int) or not stat.S_ISREG(status.st_mode) or not binary:
            return None
        return descriptor, offset, max(status.st_size - offset, 0)
