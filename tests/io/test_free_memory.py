"""Memory that a process may still take: what control groups of both versions leave, and the machine itself."""

import psutil
import pytest

from small_files import files
from viscera.io.free_memory import MIB, free_memory_mib, group_room_mib

V2 = "0::/jobs/one\n"
V1 = "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n"


@pytest.mark.parametrize(
    ("contents", "room"),
    [
        ({}, []),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/jobs/one/memory.max": "max\n",
                "sys/fs/cgroup/jobs/one/memory.current": "5\n",
            },
            [],
        ),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/jobs/one/memory.max": f"{100 * MIB}\n",
                "sys/fs/cgroup/jobs/one/memory.current": f"{70 * MIB}\n",
                # files that can be dropped are room
                "sys/fs/cgroup/jobs/one/memory.stat": f"anon 1\ninactive_file {20 * MIB}\nactive_file 7\n",
                # what the group is in counts as well
                "sys/fs/cgroup/jobs/memory.max": f"{200 * MIB}\n",
                "sys/fs/cgroup/jobs/memory.current": f"{300 * MIB}\n",
            },
            [50.0, 0.0],
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{64 * MIB}\n",
                "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": f"{48 * MIB}\n",
                "sys/fs/cgroup/memory/docker/abc/memory.stat": f"total_inactive_file {8 * MIB}\n",
            },
            [24.0, 24.0],  # the controller's folder is both of the places where it may be
        ),
    ],
)
def test_room_in_control_groups(tmp_path, contents, room):
    assert sorted(group_room_mib(files(tmp_path, contents)), reverse=True) == room


def test_the_least_of_machine_and_groups_counts(tmp_path):
    root = files(
        tmp_path,
        {
            "proc/self/cgroup": V2,
            "sys/fs/cgroup/memory.max": f"{3 * MIB}\n",
            "sys/fs/cgroup/memory.current": f"{MIB}\n",
        },
    )
    assert free_memory_mib(root) == 2.0
    assert 0 < free_memory_mib() <= psutil.virtual_memory().total / MIB
