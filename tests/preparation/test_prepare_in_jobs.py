"""viscera prepare --cluster slurm:N over dask-jobqueue, which submits real job scripts; the queue runs them here, at once."""

import os
import stat
import time
from pathlib import Path

import psutil
import pytest

import viscera
from dask_threads import files
from makers import call

pytest.importorskip("dask_jobqueue")
pytest.importorskip("cryptography")

SBATCH = """#!/bin/bash
echo "$@" >> "$QUEUE/submitted"
grep -o "SBATCH.*" "$1" >> "$QUEUE/asked"
if [ -e "$QUEUE/closed" ]; then echo "sbatch: error: invalid partition" >&2; exit 1; fi
cp "$1" "$QUEUE/script-$$"  # whoever submits it removes it at once
setsid bash "$QUEUE/script-$$" > "$QUEUE/job-$$.log" 2>&1 &
echo $! >> "$QUEUE/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
echo "$1" >> "$QUEUE/cancelled"
kill -TERM -- "-$1"
"""
SITE = """
jobqueue:
  slurm:
    cores: 1
    processes: 1
    memory: 2GiB
    queue: short
    walltime: "00:10:00"
    scheduler-options: {host: 127.0.0.1}
    worker-extra-args: ["--host", "127.0.0.1"]
"""


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """A queue that has sbatch and scancel, and runs each job on this machine."""
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "queue").mkdir()
    (tmp_path / "site.yaml").write_text(SITE)
    source = Path(viscera.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "queue"


@pytest.mark.slow
def test_jobs_of_a_queue_prepare_what_one_process_prepares_and_end_with_the_command(queue, tmp_path):
    viscera.synthesize("set", cases=4, shape=(16, 32, 32), annotate=["liver", "spleen"])
    code, said = call("prepare there --data nnunet=set --cluster slurm:2:site.yaml")
    assert code == 0, said
    assert "workers in jobs of slurm" in said or "worker in jobs of slurm" in said
    assert call("prepare here --data nnunet=set --jobs 1")[0] == 0
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert "SBATCH -p short" in (queue / "asked").read_text()
    jobs = (queue / "jobs").read_text().split()
    assert len(jobs) == 2
    assert sorted((queue / "cancelled").read_text().split()) == sorted(jobs)
    assert all("tls://127.0.0.1" in file.read_text() for file in queue.glob("job-*.log"))
    until = time.monotonic() + 30
    while any(psutil.pid_exists(int(job)) for job in jobs):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not list(tmp_path.glob(".*"))  # of the keys nothing is left


@pytest.mark.slow
def test_a_queue_that_takes_no_jobs_ends_the_command(queue, tmp_path):
    viscera.synthesize("set", cases=1, shape=(16, 32, 32), annotate=["liver"])
    (queue / "closed").touch()
    code, said = call("prepare there --data nnunet=set --cluster slurm:2:site.yaml")
    assert code == 2
    assert "sbatch takes no such jobs: sbatch: error: invalid partition. Correct site.yaml." in said
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("slurm:2:gone.yaml", "gone.yaml cannot be read as YAML (FileNotFoundError)"),
        ("slurm:2:other.yaml", "other.yaml is not a configuration of dask-jobqueue"),
        ("slurm:2", "nothing says how much a job of slurm takes: jobqueue.slurm.cores is not set"),
        ("oar:2", "needs oarsub, which is not on this machine"),
    ],
)
def test_what_keeps_jobs_from_being_submitted_is_told_before_any_work(where, message, queue, tmp_path):
    (tmp_path / "other.yaml").write_text("- a list")
    code, said = call(f"prepare there --data nnunet=set --cluster {where}")
    assert (code, message in said) == (2, True), said
    assert not (queue / "submitted").exists()
