"""How far a value lies from those of the same organ in all other scans, by robust z."""

from collections.abc import Sequence

import numpy as np

CONSISTENT = 0.6745
"""By which the median absolute deviation of normal values becomes their standard deviation."""
LEAST = 8
"""Values below which nothing is said: the median deviation of fewer is noise."""
FAR = 3.5
"""From where on a value is called an outlier."""


def robust_z(values: Sequence[float | None]) -> list[float | None]:
    """Return the robust z of each value: 0.6745 (x - median) / median absolute deviation.

    Args:
        values: Of one organ; None where one is not known.

    Returns:
        None for None, and for all where fewer than LEAST are known or more than half of them are the same.

    Source: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers, equation (5) (their limit is 3.5).

    Example:
        >>> robust_z([1, 2, 3, 4, 5, 6, 7, 8, None, 45])[-2:]
        [None, 13.49]
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if known.size < LEAST:
        return [None] * len(values)
    median = float(np.median(known))
    spread = float(np.median(np.abs(known - median)))
    if not spread:
        return [None] * len(values)
    return [None if value is None else round(CONSISTENT * (value - median) / spread, 4) for value in values]
