"""Which lesion a patch or a slice shows: a size first, so that small ones are learnt as often as large ones.

A large lesion has a thousand times the voxels of a small one, and a patient may have twenty small ones beside it: drawn by voxels
no small one is seen, drawn one by one hardly any large one.
"""

import math

import numpy as np
from jaxtyping import Int, UInt8

from viscera.boxes import pieces_of
from viscera.evaluation.lesions import LARGE_MM, diameter_mm
from viscera.labels import LabelSpace, has_lesions
from viscera.learning.sampling.shown import shown_slice
from viscera.preparation.store import Case

SIZES_MM = (LARGE_MM, 30.0)
"""Diameters, of the ball of a lesion's volume, that part small from middling and these from large ones."""
KEPT = 1000
"""Voxels of a lesion that are kept, evenly spaced among all."""

Lesion = Int[np.ndarray, " _"]
"""Flat indices of some voxels of a lesion."""


def lesions_by_size(
    shown: UInt8[np.ndarray, "z y x"], labels: tuple[int, ...], *, voxel_ml: float
) -> list[list[Lesion]]:
    """Find the lesions of a case: connected pieces (by faces, edges or corners) of each label.

    Args:
        shown: A label map.
        labels: Which of its labels are lesions.
        voxel_ml: Volume of a voxel.

    Returns:
        Of each size its lesions, small ones first.
    """
    sizes: list[list[Lesion]] = [[] for _ in range(len(SIZES_MM) + 1)]
    for label in labels:
        pieces = pieces_of(shown == label, connectivity=26)[0].ravel()
        where = np.flatnonzero(pieces)
        where = where[np.argsort(pieces[where], kind="stable")]
        found = np.split(where, np.flatnonzero(np.diff(pieces[where])) + 1) if len(where) else []
        diameters_mm = diameter_mm(np.array([len(lesion) for lesion in found], np.int64), voxel_ml)
        for lesion, size in zip(found, np.searchsorted(SIZES_MM, diameters_mm, side="right").tolist(), strict=True):
            sizes[size].append(lesion[:: -(-len(lesion) // KEPT)])
    return sizes


def lesion_labels(space: LabelSpace | None) -> tuple[int, ...]:
    """Return the labels of a space whose voxels are lesions; none without a space."""
    return () if space is None else tuple(label for label, organ in space.labels.items() if has_lesions(organ))


def lesions_of(case: Case, labels: tuple[int, ...]) -> list[list[Lesion]]:
    """Find the lesions of a case, as ``lesions_by_size`` does."""
    shown = np.stack([shown_slice(case, z) for z in range(len(case.truth))])
    return lesions_by_size(shown, labels, voxel_ml=math.prod(case.geometry.spacing_mm) / 1000)


def lesion_voxel(sizes: list[list[Lesion]], first: float, second: float) -> int:
    """Return a voxel of a lesion: a size, a lesion of that size and a voxel of it, each with the same probability.

    Args:
        sizes: By size, as ``lesions_by_size`` returns them, at least one of each.
        first: From 0 to 1; chooses size and lesion.
        second: From 0 to 1; chooses the voxel.
    """
    of_size, rest = divmod(first * len(sizes), 1)
    lesions = sizes[int(of_size)]
    lesion = lesions[int(rest * len(lesions))]
    return int(lesion[int(second * len(lesion))])
