"""A library, loaded before all others, in which the system's waits begin late: what may come right before one, does.

A signal that comes between the interpreter's last look for signals and the wait is rare enough to hide for years.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

#: each waits a moment, and then as it would have; libev uses epoll_wait, Python's line editor select, its sockets recv
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#define LATE(type, name, parameters, arguments) \\
    type name parameters { \\
        static type (*original) parameters; \\
        if (!original) original = (type (*) parameters) dlsym(RTLD_NEXT, #name); \\
        usleep(MICROSECONDS); \\
        return original arguments; \\
    }

#ifdef EPOLL
LATE(int, epoll_wait, (int fd, struct epoll_event *events, int most, int wait), (fd, events, most, wait))
#else
LATE(int, select, (int n, fd_set *r, fd_set *w, fd_set *x, struct timeval *wait), (n, r, w, x, wait))
LATE(ssize_t, recv, (int fd, void *buffer, size_t size, int flags), (fd, buffer, size, flags))
#endif
"""


def late(directory: Path, *options: str) -> dict[str, str]:
    """The environment of a program whose waits begin late; compiled with *options*. Empty where nothing compiles."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    source = directory / "late.c"
    source.write_text(SOURCE)
    library = directory / "late.so"
    done = subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl",
                           *(f"-D{option}" for option in options)], capture_output=True, text=True)
    return {"LD_PRELOAD": str(library)} if done.returncode == 0 else {}
