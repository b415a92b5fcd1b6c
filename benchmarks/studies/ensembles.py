"""What an ensemble of folds is worth, and what is left of it in one network that learnt from it: Dice and time.

    python -m benchmarks.studies.partial_labels WORK --ensembles      (one core: some 25 minutes; goes on where it was stopped)
    python -m benchmarks.studies.partial_labels WORK --ensembles complete three_disjoint      (twice that)

On each store of that study's 32 training patients: five folds, a network of all patients, and a student of the five folds, which
learns from all patients in as many steps as that. All are scored on the 16 patients that none of them has seen.
"""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.machine import facts, save
from benchmarks.studies.arms import dice_of, difference, scores_of, training_minutes, viscera
from viscera.config import Recipe
from viscera.config.recipe_json import recipe_to_json
from viscera.evaluation.scores import GROUPS, OrganScore

FOLDS = 5
VISITS = 3
"""Of each slice; the study of partial labels takes 8."""


def run_ensembles(work: Path, recipe: Recipe, stores: dict[str, str], counts: dict[str, int]) -> None:
    """Train all, measure, write benchmarks/results/ensembles.json.

    Args:
        work: With the data of the study of partial labels.
        recipe: Of every network.
        stores: {store: design by which its organs are grouped}.
        counts: Patients, for the file.
    """
    recipe = replace(recipe, training=replace(recipe.training, visits_per_slice=VISITS))
    load = round(os.getloadavg()[0], 1)  # of others, before this begins
    found = {store: _of_store(work, recipe, store, design) for store, design in stores.items()}
    content = {"patients": counts, "folds": FOLDS, "recipe": asdict(recipe), "load_average": load, "stores": found}
    print(save("ensembles", facts("torch") | content))


def _of_store(work: Path, recipe: Recipe, store: str, design: str) -> dict[str, object]:
    """Train and predict on one store; return Dice, differences, and times."""
    there, runs = work / "stores" / store, work / "runs" / "ensembles" / store
    runs.mkdir(parents=True, exist_ok=True)
    wanted, folds = runs / "wanted.json", runs / "folds"
    wanted.write_text(recipe_to_json(recipe))
    viscera("train", wanted, there, folds, "--folds", FOLDS, "--resume")
    viscera("train", wanted, there, runs / "single", "--resume")
    viscera("train", wanted, there, runs / "student", "--resume", "--distil", folds)
    test, own = work / "data" / "test", work / "data" / f"{design}.json"
    members = [folds / f"fold_{number}" for number in range(FOLDS)]
    networks = [folds, runs / "single", runs / "student", *members]
    seconds = {run.name: _predict(run, test) for run in networks}
    scores = {run.name: scores_of(run, test, own) for run in networks}
    arms = {name: _row(scores[name], scores["folds"], seconds[name]) for name in ("folds", "single", "student")}
    one_fold = [_row(scores[run.name], scores["folds"], seconds[run.name]) for run in members]
    minutes = {run.name: training_minutes([run]) for run in (runs / "single", runs / "student")}
    minutes["folds"] = training_minutes(members)
    return {"arms": arms, "one_fold": one_fold, "core_minutes": minutes}


def _predict(run: Path, test: Path) -> float:
    """Segment the test patients with a run; return the seconds that it took, loading included."""
    note = run / "predicted.json"
    if not note.exists():
        started = time.perf_counter()
        viscera("predict", test / "imagesTr", run / "predictions", "--weights", run, "--overwrite")
        note.write_text(json.dumps({"seconds": round(time.perf_counter() - started, 1)}))
    return json.loads(note.read_text())["seconds"]


def _row(scores: tuple[OrganScore, ...], ensemble: tuple[OrganScore, ...], seconds: float) -> dict[str, object]:
    """Return Dice by group, with the difference from the ensemble's, and the time of predicting."""
    groups = sorted({score.group for score in scores} & set(GROUPS))
    of_groups = {
        group: dice_of(scores, group) | {"minus_ensemble": difference(scores, ensemble, group)} for group in groups
    }
    return {"groups": of_groups, "seconds": seconds}
