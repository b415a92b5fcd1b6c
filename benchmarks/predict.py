"""Segment the real scans of ../shared with a run's weights: seconds per stage, peak memory, one process per scan.

Usage: python benchmarks/predict.py RUN [RUN ...] [--rounds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import ROOT, facts, save
from viscera import nifti
from viscera.checkpoint import find_weights, load_weights

DATA = ROOT.parent / "shared" / "data"
SCANS = (
    "hcc_tace/HCC_048_portal_venous_ct.nii.gz",
    "hcc_tace/HCC_006_LIVER_3PHASE_ct.nii.gz",
    "lidc/LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
)


def main() -> None:
    """Run the command as a user would."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = []
    for run in options.runs:
        recipe = load_weights(find_weights(run)).recipe
        for name in SCANS:
            scan = DATA / name
            rounds = [once(scan, run) for _ in range(options.rounds)]
            stages = {key: statistics.median(r["stages"].get(key, 0) for r in rounds) for key in rounds[0]["stages"]}
            found.append(
                {
                    "scan": Path(name).name.removesuffix(".nii.gz"),
                    "shape": "x".join(map(str, nifti.read(scan).shape[::-1])),
                    "recipe": recipe.name,
                    "file_to_file_s": round(sum(stages.values()), 2),
                    "network_s": round(stages["network"], 2),
                    "stages_s": stages,
                    "command_s": statistics.median(r["command"] for r in rounds),
                    "peak_mib": max(r["peak_mib"] for r in rounds),
                    "rounds": rounds,
                }
            )
            print(found[-1]["scan"], found[-1]["recipe"], found[-1]["file_to_file_s"], found[-1]["peak_mib"])
    print(save("predict", facts("torch") | {"scans": found}))


def once(scan: Path, run: Path) -> dict:
    """Segment one scan in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        start = time.perf_counter()
        words = [sys.executable, "-m", "viscera.cli", "predict", str(scan), str(out), "--weights", str(run)]
        subprocess.run(words, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        facts_ = json.loads(out.with_name("labels.json").read_text())["run"]
    return {"command": round(seconds, 2), "stages": facts_["seconds"], "peak_mib": facts_["peak_memory_mib"]}


if __name__ == "__main__":
    main()
