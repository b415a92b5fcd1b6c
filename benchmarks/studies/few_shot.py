"""How many annotated scans of its own a site needs: fine-tuning the bundled weights, and learning from nothing.

    python -m benchmarks.studies.few_shot WORK [--start starter]      (two cores: half an hour; goes on where it was stopped)

The target is a scanner that the weights never saw: synthetic patients with the soft tissues' HU compressed and raised, more noise
and a softer kernel, annotated with FLARE's 13 organs (another label space, whose organs keep the heads that the weights have).
None to 16 of them are learnt from, either way by the same number of steps, the most from nothing also by three times as many.
Scored on eight other target patients.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.machine import facts, save
from benchmarks.studies.arms import Arm, dice_of, drawing, run_all, scores_of, training_minutes, viscera
from viscera.datasets.layouts import find_sources
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.datasets.writing import write_case
from viscera.evaluation.scores import ALL
from viscera.labels import FLARE13
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.recipes.starter import STARTER
from viscera.synthesis.variety import RICH
from viscera.volume import Volume, with_voxels

COUNTS = (0, 1, 2, 4, 8, 16)
LONG = (16,)
TEST = 8
SHAPE = (80, 160, 160)
STEPS = 150
COHORT = Cohort("nnunet", FLARE13.organs, seed=9001, shape=SHAPE, variety=RICH)
RATES = {"starter": 1e-3, "gently": 2e-4, "nothing": 2e-3}
"""Learning rates: weights that know something already are moved less, or much less."""


def shifted(ct: Volume, generator: np.random.Generator) -> Volume:
    """Return the scan as the target's scanner would: HU from -200 to 400 compressed to 0.6 and raised by 60, blurred, noisier."""
    hu = ct.voxels.astype(np.float32)
    soft = np.clip(hu, -200, 400)
    curved = hu - soft + 0.6 * soft + 60
    noise = gaussian_filter(generator.normal(size=hu.shape).astype(np.float32), (0, 0.8, 0.8))
    blurred = gaussian_filter(curved, (0, 0.7, 0.7)) + noise * (25 / noise.std())
    return with_voxels(ct, np.clip(np.rint(blurred), -1024, 3071).astype(np.int16))


def make_data(work: Path) -> None:
    """Write the target's patients: test patients first, then those to learn from."""
    if (work / "data").exists():
        return
    making = work / "data.part"
    shutil.rmtree(making, ignore_errors=True)
    for number in range(1, TEST + max(COUNTS) + 1):
        patient = make_patient(COHORT, number)
        write_case(
            "nnunet",
            making / ("test" if number <= TEST else "training"),
            number=number,
            ct=shifted(patient.ct, np.random.default_rng([9002, number])),
            labels=patient.labels,
            organs=patient.organs,
            annotate=FLARE13.organs,
        )
    making.rename(work / "data")


def store_of(work: Path, count: int) -> Path:
    """Return the store of the first ``count`` training patients."""
    store = work / "stores" / str(count)
    if not (store / "done").exists():
        sources = find_sources("nnunet", work / "data" / "training")[0][:count]
        plan = Plan(fractions=Fractions(training=1.0, validation=0.0, test=0.0))
        prepare_store(store, sources, space=FLARE13, preparation=STARTER.preparation, plan=plan)
        (store / "done").touch()
    return store


def arms(work: Path, start: Path) -> Iterator[tuple[str, int, Arm]]:
    """Return every training: from what, of how many patients, and the arm."""
    for count in COUNTS[1:]:
        path = store_of(work, count)
        for name, times in (
            ("starter", 1),
            ("gently", 1),
            ("nothing", 1),
            *([("nothing", 3)] if count in LONG else []),
        ):
            plan = replace(STARTER.training, epochs=1, learning_rate=RATES[name])
            recipe = replace(STARTER, name=f"{name}-{count}", label_space=FLARE13.name, training=plan)
            recipe = drawing(recipe, path, times * STEPS * plan.batch_size)
            begins = "nothing" if name == "nothing" else "starter"
            way = f"{begins}, rate {RATES[name]:g}, {times * STEPS} steps"
            run = work / "runs" / f"{name}-{count}-{times}"
            yield way, count, Arm(recipe, path, run, start if begins == "starter" else None)


def main() -> None:
    """Make the target, fine-tune and train, measure, write benchmarks/results/few_shot.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--start", type=Path, default=Path("starter"), help="weights to fine-tune")
    options = parser.parse_args()
    work, test = options.work, options.work / "data" / "test"
    make_data(work)
    trainings = list(arms(work, options.start))
    run_all([arm for _, _, arm in trainings], test)
    untouched = work / "runs" / "starter-0"
    viscera(
        "predict",
        test / "imagesTr",
        untouched / "predictions",
        "--weights",
        options.start,
        "--organs",
        "all",
        "--overwrite",
    )
    own = work / "own.json"
    own.write_text(json.dumps({"*": FLARE13.organs}))
    rows = [
        {"from": "starter, untouched", "patients": 0, **dice_of(scores_of(untouched, test, own), ALL)},
        *(
            {"from": way, "patients": count, **dice_of(scores_of(arm.run, test, own), ALL)}
            for way, count, arm in trainings
        ),
    ]
    content = {
        "patients": {"test": TEST},
        "steps": STEPS,
        "core_minutes": training_minutes([arm.run for _, _, arm in trainings]),
        "rows": rows,
    }
    print(save("few_shot", facts("torch") | content))


if __name__ == "__main__":
    main()
