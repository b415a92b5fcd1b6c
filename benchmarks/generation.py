"""How fast synthetic patients are made, on one core and on two, and whether that keeps a training on the same cores busy.

Usage: python benchmarks/generation.py [--rounds 3] [--patients 8] [--shape 96 160 160] [--template LABELS.nii.gz [SCAN.nii.gz]]
       [--training-slices-per-s 80] [--out generation]

Rich procedural patients; patients of a template, where one is given; and cases, made, prepared for the recipe starter and written
as `viscera train --fresh.patients` does. Every process computes with one thread. The training's rate is the fastest of
training_cpu.json at 128x128 unless it is given.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from machine import RESULTS, facts, save
from viscera.cli.templates import read_templates
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.learning.synthetic_patients import FIRST, make_fresh
from viscera.preparation.store import Store
from viscera.recipes.catalogue import find_recipe
from viscera.synthesis.variety import RICH

MOST_CORES = 2


def make(cohort: Cohort, number: int) -> float:
    """Make a patient; give this process's peak memory in MiB."""
    make_patient(cohort, number)
    return getrusage(RUSAGE_SELF).ru_maxrss / 2**10


def make_case(cohort: Cohort, number: int, place: Store) -> float:
    """Make a case, as a training does; give this process's peak memory in MiB."""
    make_fresh(place, cohort, FIRST + number, name=f"{number:06d}")
    return getrusage(RUSAGE_SELF).ru_maxrss / 2**10


def seconds(
    pool: ProcessPoolExecutor, work: Callable[..., float], tasks: Sequence[tuple[object, ...]]
) -> tuple[float, float]:
    """Time tasks; give their seconds together and the most memory that a process had by then, in MiB."""
    start = time.perf_counter()
    peaks = [task.result() for task in [pool.submit(work, *arguments) for arguments in tasks]]
    return time.perf_counter() - start, max(peaks)


def measure(cohort: Cohort, *, patients: int, rounds: int, prepared: bool) -> list[dict[str, object]]:
    """Give a row for each number of cores; each in its own processes, which have made a patient before they are timed."""
    rows, recipe = [], find_recipe("starter")
    for cores in range(1, min(MOST_CORES, os.cpu_count() or 1) + 1):
        found, peak = [], 0.0
        with (
            ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool,
            tempfile.TemporaryDirectory() as folder,
        ):
            for number in range(rounds + 1):
                place = Store(Path(folder) / str(number), recipe.space, recipe.preparation)
                (place.path / "cases").mkdir(parents=True)
                tasks = [(cohort, one, place)[: 3 if prepared else 2] for one in range(1, patients + 1)]
                taken, peak = seconds(pool, make_case if prepared else make, tasks)
                found.append(taken / patients)
        each = statistics.median(found[1:])
        rows.append(
            {
                "cores": cores,
                "patients_per_s": round(1 / each, 3),
                "slices_per_s": round(cohort.shape[0] / each, 1),
                "seconds_per_patient": [round(one, 3) for one in found[1:]],
                "peak_mib_of_a_process": round(peak),
            }
        )
    return rows


def training_rate() -> float:
    """Give the slices per second of the fastest training in training_cpu.json, at 128x128."""
    rows = json.loads((RESULTS / "training_cpu.json").read_text())["rows"]
    return max(row["slices_per_s"] for row in rows if row["slice"].startswith("128x128"))


def main() -> None:
    """Measure one kind of patients after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=8, help="in each round")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 160, 160))
    parser.add_argument("--template", type=Path, nargs="+", default=[], help="a label map, and its scan")
    parser.add_argument("--training-slices-per-s", type=float)
    parser.add_argument("--out", default="generation", help="benchmarks/results/OUT.json")
    options = parser.parse_args()
    z, y, x = options.shape
    cohort = Cohort("nnunet", seed=0, shape=(z, y, x), variety=RICH)
    kinds = {"procedural": cohort}
    if options.template:
        kinds["template"] = replace(cohort, templates=read_templates(options.template[:1], options.template[1:]))
    trained = options.training_slices_per_s or training_rate()
    rows = []
    for name, kind in kinds.items():
        for prepared in (False, True):
            for row in measure(kind, patients=options.patients, rounds=options.rounds, prepared=prepared):
                what = "made, prepared and written" if prepared else "made"
                times = round(float(str(row["slices_per_s"])) / trained, 2)
                rows.append({"patients": name, "what": what} | row | {"times_training": times})
    settings = {"shape": options.shape, "patients": options.patients, "recipe": "starter"}
    content = facts("numpy", "opencv-python-headless") | settings | {"training_slices_per_s": trained, "rows": rows}
    print(save(options.out, content))


if __name__ == "__main__":
    main()
