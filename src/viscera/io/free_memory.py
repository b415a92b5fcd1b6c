"""How much memory this process may still take: less than the machine has free where a container or a job scheduler says so."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from viscera.io.control_groups import group_folders, text_of

MIB = 2**20
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of control groups in versions 2 and 1: the limit, what is used, and what of that is files that can be dropped."""


def free_memory_mib(root: Path = Path("/")) -> float:
    """Return the MiB that are available: of the machine and, on Linux, of the limits of this process's control groups.

    Args:
        root: Of the file system; another one in tests.
    """
    return min([psutil.virtual_memory().available / MIB, *group_room_mib(root)])


def group_room_mib(root: Path = Path("/")) -> Iterator[float]:
    """Yield the MiB that are left in this process's control groups and in all groups that they are in.

    Source: kernel.org, Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.current, memory.stat) and
    cgroup-v1/memory.rst.
    """
    for folder in group_folders("memory", root):
        for limit_file, used_file, cached in FILES:
            limit, used = text_of(folder / limit_file).strip(), text_of(folder / used_file).strip()
            if limit.isdecimal() and used.isdecimal():
                rows = (line.split() for line in text_of(folder / "memory.stat").splitlines())
                files = sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == cached and row[1].isdecimal())
                yield max(0, int(limit) - max(0, int(used) - files)) / MIB
