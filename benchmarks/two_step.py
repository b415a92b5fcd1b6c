"""gao2step on synthetic FLARE patients with tumours: both networks, unseen patients, and what the middle-slices cut costs.

    python benchmarks/two_step.py WORK        (goes on where it stopped; each training takes half an hour of a core)

All networks are the small ones (3 mm voxels, width 16, patches of 64); that of tumours begins with the weights of that of
organs. The same weights then segment unseen patients, and scans of 55 to 499 slices in four ways: only the middle 50 slices (as
published), only the windows that hold organs (found by a third network, or by a first pass of the first), and every window.
Scores are FLARE's own (evaluate --mode flare) with viscera's beside them.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from arms import Arm, train_all, viscera
from machine import facts, save
from viscera.config import Recipe
from viscera.datasets.layouts import find_sources
from viscera.labels import TUMOUR
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.recipes.catalogue import RECIPES

COHORTS = {"training": (40, 1), "training_tumour": (200, 3001), "test": (8, 1001)}
"""{folder: (patients, seed)}. The 100 tumours of 40 patients are learnt by heart: on others the network then finds none."""
TUMOUR_PLAN = {"visits_per_slice": 0.8, "epochs": 16, "learning_rate": 1e-3}
"""Of 200 patients; as many steps per epoch as the organs' network takes."""
SHAPE = (128, 160, 160)
SLICES = (55, 100, 150, 215, 334, 448, 499)
"""Of the scans of the paper's table 5, without its last, 554."""
REGIONS = ("middle", "finder", "find", "whole")
"""finder: with the third network; find: by a first pass of the first."""
RECIPE_NAMES = {"organs": "gao2step-small", "tumour": "gao2step-tumour-small", "finder": "gao2step-finder-small"}
ORGAN_SCORES = ("flare_dice", "flare_nsd", "dice", "nsd")


def make_data(work: Path) -> None:
    """Write training patients, unseen ones, and unseen scans of every number of slices."""
    for name, (cases, seed) in COHORTS.items():
        _synth(work / name, cases=cases, seed=seed, shape=SHAPE)
    for slices in SLICES:
        _synth(work / "lengths" / str(slices), cases=1, seed=2000 + slices, shape=(slices, 192, 192))


def _synth(folder: Path, *, cases: int, seed: int, shape: Sequence[int]) -> None:
    if not (folder / "done").exists():
        viscera(
            *("synth", folder, "--layout", "flare", "--cases", cases, "--seed", seed),
            *("--shape", *shape, "--tumours"),
        )
        (folder / "done").touch()


def make_store(work: Path, name: str, recipe: Recipe, *, cohort: str = "training") -> Path:
    """Prepare training patients for a recipe; a tenth of them is for validation."""
    sources, _ = find_sources("flare", work / cohort)
    plan = Plan(jobs=2, fractions=Fractions(training=0.9, validation=0.1, test=0.0))
    prepare_store(work / name, sources, space=recipe.space, preparation=recipe.preparation, plan=plan)
    return work / name


def predict(work: Path, scans: Path, output: Path, region: str) -> None:
    """Segment a folder of scans with both networks."""
    if not (output / "done").exists():
        viscera(
            *("predict", scans, output, "--weights", work / "run_organs", "--tumour", work / "run_tumour"),
            *(("--finder", work / "run_finder") if region == "finder" else ("--region", region)),
            "--overwrite",
        )
        (output / "done").touch()


def scores(truth: Path, predictions: Path) -> dict[str, object]:
    """Give FLARE's and viscera's scores: mean over organs, of the tumour, and by organ."""
    file = predictions / "scores.json"
    if not file.exists():
        viscera("evaluate", f"flare={truth}", predictions, "--mode", "flare", "--json", file, "--jobs", 1)
    rows = json.loads(file.read_text())["cases"]
    organs = sorted({row["organ"] for row in rows} - {TUMOUR})

    def mean(metric: str, chosen: Sequence[str]) -> float | None:
        """Average over the cases of each organ, then over organs."""
        of_organs = [[row[metric] for row in rows if row["organ"] == organ] for organ in chosen]
        known = [[value for value in values if value is not None] for values in of_organs]
        return round(statistics.mean(statistics.mean(values) for values in known if values), 4)

    return {
        "organs": {metric: mean(metric, organs) for metric in ORGAN_SCORES},
        "tumour": {metric: mean(metric, [TUMOUR]) for metric in ORGAN_SCORES},
        "by_organ": {organ: {metric: mean(metric, [organ]) for metric in ORGAN_SCORES} for organ in organs},
    }


def cost(predictions: Path) -> list[Mapping[str, object]]:
    """Give what each scan took, from the files beside the label maps."""
    runs = [json.loads(file.read_text())["run"] for file in sorted(predictions.glob("FLARE_*.json"))]
    return [run["efficiency"] | {"shape": run["shape"], "stages": run["seconds"]} for run in runs]


def lengths(work: Path) -> list[dict[str, object]]:
    """Segment the scans of each number of slices in each way: the paper's table 5, with accuracy beside it."""
    rows = []
    for slices in SLICES:
        truth = work / "lengths" / str(slices)
        row: dict[str, object] = {"slices": slices}
        for region in REGIONS:
            output = work / f"predictions_{region}" / str(slices)
            predict(work, truth / "imagesTr", output, region)
            found, (taken,) = scores(truth, output), cost(output)
            row[region] = {
                "dice": found["organs"]["dice"],
                "nsd": found["organs"]["nsd"],
                "tumour_dice": found["tumour"]["dice"],
                "seconds": taken["seconds"],
                "peak_memory_mib": taken["peak_memory_mib"],
                "stages": taken["stages"],
            }
        rows.append(row)
    return rows


def main(work: Path) -> None:
    """Do everything that is not done yet, and write both results."""
    make_data(work)
    recipes = {name: RECIPES[recipe] for name, recipe in RECIPE_NAMES.items()}
    tumour = recipes["tumour"]
    recipes["tumour"] = replace(tumour, training=replace(tumour.training, **TUMOUR_PLAN))
    stores = {
        "organs": make_store(work, "store_organs", recipes["organs"]),
        "tumour": make_store(work, "store_tumour", tumour, cohort="training_tumour"),
    }
    organs, finder = (Arm(recipes[name], stores["organs"], work / f"run_{name}") for name in ("organs", "finder"))
    train_all([organs, finder])
    train_all([Arm(recipes["tumour"], stores["tumour"], work / "run_tumour", start=organs.run)])
    predict(work, work / "test" / "imagesTr", work / "predictions", "find")
    logs = {name: _log(work / f"run_{name}") for name in recipes}
    taken = cost(work / "predictions")
    save(
        "two_step",
        facts("torch")
        | {
            "patients": {name: cases for name, (cases, _) in COHORTS.items()} | {"shape": SHAPE},
            "recipes": RECIPE_NAMES,
            "training": logs,
            "scores": scores(work / "test", work / "predictions"),
            "seconds_median": statistics.median(one["seconds"] for one in taken),
            "peak_memory_mib": max(one["peak_memory_mib"] for one in taken),
        },
    )
    save("regions", facts("torch") | {"rows": lengths(work)})


def _log(run: Path) -> dict[str, object]:
    """Say how long a training took."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seconds = sum(row["seconds"] for row in rows)
    return {
        "minutes": round(seconds / 60, 1),
        "steps": rows[-1]["step"],
        "seconds_per_step": round(seconds / rows[-1]["step"], 3),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
