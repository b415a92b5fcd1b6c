"""The page of a study: what its settings change, IoU per organ and cell, curves, error grids, failures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from viscera.errors import FileError
from viscera.evaluation.scores import MEAN
from viscera.figures.curves import read_log
from viscera.figures.study import Curve, Dot, iou_curves, iou_dots, loss_curves, mean_iou
from viscera.io.atomic import write_text
from viscera.labels import readable
from viscera.learning.study.grid import short_names, text_of
from viscera.learning.study.results import CellResult, ClassScore, Study, cell_folder
from viscera.preparation.store import Store
from viscera.reports.effects import BACKGROUND, Effect, effects, findings, varied
from viscera.reports.error_grids import CONTRAST, Place, error_grids
from viscera.reports.page import MISSING, Cell, Page, Row, Section, Table, chart, number_cell, render, without_folders
from viscera.reports.run import duration

MOST_LINES = 8
"""Values of one setting that share a panel of curves."""


def write_study_report(study: Study, out: Path, store: Store, *, places: Sequence[Place] = ()) -> Path:
    """Write OUT/study.html.

    Args:
        study: Its results so far; cells that failed or were not run yet are left out.
        out: The study's folder, with the cells' runs and predicted labels.
        store: The cases.
        places: Cases and slices of which error grids are drawn; () takes the best, the median and the worst case.

    Returns:
        The page.

    Raises:
        FileError: It cannot be written.
    """
    file = out / "study.html"
    write_text(file, render(study_page(study, out, store, places=places)))
    return file


def study_page(study: Study, out: Path, store: Store, *, places: Sequence[Place] = ()) -> Page:
    """Return the page of a study; arguments as in ``write_study_report``."""
    scored = [cell for cell in study.results if cell.classes]
    best = best_cell(study)
    logs, unread = _curves(study, out)
    sections = []
    if scored:
        rows = effects(study, np.random.default_rng(0))
        sections += [*_findings(study, rows), *_score_sections(study, scored)]
    else:
        sections.append(Section("Scores", "No cell has a score yet."))
    if logs or scored:
        sections += _training_sections(study, logs)
    if best is not None:
        images, problems = error_grids(study, best, out, store=store, places=places)
        sections.append(_grid_section(best, images, problems))
    failed = [cell for cell in study.results if cell.failure]
    if failed:
        sections.append(_failures(failed))
    notes = (*(without_folders(note) for note in study.notes), *unread)
    if notes:
        sections.append(Section("Notes", notes=notes))
    subtitle = (
        f"Recipe {study.recipe} on {without_folders(study.store)}; networks scored on the {study.split} cases, "
        "on the prepared grid."
    )
    return Page("Study", study.name, subtitle, _tiles(study, best), tuple(sections))


def best_cell(study: Study) -> CellResult | None:
    """Return the cell of the highest mean IoU over organs, or None where none has one."""
    scored = [(score.mean, cell) for cell in study.results if (score := cell.of(MEAN)) and math.isfinite(score.mean)]
    return max(scored, key=lambda entry: entry[0])[1] if scored else None


def _tiles(study: Study, best: CellResult | None) -> tuple[tuple[str, str], ...]:
    failed = sum(bool(cell.failure) for cell in study.results)
    done = f"{len(study.results) - failed} of {max(study.cells, len(study.results))}"
    tiles = [("cells with a score", done)]
    if failed:
        tiles.append(("cells that failed", str(failed)))
    cases = {score.case for cell in study.results for score in cell.cases}
    if cases:
        tiles.append((f"{study.split} cases", str(len(cases))))
    mean = None if best is None else best.of(MEAN)
    if best is not None and mean is not None:
        tiles.append((f"mean IoU of the best: {best.name}", f"{mean.mean:.3f}"))
    seconds = sum(cell.seconds for cell in study.results)
    if seconds:
        tiles.append(("training time", duration(seconds)))
    return tuple(tiles)


def _findings(study: Study, rows: Sequence[Effect]) -> list[Section]:
    found = [Section("What the study shows", notes=findings(study, rows))]
    if not rows:
        return found
    text = (
        "Mean IoU of each value, averaged over its cells; differences from the first value on the same patients and between "
        "pairs of cells that differ in nothing else, with 95 % intervals; in how many pairs the IoU is higher; differences "
        "per organ."
    )
    return [*found, Section("What each setting changes", text, table=_effect_table(study, rows))]


def _effect_table(study: Study, rows: Sequence[Effect]) -> Table:
    organs = [organ for organ in study.organs if organ not in (BACKGROUND, MEAN)]
    columns = ("setting", "cells", "mean IoU", "difference", "p, Holm", "higher", *map(readable, organs))
    return Table(columns, tuple(_effect_row(row, organs) for row in rows))


def _effect_row(row: Effect, organs: Sequence[str]) -> Row:
    differences = row.differences or {}
    mean = differences.get(MEAN)
    pairs = Cell(f"{row.higher} of {row.pairs}", number=row.higher / row.pairs) if row.pairs else Cell(MISSING)
    own = [differences[organ].difference if organ in differences else None for organ in organs]
    if not row.reference:
        shown = Cell("reference")
    elif mean is None:
        shown = Cell(MISSING)
    else:
        shown = _signed(mean.difference, _interval(mean.low, mean.high, sign=True))
    return Row(
        (
            Cell(f"{row.setting} {row.value}"),
            Cell(str(row.cells), number=row.cells),
            number_cell(row.mean, bar=True),
            shown,
            number_cell(row.p_value),
            pairs,
            *map(_signed, own),
        )
    )


def _score_sections(study: Study, scored: Sequence[CellResult]) -> list[Section]:
    line, lines = _lines(study)
    models = [(cell.name, text_of(cell.settings[line]) if line in cell.settings else "") for cell in scored]
    organs = [organ for organ in study.organs if organ != BACKGROUND]
    dots = {organ: [_dot(cell.of(organ)) for cell in scored] for organ in organs}
    return [
        Section(
            "IoU, pooled over voxels",
            "Intersection over union of all cases' voxels together, as the published tables have it. The mean is that of "
            "the organs, without background. Click on a heading to sort.",
            table=_score_table(study, study.organs, pooled=True),
        ),
        Section(
            "IoU, mean over cases",
            "With the bootstrap 95 % interval over patients in brackets. A patient's small organ counts as much here as "
            "another's large one.",
            table=_score_table(study, organs, pooled=False),
        ),
        Section(
            "IoU per organ",
            "Filled: mean over cases, with its interval. Hollow: pooled over voxels.",
            charts=(chart(iou_dots(models, dots, lines=lines), "IoU per organ and cell"),),
        ),
    ]


def _score_table(study: Study, classes: Sequence[str], *, pooled: bool) -> Table:
    settings = varied(study.results)
    short = short_names(list(settings))
    names = tuple(short.values()) or ("cell",)
    rows = []
    for cell in study.results:
        if not cell.classes:
            continue
        words = [Cell(text_of(cell.settings.get(setting, ""))) for setting in settings] or [Cell(cell.name)]
        rows.append(Row((*words, *(_score_cell(cell.of(organ), pooled=pooled) for organ in classes))))
    return Table((*names, *map(readable, classes)), tuple(rows), words=len(names))


def _score_cell(score: ClassScore | None, *, pooled: bool) -> Cell:
    if score is None:
        return Cell(MISSING)
    if pooled:
        return number_cell(score.pooled, bar=True)
    value = number_cell(score.mean, bar=True)
    return Cell(value.text, value.number, value.share, small=_interval(score.low, score.high))


def _curves(study: Study, out: Path) -> tuple[list[Curve], tuple[str, ...]]:
    """Read the logs of all cells that have one; say which cannot be read."""
    line, _ = _lines(study)
    curves, notes = [], []
    for cell in study.results:
        log = cell_folder(out, cell) / "run" / "log.jsonl"
        if not cell.folder or not log.is_file():
            continue
        try:
            epochs = read_log(log)
        except FileError as error:
            notes.append(without_folders(f"No curves of {cell.name}: {error}"))
            continue
        curves.append(Curve(_panel(study, cell, line), text_of(cell.settings.get(line, "")), epochs, cell.best_epoch))
    return curves, tuple(notes)


def _lines(study: Study) -> tuple[str, tuple[str, ...]]:
    """Return the setting whose values share a panel, and the values: the contrast, else the last that has not too many."""
    settings = {name: values for name, values in varied(study.results).items() if len(values) <= MOST_LINES}
    line = CONTRAST if CONTRAST in settings else next(reversed(settings), "")
    return line, settings.get(line, ())


def _panel(study: Study, cell: CellResult, line: str) -> str:
    """Name a cell by the settings that vary, but for the one that tells the lines apart."""
    settings = varied(study.results)
    short = short_names(list(settings))
    words = [f"{short[name]} {text_of(cell.settings.get(name, ''))}" for name in settings if name != line]
    return ", ".join(words) or (study.name if line else cell.name)


def _training_sections(study: Study, curves: Sequence[Curve]) -> list[Section]:
    text = (
        "Loss and mean IoU of training batches (dotted) and of the validation cases (solid), as training measures them; the "
        "ring marks the best epoch, whose weights are scored."
    )
    line, lines = _lines(study)
    by_name = {(curve.panel, curve.line): curve for curve in curves}
    rows = []
    for cell in study.results:
        if cell.failure and not cell.epochs:
            continue
        curve = by_name.get((_panel(study, cell, line), text_of(cell.settings.get(line, ""))))
        rows.append(_training_row(cell, curve))
    columns = ("cell", "best epoch", "epochs", "validation loss", "validation IoU", "parameters", "training time")
    sections = [Section("Best epochs", table=Table(columns, tuple(rows)))]
    if curves:
        charts = (chart(loss_curves(curves, lines), "loss curves"), chart(iou_curves(curves, lines), "IoU curves"))
        sections.insert(0, Section("Training", text, charts=charts))
    return sections


def _training_row(cell: CellResult, curve: Curve | None) -> Row:
    best = None if curve is None else next((one for one in curve.epochs if one.epoch == cell.best_epoch), None)
    return Row(
        (
            Cell(cell.name),
            Cell(str(cell.best_epoch), number=cell.best_epoch),
            Cell(str(cell.epochs), number=cell.epochs),
            number_cell(None if best is None else best.val_loss, digits=4),
            number_cell(None if best is None else mean_iou(best.val_dice), bar=True),
            Cell(f"{cell.parameters / 1e6:.2f} M", number=cell.parameters),
            Cell(duration(cell.seconds), number=cell.seconds),
        )
    )


def _grid_section(best: CellResult, images: tuple[tuple[str, str], ...], problems: tuple[str, ...]) -> Section:
    text = (
        f"The cell of the highest mean IoU ({best.name}), chosen by the very cases that it is shown on, and the other "
        "contrasts of the same network. First the slice as the network saw it, then all that it found, then each organ: "
        "yellow where prediction and truth agree, green where only the prediction shows it, red where it was missed."
    )
    return Section("Error grids", text, images=images, notes=problems)


def _failures(failed: Sequence[CellResult]) -> Section:
    rows = [Row((Cell(cell.name), Cell(without_folders(cell.failure)))) for cell in failed]
    return Section("Failures", "These cells have no score.", table=Table(("cell", "why"), tuple(rows), words=2))


def _dot(score: ClassScore | None) -> Dot:
    return Dot(*[math.nan] * 4) if score is None else Dot(score.mean, score.low, score.high, score.pooled)


def _interval(low: float, high: float, *, sign: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{low:+.3f}, {high:+.3f}]" if sign else f"[{low:.2f}, {high:.2f}]"


def _signed(value: float | None, small: str = "") -> Cell:
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    return Cell(f"{value:+.3f}", number=value, small=small)
