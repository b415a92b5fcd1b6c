"""What context, each family of ingredients, and donors are worth: one arm for each, on synthetic and on real scans.

    python -m benchmarks.studies.context WORK [--seeds 0 1 2]       what context is worth
    python -m benchmarks.studies.context WORK --start VERSION_1     what the patients' making is worth

Both train two arms at a time and go on where they were stopped. Every arm learns from equally many patients, patches and
slices. All are measured on the same patients that no arm learnt from, made with every ingredient, half procedural and half of the
template with donors' organs, and on the real scans of real_scans.py.

Context: arms differ in the network (context and slices, slices alone, the coarse network alone). The coarse network alone is the
context of the arm that has both, of the same seed: it is trained once. Such trainings are short. What context is worth to a
network that learnt for days is seen in the bundled one, with and without it: it learnt with context dropped in a share of its
slices, so its lack is nothing new to it (``silenced``).

Making: arms go on from version 1 of the bundled weights, which learnt for days before there were these ingredients, and differ in
what the patients are made of. Version 1 is in this repository: git show 1fe755f:PATH.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.machine import facts, save
from benchmarks.studies.arms import Arm, dice_of, difference, drawing, over_seeds, scores_of, train_all, viscera
from benchmarks.studies.real_scans import RealScan, arm_row, real_scans
from benchmarks.studies.starter import DATA, DONORS, LEARNT
from viscera.config import Recipe
from viscera.evaluation.scores import OrganScore
from viscera.inference.model import load_model
from viscera.networks.cards import FOLDER
from viscera.networks.weights import load_weights, save_weights
from viscera.recipes.starter import STARTER, STARTER_2D

PATIENTS, TEST, SLICES, PATCHES = 96, 24, 6_000, 240
"""Learnt from; measured on; slices and patches drawn by each training."""
SLICES_FURTHER, RATE_FURTHER = 8_000, 1e-3
"""Slices drawn by trainings that go on from other weights, and their learning rate."""
SHAPE = ("--shape", 96, 160, 160)
FAMILIES = {
    "kidneys": ("renal_places", "renal_look", "renal_hilum", "renal_lips"),
    "dome_and_rims": ("dome", "rims"),
    "confusers": ("confluence", "cava", "liver_lesions", "rugae", "bright_bowel"),
    "old_aortas": ("old_aorta",),
    "surgery_and_bodies": ("surgery", "bodies"),
}
TEMPLATE = ("--template", DATA / f"{LEARNT}_label.nii.gz", "--template-image", DATA / f"{LEARNT}_ct.nii.gz")
DONATED = ("--donor", *DONORS)


@dataclass(frozen=True)
class Way:
    """What an arm learns from, and with which network.

    Attributes:
        about: For the table.
        parts: {data set: options of viscera synth}; each has an equal share of the patients.
        context: Whether the network of slices has context.
    """

    about: str
    parts: dict[str, tuple]
    context: bool = True


ALL = {"procedural": DONATED, "template": (*TEMPLATE, *DONATED)}


def lacking(names: Sequence[str]) -> dict[str, tuple]:
    """Return the data sets of patients without some ingredients."""
    return {f"{part}-{names[0]}": (*options, "--without", *names) for part, options in ALL.items()}


WAYS = {"both": Way("context and slices", ALL), "slices": Way("slices alone", ALL, context=False)}
FURTHER = {
    "all": Way("every ingredient", ALL, context=False),
    **{
        f"no_{name}": Way(f"without {name.replace('_', ' ')}", lacking(names), context=False)
        for name, names in FAMILIES.items()
    },
    "no_donors": Way("without donors' organs", {"procedural_alone": (), "template_alone": TEMPLATE}, context=False),
}
"""Of ``--start``."""
ABOUT = {
    "coarse": "the coarse network alone",
    "bundled": "the bundled weights",
    "silenced": "the bundled weights, no context for the fine network",
    "version_1": "version 1, as it was",
}


def data_of(work: Path, name: str, options: Sequence[object], *, patients: int, seed: int) -> Path:
    """Write a data set, once."""
    folder = work / "data" / f"{name}_{patients}"
    if not (folder / "done").exists():
        viscera(
            "synth", folder, "--variety", "rich", *SHAPE, "--cases", patients, "--seed", seed, "--jobs", 2, *options
        )
        (folder / "done").touch()
    return folder


def store_of(work: Path, way: Way) -> Path:
    """Prepare what an arm learns from, once; every patient is for training."""
    store = work / "stores" / "+".join(way.parts)
    if (store / "done").exists():
        return store
    share = PATIENTS // len(way.parts)
    folders = [
        data_of(work, name, options, patients=share, seed=8100 + 100 * ("template" in name))
        for name, options in way.parts.items()
    ]
    splits = work / f"{store.name}.json"
    cases = [f"{folder.name}__case_{number:04d}" for folder in folders for number in range(1, share + 1)]
    splits.write_text(json.dumps({"training": cases, "validation": [], "test": []}))
    viscera(
        "prepare", store, "--data", *(f"nnunet={one}" for one in folders), "--recipe", "starter", "--splits", splits
    )
    (store / "done").touch()
    return store


def test_of(work: Path) -> Path:
    """Write the patients to measure on, once: one data set."""
    made = [
        data_of(work, f"test_{name}", options, patients=TEST // 2, seed=8900 + number)
        for number, (name, options) in enumerate(ALL.items())
    ]
    both = work / "data" / "test"
    if not (both / "done").exists():
        for number, folder in enumerate(made):
            for part in ("imagesTr", "labelsTr"):
                (both / part).mkdir(parents=True, exist_ok=True)
                for file in (folder / part).iterdir():
                    place = both / part / file.name.replace("case_", f"case_{number}")
                    place.unlink(missing_ok=True)
                    place.hardlink_to(file)
        described = json.loads((made[0] / "dataset.json").read_text()) | {"numTraining": TEST}
        (both / "dataset.json").write_text(json.dumps(described))
        (both / "done").touch()
    return both


def recipe_of(way: Way, store: Path, seed: int) -> Recipe:
    """Return the recipe of an arm that begins with nothing: every arm draws equally many patches and slices."""
    recipe = drawing(replace(STARTER, training=replace(STARTER.training, epochs=1, seed=seed)), store, SLICES)
    if not way.context:
        return replace(recipe, context=None)
    context = recipe.context
    if context is None:
        raise SystemExit("recipe 'starter' has no context")
    plan = replace(context.training, epochs=1, visits_per_slice=PATCHES / PATIENTS, seed=seed)
    return replace(recipe, context=replace(context, training=plan))


def recipe_further(store: Path, seed: int) -> Recipe:
    """Return the recipe of an arm that goes on from version 1."""
    training = replace(STARTER_2D.training, epochs=1, seed=seed, learning_rate=RATE_FURTHER)
    return drawing(replace(STARTER_2D, training=training), store, SLICES_FURTHER)


def arms_of(work: Path, seeds: Sequence[int], start: Path | None) -> Iterator[tuple[str, int, Arm]]:
    """Return every training."""
    for seed in seeds:
        for name, way in (FURTHER if start else WAYS).items():
            store = store_of(work, way)
            recipe = recipe_further(store, seed) if start else recipe_of(way, store, seed)
            yield name, seed, Arm(recipe, store, work / "runs" / name / str(seed), start)


def bundled_and_silenced(work: Path) -> dict[str, Path]:
    """Write the bundled weights, and them with the fine network's inputs of context at zero, as training drops them.

    Which slices and which box the fine network sees is still said by the context network. Both are files of their own, so that
    both run in fp32.
    """
    weights = load_weights(FOLDER / "starter.safetensors")
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    tensors["down.0.0.weight"][:, weights.recipe.network.slices :] = 0
    files = {name: work / f"{name}.safetensors" for name in ("bundled", "silenced")}
    save_weights(files["bundled"], weights)
    save_weights(files["silenced"], replace(weights, tensors=tensors))
    return files


def measured(run: Path, weights: Path, test: Path, scans: Sequence[RealScan]) -> dict:
    """Segment the test patients and the real scans, once; return the row of the real ones."""
    if not (run / "predicted").exists():
        viscera(
            "predict", test / "imagesTr", run / "predictions", "--weights", weights, "--organs", "all", "--overwrite"
        )
        (run / "predicted").touch()
    file = run / "real.json"
    if not file.exists():
        row = arm_row(run.parent.name, load_model(weights, accelerator="cpu", runtime="auto"), scans, template=True)
        file.write_text(json.dumps(row))
    return json.loads(file.read_text())


AGAINST = {"bundled": "bundled", "silenced": "bundled", "version_1": "all"} | dict.fromkeys(WAYS, "both")
AGAINST |= {"coarse": "both"} | dict.fromkeys(FURTHER, "all")
"""The arm that another is compared with."""


def real_means(rows: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return the mean Dice over seeds of each real scan's organs."""
    return {
        scan: {
            organ: round(float(np.mean([row["scans"][scan][organ]["dice"] for row in rows])), 4)
            for organ in rows[0]["scans"][scan]
        }
        for scan in rows[0]["scans"]
    }


def halves_of(work: Path, arms: Sequence[tuple[str, int, Arm]]) -> Iterator[tuple[str, Path, Path]]:
    """Return what arms trained: name, folder for its predictions, weights."""
    for name, seed, arm in arms:
        yield name, arm.run, arm.run
        if name == "both":
            yield "coarse", work / "runs" / "coarse" / str(seed), arm.run / "context"


def main() -> None:
    """Train, measure, write benchmarks/results/context.json or ingredients.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--start", type=Path, help="version 1 of the bundled weights: leave ingredients out instead")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    work, test = options.work, test_of(options.work)
    arms = list(arms_of(work, options.seeds, options.start))
    train_all(arm for _, _, arm in arms)
    others = {"version_1": options.start} if options.start else bundled_and_silenced(work)
    own = work / "annotated.json"
    names = sorted(file.name.removesuffix(".nii.gz") for file in (test / "labelsTr").iterdir())
    own.write_text(json.dumps({name: list(STARTER.space.organs) for name in names}))
    scans = list(real_scans(work / "real"))
    synthetic: dict[str, list[tuple[OrganScore, ...]]] = {}
    real: dict[str, list[dict]] = {}
    for name, run, weights in (
        *halves_of(work, arms),
        *((name, work / "runs" / name / "0", weights) for name, weights in others.items()),
    ):
        run.mkdir(parents=True, exist_ok=True)
        real.setdefault(name, []).append(measured(run, weights, test, scans))
        synthetic.setdefault(name, []).append(scores_of(run, test, own))
    means = {name: over_seeds(found) for name, found in synthetic.items()}
    rows = [
        {
            "arm": name,
            "about": ABOUT.get(name) or (WAYS | FURTHER)[name].about,
            "seeds": len(synthetic[name]),
            "synthetic": dice_of(means[name], "all"),
            "against": AGAINST[name],
            "difference": difference(means[name], means[AGAINST[name]], "all"),
            "real": real_means(real[name]),
        }
        for name in means
    ]
    plan = {"patients": PATIENTS, "test_patients": TEST, "slices": SLICES_FURTHER if options.start else SLICES}
    result = "ingredients" if options.start else "context"
    print(save(result, facts("torch") | {"plan": plan | {"patches": PATCHES}, "arms": rows}))


if __name__ == "__main__":
    main()
