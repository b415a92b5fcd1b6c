"""HU of the organs over a training set, by which nnU-Net normalises CT."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from viscera.config import Contrast, ForegroundScore
from viscera.errors import RunError
from viscera.preparation.contrast import UNCHANGED, enhance
from viscera.preparation.store import Case

LOWEST_HU = -32768
"""Of int16: the histogram's first bin."""

LEAST_SHARE = 1e-15
"""Of the voxels of a set: less than one, so that percentile 0 is the lowest HU that there is."""


def measure_foreground(
    cases: Sequence[Case], settings: ForegroundScore, *, contrast: Contrast = UNCHANGED
) -> ForegroundScore:
    """Return the settings with the HU of all labelled voxels of some cases measured; as they are, where they are given.

    Args:
        cases: The training cases.
        settings: Which percentiles. A percentile is the lowest HU that so many of the voxels do not exceed.
        contrast: How grey levels are enhanced first; it is the changed HU that are measured.

    Raises:
        RunError: No case holds a labelled voxel, or all have the same HU.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, supplement (intensity normalisation of CT); Gao et al.
    (gao2step), section 2.1. Departs: nnU-Net takes 10,000 voxels of each case, we take all.
    """
    if settings.measured is not None:
        return settings
    counts = sum((_histogram(case, contrast) for case in cases), np.zeros(65536, np.int64))
    voxels = int(counts.sum())
    if not voxels:
        raise RunError(
            f"the labels of all {len(cases)} training cases are empty, so there is no organ whose HU could be measured",
            "Look at the label files and at annotated.json.",
        )
    hu = np.arange(65536, dtype=np.float64) + LOWEST_HU
    mean = float((counts * hu).sum() / voxels)
    deviation = float(np.sqrt((counts * (hu - mean) ** 2).sum() / voxels))
    shares = np.cumsum(counts) / voxels
    low, high = (
        float(hu[np.searchsorted(shares, max(percent / 100 - 1e-12, LEAST_SHARE))])
        for percent in (settings.low_percentile, settings.high_percentile)
    )
    if not (low < high and deviation > 0):
        remedy = (
            "these are not CT scans. Look at the images."
            if contrast.method == "none"
            else f"contrast '{contrast.method}' leaves nothing of them from {contrast.low_hu:g} to {contrast.high_hu:g} HU. Widen "
            "contrast.low_hu and contrast.high_hu, or lower contrast.dark."
        )
        raise RunError(f"all organs of the training cases have {mean:g} HU: {remedy}")
    return ForegroundScore(
        low_percentile=settings.low_percentile,
        high_percentile=settings.high_percentile,
        measured=(low, high, round(mean, 4), round(deviation, 4)),
    )


def _histogram(case: Case, contrast: Contrast) -> Int[np.ndarray, "65536"]:
    """Count the known labelled voxels of each HU, slice by slice."""
    counts = np.zeros(65536, np.int64)
    if case.labels is None:
        return counts
    for z, labels in enumerate(case.labels):
        chosen = labels > 0 if case.known is None else (labels > 0) & case.known[z]
        if chosen.any():
            image = enhance(case.image[z], contrast)
            counts += np.bincount(image[chosen].astype(np.int64) - LOWEST_HU, minlength=65536)
    return counts
