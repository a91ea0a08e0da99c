"""What a container is given of its machine. Imports nothing heavy."""

from __future__ import annotations

import math
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where the kernel shows the limits


def most_cores(cgroup: Path = CGROUP) -> float:
    """How many cores' time processes may take; infinite without a limit. Threads beyond that only wait.

    Args:
        cgroup: of version 2 (``cpu.max``) or 1 (``cpu/cpu.cfs_*``).
    """
    most = math.inf
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                most = min(most, max(1, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError):
            continue  # not this version, or no limit
    return most
