"""viscera prepare: data sets -> a store to train from."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.clusters import Where, cluster_at, workers_at
from viscera.cli.console import counted, progress, say, show_problems
from viscera.cli.inputs import data_sets
from viscera.config import Recipe
from viscera.errors import SettingError
from viscera.recipes.catalogue import find_recipe


@dataclass(frozen=True)
class Options:
    """Turn data sets into one store to train from.

    Each scan is checked, turned to axial order and resized as the recipe wants it; each label becomes the recipe's. Which
    organs a case annotates is kept: what it does not annotate is unknown, not background. Scans that cannot be used are
    listed with what to do, and stop no other. Say the same again to go on after an interruption, or to add data sets.
    """

    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """Folder of the store."""
    data: Annotated[tuple[str, ...], arg(metavar="LAYOUT=DIR [LAYOUT=DIR ...]")]
    """Data sets as LAYOUT=DIR, or LAYOUT:NAME=DIR to name one other than its folder; see `viscera info layouts`. A file
    annotated.json in DIR ({case: [organs]}, "*" for all others) says which organs a case annotates where the layout does not
    know, patients.json ({case: patient}) which cases show one patient."""
    recipe: str = "zhang2d"
    """Whose preparation and organs: see `viscera info recipes`."""
    jobs: int = 0
    """Scans prepared at once; 0: one per core, fewer where memory is short."""
    cluster: Where = None
    seed: int = 0
    """Of the split into training, validation and test patients."""
    splits: Path | None = None
    """Your own split: a JSON file {"training": [cases], "validation": [cases], "test": [cases]}, or nnU-Net's
    splits_final.json with --fold. Without this, splits.json in a data set's DIR counts."""
    fold: int | None = None
    """Which fold, from 0, where the file of splits lists folds."""
    keep_going: bool = False
    """Exit with 0 even where scans could not be used."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera prepare", config=(FlagCreatePairsOff,))
    if min(options.jobs, options.seed) < 0:
        raise SettingError(f"--jobs and --seed must not be negative, got {options.jobs} and {options.seed}.")
    recipe = find_recipe(options.recipe)
    return prepare(options, recipe)


def prepare(options: Options, recipe: Recipe) -> int:
    """Find the cases, prepare them, tell what became of them."""
    from viscera.preparation.own_splits import OwnSplits
    from viscera.preparation.prepare import Plan, prepare_store
    from viscera.preparation.store import open_store

    address = cluster_at(options.cluster, jobs=options.jobs)
    own = OwnSplits(options.splits, options.fold)
    sources, problems = data_sets(options.data)
    with workers_at(address) if address else nullcontext() as cluster, progress() as bar:
        there = None
        if cluster:
            from viscera.preparation.on_cluster import prepare_over

            there = partial(prepare_over, cluster)
        task = bar.add_task("scans", total=len(sources))
        result = prepare_store(
            options.store,
            sources,
            problems=problems,
            space=recipe.space,
            preparation=recipe.preparation,
            plan=Plan(options.jobs, options.seed, own=own, prepare_all=there),
            on_done=lambda name, how: bar.advance(task),
        )
    for note in result.notes:
        say(f"note: {note}")
    store = open_store(options.store)
    counts = ", ".join(f"{len(store.names(split))} {split}" for split in ("training", "validation", "test"))
    unlabelled = sum(not store.facts(name).annotated for name in store.names())
    if unlabelled:
        counts += f", {unlabelled} unlabelled (to be learnt from once viscera pseudolabel has filled them in)"
    say(
        f"{counted(len(result.prepared), 'scan')} prepared, {len(result.skipped)} done before; {options.store}: {counts}"
    )
    if result.problems:
        show_problems(result.problems)
        say(f"also in {options.store / 'problems.json'}; put them right and say the same again, or go on without them")
    return 2 if result.problems and not options.keep_going else 0
