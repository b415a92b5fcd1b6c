"""What is read, from which file: each may return or raise a VisceraError, and nothing else."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viscera.config.recipe_json import recipe_from_json
from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Source
from viscera.evaluation.scores import evaluation_from_json
from viscera.evaluation.source_annotations import read_own_organs
from viscera.figures.curves import read_log
from viscera.io import nifti
from viscera.io.json_text import read_text
from viscera.io.label_names import label_names
from viscera.learning.pseudolabels.teachers import read_seen
from viscera.learning.run_folder import claim_run, read_rows
from viscera.learning.study.results import cell_from_json, study_from_json
from viscera.networks.cards import read_card
from viscera.networks.exported import read_export
from viscera.networks.find_weights import known_organs
from viscera.networks.weights import load_weights
from viscera.preparation.splits import of_split
from viscera.preparation.store import open_store
from viscera.quality.efficiency import read_case_efficiency
from viscera.quality.flags import read_case_trust
from viscera.reports.page import render
from viscera.reports.run import run_page
from viscera.reports.scores import evaluation_page
from viscera.reports.store import store_page

SPACING_MM = (0.02, 50.0)
EXTENT_MM = (1.0, 3000.0)
"""Between voxels, and of a scan: beyond these no scanner's and no body's."""

SOURCE = Source("a", "s", "a", Path("a.nii.gz"), None, (), ())
"""The store's first case, as a data set has it."""


class AbsurdError(Exception):
    """A geometry that no body has was taken without a word."""


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: For the table.
        group: "nifti", "descriptor" or "metadata".
        file: The one to be damaged, within the seeds.
        read: Reads it, given the seeds' folder.
        weight: How often, beside the others of the group.
        limit_s: How long it may take.
    """

    name: str
    group: str
    file: str
    read: Callable[[Path], object]
    weight: float = 1.0
    limit_s: float = 2.0


def _scan(name: str) -> Target:
    def read(folder: Path) -> None:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            scan = nifti.read(folder / "scans" / name)
        spacing, shape = np.array(scan.spacing_mm), np.array(scan.shape)
        extent = spacing * shape
        within = (
            SPACING_MM[0] <= spacing.min() and spacing.max() <= SPACING_MM[1]
            and EXTENT_MM[0] <= extent.min() and extent.max() <= EXTENT_MM[1]
        )  # fmt: skip
        if not within and not told:
            raise AbsurdError(f"spacing {spacing} mm, extent {extent} mm")

    return Target(name, "nifti", f"scans/{name}", read)


def _set(name: str, layout: str, file: str = "dataset.json") -> Target:
    return Target(
        f"{layout} {name} {file}",
        "descriptor",
        f"sets/{name}/{file}",
        lambda folder: find_sources(layout, folder / "sets" / name),
    )


def _store(folder: Path) -> None:
    store = open_store(folder / "store")
    for split in (None, "training", "validation", "test"):
        store.names(split)
    for name in ("s__a", "s__b"):
        case = store.case(name)
        np.asarray(case.image).sum()
        _ = case.geometry.prepared_affine, case.geometry.spacing_mm
    store.voxels("training")


def _weights(folder: Path) -> None:
    file = folder / "run/best.safetensors"
    known_organs(file)
    load_weights(file)


def _run(folder: Path) -> None:
    run = folder / "run"
    recipe = recipe_from_json((folder / "good_recipe.json").read_text(), where="good")
    kept = (run / "recipe.json").read_bytes()
    try:
        claim_run(run, recipe, resume=True, overwrite=False)
    finally:
        (run / "recipe.json").write_bytes(kept)


def _text(file: str, read: Callable[..., object]) -> Callable[[Path], object]:
    return lambda folder: read(read_text(folder / file), where=Path(file).name)


def _evaluation(folder: Path) -> None:
    evaluation = evaluation_from_json(read_text(folder / "results/scores.json"), where="scores.json")
    render(evaluation_page(evaluation, "scores"))


TARGETS = (
    *(_scan(name) for name in ("plain.nii", "packed.nii.gz", "big.nii", "two.nii.gz")),
    _set("msd", "msd"),
    _set("listed", "msd"),
    _set("nnunet", "nnunet"),
    _set("named", "nnunet"),
    _set("msd", "msd", "annotated.json"),
    _set("nnunet", "nnunet", "annotated.json"),
    Target("label names", "descriptor", "sets/names.json", lambda folder: label_names(folder / "x/y/z.nii.gz", labels=folder / "sets/names.json")),
    Target("names beside", "descriptor", "results/scan.json", lambda folder: label_names(folder / "results/scan.nii.gz", labels=folder / "sets/names.json")),
    Target("--annotated", "descriptor", "sets/own.json", lambda folder: read_own_organs(folder / "sets/own.json")),
    *(
        Target(f"store {Path(file).name}", "metadata", f"store/{file}", _store)
        for file in ("store.json", "splits.json", "cases/s__a/case.json", "cases/s__a/pseudo.json", "cases/s__a/image.npy", "cases/s__a/pseudo.npy")
    ),
    Target("weights", "metadata", "run/best.safetensors", _weights, weight=3),
    Target("card", "metadata", "results/card.json", lambda folder: read_card(folder / "results/card.json")),
    Target("export", "metadata", "results/export/model.json", lambda folder: read_export(folder / "results/export")),
    Target("recipe", "metadata", "run/recipe.json", _text("run/recipe.json", recipe_from_json), weight=2),
    Target("run resumed", "metadata", "run/recipe.json", _run),
    Target("run.json, teachers", "metadata", "run/run.json", lambda folder: read_seen(folder / "run/run.json")),
    Target("run.json, splits", "metadata", "run/run.json", lambda folder: of_split([SOURCE], folder / "run", "training")),
    Target("log.jsonl", "metadata", "run/log.jsonl", lambda folder: read_log(folder / "run")),
    Target("log.jsonl, resumed", "metadata", "run/log.jsonl", lambda folder: read_rows(folder / "run")),
    Target("evaluation", "metadata", "results/scores.json", _text("results/scores.json", evaluation_from_json), weight=2),
    Target("evaluation, all", "metadata", "results/confused.json", _text("results/confused.json", evaluation_from_json)),
    Target("study", "metadata", "results/study.json", _text("results/study.json", study_from_json)),
    Target("cell", "metadata", "results/cell.json", _text("results/cell.json", cell_from_json)),
    Target("efficiency", "metadata", "results/scan.json", lambda folder: read_case_efficiency(folder / "results/scan.json", case="a")),
    Target("trust", "metadata", "results/scan.json", lambda folder: read_case_trust(folder / "results/scan.nii.gz", case="a")),
    Target("page of an evaluation", "metadata", "results/scores.json", _evaluation, weight=0.05, limit_s=20),
    Target("page of a run", "metadata", "run/log.jsonl", lambda folder: render(run_page(folder / "run")), weight=0.03, limit_s=20),
    Target("page of a run, run.json", "metadata", "run/run.json", lambda folder: render(run_page(folder / "run")), weight=0.02, limit_s=20),
    Target("page of a store", "metadata", "store/cases/s__a/case.json", lambda folder: render(store_page(folder / "store")), weight=0.04, limit_s=20),
    Target("page of a store, problems", "metadata", "store/problems.json", lambda folder: render(store_page(folder / "store")), weight=0.02, limit_s=20),
)  # fmt: skip
