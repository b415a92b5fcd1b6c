"""Cores that a process may use: affinity, quotas of control groups in both versions, and what torch heeds."""

import os
import subprocess
import sys

import pytest

from small_files import files
from viscera.io.cores import cpu_quotas, usable_cores, usable_threads

V2 = "0::/jobs/one\n"
V1 = "9:name=systemd:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n"


@pytest.mark.parametrize(
    ("contents", "quotas"),
    [
        ({}, []),
        ({"proc/self/cgroup": V2}, []),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n"}, []),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/jobs/one/cpu.max": "150000 100000\n"}, [1.5]),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n",
                "sys/fs/cgroup/jobs/cpu.max": "50000 50000\n",
            },
            [1.0],  # what the group is in counts as well
        ),
        # A container shows its own group as the root, whatever its path on the machine is.
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "300000 100000\n"}, [3.0]),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            [0.5],
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [],
        ),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/jobs/one/cpu.max": "100000 0\n"}, []),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "half a core\n"}, []),
    ],
)
def test_quotas_of_control_groups_are_read_in_both_versions(tmp_path, contents, quotas):
    assert list(cpu_quotas(files(tmp_path, contents))) == quotas


@pytest.mark.parametrize(("quota", "cores"), [("800000", 8), ("150000", 2), ("100000", 1), ("1000", 1), ("max", 16)])
def test_a_begun_core_counts_and_there_is_always_one(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    root = files(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert usable_cores(root) == cores


def test_an_affinity_counts_and_a_wider_quota_does_not_change_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    root = files(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "800000 100000\n"})
    assert usable_cores(root) == 3


def test_where_there_is_no_affinity_all_cores_are_usable(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6


THREADS = [
    ({}, 4),
    ({"OMP_NUM_THREADS": "1"}, 1),
    ({"OMP_NUM_THREADS": " +2 "}, 2),
    ({"OMP_NUM_THREADS": "2,1"}, 2),
    ({"OMP_NUM_THREADS": "64"}, 4),
    ({"OMP_NUM_THREADS": "0"}, 4),
    ({"OMP_NUM_THREADS": "-1"}, 4),
    ({"OMP_NUM_THREADS": "all"}, 4),
    ({"OMP_NUM_THREADS": ""}, 4),
    ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}, 2),
    ({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}, 1),
]


@pytest.mark.parametrize(("environment", "threads"), THREADS)
def test_threads_are_what_the_variables_say_but_no_more_than_cores(environment, threads):
    assert usable_threads(4, environment) == threads


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another torch, which has other ways")
@pytest.mark.parametrize("environment", [said for said, _ in THREADS])
def test_torch_takes_as_many_threads(environment):
    cores = usable_cores()
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == usable_threads(cores, environment)
