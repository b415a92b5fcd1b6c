"""What is known of a study: its cells with their scores, as JSON and as CSV.

    OUT/study.json                        everything below, written again after every finished cell
    OUT/table.csv                         one row per cell
    OUT/cells/<folder>/wanted.json        the recipe of one cell
    OUT/cells/<folder>/run/               its training, as viscera train leaves it
    OUT/cells/<folder>/labels/<case>.npz  its labels of a case on the prepared grid (array "labels", uint8)
    OUT/cells/<folder>/result.json        its scores; where it stands, the cell is finished
    OUT/cells/<folder>/messages.txt       what was said meanwhile

All scores are intersections over unions on the prepared grid (scoring.py says how).
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from viscera.errors import FileError
from viscera.json_text import parse_json

MEAN = "mean"
"""Stands for the organ in the score of all organs: each counts the same, background does not count."""


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes:
        case: Its name in the store.
        patient: Whom it shows: <data set>/<patient>.
        iou: {class: IoU} of background and of the organs that the case annotates; NaN where neither shows it.
    """

    case: str
    patient: str
    iou: Mapping[str, float]


@dataclass(frozen=True)
class ClassScore:
    """The IoU of one class over all cases.

    Attributes:
        organ: Or "background", or "mean": all organs, without background.
        pooled: Over all voxels of all cases together, as the published tables have it; NaN without a voxel.
        mean: Mean over cases; NaN without one.
        low: Lower end of its 95 % interval over patients; NaN with fewer than two.
        high: Upper end.
        cases: How many cases have a score.
    """

    organ: str
    pooled: float
    mean: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True)
class CellResult:
    """What came of one cell.

    Attributes:
        name: Of the cell, for people: "variant=1 depth=4".
        settings: {dotted setting: value} that make the cell.
        failure: Why there is no score; "" where there is one.
        epochs: Finished.
        best_epoch: Whose weights were scored: that of the lowest validation loss (training loss without validation cases).
        seconds: That training took.
        parameters: Of the network.
        classes: Background, the organs in the label space's order, and "mean".
        cases: One per case of the split.
        folder: Of the cell, below OUT/cells: what labels and curves are found by.
    """

    name: str
    settings: Mapping[str, object]
    failure: str = ""
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    parameters: int = 0
    classes: tuple[ClassScore, ...] = ()
    cases: tuple[CaseScore, ...] = ()
    folder: str = ""

    def of(self, organ: str) -> ClassScore | None:
        """Return the score of a class or of "mean"; None without one."""
        return next((score for score in self.classes if score.organ == organ), None)


@dataclass(frozen=True)
class Study:
    """All cells of a study.

    Attributes:
        name: Of the study: "upv", or the recipe's.
        store: The store's folder, its last name only.
        recipe: Name of the recipe that the cells change.
        split: Whose cases are scored: "test" or "validation".
        results: One per cell that was run so far, in the grid's order.
        cells: How many cells the grid has.
        notes: What the reader should know.
    """

    name: str
    store: str
    recipe: str
    split: str
    results: tuple[CellResult, ...] = ()
    cells: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def organs(self) -> tuple[str, ...]:
        """Background, organs and "mean", as scored; () while nothing is."""
        return next((tuple(score.organ for score in cell.classes) for cell in self.results if cell.classes), ())

    def to_json(self) -> str:
        """Return everything as indented JSON; NaN becomes null."""
        return _json(asdict(self))

    def to_csv(self) -> str:
        """Return one row per cell: settings, failure, cost, then pooled IoU, mean, interval and cases of every class."""
        rows = [_row(cell) for cell in self.results]
        columns = dict.fromkeys(["cell"]) | dict.fromkeys(name for row in rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def study_from_json(text: str, *, where: str) -> Study:
    """Read what ``Study.to_json`` wrote; null becomes NaN.

    Args:
        text: The JSON.
        where: The file, for the message.

    Raises:
        FileError: It is not a study.
    """
    try:
        value = parse_json(text)
        results = tuple(_cell(one) for one in value.pop("results"))
        return Study(**value | {"results": results, "notes": tuple(value["notes"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{where} is not a study ({error!r})", "Write it with viscera study.") from error


def cell_to_json(cell: CellResult) -> str:
    """Return one cell as indented JSON; NaN becomes null."""
    return _json(asdict(cell))


def cell_from_json(text: str, *, where: str) -> CellResult:
    """Read what ``cell_to_json`` wrote.

    Raises:
        FileError: It is none.
    """
    try:
        return _cell(parse_json(text))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{where} is damaged ({error!r})", "Delete it and run the study again.") from error


def cell_folder(out: Path, cell: CellResult) -> Path:
    """Return the folder of a cell of the study in ``out``."""
    return out / "cells" / cell.folder


def _cell(value: dict) -> CellResult:
    classes = tuple(_score(row) for row in value["classes"])
    cases = tuple(
        CaseScore(row["case"], row["patient"], {organ: _number(iou) for organ, iou in row["iou"].items()})
        for row in value["cases"]
    )
    return CellResult(**value | {"classes": classes, "cases": cases})


def _score(row: dict) -> ClassScore:
    pooled, mean, low, high = (_number(row[name]) for name in ("pooled", "mean", "low", "high"))
    return ClassScore(str(row["organ"]), pooled, mean, low, high, int(row["cases"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row(cell: CellResult) -> dict[str, object]:
    """Return a cell's row of the CSV file; NaN becomes an empty field."""
    row: dict[str, object] = {"cell": cell.name, **cell.settings}
    row |= {name: getattr(cell, name) for name in ("failure", "epochs", "best_epoch", "seconds", "parameters")}
    for score in cell.classes:
        row |= {f"{score.organ} {name}": getattr(score, name) for name in ("pooled", "mean", "low", "high", "cases")}
    return {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _json(value: object) -> str:
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
