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

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from viscera.io.csv_text import to_csv
from viscera.io.json_codec import Score, from_json, to_json

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
    iou: Mapping[str, Score]


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
    pooled: Score
    mean: Score
    low: Score
    high: Score
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
        return to_json(self)

    def to_csv(self) -> str:
        """Return one row per cell: settings, failure, cost, then pooled IoU, mean, interval and cases of every class."""
        return to_csv([_row(cell) for cell in self.results], columns=("cell",))


def study_from_json(text: str, *, where: str) -> Study:
    """Read what ``Study.to_json`` wrote; null becomes NaN.

    Args:
        text: The JSON.
        where: The file, for the message.

    Raises:
        FileError: It is not a study.
    """
    return from_json(Study, text, what=f"{where} is not a study", remedy="Write it with viscera study.")


def cell_to_json(cell: CellResult) -> str:
    """Return one cell as indented JSON; NaN becomes null."""
    return to_json(cell)


def cell_from_json(text: str, *, where: str) -> CellResult:
    """Read what ``cell_to_json`` wrote.

    Raises:
        FileError: It is none.
    """
    return from_json(CellResult, text, what=f"{where} is damaged", remedy="Delete it and run the study again.")


def cell_folder(out: Path, cell: CellResult) -> Path:
    """Return the folder of a cell of the study in ``out``."""
    return out / "cells" / cell.folder


def _row(cell: CellResult) -> dict[str, object]:
    """Return a cell's row of the CSV file."""
    row: dict[str, object] = {"cell": cell.name, **cell.settings}
    row |= {name: getattr(cell, name) for name in ("failure", "epochs", "best_epoch", "seconds", "parameters")}
    for score in cell.classes:
        row |= {f"{score.organ} {name}": getattr(score, name) for name in ("pooled", "mean", "low", "high", "cases")}
    return row
