"""Wilcoxon's signed-rank test, without SciPy: an evaluation is the only one of all that predicting needs which would load it."""

import math

import numpy as np
from jaxtyping import Float

MOST_EXACT = 50
"""Differences up to which all signs are counted: their number, 2**50, is exact in float64. Beyond, the normal law is near."""


def signed_rank_p_value(differences: Float[np.ndarray, " n"]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test that differences centre on 0.

    Up to MOST_EXACT differences it is exact, with ties too: the share of all choices of signs that are as extreme as these. Beyond,
    it comes from the normal law, with the variance of the ranks as they are and no correction for continuity, as in SciPy.

    Args:
        differences: At least one, none of them 0.

    Source:
        Wilcoxon 1945, doi:10.2307/3001968; Pratt & Gibbons 1981, Concepts of Nonparametric Theory, chapter 3 (ties).

    Example:
        >>> signed_rank_p_value(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))  # 2 of 64 choices of signs: all +, all -
        0.03125
    """
    _, which, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[
        which
    ]  # ties share their mean rank, which twice over is a whole number
    above, total = int(doubled[differences > 0].sum()), int(doubled.sum())
    if differences.size > MOST_EXACT:
        deviation = math.sqrt(float(np.square(doubled, dtype=np.float64).sum()) / 4)
        return math.erfc(abs(above - total / 2) / deviation / math.sqrt(2))
    ways = np.zeros(total + 1)  # in how many ways signs give each sum of the ranks above 0
    ways[0] = 1
    for rank in doubled.tolist():
        ways[rank:] = ways[rank:] + ways[:-rank]
    extreme = min(ways[: above + 1].sum(), ways[above:].sum())
    return min(1.0, 2 * float(extreme) / 2**differences.size)
