"""What it costs to call unannotated organs background, and what the partial-label losses give back.

    python -m benchmarks.studies.partial_labels WORK        (two cores: about an hour; goes on where it was stopped)
    python -m benchmarks.studies.partial_labels WORK --further      (organ-visits and pasted organs: another hour)
    python -m benchmarks.studies.partial_labels WORK --ensembles    (folds, alone and together, and their student: see ensembles.py)
    python -m benchmarks.studies.partial_labels WORK --networks     (viscera25d beside viscera2d: see seeing.py)
    python -m benchmarks.studies.partial_labels --figure    draws docs/partial_labels.png from the result

48 synthetic patients whose whole truth is known, 32 to train on and 16 to test on. The training patients are dealt out to
data sets that annotate different organs, in two designs: zhang2d's (AbdomenCT-1K's four organs; the radiotherapy set's nine;
liver and kidney in both), and three data sets without a common organ. Arms differ in nothing but the loss, the pseudo-labels
or the labels: same patients, same network, same steps, three seeds. Each test patient belongs to a data set too: its organs
are scored apart as annotated or not annotated there.

An organ that one of three data sets annotates is taught in a third of the steps. ``--further`` asks what closes the gap to complete
labels, in the design of three: as many steps for each organ as complete labels have (three times the steps); organs pasted into
the other data sets' scans; both.
"""

import argparse
import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.machine import RESULTS, ROOT, facts, save
from benchmarks.studies.arms import Arm, dice_of, difference, over_seeds, run_all, scores_of, training_minutes, viscera
from benchmarks.studies.ensembles import run_ensembles
from benchmarks.studies.seeing import run_networks
from viscera.config import (
    PartialLoss,
    Recipe,
    ResizedSlices,
    SigmoidLoss,
    SliceAugmentation,
    SliceSampling,
    Training,
    UNetShape,
)
from viscera.datasets.layouts import find_sources
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.datasets.writing import write_case
from viscera.evaluation.scores import GROUPS
from viscera.labels import ABDOMENCT1K, SIDES, ZHANG12
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.synthesis.patient import Patient

SHAPE = (64, 96, 96)
TRAINING, TEST = 32, 16
SEEDS = (0, 1, 2)
ORGANS = tuple(organ for organ in ZHANG12.organs if organ not in ("rectum", "spinal_cord"))
"""Without the two that a network of this size does not find on 6 mm pixels in so few steps, whatever the labels."""
DESIGNS = {
    "two_overlapping": (ABDOMENCT1K.organs, tuple(organ for organ in ORGANS if organ not in ("spleen", "pancreas"))),
    "three_disjoint": (
        ("liver", "kidney", "colon"),
        ("spleen", "pancreas", "femoral_head"),
        ("stomach", "small_bowel", "urinary_bladder"),
    ),
}
BASE = Recipe(
    name="partial-labels-benchmark",
    label_space="zhang12",
    preparation=ResizedSlices(size=(64, 64)),  # as many steps as two cores allow matter more than pixels
    network=UNetShape(widths=(16, 32, 64, 128, 256)),
    loss=PartialLoss(unannotated="marginal", exclusion=0.0, dice=1.0, alpha=10.0, sigma_pixels=3.0),
    sampling=SliceSampling(dataset_power=0.5, organ_fraction=0.33),
    augmentation=SliceAugmentation(quarter_turns=False),
    training=Training(
        epochs=1,
        visits_per_slice=8,
        batch_size=8,
        learning_rate=2e-3,
        schedule="cosine",
        warm_up=0.05,
        precision="bf16-mixed",
    ),
)
LOSS = BASE.loss
ARMS = {
    "background": replace(BASE, loss=replace(LOSS, unannotated="background")),
    "background_down_weighted": replace(
        BASE, loss=replace(LOSS, unannotated="background", class_weights=(0.3, *[1.0] * len(ZHANG12.organs)))
    ),
    "marginal": BASE,
    "marginal_exclusion": replace(BASE, loss=replace(LOSS, exclusion=1.0)),
    "sigmoid": replace(
        BASE, loss=SigmoidLoss(dice=1.0, alpha=10.0, sigma_pixels=3.0), network=replace(BASE.network, heads="sigmoid")
    ),
    "pseudo": replace(BASE, loss=replace(LOSS, exclusion=1.0)),
    "complete": BASE,
}

EXCLUSION = replace(BASE, loss=replace(LOSS, exclusion=1.0))
FURTHER_DESIGN = "three_disjoint"
THRICE = {
    "training": replace(BASE.training, visits_per_slice=len(DESIGNS[FURTHER_DESIGN]) * BASE.training.visits_per_slice)
}
PASTED = {"sampling": replace(BASE.sampling, paste=0.5)}
FURTHER = {
    "marginal_exclusion": EXCLUSION,
    "pasted": replace(EXCLUSION, **PASTED),
    "organ_visits": replace(EXCLUSION, **THRICE),
    "organ_visits_pasted": replace(EXCLUSION, **THRICE, **PASTED),
    "complete": BASE,
    "complete_thrice": replace(BASE, **THRICE),
}
"""Of ``--further``: runs that both have are the same."""

IN_WORDS = {
    "background": "unannotated = background",
    "background_down_weighted": "same, background weighs 0.3",
    "sigmoid": "sigmoid heads",
    "marginal": "marginal",
    "marginal_exclusion": "marginal + exclusion",
    "pseudo": "… + pseudo-labels",
    "complete": "everything annotated (bound)",
}
TITLES = {"two_overlapping": "two data sets that overlap", "three_disjoint": "three disjoint data sets"}
COLOURS = {"annotated": "#4477AA", "unannotated": "#CC6677"}
"""Of the figure."""


def own_set(design: str, number: int) -> tuple[str, ...]:
    """Return the organs that patient ``number``'s data set annotates in a design."""
    sets = DESIGNS[design]
    return sets[number % len(sets)]


def sides(organs: Sequence[str]) -> tuple[str, ...]:
    """Return the organs as synthetic patients have them: left and right apart."""
    return tuple(one for organ in organs for one in SIDES.get(organ, (organ,)))


def make_data(work: Path) -> None:
    """Write the data sets, prepare a store of each design and one of the whole truth, say what test patients annotate."""
    if (work / "data.done").exists():
        return
    shutil.rmtree(work / "data", ignore_errors=True)
    shutil.rmtree(work / "stores", ignore_errors=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        patients = pool.map(
            partial(make_patient, Cohort("nnunet", seed=31, shape=SHAPE)), range(1, TRAINING + TEST + 1)
        )
        for number, patient in enumerate(patients, start=1):
            write_patient(work / "data", patient, number)
            print(f"\rpatient {number}", end="", file=sys.stderr)
    for store in (*DESIGNS, "complete"):
        folders = [work / "data" / store] if store == "complete" else sorted((work / "data" / store).iterdir())
        sources = [source for folder in folders for source in find_sources("nnunet", folder)[0]]
        plan = Plan(fractions=Fractions(training=1.0, validation=0.0, test=0.0))
        prepare_store(work / "stores" / store, sources, space=BASE.space, preparation=BASE.preparation, plan=plan)
    test = [source.name for source in find_sources("nnunet", work / "data" / "test")[0]]
    for design in DESIGNS:
        own = {name: list(own_set(design, TRAINING + n)) for n, name in enumerate(test, start=1)}
        (work / "data" / f"{design}.json").write_text(json.dumps(own))
    (work / "data.done").touch()


def write_patient(data: Path, patient: Patient, number: int) -> None:
    """Write a patient into every data set that it belongs to: with its whole truth, and as each design annotates it."""
    every = sides(ORGANS)
    folders = {data / "test": every}
    if number <= TRAINING:
        folders = {data / "complete": every}
        for design, sets in DESIGNS.items():
            folders[data / design / f"set_{number % len(sets)}"] = sides(own_set(design, number))
    for folder, organs in folders.items():
        write_case(
            "nnunet",
            folder,
            number=number,
            ct=patient.ct,
            labels=patient.labels,
            organs=patient.organs,
            annotate=organs,
        )


def arm_of(work: Path, design: str, name: str, seed: int) -> Arm:
    """Return an arm; the whole truth is the same in every design."""
    recipe = (ARMS | FURTHER)[name]
    recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    if name.startswith("complete"):
        return Arm(recipe, work / "stores" / "complete", work / "runs" / "any" / name / str(seed))
    store = work / "stores" / (f"{design}_pseudo_{seed}" if name == "pseudo" else design)
    return Arm(recipe, store, work / "runs" / design / name / str(seed))


def fill_in(work: Path, design: str, seed: int) -> None:
    """Make the store with pseudo-labels: two of marginal_exclusion's runs teach."""
    store = arm_of(work, design, "pseudo", seed).store
    if (store / "done").exists():
        return
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(work / "stores" / design, store)
    teachers = [arm_of(work, design, "marginal_exclusion", one).run for one in (seed, (seed + 1) % len(SEEDS))]
    viscera("pseudolabel", *teachers, store)
    (store / "done").touch()


def result(work: Path, names: Sequence[str], designs: Sequence[str], bounds: Sequence[str]) -> dict[str, dict]:
    """Return every arm's mean over designs, and each design with intervals and differences to some arms."""
    test = work / "data" / "test"
    arms: dict[str, dict] = {name: {} for name in names}
    for design in designs:
        own = work / "data" / f"{design}.json"
        seeds = {name: [scores_of(arm_of(work, design, name, seed).run, test, own) for seed in SEEDS] for name in names}
        means = {name: over_seeds(found) for name, found in seeds.items()}
        for name in names:
            arms[name][design] = {
                group: dice_of(means[name], group)
                | {
                    "seeds": [dice_of(one, group)["dice"] for one in seeds[name]],
                }
                | {f"minus_{one}": difference(means[name], means[one], group) for one in bounds}
                for group in GROUPS
            }
    for found in arms.values():
        for group in GROUPS:
            found[f"{group}_dice"] = round(float(np.mean([found[design][group]["dice"] for design in designs])), 4)
    return arms


def accepted(work: Path) -> dict[str, dict[str, int]]:
    """Count what became of the pseudo-labels: {design: {verdict: organs of cases}}, over the seeds."""
    found: dict[str, dict[str, int]] = {}
    for design in DESIGNS:
        files = [arm_of(work, design, "pseudo", seed).store / "pseudolabels.csv" for seed in SEEDS]
        rows = [row for file in files for row in csv.DictReader(file.open(encoding="utf-8"))]
        found[design] = dict(Counter(row["verdict"] for row in rows))
    return found


def draw() -> None:
    """Draw docs/partial_labels.png: a panel per design, Dice with intervals of annotated and unannotated organs."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = json.loads((RESULTS / "partial_labels.json").read_text())["arms"]
    figure, axes = plt.subplots(1, len(TITLES), figsize=(10, 3.6), sharey=True, layout="constrained")
    places = range(len(IN_WORDS))[::-1]
    for axis, (design, title) in zip(axes, TITLES.items(), strict=True):
        for shift, (group, colour) in zip((0.14, -0.14), COLOURS.items(), strict=True):
            rows = [found[name][design][group] for name in IN_WORDS]
            dice = [row["dice"] for row in rows]
            reach = [[d - row["interval"][0] for d, row in zip(dice, rows, strict=True)],
                     [row["interval"][1] - d for d, row in zip(dice, rows, strict=True)]]  # fmt: skip
            heights = [place + shift for place in places]
            axis.errorbar(dice, heights, xerr=reach, fmt="o", color=colour, capsize=2, label=f"{group} organs")
            axis.axvline(dice[-1], color=colour, lw=0.8, ls=":")
        axis.set_title(title)
        axis.set_xlabel("Dice, mean over organs [95 % interval over patients]")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks(list(places), list(IN_WORDS.values()))
    axes[0].legend(loc="lower left", frameon=False)
    figure.savefig(ROOT / "docs" / "partial_labels.png", dpi=130)


def further(work: Path, test: Path) -> None:
    """Train the arms of ``--further``, those with fewest steps first; write benchmarks/results/organ_visits.json."""
    steps = {name: recipe.training.visits_per_slice for name, recipe in FURTHER.items()}
    names = sorted(FURTHER, key=lambda name: steps[name])
    arms = [arm_of(work, FURTHER_DESIGN, name, seed) for name in names for seed in SEEDS]
    run_all(arms, test)
    content = {
        "patients": {"training": TRAINING, "test": TEST},
        "seeds": len(SEEDS),
        "design": [list(organs) for organs in DESIGNS[FURTHER_DESIGN]],
        "core_minutes": training_minutes([arm.run for arm in arms]),
        "visits_per_slice": steps,
        "pasted": PASTED["sampling"].paste,
        "arms": result(work, [*FURTHER], [FURTHER_DESIGN], ("complete", "complete_thrice", "marginal_exclusion")),
    }
    print(save("organ_visits", facts("torch") | content))


def main() -> None:
    """Make the data, train all arms, measure, write benchmarks/results/partial_labels.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--further", action="store_true", help="organ-visits and pasted organs instead")
    stores = ("complete", *DESIGNS)
    parser.add_argument("--ensembles", nargs="*", choices=stores, help="an ensemble, its folds and its student instead")
    parser.add_argument("--networks", action="store_true", help="viscera25d beside viscera2d instead")
    parser.add_argument("--figure", action="store_true", help="train nothing")
    options = parser.parse_args()
    if options.figure or options.work is None:
        draw()
        return
    work, names = options.work, options.arms
    make_data(work)
    test = work / "data" / "test"
    if options.ensembles is not None:
        designs = {
            store: FURTHER_DESIGN if store == "complete" else store for store in options.ensembles or ["complete"]
        }
        run_ensembles(work, EXCLUSION, designs, counts={"training": TRAINING, "test": TEST})
        return
    if options.further:
        further(work, test)
        return
    if options.networks:
        run_networks(work, {"training": TRAINING, "test": TEST})
        return
    arms = [arm_of(work, "any", "complete", seed) for seed in SEEDS if "complete" in names]
    plain = [name for name in ARMS if name not in ("pseudo", "complete") and name in names]
    run_all(arms + [arm_of(work, design, name, seed) for seed in SEEDS for design in DESIGNS for name in plain], test)
    if "pseudo" in names:
        for design, seed in product(DESIGNS, SEEDS):
            fill_in(work, design, seed)
        run_all([arm_of(work, design, "pseudo", seed) for seed in SEEDS for design in DESIGNS], test)
    if set(names) == set(ARMS):
        found = result(work, [*ARMS], [*DESIGNS], ("complete", "background"))
        runs = [arm_of(work, design, name, seed).run for design in DESIGNS for name in ARMS for seed in SEEDS]
        content = {
            "patients": {"training": TRAINING, "test": TEST},
            "seeds": len(SEEDS),
            "designs": {design: [list(organs) for organs in sets] for design, sets in DESIGNS.items()},
            "core_minutes": training_minutes(dict.fromkeys(runs)),
            "recipe": asdict(BASE),
            "pseudo_labels": accepted(work),
            "arms": found,
        }
        print(save("partial_labels", facts("torch") | content))


if __name__ == "__main__":
    main()
