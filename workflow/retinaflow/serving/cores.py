"""Processor cores that this process may use."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = CGROUPS) -> int:
    """Return the number of cores by affinity and by the limit of a container (cgroup), at least 1.

    Args:
        cgroups: Folder in which the system shows the limits.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _limit(cgroups))))


def _limit(cgroups: Path) -> float:
    """Cores that a container may use: the quota of CPU time as a share of its period, or infinity without a limit."""
    try:
        try:
            quota, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        except OSError:  # cgroups of version 1
            quota, period = ((cgroups / f"cpu/cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return math.inf
    return share if share > 0 else math.inf
