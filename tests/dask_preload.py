"""What the workers of tests are made to do, by the names of scans: to die, to take their time, or to find the disk full.

`dask worker --preload` loads it. Notes of deaths go to the folder VISCERA_TEST_NOTES.
"""

import errno
import inspect
import os
import signal
import time
from functools import wraps
from pathlib import Path

from viscera.inference import cluster_worker
from viscera.inference.jobs import ScanJob

NOTES = Path(os.environ.get("VISCERA_TEST_NOTES", "."))
PAUSE_S = float(os.environ.get("VISCERA_TEST_PAUSE_S", "0"))
"""How much longer each scan takes."""
sound_read, sound_write = inspect.unwrap(cluster_worker.read_scan), inspect.unwrap(cluster_worker.write_labels)
"""As they are; Dask may load this file twice."""


@wraps(sound_read)
def read_scan(job: ScanJob, run):
    with (NOTES / "begun.txt").open("a") as notes:
        notes.write(f"{job.scan.name} {os.getpid()}\n")
    if job.scan.name.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PAUSE_S)
    return sound_read(job, run)


@wraps(sound_write)
def write_labels(scan, run):
    full = NOTES / f"full-{scan.job.scan.name}"
    if full.exists():
        full.unlink()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    facts = sound_write(scan, run)
    with (NOTES / "written.txt").open("a") as notes:
        notes.write(f"{scan.job.scan.name} {os.getpid()}\n")
    return facts


if "VISCERA_TEST_NOTES" in os.environ:  # pytest reads this file, too, in search of doctests
    cluster_worker.read_scan, cluster_worker.write_labels = read_scan, write_labels
