"""What it is worth on partly annotated data that a network of slices sees the whole patient first: viscera25d against viscera2d.

    python -m benchmarks.studies.partial_labels WORK --networks      (one core: some 150 minutes; goes on where it was stopped)

Three data sets of that study's 32 training patients without a common organ, 2.5 mm pixels, three seeds. Every network draws equally
many slices and has viscera2d's losses; viscera25d's context network is trained first, which is work that the others do not have, so
that one without context also draws as many slices as take as long as both.
"""

from dataclasses import replace
from pathlib import Path

from benchmarks.machine import facts, save
from benchmarks.studies.arms import Arm, dice_of, difference, drawing, over_seeds, run_all, scores_of, training_minutes
from viscera.config import Recipe
from viscera.datasets.layouts import find_sources
from viscera.evaluation.scores import GROUPS
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.recipes.viscera2d import VISCERA2D_16
from viscera.recipes.viscera25d import VISCERA25D, VISCERA25D_2D

DESIGN = "three_disjoint"
SEEDS = (0, 1, 2)
SLICES, PATCHES = 2_400, 640
"""Drawn by each training: of networks of slices, and of the context network."""
LONGER = 20_400
"""Slices for which a network without context takes as many core minutes as both halves took (2.4 and 20.8 were measured)."""
NETWORKS = {
    "viscera2d_16": (VISCERA2D_16, SLICES),
    "viscera25d_2d": (VISCERA25D_2D, SLICES),
    "viscera25d": (VISCERA25D, SLICES),
    "viscera25d_2d_longer": (VISCERA25D_2D, LONGER),
}
"""{name: recipe, slices}."""


def run_networks(work: Path, counts: dict[str, int]) -> None:
    """Train all, measure, write benchmarks/results/seeing.json.

    Args:
        work: With the data of the study of partial labels.
        counts: Patients, for the file.
    """
    store, test, own = _store(work), work / "data" / "test", work / "data" / f"{DESIGN}.json"
    arms = {
        (name, seed): Arm(
            _seeded(recipe, store, seed, slices=slices, patients=counts["training"]),
            store,
            work / "runs" / "seeing" / name / str(seed),
        )
        for seed in SEEDS
        for name, (recipe, slices) in NETWORKS.items()
    }
    run_all(arms.values(), test)
    scores = {name: [scores_of(arms[name, seed].run, test, own) for seed in SEEDS] for name in NETWORKS}
    means = {name: over_seeds(found) for name, found in scores.items()}
    rows = {
        name: {
            group: dice_of(means[name], group)
            | {"seeds": [dice_of(one, group)["dice"] for one in scores[name]]}
            | {"minus_viscera2d_16": difference(means[name], means["viscera2d_16"], group)}
            | {"minus_viscera25d_2d": difference(means[name], means["viscera25d_2d"], group)}
            | {"minus_viscera25d_2d_longer": difference(means[name], means["viscera25d_2d_longer"], group)}
            for group in GROUPS
        }
        for name in NETWORKS
    }
    minutes = {name: _minutes([arms[name, seed].run for seed in SEEDS]) for name in NETWORKS}
    slices = {name: drawn for name, (_, drawn) in NETWORKS.items()}
    content = {"patients": counts, "slices": slices, "patches": PATCHES, "core_minutes": minutes, "networks": rows}
    print(save("seeing", facts("torch") | content))


def _store(work: Path) -> Path:
    """Prepare the three data sets on 2.5 mm pixels, once."""
    store = work / "stores" / "seeing"
    if not (store / "done").exists():
        sources = [
            source
            for folder in sorted((work / "data" / DESIGN).iterdir())
            for source in find_sources("nnunet", folder)[0]
        ]
        plan = Plan(fractions=Fractions(training=1.0, validation=0.0, test=0.0))
        prepare_store(store, sources, space=VISCERA2D_16.space, preparation=VISCERA2D_16.preparation, plan=plan)
        (store / "done").touch()
    return store


def _seeded(recipe: Recipe, store: Path, seed: int, *, slices: int, patients: int) -> Recipe:
    """Return a recipe that draws so many slices, and as many patches as all, from a seed."""
    drawn = drawing(replace(recipe, training=replace(recipe.training, epochs=1, seed=seed)), store, slices)
    if recipe.context is None:
        return drawn
    plan = replace(recipe.context.training, epochs=1, visits_per_slice=PATCHES / patients, seed=seed)
    return replace(drawn, context=replace(recipe.context, training=plan))


def _minutes(runs: list[Path]) -> float:
    """Return the minutes of core time of runs, with those of their context networks."""
    return training_minutes([*runs, *(run / "context" for run in runs if (run / "context" / "log.jsonl").exists())])
