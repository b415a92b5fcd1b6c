"""The regularised softmax against the plain one: same network, same patches, three seeds each.

    python benchmarks/regularised.py WORK      (after two_step.py WORK, whose patients it uses; goes on where it stopped)

The network is runet's, small (3 mm voxels, widths 8 to 64, patches of 64 over every second voxel). Label maps are not tidied, so
that what the last layer does can be seen: spurious components are those of an organ beyond what the truth has, 26-connected.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cc3d
import numpy as np

from arms import Arm, run_all, training_minutes, viscera
from machine import facts, save
from two_step import make_data, make_store
from viscera.config import Postprocessing, Recipe, Softmax
from viscera.evaluation.scores import compare, evaluation_from_json
from viscera.io import nifti
from viscera.networks.weights import load_weights
from viscera.recipes.runet import RUNET_SMALL

SEEDS = (0, 1, 2)
EPOCHS = 8
SOFTMAXES = {"plain": Softmax(iterations=0), "regularised": Softmax(iterations=1)}
ORGANS = RUNET_SMALL.space.organs


def recipe(kind: str, seed: int) -> Recipe:
    """Give the recipe of a run."""
    training = replace(RUNET_SMALL.training, epochs=EPOCHS, seed=seed)
    return replace(RUNET_SMALL, softmax=SOFTMAXES[kind], training=training, postprocessing=Postprocessing())


def components(labels: np.ndarray, index: int | Sequence[int]) -> int:
    """Count the pieces of an organ."""
    return int(cc3d.connected_components(np.isin(labels, index), connectivity=26, return_N=True)[1])


def spurious(predictions: Path, truth: Path) -> float:
    """Give the mean number of pieces per scan that no organ has, over organs together."""
    values = {organ: index for index, organ in enumerate(ORGANS, start=1)}
    of_truth = {"liver": (1,), "kidney": (2, 13), "spleen": (3,), "pancreas": (4,)}
    counts = []
    for file in sorted(predictions.glob("FLARE_*.nii.gz")):
        found, true = nifti.read(file).voxels, nifti.read(truth / "labelsTr" / file.name).voxels
        more = [
            max(0, components(found, values[organ]) - max(1, components(true, of_truth[organ]))) for organ in ORGANS
        ]
        counts.append(sum(more))
    return round(statistics.mean(counts), 2)


def main(work: Path) -> None:
    """Train, segment, score and write the result."""
    make_data(work)
    store = make_store(work, "store_runet", RUNET_SMALL)
    runs = {(kind, seed): work / f"runet_{kind}_{seed}" for seed in SEEDS for kind in SOFTMAXES}
    run_all([Arm(recipe(kind, seed), store, run) for (kind, seed), run in runs.items()], work / "test")
    rows, all_scores = [], {}
    for (kind, seed), run in runs.items():
        file = run / "scores.json"
        if not file.exists():
            viscera("evaluate", f"flare={work / 'test'}", run / "predictions", "--json", file, "--jobs", 1)
        found = evaluation_from_json(file.read_text(), where=str(file)).scores
        all_scores[kind, seed] = [score for score in found if score.organ in ORGANS]
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
            "steps": logs[0]["step"],
            "core_minutes": training_minutes(runs.values()),
            "rows": rows,
            "dice_regularised_minus_plain": pairs,
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
