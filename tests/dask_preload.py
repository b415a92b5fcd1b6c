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

from viscera.evaluation import on_cluster as scoring
from viscera.inference import cluster_worker
from viscera.inference.jobs import ScanJob
from viscera.preparation import on_cluster as preparing

NOTES = Path(os.environ.get("VISCERA_TEST_NOTES", "."))
PAUSE_S = float(os.environ.get("VISCERA_TEST_PAUSE_S", "0"))
"""How much longer each scan takes."""
sound_read, sound_write = inspect.unwrap(cluster_worker.read_scan), inspect.unwrap(cluster_worker.write_labels)
"""As they are; Dask may load this file twice."""
sound_attempt, sound_score = inspect.unwrap(preparing.attempt), inspect.unwrap(scoring.score_or_tell)


def begin(name: str) -> None:
    """Note that a scan or a case has been begun; one called so is a worker's death."""
    with (NOTES / "begun.txt").open("a") as notes:
        notes.write(f"{name} {os.getpid()}\n")
    if name.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PAUSE_S)


@wraps(sound_read)
def read_scan(job: ScanJob, run):
    begin(job.scan.name)
    return sound_read(job, run)


@wraps(sound_attempt)
def attempt(store, source):
    begin(source.name)
    return sound_attempt(store, source)


@wraps(sound_score)
def score_or_tell(rules, labels, case):
    begin(case[0].case)
    return sound_score(rules, labels, case)


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
    preparing.attempt, scoring.score_or_tell = attempt, score_or_tell
