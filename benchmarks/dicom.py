"""`viscera predict` from DICOM beside the same scan as NIfTI: label maps, seconds and memory; SEG and RTSTRUCT by their size.

    python -m benchmarks.dicom [--rounds 5]

plastimatch (Debian) writes the real scans as DICOM; each way is a new process, in turn. benchmarks/results/dicom.json.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.machine import DATA, facts, save

SCANS = {
    "HCC_006, 512x512x109": "hcc_tace/HCC_006_LIVER_3PHASE_ct.nii.gz",
    "HCC_048, 512x512x89": "hcc_tace/HCC_048_portal_venous_ct.nii.gz",
    "LIDC-IDRI-0314, 512x512x275": "lidc/LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
}
WAYS = {
    "NIfTI": (),
    "DICOM": (),
    "DICOM, SEG and RTSTRUCT": ("--write", "seg", "rtstruct"),
    "DICOM, label map SEG": ("--write", "seg", "--seg-type", "labelmap"),
}


def main() -> None:
    """Time every way for every scan, compare the label maps, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in SCANS.items():
            found[name] = measure(DATA / path, Path(folder), rounds)
            print(name, json.dumps(found[name]))
    save("dicom", facts("torch", "pydicom", "highdicom") | {"rounds": rounds, "scans": found})


def measure(scan: Path, folder: Path, rounds: int) -> dict[str, object]:
    """Return what each way takes (medians), and whether the label maps are the same."""
    series = folder / "series"
    shutil.rmtree(series, ignore_errors=True)
    convert = ["plastimatch", "convert", "--input", str(scan), "--output-dicom", str(series)]
    subprocess.run(convert, check=True, capture_output=True)
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):  # the first one warms the disk's cache, and is left out
        for way, options in WAYS.items():
            out = folder / "out" / way
            shutil.rmtree(out, ignore_errors=True)
            taken[way].append(run(scan if way == "NIfTI" else series, out / "scan.nii.gz", *options))
    maps = {way: upright(folder / "out" / way / "scan.nii.gz") for way in WAYS}
    return {
        "equal_label_maps": all(bool((labels == maps["NIfTI"]).all()) for labels in maps.values()),
        "labelled_voxels": int(np.count_nonzero(maps["NIfTI"])),
        "ways": {
            way: {
                **{key: round(statistics.median(row[key] for row in rows[1:]), 2) for key in rows[0]},
                "objects_mb": {
                    file.name.split(".")[1]: round(file.stat().st_size / 1e6, 2)
                    for file in sorted((folder / "out" / way).glob("*.dcm"))
                },
            }
            for way, rows in taken.items()
        },
    }


def run(scan: Path, out: Path, *options: str) -> dict[str, float]:
    """Run the command in a new process; return its wall seconds, CPU seconds and peak memory (MiB)."""
    command = [sys.executable, "-m", "viscera.cli", "predict", str(scan), str(out), *options]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said.decode())
    wall = time.perf_counter() - begun
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def upright(file: Path) -> np.ndarray:
    """Return a label map turned to RAS+, however its file is ordered."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
