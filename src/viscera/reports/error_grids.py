"""Error grids of a study: which cases and slices are shown, and the pictures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from viscera.config import Recipe
from viscera.config.recipe_json import recipe_from_json
from viscera.errors import FileError, VisceraError
from viscera.figures.error_grid import GridLook, JudgedSlice, error_grid
from viscera.figures.montage import TISSUE_HU, choose_slices, with_margin
from viscera.figures.pictures import SOFT_TISSUE_HU
from viscera.json_text import read_text
from viscera.labels import LabelSpace
from viscera.learning.study.grid import text_of
from viscera.learning.study.results import CaseScore, CellResult, Study, cell_folder
from viscera.learning.study.scoring import read_labels
from viscera.preparation.contrast import enhance
from viscera.preparation.store import Case, Store
from viscera.reports.effects import BACKGROUND
from viscera.reports.page import png_base64, without_folders

CONTRAST = "contrast.method"
PANEL_PIXELS = 280

Place = tuple[str, int]
"""(case, its slice on the prepared grid, counted from the feet)."""


def error_grids(
    study: Study, best: CellResult, out: Path, *, store: Store, places: Sequence[Place] = ()
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Draw the error grids of the best cell, and of each other contrast on the same slices.

    Args:
        study: Of which.
        best: The cell that is shown.
        out: The study's folder, with the predicted labels.
        store: The cases.
        places: Cases and slices to show; () takes the best cell's best, median and worst case, each on the slice that
            shows its organs best.

    Returns:
        (caption, PNG in base64) of each, and why others could not be drawn.
    """
    images, notes = [], []
    chosen = [(f"{case}, slice {index}", case, index) for case, index in places] or [
        (f"{what}: {score.case}", score.case, None) for what, score in _notable(best)
    ]
    for title, name, index in chosen:
        for cell in _contrasts(study, best):
            try:
                images.append(_image(title, cell, out, case=store.case(name), space=store.space, index=index))
            except VisceraError as error:
                notes.append(without_folders(f"No picture of {name}, {cell.name}: {error}"))
    return tuple(images), tuple(notes)


def case_mean(score: CaseScore) -> float:
    """Return the mean IoU over a case's organs; NaN without one."""
    values = [value for organ, value in score.iou.items() if organ != BACKGROUND and math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan


def judged_slice(
    case: Case, labels: np.ndarray, *, recipe: Recipe, space: LabelSpace, index: int | None = None
) -> tuple[JudgedSlice, int]:
    """Return a slice as the network saw it, cut to the body and to all labels, with truth and prediction; and its number.

    Args:
        case: From the store.
        labels: Predicted, on the prepared grid.
        recipe: Says how the contrast is enhanced.
        space: Of the labels.
        index: Which slice; None takes the one that shows the annotated organs best.

    Raises:
        FileError: The labels lie on another grid, or there is no such slice.
    """
    if labels.shape != case.image.shape:
        raise FileError(
            f"labels of {case.name} have {labels.shape} voxels, the case {case.image.shape}",
            "The store was prepared anew: run the study again.",
        )
    if index is None:
        wanted = [space.index(organ) for organ in case.annotated]
        counts = [np.bincount(layer.ravel(), minlength=256)[wanted] for layer in case.truth]
        index = choose_slices(np.array(counts), 1)[0]
    if not 0 <= index < len(case.image):
        raise FileError(f"{case.name} has no slice {index}: it has 0 to {len(case.image) - 1} from feet to head.")
    _, row_mm, column_mm = case.geometry.spacing_mm
    body = _body(case.image[index], (case.truth[index], labels[index]), spacing_mm=(row_mm, column_mm))
    return JudgedSlice(
        input_hu=enhance(np.asarray(case.image[index]), recipe.contrast)[body],
        truth=np.asarray(case.truth[index])[body],
        prediction=labels[index][body],
        spacing_mm=(row_mm, column_mm),
        organs=space.labels,
        annotated=case.annotated,
        known=None if case.known is None else np.asarray(case.known[index])[body],
    ), index


def _body(
    slice_hu: np.ndarray, labels: tuple[np.ndarray, np.ndarray], *, spacing_mm: tuple[float, float]
) -> tuple[slice, slice]:
    """Return the rows and columns worth showing, with a margin: the same whatever the contrast."""
    tissue = slice_hu > TISSUE_HU
    field = []
    for axis, step_mm in enumerate(spacing_mm):
        # A line counts as body if 2 % of it is not air: wires and noise do not.
        wanted = tissue.mean(axis=1 - axis) > 0.02
        field.append(with_margin(np.logical_or.reduce([wanted, *(one.any(axis=1 - axis) for one in labels)]), step_mm))
    return field[0], field[1]


def _notable(best: CellResult) -> list[tuple[str, CaseScore]]:
    """Return the best, the median and the worst case, each once."""
    ranked = sorted((score for score in best.cases if math.isfinite(case_mean(score))), key=case_mean, reverse=True)
    if not ranked:
        return []
    found = {0: "Best case", len(ranked) - 1: "Worst case", len(ranked) // 2: "Median case"} if len(ranked) > 2 else {}
    found = found or dict(zip(range(len(ranked)), ("Best case", "Worst case"), strict=False))
    return [(what, ranked[place]) for place, what in sorted(found.items())]


def _contrasts(study: Study, best: CellResult) -> list[CellResult]:
    """Return the best cell, then those that differ from it in the contrast only."""

    def others(cell: CellResult) -> dict[str, str]:
        return {name: text_of(value) for name, value in cell.settings.items() if name != CONTRAST}

    alike = [cell for cell in study.results if cell.classes and cell is not best and others(cell) == others(best)]
    return [best, *alike]


def _image(
    title: str, cell: CellResult, out: Path, *, case: Case, space: LabelSpace, index: int | None
) -> tuple[str, str]:
    """Draw one grid, and return (caption, PNG in base64)."""
    folder = cell_folder(out, cell)
    labels = read_labels(folder / "labels" / f"{case.name}.npz")
    recipe = _recipe(folder / "run" / "recipe.json")
    judged, found = judged_slice(case, labels, recipe=recipe, space=space, index=index)
    score = next((case_mean(one) for one in cell.cases if one.case == case.name), math.nan)
    shown_iou = f", mean IoU of the case {score:.3f}" if math.isfinite(score) else ""
    where = "" if index is not None else f", slice {found}"
    look = GridLook(panel_pixels=PANEL_PIXELS, window_hu=recipe.intensity.window_hu or SOFT_TISSUE_HU)
    return f"{title}{where}; {cell.name}{shown_iou}", png_base64(lambda out: error_grid(judged, out, look))


def _recipe(file: Path) -> Recipe:
    return recipe_from_json(read_text(file, remedy="Run the study again."), where=file.name)
