"""What --cluster costs: the same small scans by one process, and by one and two workers of a cluster on this machine, in turn.

benchmarks/cohort.py --cluster measures and saves it. Starting processes and loading networks is not counted. Also what a piece of
work costs that does nothing, which is all that Dask and our handing out take.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil

from viscera.inference.jobs import find_scan_jobs
from viscera.inference.loading import Networks, load_networks
from viscera.inference.on_cluster import predict_on_cluster
from viscera.inference.predict import predict_all
from viscera.inference.run import PredictOptions
from viscera.io import nifti
from viscera.io.cluster_sharing import share_out_over
from viscera.io.clusters import Address, Cluster, joined
from viscera.synthesis.patient import synthesize
from viscera.volume import Volume

SHAPE, SPACING_MM = (6, 24, 24), (5.0, 4.0, 4.0)
"""Small, so that what a cluster adds is not lost in what scans take."""
PATIENTS = 10
"""Different ones; the rest are copies."""
WORKERS = (1, 2)
PRECISION = "fp32"


def measure(place: Path, *, scans: int, rounds: int) -> dict[str, object]:
    """Return seconds and CPU seconds per scan of each way, medians of the rounds.

    Args:
        place: An empty folder.
        scans: How many.
        rounds: Of all ways in turn.
    """
    write_scans(place / "scans", scans)
    write_scans(place / "few", 2 * max(WORKERS))
    networks = Networks(device="cpu", cores=1, precision=PRECISION)
    model, options = load_networks(networks), PredictOptions()
    found: dict[str, list[tuple[float, float]]] = {}
    maps: dict[str, set[bytes]] = {}
    with ExitStack() as stack:
        clusters = {f"{count}_workers": stack.enter_context(joined(Address(local=count))) for count in WORKERS}

        def here(out: Path, folder: Path) -> None:
            predict_all(find_scan_jobs(folder, out), model, options=options)

        def there(cluster: Cluster) -> Callable[[Path, Path], object]:
            return lambda out, folder: predict_on_cluster(
                find_scan_jobs(folder, out), model, cluster, networks, options=options
            )

        ways = {"one_process": here} | {name: there(cluster) for name, cluster in clusters.items()}
        for way in ways.values():  # not counted: workers load the networks
            way(place / "warm", place / "few")
            shutil.rmtree(place / "warm")
        for _ in range(rounds):
            for name, way in ways.items():
                out = place / f"out-{name}"
                before, cpu = time.perf_counter(), cpu_s()
                way(out, place / "scans")
                found.setdefault(name, []).append((time.perf_counter() - before, cpu_s() - cpu))
                maps.setdefault(name, set()).add(content(out))
                shutil.rmtree(out)
        nothing = {name: nothing_s(cluster, scans) for name, cluster in clusters.items()}
    per_scan = {
        name: {
            "wall_ms": round(1000 * statistics.median(wall for wall, _ in spent) / scans, 1),
            "cpu_ms": round(1000 * statistics.median(cpu for _, cpu in spent) / scans, 1),
        }
        for name, spent in found.items()
    }
    return {
        "scans": scans,
        "rounds": rounds,
        "shape": list(SHAPE),
        "spacing_mm": list(SPACING_MM),
        "precision": PRECISION,
        "cores_allowed": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "identical_label_maps": len(set().union(*maps.values())) == 1,
        "per_scan": per_scan,
        "overhead_per_scan_ms": {
            key: round(per_scan["1_workers"][key] - per_scan["one_process"][key], 1) for key in ("wall_ms", "cpu_ms")
        },
        "empty_task_ms": {name: round(1000 * seconds / scans, 1) for name, seconds in nothing.items()},
    }


def write_scans(folder: Path, scans: int) -> None:
    """Write small synthetic patients."""
    for number in range(min(PATIENTS, scans)):
        nifti.write(folder / f"p{number:04d}.nii.gz", small_patient(number))
    for number in range(PATIENTS, scans):
        shutil.copy(folder / f"p{number % PATIENTS:04d}.nii.gz", folder / f"p{number:04d}.nii.gz")


def small_patient(number: int) -> Volume:
    """Return a part of a synthetic patient."""
    return synthesize(np.random.default_rng(number), shape=SHAPE, spacing_mm=SPACING_MM).ct


def content(folder: Path) -> bytes:
    """Return all label maps of a folder, one after the other."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob("*.nii.gz")))


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it has started and that still run."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def nothing_s(cluster: Cluster, count: int) -> float:
    """Return the seconds of so many pieces of work that take none."""
    before = time.perf_counter()
    for _ in share_out_over(cluster, abs, range(count)):
        pass
    return time.perf_counter() - before
