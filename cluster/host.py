"""Facts about the machine and about who started us."""

from __future__ import annotations

import _thread
import errno
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .system import close_descriptor

#: programs whose only work is to be process 1 of a container
CONTAINER_INITS = frozenset({"tini", "tini-static", "dumb-init", "docker-init", "catatonit"})
#: service managers that wait for their child and know of no other: supervisord, runit, s6, daemontools
SUPERVISORS = frozenset({"supervisord", "runsv", "runsvdir", "s6-supervise", "supervise"})


def cpus(read: Callable[[str], str] | None = None) -> int:
    """CPUs that this process may use: affinity and the container's CPU quota counted, rounded up, at least 1."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(read or _read)
    if quota is not None:
        available = min(available, math.ceil(quota))
    return max(1, available)


#: more than any process here opens; a limit of a thousand million makes programs slow that close "all" descriptors
_MANY_DESCRIPTORS = 1 << 20


def raise_descriptor_limit() -> int:
    """Let this process, and those it starts, have as many descriptors as it may. Returns how many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MANY_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft  # what the system calls unlimited is less than it gives (macOS)
    return wanted


def cpu_quota(read: Callable[[str], str]) -> float | None:
    """CPUs that the control groups (version 2 or 1) grant, or None when they set no limit.

    *read* returns a file's text, or "" when there is none. The smallest limit on the way up counts.
    """
    lowest: float | None = None
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            root, version = "/sys/fs/cgroup", 2
        elif "cpu" in controllers.split(","):
            root, version = "/sys/fs/cgroup/" + controllers, 1
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            granted = _granted("/".join([root, *parts[:depth]]), version, read)
            if granted is not None:
                lowest = granted if lowest is None else min(lowest, granted)
    return lowest


def _granted(directory: str, version: int, read: Callable[[str], str]) -> float | None:
    if version == 2:
        words = read(directory + "/cpu.max").split()
        quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "0")
    else:
        quota = read(directory + "/cpu.cfs_quota_us").strip()
        period = read(directory + "/cpu.cfs_period_us").strip()
    try:
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except ValueError:
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def in_development() -> bool:
    """Whether somebody is at work on the service: `CLUSTER_ENV` says so, or says nothing and stderr is a terminal."""
    given = os.environ.get("CLUSTER_ENV")
    if given:
        return given == "development"
    try:
        return os.isatty(2)
    except OSError:
        return False


def has_terminal() -> bool:
    """Whether this process has a controlling terminal now."""
    try:
        close_descriptor(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENOENT, errno.ENODEV)  # others say nothing about it
    return True


def in_foreground() -> bool:
    """Whether this process has a controlling terminal and is in its foreground group: Ctrl-C there is for us."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        close_descriptor(terminal)


class Surroundings(NamedTuple):
    """Who started the cluster, as far as that decides what signals and a restart mean."""

    #: somebody manages this process as a service, and asks it to end by TERM
    managed: bool
    #: whoever watches our pid would take a new master for a crash
    watched: bool
    #: started in the foreground of a terminal
    foreground: bool


#: decided once, by the first master
_surroundings: Surroundings | None = None


def surroundings() -> Surroundings:
    """Who started the cluster: what the first master found, in every master after it."""
    global _surroundings
    if _surroundings is None:
        _surroundings = look_around(os.getpid(), os.getppid(), os.environ, _read, in_foreground())
    return _surroundings


def take_on(found: Any) -> None:
    """Have `surroundings` be what the old master has handed on."""
    global _surroundings
    if isinstance(found, Mapping):
        _surroundings = Surroundings(*(found.get(field) is True for field in Surroundings._fields))


def look_around(
    pid: int, parent: int, environment: Mapping[str, str], read: Callable[[str], str], foreground: bool
) -> Surroundings:
    """Decide it from facts. *read* returns a file's text, or "" when there is none."""
    name = read(f"/proc/{parent}/comm").strip()
    under_systemd = environment.get("SYSTEMD_EXEC_PID") == str(pid) or (
        "INVOCATION_ID" in environment and name == "systemd"
    )
    one_pid = pid == 1 or name in CONTAINER_INITS | SUPERVISORS or _is_supervisord(parent, environment, read)
    watched = one_pid or (under_systemd and not environment.get("NOTIFY_SOCKET"))
    return Surroundings(one_pid or under_systemd, watched, foreground)


def _is_supervisord(parent: int, environment: Mapping[str, str], read: Callable[[str], str]) -> bool:
    # started as `python supervisord` or `python -m supervisor.supervisord`, its name is python
    if "SUPERVISOR_ENABLED" not in environment:
        return False  # its children have that, and theirs, too
    words = read(f"/proc/{parent}/cmdline").split("\0")
    return any(word.rpartition("/")[2] in ("supervisord", "supervisor.supervisord") for word in words)


def restart_reloads(mode: str) -> bool:
    """Whether a restart replaces the workers only. *mode*: the setting `restart`."""
    return mode == "reload" or (mode == "auto" and surroundings().watched)


def in_main_thread() -> bool:
    """Whether this is the thread that the process began with, or that forked it; True where nobody knows."""
    return sys.platform != "linux" or _thread.get_native_id() == os.getpid()


def process_age() -> float:
    """Seconds since this process was forked, to a hundredth; 0 where the system does not tell.

    Not from psutil: it counts from the time of boot, which the kernel gives in whole seconds.
    """
    try:
        ticks = int(_read("/proc/self/stat").rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (IndexError, ValueError, AttributeError, OSError):
        return 0.0


def script_directory() -> str:
    """The directory of the script that is being run, or of the archive that it is in; else the current one."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    found = os.path.dirname(os.path.abspath(path)) if path else os.getcwd()
    while not os.path.isdir(found) and found != os.path.dirname(found):
        found = os.path.dirname(found)
    return found


def fill_standard_descriptors() -> None:
    """Open /dev/null on each of 0, 1 and 2 that is closed, so that no socket of ours lands there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                close_descriptor(opened)
            os.set_inheritable(descriptor, True)
