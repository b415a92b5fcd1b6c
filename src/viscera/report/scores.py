"""The page of an evaluation: means with intervals, charts, best and worst cases with pictures, every score."""

import base64
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from viscera.errors import FileError
from viscera.figures import Look, Mean, dice_bars, dice_boxes, montage
from viscera.figures.canvas import readable
from viscera.nifti import read, stem
from viscera.report.page import MISSING, Cell, Page, Row, Section, Table, chart, number_cell, read_json

METRICS: dict[str, tuple[str, int]] = {
    "dice": ("Dice", 3),
    "iou": ("IoU", 3),
    "nsd": ("NSD", 3),
    "hd95_mm": ("HD95, mm", 1),
    "truth_ml": ("truth, ml", 1),
    "prediction_ml": ("prediction, ml", 1),
    "volume_error_ml": ("volume error, ml", 1),
    "tolerance_mm": ("NSD tolerance, mm", 1),
}
"""{name in the JSON: (heading, digits)}."""

FRACTIONS = ("dice", "iou", "nsd")
"""Metrics in [0, 1], drawn with a bar."""

SHOWN_PER_END = 2
"""Montages of so many of the worst and of the best cases."""

LOOK = Look(axial=3, coronal=1, panel_pixels=330)

MODES = {
    "volume": "Scores of whole volumes on the scanner's grid, per case and organ.",
    "slices": "Pooled over the slices on which the truth shows the organ, as in Zhang 2025. False positives on other "
    "slices do not count: not to be compared with scores of whole volumes.",
    "flare": "Scores as defined by the FLARE challenges.",
}


@dataclass(frozen=True)
class CaseFiles:
    """Where the files of a case are, for its picture.

    Attributes:
        title: The case's name as in the evaluation, or any other title.
        ct: The scan.
        prediction: Predicted labels; the organs' names are in NAME.json beside it, unless ``names`` gives them.
        truth: True labels with the same values, or None.
        names: {label: organ}.
        annotated: Organs that the truth annotates; None: all.
    """

    title: str
    ct: Path
    prediction: Path
    truth: Path | None = None
    names: Mapping[int, str] | None = None
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Score:
    """The scores of one organ in one case; None where a metric has no finite value."""

    case: str
    organ: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Scores:
    """What ``viscera evaluate --json`` wrote.

    Attributes:
        mode: volume, slices or flare.
        cases: Every score.
        means: {metric: mean per organ, the organ "mean" being the mean over organs}.
    """

    mode: str
    cases: tuple[Score, ...]
    means: Mapping[str, tuple[Mean, ...]]


def is_evaluation(file: Path) -> bool:
    """Tell whether a file is JSON that ``viscera evaluate`` wrote."""
    return file.suffix == ".json" and {"mode", "cases", "summary"} <= set(read_json(file))


def read_scores(file: Path) -> Scores:
    """Read an evaluation's JSON.

    Raises:
        FileError: It is none.
    """
    evaluation = read_json(file)
    try:
        cases = tuple(
            Score(
                str(row["case"]), str(row["organ"]), {name: _number(row.get(name)) for name in METRICS if name in row}
            )
            for row in _rows(evaluation["cases"])
        )
        means: dict[str, list[Mean]] = {}
        for row in _rows(evaluation["summary"]):
            mean = _number(row["mean"])
            if mean is not None:
                entry = Mean(
                    str(row["organ"]), mean, _number(row.get("low")), _number(row.get("high")), _count(row["cases"])
                )
                means.setdefault(str(row["metric"]), []).append(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{file.name} is no evaluation ({error!r}). Write it with viscera evaluate --json.") from error
    return Scores(str(evaluation["mode"]), cases, {metric: tuple(entries) for metric, entries in means.items()})


def evaluation_page(file: Path, pictures: Sequence[CaseFiles] = ()) -> Page:
    """Give the page of an evaluation.

    Args:
        file: What ``viscera evaluate --json`` wrote.
        pictures: Cases of which montages can be made. Of those that the evaluation names, the best and the worst are
            shown; others are shown all.

    Raises:
        FileError: A file cannot be read.
        GeometryError: The labels of a picture lie on another grid than its scan.
    """
    scores = read_scores(file)
    organs = list(dict.fromkeys(score.organ for score in scores.cases))
    names = list(dict.fromkeys(score.case for score in scores.cases))
    sections = [
        Section("Summary", "Mean over cases, with the bootstrap 95 % interval in brackets.", table=_summary(scores))
    ]
    per_organ = {organ: _dice(scores.cases, organ=organ) for organ in organs}
    if any(per_organ.values()):
        charts = [chart(dice_boxes(per_organ), "Dice per case")]
        if scores.means.get("dice"):
            charts.append(chart(dice_bars(scores.means["dice"]), "mean Dice"))
        text = "The number of cases is in brackets. An organ that a case does not annotate has no score there."
        sections.append(Section("Dice per organ", text, charts=tuple(charts)))
    ranking = _ranking(scores, names)
    if ranking:
        text = "By the mean Dice over the organs that each case annotates."
        sections.append(Section("Worst and best cases", text, table=_ranking_table(scores, ranking)))
    shown = _chosen(pictures, [case for case, _ in ranking])
    if shown:
        images = tuple((caption, picture(case)) for caption, case in shown)
        text = "The patient's right is on the left of each picture. Yellow: agreement; green: false; red: missed."
        sections.append(Section("Pictures", text, images=images))
    sections.append(Section("Every score", "Click on a heading to sort.", table=_case_table(scores)))
    tiles = [("cases", str(len(names))), ("organs", str(len(organs)))]
    for metric in FRACTIONS:
        overall = next((entry for entry in scores.means.get(metric, ()) if entry.organ == "mean"), None)
        if overall is not None:
            tiles.append((f"mean {METRICS[metric][0]}", f"{overall.mean:.3f}"))
    return Page("Evaluation", file.stem, MODES.get(scores.mode, f"Mode {scores.mode}."), tuple(tiles), tuple(sections))


def picture(case: CaseFiles, look: Look = LOOK) -> str:
    """Draw the montage of a case; give the PNG in base64."""
    names = case.names if case.names is not None else _names_beside(case.prediction)
    with tempfile.TemporaryDirectory() as folder:
        png = montage(
            read(case.ct),
            read(case.prediction),
            truth=None if case.truth is None else read(case.truth),
            names=names,
            annotated=case.annotated,
            out=Path(folder) / "montage.png",
            look=look,
        )
        return base64.b64encode(png.read_bytes()).decode("ascii")


def _dice(cases: Sequence[Score], *, organ: str | None = None, case: str | None = None) -> list[float]:
    """Give the finite Dice values of one organ, or of one case."""
    wanted = [score for score in cases if organ in (None, score.organ) and case in (None, score.case)]
    values = [score.values.get("dice") for score in wanted]
    return [value for value in values if value is not None]


def _ranking(scores: Scores, names: Sequence[str]) -> list[tuple[str, float]]:
    """Give (case, mean Dice), the worst first."""
    values = {name: _dice(scores.cases, case=name) for name in names}
    return sorted(((name, sum(dice) / len(dice)) for name, dice in values.items() if dice), key=lambda entry: entry[1])


def _ranking_table(scores: Scores, ranking: Sequence[tuple[str, float]]) -> Table:
    """Show both ends of the ranking, with the organ that is worst in each case."""
    ends = dict([*ranking[:5], *ranking[-5:]])
    rows = []
    for case, mean in ends.items():
        organs = {s.organ: d for s in scores.cases if s.case == case and (d := s.values.get("dice")) is not None}
        worst = min(organs, key=organs.__getitem__)
        rows.append(
            Row((Cell(case), Cell(readable(worst)), number_cell(mean, bar=True), number_cell(organs[worst], bar=True)))
        )
    return Table(("case", "worst organ", "mean Dice", "its Dice"), tuple(rows), words=2)


def _chosen(pictures: Sequence[CaseFiles], ranked: Sequence[str]) -> list[tuple[str, CaseFiles]]:
    """Give (caption, case): the worst and best of the evaluated cases that can be drawn, then all others."""
    places = {case: place for place, case in enumerate(ranked, start=1)}
    known = sorted((case for case in pictures if case.title in places), key=lambda case: places[case.title])
    if len(known) > 2 * SHOWN_PER_END:
        known = known[:SHOWN_PER_END] + known[-SHOWN_PER_END:]
    captions = [(f"{case.title}: place {places[case.title]} of {len(ranked)} from the worst", case) for case in known]
    return captions + [(case.title, case) for case in pictures if case.title not in places]


def _names_beside(prediction: Path) -> dict[int, str]:
    """Read the organs' names from NAME.json beside a prediction; none where there is no such file."""
    file = prediction.with_name(f"{stem(prediction)}.json")
    if not file.is_file():
        return {}
    labels = read_json(file).get("labels")
    if not isinstance(labels, dict) or not all(str(value).isdecimal() for value in labels):
        raise FileError(f"{file.name} names no labels. Write it with viscera predict, or remove it.")
    return {int(value): str(organ) for value, organ in labels.items()}


def _summary(scores: Scores) -> Table:
    """Put organs in rows, the mean last, and metrics in columns."""
    metrics = [metric for metric in METRICS if metric in scores.means]
    metrics += [metric for metric in scores.means if metric not in METRICS]
    organs = list(dict.fromkeys(entry.organ for metric in metrics for entry in scores.means[metric]))
    organs.sort(key=lambda organ: organ == "mean")
    rows = []
    for organ in organs:
        cells = [Cell(readable(organ))]
        found = [next((e for e in scores.means[metric] if e.organ == organ), None) for metric in metrics]
        cases = max((entry.cases for entry in found if entry is not None), default=0)
        cells.append(Cell(str(cases), number=cases))
        cells += [_mean_cell(entry, metric) for entry, metric in zip(found, metrics, strict=True)]
        rows.append(Row(tuple(cells), total=organ == "mean"))
    return Table(("organ", "cases", *(METRICS.get(metric, (metric, 3))[0] for metric in metrics)), tuple(rows))


def _mean_cell(entry: Mean | None, metric: str) -> Cell:
    if entry is None:
        return Cell(MISSING)
    digits = METRICS.get(metric, (metric, 3))[1]
    cell = number_cell(entry.mean, digits=digits, bar=metric in FRACTIONS)
    if entry.low is None or entry.high is None:
        return cell
    return replace(cell, small=f"[{entry.low:.{digits}f}, {entry.high:.{digits}f}]")


def _case_table(scores: Scores) -> Table:
    metrics = [metric for metric in METRICS if any(metric in score.values for score in scores.cases)]
    rows = [
        Row(
            (
                Cell(score.case),
                Cell(readable(score.organ)),
                *(number_cell(score.values.get(m), digits=METRICS[m][1], bar=m in FRACTIONS) for m in metrics),
            )
        )
        for score in scores.cases
    ]
    return Table(("case", "organ", *(METRICS[metric][0] for metric in metrics)), tuple(rows), words=2)


def _rows(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise TypeError("expected a list of objects")
    return value


def _number(value: object) -> float | None:
    """Give a finite number, or None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number or null, got {value!r}")
    return float(value) if math.isfinite(value) else None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value
