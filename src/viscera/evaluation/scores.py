"""Scores of many cases: their summary with intervals, JSON and CSV; the comparison of two evaluations is in comparing.py.

Where the scores come from is in metrics.py and evaluate.py. Scores stand in two groups: of organs that the case's own
data set annotates, and of organs that it does not, where the truth knows more (source_annotations.py).
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from viscera.datasets.sources import Problem
from viscera.errors import FileError, SettingError, did_you_mean
from viscera.evaluation.confusion import Confusion, confusion_from_json
from viscera.quality.efficiency import CaseEfficiency, case_efficiency_from_json
from viscera.quality.flags import CaseTrust, case_trust_from_json

MEAN = "mean"
"""Stands for the organ in rows about all organs."""
HD95 = "hd95_mm"
SUMMARISED = ("dice", "iou", "nsd", HD95, "volume_error_ml", "slice_dice", "slice_iou", "flare_dice", "flare_nsd")
ALL, ANNOTATED, UNANNOTATED = "all", "annotated", "unannotated"
GROUPS = (ANNOTATED, UNANNOTATED)
"""Whether the case's own data set annotates the organ."""


@dataclass(frozen=True)
class OrganScore:
    """The scores of one organ in one case.

    Attributes:
        case: Name of the case.
        patient: Whose scan it is.
        organ: An organ that the case annotates, perhaps absent.
        values: {metric: value}; NaN is not a score, an infinite distance an organ that was missed or made up.
        group: "annotated", or "unannotated" where only the truth annotates the organ, not the case's own data set.
    """

    case: str
    patient: str
    organ: str
    values: Mapping[str, float]
    group: str = ANNOTATED


@dataclass(frozen=True)
class Summary:
    """The mean of a metric with its interval.

    Attributes:
        organ: Or "mean": the mean of the organs' means, so that each organ counts the same.
        metric: As in OrganScore.values.
        mean: Over cases with a finite score (HD95 leaves out missed organs, see ``left_out``; Dice and NSD count them as 0).
        low: Lower end of the 95 % interval, NaN with fewer than two patients.
        high: Upper end.
        cases: How many cases have a finite score.
        group: Of which scores: "all", "annotated" or "unannotated".
        left_out: Scores that are in no mean because they are infinite: HD95 of organs that were missed, or found where none
            is. A mean of all left out is NaN.
    """

    organ: str
    metric: str
    mean: float
    low: float
    high: float
    cases: int
    group: str = ALL
    left_out: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        mode: "volume", "slices" or "flare".
        scores: One per case and annotated organ.
        summary: Means with intervals.
        problems: Cases that could not be scored.
        notes: What else the reader should know.
        confusion: What is mistaken for what, over all cases; None in mode "slices".
        efficiency: What the predictions cost, of those whose NAME.json says so.
        trust: What speaks against the predictions, of those whose NAME.json has statistics.

    Example:
        >>> import viscera
        >>> cases = viscera.synthesize("patients", cases=1, shape=(16, 32, 32), annotate=["liver"])
        >>> found = viscera.evaluate(cases, "patients/labelsTr")  # the truth against itself
        >>> [(row.organ, row.mean, row.cases) for row in found.summary if row.metric == "dice"]
        [('liver', 1.0, 1), ('mean', 1.0, 1)]
    """

    mode: str
    scores: tuple[OrganScore, ...]
    summary: tuple[Summary, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    confusion: Confusion | None = None
    efficiency: tuple[CaseEfficiency, ...] = ()
    trust: tuple[CaseTrust, ...] = ()

    def of_group(self, group: str) -> tuple[Summary, ...]:
        """Return the means of "all", "annotated" or "unannotated" scores; the latter two stand apart only if both exist."""
        return tuple(row for row in self.summary if row.group == group)

    def to_json(self) -> str:
        """Return everything as indented JSON; NaN and infinity become null."""
        value = {
            "mode": self.mode,
            "cases": [_flat(score) for score in self.scores],
            "summary": [asdict(row) for row in self.summary],
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
        }
        if self.confusion is not None:
            value["confusion"] = asdict(self.confusion)
        if self.efficiency:
            value["efficiency"] = [asdict(row) for row in self.efficiency]
        if self.trust:
            value["trust"] = [asdict(row) for row in self.trust]
        return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return the scores as CSV, one row per case and organ; NaN and infinity become empty cells."""
        rows = [{name: _finite(value) for name, value in _flat(score).items()} for score in self.scores]
        columns = dict.fromkeys(["case", "patient", "organ", "group"]) | dict.fromkeys(n for row in rows for n in row)
        if all(score.group == ANNOTATED for score in self.scores):  # then it says nothing
            del columns["group"]
            rows = [{name: row[name] for name in columns if name in row} for row in rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def evaluation_from_json(text: str, *, where: str) -> Evaluation:
    """Read what ``Evaluation.to_json`` wrote; null becomes NaN.

    Args:
        text: The JSON.
        where: The file, for the message.

    Raises:
        FileError: It is not an evaluation.
    """
    try:
        value = json.loads(text)
        scores = tuple(_score(row) for row in value["cases"])
        return Evaluation(
            str(value["mode"]),
            scores,
            tuple(_summary(row, scores) for row in value["summary"]),
            tuple(Problem(**row) for row in value.get("problems", ())),
            tuple(str(note) for note in value.get("notes", ())),
            confusion_from_json(value.get("confusion")),
            tuple(case_efficiency_from_json(row) for row in value.get("efficiency", ())),
            tuple(case_trust_from_json(row) for row in value.get("trust", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{where} is not an evaluation ({error!r})", "Write it with viscera evaluate --json."
        ) from error


def summarise(scores: Sequence[OrganScore], generator: np.random.Generator) -> tuple[Summary, ...]:
    """Return mean and interval of each metric, per organ in order of appearance, then over organs.

    Rows about both groups of scores together come first; rows about each of the groups follow if any score is of an
    organ that its case's own data set does not annotate.

    Args:
        scores: Of all cases.
        generator: Draws the bootstrap's patients.
    """
    groups = (ALL, *GROUPS) if any(score.group == UNANNOTATED for score in scores) else (ALL,)
    return tuple(row for group in groups for row in _means(of_group(scores, group), generator, group=group))


def of_group(scores: Sequence[OrganScore], group: str) -> list[OrganScore]:
    """Keep the scores of a group.

    Raises:
        SettingError: There is no such group.
    """
    if group not in (ALL, *GROUPS):
        groups = (ALL, *GROUPS)
        raise SettingError(
            f"there is no group '{group}'", f"{did_you_mean(group, groups)} Choose one of {', '.join(groups)}."
        )
    return [score for score in scores if group in (ALL, score.group)]


def _means(scores: Sequence[OrganScore], generator: np.random.Generator, *, group: str) -> list[Summary]:
    """Return the rows of one group of scores."""
    organs = list(dict.fromkeys(score.organ for score in scores))
    rows = []
    for metric in SUMMARISED:
        finite = [score for score in scores if math.isfinite(score.values.get(metric, math.nan))]
        missed = Counter(score.organ for score in scores if _is_left_out(score, metric))
        by_organ = {organ: [score for score in finite if score.organ == organ] for organ in organs}
        by_organ = {organ: column for organ, column in by_organ.items() if column or missed[organ]}
        chosen = {organ: [column] for organ, column in by_organ.items()}
        if by_organ:
            chosen[MEAN] = [column for column in by_organ.values() if column]
        for organ, columns in chosen.items():
            values = [_by_patient(column, metric) for column in columns]
            mean, low, high = _interval(values, generator, resamples=2000, level=0.95)
            cases = len({score.case for column in columns for score in column})
            left_out = missed.total() if organ == MEAN else missed[organ]
            rows.append(Summary(organ, metric, mean, low, high, cases, group, left_out))
    return rows


def _is_left_out(score: OrganScore, metric: str) -> bool:
    """Tell an infinite distance, which JSON keeps as null, from none: with none there is no Dice either."""
    value = score.values.get(metric, math.nan)
    none = metric not in score.values or math.isnan(score.values.get("dice", math.nan))
    return math.isinf(value) or (metric == HD95 and math.isnan(value) and not none)


def bootstrap_interval(
    values_by_patient: Mapping[str, Sequence[float]],
    generator: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Return the mean over all values and its percentile interval under resampling of patients.

    Args:
        values_by_patient: Finite values; those of one patient are drawn together, since they are not independent.
        generator: Draws the patients.
        resamples: How often.
        level: Coverage in (0, 1).

    Returns:
        Mean, low, high; low and high are NaN with fewer than two patients, all three without values.

    Source:
        Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    return _interval([values_by_patient], generator, resamples=resamples, level=level)


def _interval(
    columns: Sequence[Mapping[str, Sequence[float]]], generator: np.random.Generator, *, resamples: int, level: float
) -> tuple[float, float, float]:
    """Return the mean of the columns' means, and its interval; an organ that no drawn patient has is left out there."""
    patients = sorted({patient for column in columns for patient, values in column.items() if len(values)})
    if not patients:
        return math.nan, math.nan, math.nan
    sums = np.array([[sum(column.get(patient, ())) for column in columns] for patient in patients], float)
    counts = np.array([[len(column.get(patient, ())) for column in columns] for patient in patients], float)
    mean = float(_ratio_mean(sums.sum(axis=0, keepdims=True), counts.sum(axis=0, keepdims=True))[0])
    if len(patients) < 2:
        return mean, math.nan, math.nan
    drawn = generator.multinomial(len(patients), [1 / len(patients)] * len(patients), size=resamples)
    means = _ratio_mean(drawn @ sums, drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return mean, low, high


def _ratio_mean(
    sums: Float[np.ndarray, "draw column"], counts: Float[np.ndarray, "draw column"]
) -> Float[np.ndarray, "draw"]:
    """Divide sums by counts and average over the columns that have any."""
    return (sums / np.maximum(counts, 1)).sum(axis=1) / (counts > 0).sum(axis=1)


def _by_patient(scores: Sequence[OrganScore], metric: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.patient, []).append(score.values[metric])
    return values


def _flat(score: OrganScore) -> dict[str, object]:
    return {"case": score.case, "patient": score.patient, "organ": score.organ, "group": score.group, **score.values}


def _score(row: Mapping[str, object]) -> OrganScore:
    """Undo ``_flat``; files of others may lack the patient, who is then the case, and older files the group."""
    case, organ, group = str(row["case"]), str(row["organ"]), str(row.get("group", ANNOTATED))
    if group not in GROUPS:
        raise ValueError(f"there is no group '{group}'")
    names = [name for name in row if name not in ("case", "patient", "organ", "group")]
    return OrganScore(case, str(row.get("patient", case)), organ, {name: _number(row[name]) for name in names}, group)


def _summary(row: Mapping[str, object], scores: Sequence[OrganScore]) -> Summary:
    """Undo ``asdict``; older files do not say how many scores are left out, and which group a row is about."""
    mean, low, high = (_number(row[name]) for name in ("mean", "low", "high"))
    organ, metric, group = str(row["organ"]), str(row["metric"]), str(row.get("group", ALL))
    left_out = row.get("left_out")
    if left_out is None:
        meant = [score for score in of_group(scores, group) if organ in (MEAN, score.organ)]
        left_out = sum(_is_left_out(score, metric) for score in meant)
    return Summary(organ, metric, mean, low, high, int(_number(row["cases"])), group, int(_number(left_out)))


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def _finite(value: object) -> object:
    """Replace NaN and infinity by None, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
