"""Counting CPUs: row B5."""

from __future__ import annotations

import os

import pytest

from cluster.host import cpu_quota, cpus


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
