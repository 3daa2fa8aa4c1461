"""How many CPU cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The smaller of the processor affinity and the container's CPU quota, rounded up; at least 1.

    Thread pools that follow the host's cores are throttled by the quota, and latency rises tenfold.
    """
    cores = min(float(len(os.sched_getaffinity(0))), _quota(cgroup))
    return max(1, math.ceil(cores))


def _quota(cgroup: Path) -> float:
    """Cores by the quota of control groups v2 or v1; infinite where there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


def threads_each(setting: int | None) -> int:
    """Threads for the scorer and for the trainer: the setting, OMP_NUM_THREADS, or half of the cores each."""
    if setting is not None:
        return setting
    if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return int(wanted)
    return max(1, usable_cores() // 2)
