"""Statistics of scores over many cases: means with intervals, and the comparison of two evaluations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import wilcoxon

from viscera.evaluation.scores import ALL, GROUPS, MEAN, UNANNOTATED, OrganScore, Summary, of_group

SUMMARISED = ("dice", "iou", "nsd", "hd95_mm", "volume_error_ml", "slice_dice", "slice_iou", "flare_dice", "flare_nsd")


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
