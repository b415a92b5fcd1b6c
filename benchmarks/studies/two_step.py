"""gao2step on synthetic FLARE patients with tumours: both networks, unseen patients, and what the middle-slices cut costs.

    python -m benchmarks.studies.two_step WORK                 (goes on where it stopped; trains for some three hours of a core)
    python -m benchmarks.studies.two_step WORK --regularised   runet's regularised softmax beside the plain one

The networks of organs and of where to look are the small ones (3 mm voxels, width 16, patches of 64); tumours are found in
slices, by viscera2d-tumour. The same weights then segment unseen patients, and scans of 55 to 499 slices in four ways: only the
middle 50 slices (as published), only the windows that hold organs (found by a third network, or by a first pass of the first),
and every window. Scores are FLARE's own (evaluate --mode flare) with viscera's beside them.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cc3d
import numpy as np

from benchmarks.machine import facts, save
from benchmarks.studies.arms import Arm, run_all, train_all, training_minutes, viscera
from viscera.config import Postprocessing, Recipe, Softmax
from viscera.datasets.layouts import find_sources
from viscera.evaluation.comparing import compare
from viscera.evaluation.lesions import LESION_METRICS
from viscera.evaluation.scores import ALL, evaluation_from_json
from viscera.io import nifti
from viscera.labels import TUMOUR
from viscera.networks.weights import load_weights
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.recipes.catalogue import RECIPES
from viscera.recipes.runet import RUNET_SMALL

COHORTS = {"training": (40, 1), "training_tumour": (200, 3001), "test": (20, 1001)}
"""{folder: (patients, seed)}."""
SHAPE = (128, 160, 160)
TUMOUR_EPOCHS = 8
TUMOUR_FRESH = (
    *("--fresh.patients", 200, "--fresh.only", "--fresh.tumours", "--fresh.variety", "plain"),
    *("--fresh.shape", *SHAPE, "--fresh.jobs", 1),
)
"""Each epoch has 200 other patients: from the same ones over and over fewer tumours of others are found (tumours_joint.json). The
store's say how long an epoch is, and on a tenth of them it is validated."""
SLICES = (55, 100, 150, 215, 334, 448, 499)
"""Of the scans of the paper's table 5, without its last, 554."""
REGIONS = ("middle", "finder", "find", "whole")
"""finder: with the third network; find: by a first pass of the first."""
RECIPE_NAMES = {"organs": "gao2step-small", "tumour": "viscera2d-tumour", "finder": "gao2step-finder-small"}
ORGAN_SCORES = ("flare_dice", "flare_nsd", "dice", "nsd")

SEEDS = (0, 1, 2)
RUNET_EPOCHS = 8
SOFTMAXES = {"plain": Softmax(iterations=0), "regularised": Softmax(iterations=1)}
RUNET_ORGANS = RUNET_SMALL.space.organs


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
    """Return FLARE's and viscera's scores: mean over organs, of the tumour, and by organ."""
    file = predictions / "scores.json"
    if not file.exists():
        viscera("evaluate", f"flare={truth}", predictions, "--mode", "flare", "--json", file, "--jobs", 1)
    found = evaluation_from_json(file.read_text(), where=str(file))
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
        "lesions": {
            row.metric: [None if math.isnan(value) else round(value, 4) for value in (row.mean, row.low, row.high)]
            for row in found.of_group(ALL)
            if row.organ == TUMOUR and row.metric in LESION_METRICS
        },
        "lesion_counts": [
            sum(row[name] for row in rows if row["organ"] == TUMOUR) for name in ("lesions", "large_lesions")
        ],
        "by_organ": {organ: {metric: mean(metric, [organ]) for metric in ORGAN_SCORES} for organ in organs},
    }


def cost(predictions: Path) -> list[Mapping[str, object]]:
    """Return what each scan took, from the files beside the label maps."""
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


def two_step(work: Path) -> None:
    """Do everything that is not done yet; write benchmarks/results/two_step.json and regions.json."""
    make_data(work)
    recipes = {name: RECIPES[recipe] for name, recipe in RECIPE_NAMES.items()}
    recipes["tumour"] = replace(recipes["tumour"], training=replace(recipes["tumour"].training, epochs=TUMOUR_EPOCHS))
    stores = {
        "organs": make_store(work, "store_organs", recipes["organs"]),
        "tumour": make_store(work, "store_tumour", recipes["tumour"], cohort="training_tumour"),
    }
    options = {"tumour": TUMOUR_FRESH}
    train_all(
        Arm(recipe, stores.get(name, stores["organs"]), work / f"run_{name}", options=options.get(name, ()))
        for name, recipe in recipes.items()
    )
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


def runet(kind: str, seed: int) -> Recipe:
    """Return the recipe of a run."""
    training = replace(RUNET_SMALL.training, epochs=RUNET_EPOCHS, seed=seed)
    return replace(RUNET_SMALL, softmax=SOFTMAXES[kind], training=training, postprocessing=Postprocessing())


def components(labels: np.ndarray, index: int | Sequence[int]) -> int:
    """Count the pieces of an organ."""
    return int(cc3d.connected_components(np.isin(labels, index), connectivity=26, return_N=True)[1])


def spurious(predictions: Path, truth: Path) -> float:
    """Return the mean number of pieces per scan that no organ has, over organs together."""
    values = {organ: index for index, organ in enumerate(RUNET_ORGANS, start=1)}
    of_truth = {"liver": (1,), "kidney": (2, 13), "spleen": (3,), "pancreas": (4,)}
    counts = []
    for file in sorted(predictions.glob("FLARE_*.nii.gz")):
        found, true = nifti.read(file).voxels, nifti.read(truth / "labelsTr" / file.name).voxels
        more = [
            max(0, components(found, values[organ]) - max(1, components(true, of_truth[organ])))
            for organ in RUNET_ORGANS
        ]
        counts.append(sum(more))
    return round(statistics.mean(counts), 2)


def regularised(work: Path) -> None:
    """Compare the regularised softmax with the plain one; write benchmarks/results/regularised.json.

    The network is runet's, small (3 mm voxels, widths 8 to 64, patches of 64 over every second voxel), on the organs' patients.
    Label maps are not tidied, so that what the last layer does can be seen: spurious components are those of an organ beyond what
    the truth has, 26-connected.
    """
    make_data(work)
    store = make_store(work, "store_runet", RUNET_SMALL)
    runs = {(kind, seed): work / f"runet_{kind}_{seed}" for seed in SEEDS for kind in SOFTMAXES}
    run_all([Arm(runet(kind, seed), store, run) for (kind, seed), run in runs.items()], work / "test")
    rows, all_scores = [], {}
    for (kind, seed), run in runs.items():
        file = run / "scores.json"
        if not file.exists():
            viscera("evaluate", f"flare={work / 'test'}", run / "predictions", "--json", file, "--jobs", 1)
        found = evaluation_from_json(file.read_text(), where=str(file)).scores
        all_scores[kind, seed] = [score for score in found if score.organ in RUNET_ORGANS]
        weights = load_weights(run / "best.safetensors").tensors
        means = {
            metric: round(statistics.mean(score.values[metric] for score in all_scores[kind, seed]), 4)
            for metric in ("dice", "nsd")
        }
        row = {"softmax": kind, "seed": seed} | means | {"spurious": spurious(run / "predictions", work / "test")}
        if kind == "regularised":
            row["lambda"] = round(float(weights["last.weight"]), 4)
        rows.append(row)
    pairs = []
    for seed in SEEDS:
        compared = compare(all_scores["plain", seed], all_scores["regularised", seed], np.random.default_rng(0))
        mean = next(row for row in compared if row.organ == "mean")
        pairs.append({"seed": seed, "difference": [round(v, 4) for v in (mean.difference, mean.low, mean.high)]})
    logs = [json.loads((run / "log.jsonl").read_text().splitlines()[-1]) for run in runs.values()]
    save(
        "regularised",
        facts("torch")
        | {
            "patients": COHORTS["test"][0],
            "steps": logs[0]["step"],
            "core_minutes": training_minutes(runs.values()),
            "rows": rows,
            "dice_regularised_minus_plain": pairs,
        },
    )


def main() -> None:
    """Run one study or the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--regularised", action="store_true", help="the regularised softmax instead, on the same patients"
    )
    options = parser.parse_args()
    (regularised if options.regularised else two_step)(options.work.absolute())


if __name__ == "__main__":
    main()
