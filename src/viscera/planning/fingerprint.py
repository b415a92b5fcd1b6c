"""Fingerprint: what of data sets decides how to learn from them. nnU-Net's word, and mostly its list.

Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z ("dataset fingerprint": sizes, spacings, HU of the foreground).
Ours: which organs each data set annotates, and how large each organ is. Grids are those of every scan, organs those of a sample.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import pi, sqrt

import numpy as np
from jaxtyping import Int

from viscera.labels import LabelSpace
from viscera.learning.foreground_hu import LOWEST_HU
from viscera.preparation.store import Case

PERCENTILES = (0.5, 99.5)
"""Of the organs' HU: nnU-Net's."""


@dataclass(frozen=True)
class Grid:
    """Voxels of a scan as the scanner wrote it: axial, (z, y, x)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class OrganSize:
    """How large an organ is, and how dense, in the sampled cases that show it.

    Attributes:
        cases: Sampled cases that show it.
        volume_ml: The median over these.
        across_mm: The median over their slices that show it: the diameter of a disc of the same area.
        median_hu: Of all its voxels.
        low_hu: Percentile 0.5 of its HU.
        high_hu: Percentile 99.5.
    """

    cases: int
    volume_ml: float
    across_mm: float
    median_hu: float
    low_hu: float
    high_hu: float


@dataclass(frozen=True)
class Fingerprint:
    """What data sets are like.

    Attributes:
        organs: Of the label space.
        annotated: {data set: {organ: its cases that annotate it}}.
        cases: {data set: its cases that annotate anything}.
        partly: Cases that do not annotate every organ that any case annotates.
        spacing_mm: The median over all scans, along (z, y, x).
        shape: The median number of voxels, likewise.
        extent_mm: The median length of a scan along z.
        training_cases: That will be learnt from; an estimate where the store is yet to be made.
        training_slices: Of these.
        validation_cases: Of which each epoch is judged.
        validation_slices: Of these.
        sampled: Cases whose organs were measured.
        sizes: {organ: its size}, of the organs that the sample shows.
        hu: Percentiles 0.5 and 99.5 of the HU of all organs of the sample together; None where it shows none.
    """

    organs: tuple[str, ...]
    annotated: Mapping[str, Mapping[str, int]]
    cases: Mapping[str, int]
    partly: int
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    extent_mm: float
    training_cases: int
    training_slices: int
    validation_cases: int
    validation_slices: int
    sampled: int = 0
    sizes: Mapping[str, OrganSize] = field(default_factory=dict)
    hu: tuple[float, float] | None = None

    @property
    def anisotropy(self) -> float:
        """How many times as far apart slices are as pixels."""
        return self.spacing_mm[0] / min(self.spacing_mm[1:])

    @property
    def never(self) -> tuple[str, ...]:
        """Organs of the label space that no data set annotates."""
        known = {organ for organs in self.annotated.values() for organ in organs}
        return tuple(organ for organ in self.organs if organ not in known)

    @property
    def thinnest(self) -> str | None:
        """The organ that is smallest within its slices; None where the sample shows none."""
        return min(self.sizes, key=lambda organ: self.sizes[organ].across_mm, default=None)


@dataclass(frozen=True)
class Annotation:
    """Which organs of the label space a case annotates."""

    dataset: str
    organs: tuple[str, ...]


def annotations_of(cases: Sequence[Annotation]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Count the cases that annotate each organ, and the cases, of each data set."""
    found: dict[str, Counter[str]] = {}
    for case in cases:
        found.setdefault(case.dataset, Counter()).update(case.organs)
    annotated = {dataset: dict(counts) for dataset, counts in sorted(found.items())}
    return annotated, dict(sorted(Counter(case.dataset for case in cases).items()))


def median_grid(grids: Sequence[Grid]) -> tuple[Grid, float]:
    """Return the median shape and spacing of scans, and their median length along z in mm."""
    spacings, shapes = (
        np.median(np.array(rows, float), axis=0)
        for rows in ([grid.spacing_mm for grid in grids], [grid.shape for grid in grids])
    )
    extent = float(np.median([grid.shape[0] * grid.spacing_mm[0] for grid in grids]))
    z, y, x = (round(float(value), 3) for value in spacings)
    slices, rows, columns = (round(float(value)) for value in shapes)
    return Grid((slices, rows, columns), (z, y, x)), round(extent, 1)


def organ_sizes(cases: Sequence[Case], space: LabelSpace) -> tuple[dict[str, OrganSize], tuple[float, float] | None]:
    """Measure the annotated organs of some cases.

    Args:
        cases: Prepared in whatever way; sizes are those of the prepared voxels.
        space: What their labels mean.

    Returns:
        {organ: size} in the space's order, and percentiles 0.5 and 99.5 of the HU of all organs together.
    """
    histograms = np.zeros((len(space.classes), 65536), np.int64)
    volumes: dict[int, list[float]] = {}
    across: dict[int, list[float]] = {}
    for case in cases:
        z_mm, y_mm, x_mm = case.geometry.spacing_mm
        counts = np.zeros(len(space.classes), np.int64)
        for z, labels in enumerate(case.truth):
            inside = labels > 0 if case.known is None else (labels > 0) & case.known[z]
            if not inside.any():
                continue
            values = labels[inside].astype(np.int64)
            np.add.at(histograms, (values, case.image[z][inside].astype(np.int64) - LOWEST_HU), 1)
            here = np.bincount(values, minlength=len(counts))
            counts += here
            for organ in np.flatnonzero(here).tolist():
                across.setdefault(organ, []).append(2 * sqrt(int(here[organ]) * y_mm * x_mm / pi))
        for organ in np.flatnonzero(counts).tolist():
            volumes.setdefault(organ, []).append(int(counts[organ]) * z_mm * y_mm * x_mm / 1000)
    sizes = {
        space.classes[organ]: OrganSize(
            len(volumes[organ]),
            round(float(np.median(volumes[organ])), 2),
            round(float(np.median(across[organ])), 2),
            *_percentiles(histograms[organ], 50, *PERCENTILES),
        )
        for organ in sorted(volumes)
    }
    return sizes, _both(histograms.sum(0)) if sizes else None


def _both(counts: Int[np.ndarray, "65536"]) -> tuple[float, float]:
    """Return percentiles 0.5 and 99.5."""
    low, high = _percentiles(counts, *PERCENTILES)
    return low, high


def _percentiles(counts: Int[np.ndarray, "65536"], *percents: float) -> list[float]:
    """Return the lowest HU that so many percent of the voxels do not exceed."""
    shares = np.cumsum(counts) / counts.sum()
    return [float(np.searchsorted(shares, percent / 100) + LOWEST_HU) for percent in percents]
