"""Train a small recipe on one real patient for minutes, test it on another: ../shared/data, labels by TotalSegmentator.

Usage: python -m benchmarks.archive.real OUT [RECIPE]     (zhang2d-small or gao2step-small; OUT gets data, store, run, predictions)

What this shows is that the way from a real scan to real scores works; one patient is not a training set.
"""

import json
import sys
import time
from pathlib import Path

from benchmarks.machine import DATA, facts, save
from benchmarks.studies.starter import data_set
from viscera.cli.command import main as viscera

SETTINGS = {
    "zhang2d-small": ["--training.epochs", "8", "--training.visits-per-slice", "14", "--training.step-epochs", "3"],
    "gao2step-small": ["--training.epochs", "8", "--training.visits-per-slice", "100"],
}


def run(*words: object) -> None:
    """Say a command; stop where it does not end well."""
    if code := viscera([str(word) for word in words]):
        raise SystemExit(code)


def main() -> None:
    """Prepare, train, predict, evaluate."""
    out, recipe = Path(sys.argv[1]), (sys.argv[2:] or ["zhang2d-small"])[0]
    data_set(out / "one", "ts3mm", DATA / "totalsegmentator_example" / "ts_example_ct_3mm")
    data_set(out / "other", "ts20", DATA / "totalsegmentator_example" / "ts_example_dicom_20slices")
    run("prepare", out / "store", "--data", f"nnunet={out / 'one'}", "--recipe", recipe)
    start = time.perf_counter()
    run("train", recipe, out / "store", out / "run", "--resume", *SETTINGS[recipe])
    minutes = (time.perf_counter() - start) / 60
    run("predict", f"nnunet={out / 'other'}", out / "predictions", "--weights", out / "run", "--overwrite")
    scores = out / "scores.json"
    run("evaluate", f"nnunet={out / 'other'}", out / "predictions", "--json", scores, "--overwrite")
    rows = json.loads(scores.read_text())["cases"]
    organs = [
        {key: row[key] for key in ("organ", "dice", "nsd", "hd95_mm", "truth_ml", "prediction_ml")} for row in rows
    ]
    name = "real" if recipe == "zhang2d-small" else "real_volumes"
    print(save(name, facts("torch") | {"recipe": recipe, "minutes": round(minutes, 1), "organs": organs}))


if __name__ == "__main__":
    main()
