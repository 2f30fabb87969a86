"""What the kernel tells about processes: context switches, memory, state. Linux only (`/proc`)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)
_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


def switches(pids: Iterable[int]) -> int:
    """Context switches so far of all threads of these processes, voluntary or not.

    `/proc/PID/status` tells only those of the first thread, so each thread is asked.
    """
    total = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            total += sum(int(count) for count in _SWITCHES.findall(status.read_text()))
    return total


def switches_a_second(pids: list[int], seconds: float) -> float:
    """Context switches per second of these processes over so many seconds from now."""
    before, begun = switches(pids), time.monotonic()
    time.sleep(seconds)
    return (switches(pids) - before) / (time.monotonic() - begun)


def memory(pids: Iterable[int]) -> float:
    """The proportional set size of these processes together, in megabytes of 1,000,000 bytes.

    A page that several processes share counts once among them, so that the sum is what they really take.
    """
    kilobytes = 0
    for pid in pids:
        match = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
        kilobytes += int(match[1]) if match else 0
    return kilobytes * 1024 / 1e6


def processor_time(pids: Iterable[int]) -> float:
    """Seconds of processor time so far of all threads of these processes, in the kernel too."""
    return sum(
        int(tasks.read_text().split()[0]) for pid in pids for tasks in Path(f"/proc/{pid}/task").glob("*/schedstat")
    ) / 1e9


def wait_gone(pids: Iterable[int], timeout: float) -> bool:
    """Waits until none of these processes is left (zombies do not count); False after `timeout` seconds."""
    left = list(pids)
    end = time.monotonic() + timeout
    while left := [pid for pid in left if alive(pid)]:
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def state(pid: int) -> str:
    """The kernel's letter for what a process does: `S` sleeps, `R` runs, `T` is stopped, `Z` a zombie; "" for none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The state follows the name, which is in parentheses and may hold anything.
    return stat.rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    return state(pid) not in ("", "Z", "X")


def session(pid: int) -> int:
    """The session of a process, 0 when there is no such process."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return 0
