"""The study upv on synthetic AbdomenCT-1K patients: two U-Nets, two depths, three contrasts, on two cores.

    python -m benchmarks.archive.contrast WORK        (goes on where it stopped; 12 trainings)

What is compared are settings of a small network on synthetic CT, whose contrast is plainer than a patient's.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from benchmarks.machine import facts, save
from benchmarks.studies.arms import viscera
from viscera.datasets.layouts import find_sources
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.recipes.catalogue import RECIPES

CASES, SHAPE, SEED, EPOCHS = 45, (40, 128, 128), 51, 14
SHARES = Fractions(training=0.6, validation=0.2, test=0.2)
"""As in the thesis."""


def main() -> None:
    """Make the patients, run the study, keep its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.absolute()
    data, store, out = work / "data", work / "store", work / "study"
    if not (work / "made").exists():
        viscera("synth", data, "--layout", "abdomenct1k", "--cases", CASES, "--seed", SEED, "--shape", *SHAPE)
        (work / "made").touch()
    sources, _ = find_sources("abdomenct1k", data)
    recipe, plan = RECIPES["upv1-small"], Plan(jobs=2, fractions=SHARES)
    prepare_store(store, sources, space=recipe.space, preparation=recipe.preparation, plan=plan)
    viscera("study", "upv", store, out, "--epochs", EPOCHS)
    study = json.loads((out / "study.json").read_text())
    splits = Counter(json.loads((store / "splits.json").read_text())["cases"].values())
    rows = [{name: value for name, value in row.items() if name != "cases"} for row in study["results"]]
    save(
        "contrast_study",
        facts("torch") | {"patients": CASES, "shape": SHAPE, "epochs": EPOCHS, "splits": splits, "results": rows},
    )


if __name__ == "__main__":
    main()
