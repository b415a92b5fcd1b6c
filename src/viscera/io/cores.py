"""How many cores this process may use: fewer than the machine has where an affinity, a container or a job scheduler says so."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from viscera.io.control_groups import group_folders, text_of

THREADS_VARIABLES = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""What torch heeds, the first before the second (ATen/ParallelCommon.cpp, intraop_default_num_threads)."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: by its affinity and, on Linux, the CPU quota of its control groups.

    A quota of one core and a half counts as two: the second is used for half of the time.

    Args:
        root: Of the file system; another one in tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in cpu_quotas(root))]))


def usable_threads(cores: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many threads torch takes by itself, but no more than there are cores for.

    Args:
        cores: That this process may use.
        environment: Where MKL_NUM_THREADS or OMP_NUM_THREADS may stand. Of a list, one number for each level, the first
            counts; what is not positive, or is not a number, is ignored, as torch 2.13 does.
    """
    for name in THREADS_VARIABLES:
        number = re.fullmatch(r"\s*\+?(\d{1,9})\s*(,.*)?", environment.get(name, ""))
        if number and int(number[1]) > 0:
            return min(cores, int(number[1]))
    return cores


def cpu_quotas(root: Path = Path("/")) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of all groups that they are in; on Linux only.

    Source: kernel.org, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cpu.cfs_quota_us).

    Args:
        root: Of the file system.
    """
    for folder in group_folders("cpu", root):
        values = text_of(folder / "cpu.max").split()
        values = values or [
            *text_of(folder / "cpu.cfs_quota_us").split(),
            *text_of(folder / "cpu.cfs_period_us").split(),
        ]
        if len(values) == 2 and all(value.isdecimal() for value in values) and all(map(int, values)):
            yield int(values[0]) / int(values[1])  # no quota: "max" in version 2, -1 in version 1
