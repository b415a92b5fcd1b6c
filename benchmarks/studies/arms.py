"""Arms of a study: one recipe each, trained on one core by viscera's own commands, scored on test patients, averaged."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viscera.config import Recipe
from viscera.config.recipe_json import recipe_to_json
from viscera.evaluation.comparing import compare
from viscera.evaluation.scores import OrganScore, evaluation_from_json
from viscera.evaluation.statistics import summarise
from viscera.preparation.store import open_store


@dataclass(frozen=True)
class Arm:
    """One training of a study: a recipe on a store.

    Attributes:
        recipe: Its seed included.
        store: Prepared for it.
        run: Where its run goes.
        start: Weights to begin with; None: random ones.
        options: More words for ``viscera train``.
    """

    recipe: Recipe
    store: Path
    run: Path
    start: Path | None = None
    options: tuple[object, ...] = ()


def drawing(recipe: Recipe, store: Path, slices: int) -> Recipe:
    """Return a recipe that draws so many slices of a store's training cases in an epoch."""
    opened = open_store(store)
    held = sum(len(opened.case(name).image) for name in opened.names("training"))
    return replace(recipe, training=replace(recipe.training, visits_per_slice=slices / held))


def run_all(arms: Iterable[Arm], test: Path) -> None:
    """Train arms, two at a time on a core each, and segment the test patients; what is done already is left alone."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run_one, arm, test) for arm in arms]:
            done.result()


def train_all(arms: Iterable[Arm]) -> None:
    """Train arms, two at a time on a core each; what is done already is left alone."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(train_one, arm) for arm in arms]:
            done.result()


def train_one(arm: Arm) -> None:
    """Train one arm."""
    if (arm.run / "trained").exists():
        return
    arm.run.mkdir(parents=True, exist_ok=True)
    wanted = arm.run / "wanted.json"
    wanted.write_text(recipe_to_json(arm.recipe))
    start = ["--start", arm.start] if arm.start else []
    viscera("train", wanted, arm.store, arm.run, "--resume", *start, *arm.options)
    (arm.run / "trained").touch()
    print(arm.run, file=sys.stderr)


def run_one(arm: Arm, test: Path) -> None:
    """Train one arm and segment the test patients."""
    if (arm.run / "done").exists():
        return
    train_one(arm)
    viscera("predict", test / "imagesTr", arm.run / "predictions", "--weights", arm.run, "--overwrite")
    (arm.run / "done").touch()
    print(arm.run, file=sys.stderr)


def viscera(verb: str, *arguments: object) -> None:
    """Say a command of viscera's, on one core."""
    command = [sys.executable, "-m", "viscera.cli", verb, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def scores_of(run: Path, test: Path, own: Path) -> tuple[OrganScore, ...]:
    """Score a run's predictions of the test patients.

    Args:
        run: An arm's.
        test: The test patients with their whole truth.
        own: {case: organs that its own data set annotates}.
    """
    file = run / f"scores_{own.stem}.json"
    if not file.exists():
        viscera("evaluate", f"nnunet={test}", run / "predictions", "--annotated", own, "--json", file, "--jobs", 1)
    return evaluation_from_json(file.read_text(), where=str(file)).scores


def over_seeds(seeds: Sequence[Sequence[OrganScore]]) -> list[OrganScore]:
    """Return the mean Dice over seeds, per case and organ."""
    values: dict[tuple[str, str], list[float]] = {}
    for scores in seeds:
        for score in scores:
            values.setdefault((score.case, score.organ), []).append(score.values["dice"])
    return [replace(score, values={"dice": float(np.mean(values[score.case, score.organ]))}) for score in seeds[0]]


def dice_of(scores: Sequence[OrganScore], group: str) -> dict[str, object]:
    """Return the mean Dice of a group of scores with its interval over patients, and by organ."""
    rows = [row for row in summarise(scores, np.random.default_rng(0)) if row.metric == "dice" and row.group == group]
    mean = next(row for row in rows if row.organ == "mean")
    return {
        "dice": round(mean.mean, 4),
        "interval": [round(mean.low, 4), round(mean.high, 4)],
        "organs": {row.organ: round(row.mean, 4) for row in rows if row.organ != "mean"},
    }


def difference(scores: Sequence[OrganScore], reference: Sequence[OrganScore], group: str) -> list[float]:
    """Return the mean difference in Dice (scores minus reference) over patients, and its interval."""
    rows = compare(reference, scores, np.random.default_rng(0), group=group)
    mean = next(row for row in rows if row.organ == "mean")
    return [round(value, 4) for value in (mean.difference, mean.low, mean.high)]


def training_minutes(runs: Iterable[Path]) -> float:
    """Return the minutes that runs trained, on a core each."""
    rows = [json.loads(line) for run in runs for line in (run / "log.jsonl").read_text().splitlines()]
    return round(sum(row["seconds"] for row in rows) / 60, 1)
