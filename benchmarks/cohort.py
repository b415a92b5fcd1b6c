"""`viscera collect` on drawn results: seconds and peak memory of the command in processes of its own, and the sizes of its files.

    python -m benchmarks.cohort [--scans 2000 --organs 5] [--rounds 3]
    python -m benchmarks.cohort --cluster [--scans 200]           what --cluster costs (cluster_cost.py)
    python -m benchmarks.cohort --model                           how larger ones would do (cluster_model.py)

Of each round: a first run (table and page), a second one after one result has changed, and one with nothing new. Drawn NAME.json
hold what `viscera predict --statistics` writes of an organ; no label maps stand beside them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.machine import ROOT, facts, save

ORGANS = {
    "liver": 1500,
    "spleen": 220,
    "kidney_left": 170,
    "kidney_right": 165,
    "stomach": 300,
    "aorta": 120,
    "spinal_cord": 40,
}
"""{organ: median volume in ml}"""
MOST_SEGMENTED = 200
"""Scans, where they are segmented."""


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort", description=__doc__.split("\n")[0])
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--organs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cluster", action="store_true", help="what viscera predict --cluster costs, instead")
    parser.add_argument(
        "--model", action="store_true", help="how larger clusters would do, from that; measures nothing"
    )
    options = parser.parse_args()
    if options.model:
        from benchmarks.cluster_model import model

        model()
        return
    if options.cluster:
        measure_cluster(min(options.scans, MOST_SEGMENTED), options.rounds)
        return
    organs = [*ORGANS][: options.organs]
    with tempfile.TemporaryDirectory() as place:
        results = Path(place, "results")
        sizes = [write_result(results, number, organs) for number in range(options.scans)]
        table = "cohort.parquet" if find_spec("pyarrow") else "cohort.csv"
        rounds = [one_round(Path(place, f"round{number}"), results, table, organs) for number in range(options.rounds)]
    found = facts("pyarrow") if find_spec("pyarrow") else facts()
    found |= {
        "scans": options.scans,
        "organs": len(organs),
        "rows": options.scans * len(organs),
        "rounds": options.rounds,
    }
    found |= {"json_mib": round(sum(sizes) / 2**20, 1), "table": table}
    found |= {
        run: {key: round(statistics.median(one[run][key] for one in rounds), 2) for key in rounds[0][run]}
        for run in rounds[0]
    }
    print(json.dumps(found, indent=2))
    save("cohort", found)


def measure_cluster(scans: int, rounds: int) -> None:
    """Measure what a cluster costs, and save it."""
    from benchmarks.cluster_cost import measure

    with tempfile.TemporaryDirectory() as place:
        found = facts("distributed", "openvino") | measure(Path(place), scans=scans, rounds=rounds)
    print(json.dumps(found, indent=2))
    save("cluster", found)


def one_round(folder: Path, results: Path, table: str, organs: list[str]) -> dict[str, dict[str, float]]:
    """Return what each run costs, and how large the files are."""
    folder.mkdir()
    outputs = ["--out", str(folder / table), "--html", str(folder / "cohort.html")]
    found = {"first": run(results, *outputs)}
    write_result(results, 0, organs, again=time.time_ns())
    found["changed"] = run(results, *outputs, "--overwrite")
    found["nothing_new"] = run(results, *outputs)
    files = {"table_mib": table, "page_mib": "cohort.html", "index_mib": f".{table}.read.jsonl"}
    found["files"] = {key: (folder / name).stat().st_size / 2**20 for key, name in files.items()}
    shutil.rmtree(folder)
    return found


def run(results: Path, *options: str) -> dict[str, float]:
    """Run the command in a new process; return its seconds, CPU seconds and peak memory."""
    command = [sys.executable, "-m", "viscera.cli", "collect", str(results), *options]
    begun = time.perf_counter()
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": paths})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"wall_s": time.perf_counter() - begun, "cpu_s": cpu_s, "peak_mib": usage.ru_maxrss / 1024}


def write_result(folder: Path, number: int, organs: list[str], *, again: int = 0) -> int:
    """Write a drawn NAME.json, each time that it is drawn ``again`` another one; return its size in bytes."""
    generator, name = np.random.default_rng((number, again)), f"case_{number:06d}"
    flag = {"kind": "volume", "value": 9.9, "expected": "100 to 200 ml", "message": "9.9 ml are less than an adult has"}
    edge = {"probability": 0.912, "entropy_bits": 0.2, "dropped_fraction": 0.0, "share": 0.5, "border": 0.25}
    measured = {"pieces": 1, "largest_fraction": 1.0, "slice_agreement": 0.9312, **edge}
    run_facts = {
        "scan": f"{name}_0000.nii.gz",
        "scan_sha256": f"{number:064x}",
        "label_map": f"{name}.nii.gz",
        "made_with": {"results": 2, "weights_sha256": "ab" * 32, "organs": organs, "settings_sha256": ["cd" * 32]},
        "date": "2026-11-27T17:29:20+01:00",
        "viscera": "0.2.0",
        "recipe": "starter",
        "weights": "starter",
        "weights_version": "2",
        "weights_sha256": "ab" * 32,
        "device": "cpu",
        "runtime": "openvino",
        "precision": "int8",
        "seconds": {"read": 0.25, "prepare": 0.2, "network": 1.5, "postprocess": 0.2, "statistics": 0.3, "write": 0.1},
        "peak_memory_mib": 300.5,
        "shape": [512, 512, 120],
    }
    content = {
        "labels": {str(index): organ for index, organ in enumerate(organs, start=1)},
        "standing": dict.fromkeys(organs, "shipped"),
        "statistics": {
            organ: {
                "volume_ml": round(float(ORGANS[organ] * np.exp(generator.normal(0, 0.25))), 3),
                "mean_hu": round(float(generator.normal(90, 20)), 2),
                "sd_hu": 22.5,
                "touches_border": bool(generator.random() < 0.1),
                "predicted_dice": round(float(generator.uniform(0.7, 1)), 3),
            }
            for organ in organs
        },
        "trust": {
            "scan": [],
            "organs": {organ: [flag] for organ in organs if generator.random() < 0.1},
            "rules": {organ: dict.fromkeys(("one_piece", "not_cut", "side", "volume"), True) for organ in organs},
            "measured": {
                "scan": {"slices": 120, "spacing_mm": [2.5, 0.7, 0.7]},
                "organs": dict.fromkeys(organs, measured),
            },
        },
        "doubts": [],
        "run": run_facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.json").write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
