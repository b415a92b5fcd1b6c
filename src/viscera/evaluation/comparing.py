"""Two evaluations of the same cases: by how much the second differs from the first, each patient with itself."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from viscera.evaluation.scores import ALL, MEAN, OrganScore, of_group
from viscera.evaluation.signed_ranks import signed_rank_p_value
from viscera.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class Comparison:
    """How a second evaluation differs from a first on the same cases: second minus first, above 0 if the second is higher.

    Attributes:
        organ: Or "mean": the mean over the organs of a case.
        metric: As in OrganScore.values.
        difference: Mean over patients of second minus first; NaN if no case has both scores.
        low: Lower end of its 95 % interval, NaN with fewer than two patients.
        high: Upper end.
        p_value: Of the two-sided Wilcoxon signed-rank test, not corrected for the number of organs; 1 if nothing
            differs, NaN without pairs. Fewer than six patients cannot give a value below 0.05.
        patients: How many have both scores.
        left_out: Scores without a partner: of a case that only one of the two has scored, or an infinite HD95 in either.
    """

    organ: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    patients: int
    left_out: int = 0


def compare(
    first: Sequence[OrganScore],
    second: Sequence[OrganScore],
    generator: np.random.Generator,
    *,
    metric: str = "dice",
    group: str = ALL,
) -> tuple[Comparison, ...]:
    """Compare two evaluations on the cases and organs that both score, per organ and over organs: second minus first.

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
    left_out = _left_out(first, second, metric)
    others = {(score.case, score.organ): score.values.get(metric, math.nan) for score in second}
    differences: dict[str, dict[str, list[float]]] = {}
    over_organs: dict[tuple[str, str], list[float]] = {}
    for score in first:
        value = others.get((score.case, score.organ), math.nan) - score.values.get(metric, math.nan)
        organ = differences.setdefault(score.organ, {})
        if math.isfinite(value):
            organ.setdefault(score.patient, []).append(value)
            over_organs.setdefault((score.patient, score.case), []).append(value)
    mean = differences.setdefault(MEAN, {})
    for (patient, _), values in over_organs.items():
        mean.setdefault(patient, []).append(float(np.mean(values)))
    return tuple(
        _comparison(organ, metric, values, generator, left_out=left_out.total() if organ == MEAN else left_out[organ])
        for organ, values in differences.items()
    )


def cases_of_one(first: Sequence[OrganScore], second: Sequence[OrganScore]) -> list[str]:
    """List the cases that only one of two evaluations has scored, and that no comparison of them can take in."""
    ours, theirs = ({score.case: None for score in scores} for scores in (first, second))
    return [case for case in ours | theirs if case not in ours or case not in theirs]


def _left_out(first: Sequence[OrganScore], second: Sequence[OrganScore], metric: str) -> Counter[str]:
    """Count the scores of each organ that have no partner; an organ that neither truth nor prediction shows has none."""
    a, b = (
        {(score.case, score.organ): score.values.get(metric, math.nan) for score in scores}
        for scores in (first, second)
    )
    pairs = {key: (a.get(key, math.nan), b.get(key, math.nan)) for key in a | b}
    return Counter(
        organ
        for (_, organ), (one, two) in pairs.items()
        if math.isinf(one) or math.isinf(two) or math.isnan(one) != math.isnan(two)
    )


def _comparison(
    organ: str,
    metric: str,
    differences: Mapping[str, Sequence[float]],
    generator: np.random.Generator,
    *,
    left_out: int,
) -> Comparison:
    """Test whether differences, one per patient after averaging, centre on 0."""
    # Rounded, so that a difference of 1e-17 is none: that is also the mean of 0.1, 0.2 and -0.3.
    each = {patient: [round(float(np.mean(values)), 12)] for patient, values in differences.items()}
    changed = np.array([values[0] for values in each.values() if values[0] != 0])
    if not each:
        p_value = math.nan
    else:
        p_value = signed_rank_p_value(changed) if changed.size else 1.0
    mean, low, high = bootstrap_interval(each, generator)
    return Comparison(organ, metric, mean, low, high, p_value, len(each), left_out)
