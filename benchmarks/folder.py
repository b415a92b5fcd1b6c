"""A folder of scans: one after the other, against the next read and the last written while the network works.

Usage: python benchmarks/folder.py RUN [--rounds 5] [--copies 2] [--scans SCAN ...]

Who begins alternates from round to round. Peak memory is of the whole process, so only seconds are compared here.
"""

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from machine import ROOT, alternate, facts, save
from viscera.inference.jobs import ScanJob
from viscera.inference.model import Model, load_model
from viscera.inference.predict import predict_all, predict_file

DATA = ROOT.parent / "shared" / "data"
SCANS = (
    DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz",
    DATA / "hcc_tace" / "HCC_006_LIVER_3PHASE_ct.nii.gz",
    DATA / "msd_spleen" / "spleen_8_ct.nii.gz",
    DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
)


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--scans", type=Path, nargs="*", default=SCANS)
    options = parser.parse_args()
    model = load_model(options.run, accelerator="cpu", runtime="auto")
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        jobs = [
            ScanJob(scan, out / f"{number}_{scan.name}") for number in range(options.copies) for scan in options.scans
        ]
        one_by_one(jobs[:1], model)  # warm
        seconds: dict[str, list[float]] = {"one by one": [], "overlapped": []}
        for number in range(options.rounds):
            rivals = {
                "one by one": (partial(one_by_one, jobs, model), 1),
                "overlapped": (partial(overlapped, jobs, model), 1),
            }
            order = rivals if number % 2 == 0 else dict(reversed(rivals.items()))
            for way, times in alternate(order).items():
                seconds[way] += times
            for file in out.iterdir():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    content = {
        "recipe": model.recipe.name,
        "scans": [scan.name for scan in options.scans],
        "copies": options.copies,
        "rows": [{"way": way, "median_s": median(times), "seconds": times} for way, times in seconds.items()],
        "ratio_of_medians": round(median(seconds["one by one"]) / median(seconds["overlapped"]), 3),
    }
    print(content)
    print(save("folder", facts("torch", "openvino") | content))


def one_by_one(jobs: list[ScanJob], model: Model) -> None:
    """Segment each scan, reading, working and writing in turn."""
    for job in jobs:
        predict_file(job, model)
        job.output.unlink()
        job.sidecar.unlink()


def overlapped(jobs: list[ScanJob], model: Model) -> None:
    """Segment all, as `viscera predict` does."""
    failed = predict_all(jobs, model)
    if failed:
        raise SystemExit(str(failed))
    for job in jobs:
        job.output.unlink()
        job.sidecar.unlink()


if __name__ == "__main__":
    main()
