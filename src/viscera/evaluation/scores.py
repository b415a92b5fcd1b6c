"""Scores of many cases: their summary with intervals, the comparison of two evaluations, JSON and CSV.

Where the scores come from is in metrics.py and evaluate.py. Scores stand in two groups: of organs that the case's own
data set annotates, and of organs that it does not, where the truth knows more (source_annotations.py).
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import wilcoxon

from viscera.datasets.sources import Problem
from viscera.errors import FileError, SettingError, did_you_mean
from viscera.evaluation.confusion import Confusion, confusion_from_json
from viscera.json_text import parse_json
from viscera.quality.efficiency import CaseEfficiency, case_efficiency_from_json
from viscera.quality.flags import CaseTrust, case_trust_from_json

MEAN = "mean"
"""Stands for the organ in rows about all organs."""
SUMMARISED = ("dice", "iou", "nsd", "hd95_mm", "volume_error_ml", "slice_dice", "slice_iou", "flare_dice", "flare_nsd")
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
        mean: Over cases with a finite score (HD95 leaves out missed organs, which Dice and NSD count as 0).
        low: Lower end of the 95 % interval, NaN with fewer than two patients.
        high: Upper end.
        cases: How many cases have a finite score.
        group: Of which scores: "all", "annotated" or "unannotated".
    """

    organ: str
    metric: str
    mean: float
    low: float
    high: float
    cases: int
    group: str = ALL


@dataclass(frozen=True)
class Comparison:
    """How a second evaluation differs from a first on the same cases.

    Attributes:
        organ: Or "mean": the mean over the organs of a case.
        metric: As in OrganScore.values.
        difference: Mean over patients of second minus first; NaN if no case has both scores.
        low: Lower end of its 95 % interval, NaN with fewer than two patients.
        high: Upper end.
        p_value: Of the two-sided Wilcoxon signed-rank test, not corrected for the number of organs; 1 if nothing
            differs, NaN without pairs. Fewer than six patients cannot give a value below 0.05.
        patients: How many have both scores.
    """

    organ: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    patients: int


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
        value = parse_json(text)
        return Evaluation(
            str(value["mode"]),
            tuple(_score(row) for row in value["cases"]),
            tuple(_summary(row) for row in value["summary"]),
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
        by_organ = [[score for score in finite if score.organ == organ] for organ in organs]
        by_organ = [column for column in by_organ if column]
        for organ, chosen in [(column[0].organ, [column]) for column in by_organ] + ([(MEAN, by_organ)] * bool(finite)):
            columns = [_by_patient(column, metric) for column in chosen]
            mean, low, high = _interval(columns, generator, resamples=2000, level=0.95)
            cases = len({score.case for column in chosen for score in column})
            rows.append(Summary(organ, metric, mean, low, high, cases, group))
    return rows


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


def compare(
    first: Sequence[OrganScore],
    second: Sequence[OrganScore],
    generator: np.random.Generator,
    *,
    metric: str = "dice",
    group: str = ALL,
) -> tuple[Comparison, ...]:
    """Compare two evaluations on the cases and organs that both score, per organ and over organs.

    Args:
        first: Scores of the first prediction.
        second: Of the second, on the same cases.
        generator: Draws the bootstrap's patients.
        metric: Which score.
        group: "annotated" or "unannotated": only scores that are of this group in both evaluations.

    Raises:
        SettingError: There is no such group.
    """
    first, second = of_group(first, group), of_group(second, group)
    others = {(score.case, score.organ): score.values.get(metric, math.nan) for score in second}
    differences: dict[str, dict[str, list[float]]] = {}
    over_organs: dict[tuple[str, str], list[float]] = {}
    for score in first:
        # Rounded, so that a difference of 1e-17 is none.
        value = round(others.get((score.case, score.organ), math.nan) - score.values.get(metric, math.nan), 12)
        organ = differences.setdefault(score.organ, {})
        if math.isfinite(value):
            organ.setdefault(score.patient, []).append(value)
            over_organs.setdefault((score.patient, score.case), []).append(value)
    mean = differences.setdefault(MEAN, {})
    for (patient, _), values in over_organs.items():
        mean.setdefault(patient, []).append(float(np.mean(values)))
    return tuple(_comparison(organ, metric, values, generator) for organ, values in differences.items())


def _comparison(
    organ: str, metric: str, differences: Mapping[str, Sequence[float]], generator: np.random.Generator
) -> Comparison:
    """Test whether differences, one per patient after averaging, centre on 0."""
    each = {patient: [float(np.mean(values))] for patient, values in differences.items()}
    changed = np.array([values[0] for values in each.values() if values[0] != 0])
    if not each:
        p_value = math.nan
    else:
        p_value = float(np.asarray(wilcoxon(changed))[1]) if changed.size else 1.0
    mean, low, high = bootstrap_interval(each, generator)
    return Comparison(organ, metric, mean, low, high, p_value, len(each))


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


def _summary(row: Mapping[str, object]) -> Summary:
    mean, low, high = (_number(row[name]) for name in ("mean", "low", "high"))
    organ, metric, group = str(row["organ"]), str(row["metric"]), str(row.get("group", ALL))
    return Summary(organ, metric, mean, low, high, int(_number(row["cases"])), group)


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
