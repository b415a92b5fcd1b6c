"""Statistics of scores over many cases: means, and their intervals over patients."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from viscera.evaluation.lesions import LESION_METRICS, RATES
from viscera.evaluation.scores import ALL, GROUPS, HD95, MEAN, UNANNOTATED, OrganScore, Summary, is_left_out, of_group

SUMMARISED = (
    *("dice", "iou", "nsd", HD95, "volume_error_ml", "slice_dice", "slice_iou", "flare_dice", "flare_nsd"),
    *LESION_METRICS,
)


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
        finite = [score for score in scores if _has(score, metric)]
        missed = Counter(score.organ for score in scores if is_left_out(score, metric))
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


def _has(score: OrganScore, metric: str) -> bool:
    """Tell whether a score has a part in the mean of a metric."""
    if metric in RATES:
        return score.values.get(RATES[metric][1], 0) > 0
    return math.isfinite(score.values.get(metric, math.nan))


def _by_patient(scores: Sequence[OrganScore], metric: str) -> dict[str, list[float]]:
    """Return each patient's values: of a rate 1 or 0 for each lesion, else one of each score."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if metric in RATES:
            part, all_of = (int(score.values[name]) for name in RATES[metric])
            values.setdefault(score.patient, []).extend([1.0] * part + [0.0] * (all_of - part))
        else:
            values.setdefault(score.patient, []).append(score.values[metric])
    return values
