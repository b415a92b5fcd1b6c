"""Seconds and memory of `viscera predict` with nothing but the installed package: the command as a user says it, in new processes.

Usage: python benchmarks/starter_speed.py [--rounds 5]      (on a quiet machine)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import ROOT, facts, save

DATA = ROOT.parent / "shared" / "data"
SCANS = {
    "HCC_048, 512x512x89": "hcc_tace/HCC_048_portal_venous_ct.nii.gz",
    "LIDC-IDRI-0314, 512x512x275": "lidc/LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
}
WAYS = {"default": (), "--organs all": ("--organs", "all"), "--statistics": ("--statistics",)}


def measure(scan: Path, out: Path, words: tuple[str, ...]) -> dict[str, float]:
    """Segment once: seconds of the whole command and after its start-up, and its peak memory."""
    command = [sys.executable, "-m", "viscera.cli", "predict", str(scan), str(out), "--overwrite", *words]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    whole = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    stages = json.loads(out.with_name("labels.json").read_text())["run"]["seconds"]
    return {"command_s": whole, "scan_s": sum(stages.values()), "peak_mib": usage.ru_maxrss / 1024}


def main() -> None:
    """Alternate the ways, report medians, write benchmarks/results/starter_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        for title, scan in SCANS.items():
            measure(DATA / scan, out, ())  # writes the graph, so that later starts find it
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for way, words in WAYS.items():
                    found[way].append(measure(DATA / scan, out, words))
            for way, runs in found.items():
                medians = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
                rows.append({"scan": title, "way": way, **medians})
    print(save("starter_speed", facts("torch", "openvino") | {"rounds": options.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
