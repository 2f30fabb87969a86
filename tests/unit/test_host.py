"""Counting CPUs: row B5; who has started us: rows R5, W4, W10."""

from __future__ import annotations

import os

import pytest

from cluster.host import Surroundings, cpu_quota, cpus, look_around


@pytest.mark.parametrize(("files", "quota"), [
    ({}, None),
    ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "50000 100000\n",
      "/sys/fs/cgroup/a/b/cpu.max": "200000 100000"}, 0.5),
    ({"/proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/c\n", "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "250000",
      "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000"}, 2.5),
    ({"/proc/self/cgroup": "4:cpu:/\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
      "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
    ({"/proc/self/cgroup": "nonsense\n\n::\n", "/sys/fs/cgroup/cpu.max": "x y"}, None),
])
def test_b5_cpu_quota(files: dict[str, str], quota: float | None) -> None:
    """B5: both versions of control groups, limits of parents, no limit, nonsense."""
    assert cpu_quota(lambda path: files.get(path, "")) == quota


def test_b5_cpus_are_rounded_up_and_at_least_one() -> None:
    """B5: quota rounded up, never more than affinity allows, at least 1."""
    def answer(value: str) -> int:
        files = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": value}
        return cpus(lambda path: files.get(path, ""))

    assert answer("1000 100000") == 1
    assert answer("99900000 100000") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("comm", "cmdline", "environment", "managed", "watched"), [
    ("bash", "", {}, False, False),
    ("tini", "", {}, True, True),
    ("runsv", "", {}, True, True),
    ("s6-supervise", "", {}, True, True),
    ("supervisord", "", {}, True, True),
    ("python3", "/usr/bin/python3\0/usr/bin/supervisord\0-n\0", {"SUPERVISOR_ENABLED": "1"}, True, True),
    ("python3", "python3\0-m\0supervisor.supervisord\0", {"SUPERVISOR_ENABLED": "1"}, True, True),
    ("python3", "python3\0supervisord.py\0", {"SUPERVISOR_ENABLED": "1"}, False, False),
    ("bash", "bash\0", {"SUPERVISOR_ENABLED": "1"}, False, False),
    ("python3", "python3\0supervisord\0", {}, False, False),
    ("systemd", "", {"INVOCATION_ID": "x"}, True, True),
    ("systemd", "", {"INVOCATION_ID": "x", "NOTIFY_SOCKET": "/x"}, True, False),
    ("systemd", "", {}, False, False),
    ("sh", "", {"SYSTEMD_EXEC_PID": "50"}, True, True),
    ("sh", "", {"SYSTEMD_EXEC_PID": "50", "NOTIFY_SOCKET": "/x"}, True, False),
    ("sh", "", {"SYSTEMD_EXEC_PID": "49"}, False, False),
])
def test_who_has_started_us(
    comm: str, cmdline: str, environment: dict[str, str], managed: bool, watched: bool
) -> None:
    """R5, W4, W10: by the parent's name and what it has put into the environment of its own child."""
    files = {"/proc/40/comm": f"{comm}\n", "/proc/40/cmdline": cmdline}
    found = look_around(50, 40, environment, lambda path: files.get(path, ""), True)
    assert found == Surroundings(managed, watched, True)
    assert look_around(1, 0, environment, lambda path: "", False)[:2] == (True, True)
