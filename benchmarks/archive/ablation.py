"""What each change from zhang2d to viscera2d is worth: viscera2d without one of them at a time, and zhang2d itself.

    python -m benchmarks.archive.ablation WORK        (after partial_labels WORK, whose patients it uses; goes on where it stopped)

Everything is small, for two cores: width 16, 6 mm pixels, zhang2d on 64x64 pixels. All arms visit as many slices in batches
of one size; training patients are dealt out to two data sets as in zhang2d's mix, and tested on whole truth.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.machine import facts, save
from benchmarks.studies.arms import Arm, dice_of, difference, over_seeds, run_all, scores_of, training_minutes
from benchmarks.studies.partial_labels import BASE as PARTIAL
from benchmarks.studies.partial_labels import TEST, TRAINING, make_data
from viscera.config import PartialLoss, Preparation, Recipe, SliceAugmentation, SliceSampling, SpacedSlices
from viscera.datasets.layouts import find_sources
from viscera.evaluation.scores import GROUPS
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.recipes.viscera2d import VISCERA2D_16
from viscera.recipes.zhang2d import ZHANG2D_SMALL

DESIGN = "two_overlapping"
SEEDS = (0, 1)
VISITS = 3
"""Of each slice."""

FULL = replace(
    VISCERA2D_16,
    preparation=SpacedSlices(spacing_mm=6.0, margin_mm=10.0),
    sampling=replace(VISCERA2D_16.sampling, window=(64, 80)),
    training=replace(
        VISCERA2D_16.training, epochs=1, visits_per_slice=VISITS, batch_size=8, warm_up=0.05, precision="bf16-mixed"
    ),
)
ZHANG = replace(
    ZHANG2D_SMALL,
    preparation=PARTIAL.preparation,
    training=replace(ZHANG2D_SMALL.training, epochs=6, visits_per_slice=VISITS / 6, precision="bf16-mixed"),
)


def without_loss(**settings: object) -> Recipe:
    """Return viscera2d with other settings of its loss."""
    loss = FULL.loss
    if not isinstance(loss, PartialLoss):
        raise TypeError("viscera2d has the partial loss")
    return replace(FULL, loss=replace(loss, **settings))


ROWS = {
    "viscera2d": FULL,
    "unannotated organs are background": without_loss(unannotated="background"),
    "no exclusion": without_loss(exclusion=0.0),
    "no Dice": without_loss(dice=0.0),
    "no boundary weights": without_loss(alpha=0.0),
    "one slice instead of three": replace(FULL, network=replace(FULL.network, slices=1)),
    "contrast and brightness only": replace(FULL, augmentation=SliceAugmentation(quarter_turns=False)),
    "slices resized, not spaced and cut": replace(
        FULL, preparation=PARTIAL.preparation, sampling=replace(FULL.sampling, window=None)
    ),
    "every slice drawn alike": replace(FULL, sampling=SliceSampling(window=FULL.sampling.window)),
    "constant learning rate": replace(FULL, training=replace(FULL.training, schedule="step", warm_up=0.0)),
    "no average of weights": replace(FULL, training=replace(FULL.training, average_decay=0.0)),
    "zhang2d (zhang2d-small)": ZHANG,
}


def store_for(work: Path, preparation: Preparation) -> Path:
    """Prepare the training patients, where that is not done yet."""
    if preparation == PARTIAL.preparation:
        return work / "stores" / DESIGN
    store = work / "stores" / f"{DESIGN}_spaced"
    sources = [s for folder in sorted((work / "data" / DESIGN).iterdir()) for s in find_sources("nnunet", folder)[0]]
    plan = Plan(fractions=Fractions(training=1.0, validation=0.0, test=0.0))
    prepare_store(store, sources, space=FULL.space, preparation=preparation, plan=plan)
    return store


def main() -> None:
    """Train all rows, measure, write benchmarks/results/ablation.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    make_data(work)
    arms = {
        (name, seed): Arm(
            replace(recipe, training=replace(recipe.training, seed=seed)),
            store_for(work, recipe.preparation),
            work / "ablation" / name.replace(" ", "_") / str(seed),
        )
        for seed in SEEDS
        for name, recipe in ROWS.items()
    }
    test, own = work / "data" / "test", work / "data" / f"{DESIGN}.json"
    run_all(arms.values(), test)
    found = {name: over_seeds([scores_of(arms[name, seed].run, test, own) for seed in SEEDS]) for name in ROWS}
    rows = []
    for name in ROWS:
        row: dict[str, object] = {"name": name, "core_minutes": training_minutes(arms[name, s].run for s in SEEDS)}
        for group in ("all", *GROUPS):
            row[group] = dice_of(found[name], group) | {
                "minus_viscera2d": difference(found[name], found["viscera2d"], group)
            }
        rows.append(row)
    content = {
        "patients": {"training": TRAINING, "test": TEST},
        "seeds": len(SEEDS),
        "visits_per_slice": VISITS,
        "recipe": asdict(FULL),
        "rows": rows,
    }
    print(save("ablation", facts("torch") | content))


if __name__ == "__main__":
    main()
