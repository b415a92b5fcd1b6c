"""What is read, from which file: each may return or raise a VisceraError, and nothing else."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viscera.config.recipe_json import recipe_from_json
from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Source
from viscera.dicom.finding import find_series
from viscera.dicom.read_seg import read_seg
from viscera.dicom.rtstruct_reading import read_rtstruct
from viscera.dicom.series import Series
from viscera.evaluation.scores import evaluation_from_json
from viscera.evaluation.source_annotations import read_own_organs
from viscera.figures.curves import read_log
from viscera.io import nifti
from viscera.io.label_names import label_names
from viscera.json_text import read_text
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
from viscera.volume import check_extent

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
        group: "nifti", "descriptor", "metadata" or "dicom".
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


def _splits(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run without hashes is an older viscera's, and said to be
        of_split([SOURCE], folder / "run", "training")


def _series(place: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        found = find_series(folder / "dicom" / place)
        for problem in found.problems.values():
            raise problem
        for series in found.series:
            voxels = series.read().voxels
            if voxels.shape != series.shape:
                raise AbsurdError(f"{voxels.shape} voxels in a series of {series.shape}")
            if series.shape == (4, 8, 8) and not found.notes:  # nothing is missing, so nothing may be stretched
                check_extent(series.affine, series.shape)

    return read


def _drawn(read: Callable[[Path, Series], object], name: str) -> Callable[[Path], None]:
    def read_it(folder: Path) -> None:
        [series] = find_series(folder / "dicom" / "series").series
        read(folder / "dicom" / name, series)

    return read_it


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


def _page_of_run(folder: Path) -> None:
    render(run_page(folder / "run"))


def _page_of_store(folder: Path) -> None:
    render(store_page(folder / "store"))


def _names(folder: Path) -> None:
    label_names(folder / "x/y/z.nii.gz", labels=folder / "sets/names.json")


def _names_beside(folder: Path) -> None:
    label_names(folder / "results/scan.nii.gz", labels=folder / "sets/names.json")


def _metadata(
    name: str, file: str, read: Callable[[Path], object], *, weight: float = 1.0, limit_s: float = 2.0
) -> Target:
    return Target(name, "metadata", file, read, weight, limit_s)


def _page(name: str, file: str, read: Callable[[Path], object]) -> Target:
    return _metadata(f"page of {name}", file, read, weight=0.03, limit_s=20)


CASE = "store/cases/s__a"
OF_CASE = ("case.json", "pseudo.json", "image.npy", "pseudo.npy")
OF_STORE = ("store/store.json", "store/splits.json", *(f"{CASE}/{name}" for name in OF_CASE))
TARGETS = (
    Target("dicom slice", "dicom", "dicom/series/IM0002", _series("series"), weight=3),
    Target("dicom zip", "dicom", "dicom/series.zip", _series("series.zip")),
    Target("dicom seg", "dicom", "dicom/seg.dcm", _drawn(read_seg, "seg.dcm")),
    Target("dicom rtstruct", "dicom", "dicom/rtstruct.dcm", _drawn(read_rtstruct, "rtstruct.dcm")),
    *(_scan(name) for name in ("plain.nii", "packed.nii.gz", "big.nii", "two.nii.gz")),
    _set("msd", "msd"),
    _set("listed", "msd"),
    _set("nnunet", "nnunet"),
    _set("named", "nnunet"),
    _set("msd", "msd", "annotated.json"),
    _set("nnunet", "nnunet", "annotated.json"),
    Target("label names", "descriptor", "sets/names.json", _names),
    Target("names beside", "descriptor", "results/scan.json", _names_beside),
    Target("--annotated", "descriptor", "sets/own.json", lambda folder: read_own_organs(folder / "sets/own.json")),
    *(_metadata(f"store {Path(file).name}", file, _store) for file in OF_STORE),
    _metadata("weights", "run/best.safetensors", _weights, weight=3),
    _metadata("card", "results/card.json", lambda folder: read_card(folder / "results/card.json")),
    _metadata("export", "results/export/model.json", lambda folder: read_export(folder / "results/export")),
    _metadata("recipe", "run/recipe.json", _text("run/recipe.json", recipe_from_json), weight=2),
    _metadata("run resumed", "run/recipe.json", _run),
    _metadata("run.json, teachers", "run/run.json", lambda folder: read_seen(folder / "run/run.json")),
    _metadata("run.json, splits", "run/run.json", _splits),
    _metadata("log.jsonl", "run/log.jsonl", lambda folder: read_log(folder / "run")),
    _metadata("log.jsonl, resumed", "run/log.jsonl", lambda folder: read_rows(folder / "run")),
    _metadata("evaluation", "results/scores.json", _text("results/scores.json", evaluation_from_json), weight=2),
    _metadata("evaluation, all", "results/confused.json", _text("results/confused.json", evaluation_from_json)),
    _metadata("study", "results/study.json", _text("results/study.json", study_from_json)),
    _metadata("cell", "results/cell.json", _text("results/cell.json", cell_from_json)),
    _metadata(
        "efficiency", "results/scan.json", lambda folder: read_case_efficiency(folder / "results/scan.json", case="a")
    ),
    _metadata("trust", "results/scan.json", lambda folder: read_case_trust(folder / "results/scan.nii.gz", case="a")),
    _page("an evaluation", "results/scores.json", _evaluation),
    _page("a run", "run/log.jsonl", _page_of_run),
    _page("a run, run.json", "run/run.json", _page_of_run),
    _page("a store", f"{CASE}/case.json", _page_of_store),
    _page("a store, problems", "store/problems.json", _page_of_store),
)
