"""Open, close and fill organs, in millimetres whatever the voxels' shape.

The structuring element is the ball of the given radius: the voxels whose centres are no further away, from exact
Euclidean distances. A radius below the distance between slices therefore works within slices only, and one below the
smallest spacing does nothing. Nothing is known beyond the scan's edge, so nothing is made up there: opening takes nothing
from an organ because the edge cuts it, closing and filling do not take the edge for the far side of a gap.
"""

from collections.abc import Collection, Mapping
from math import floor

import cc3d
import edt
import numpy as np
from jaxtyping import Bool, UInt8

from viscera.inference.postprocessing.boxes import boxes_of, widen

TIE = 1e-4
"""A distance that is larger than the radius by less than this share equals it: distances are float32."""
SLAB = 64
"""Slices whose distances are held at a time."""


def open_organs(
    labels: UInt8[np.ndarray, "z y x"], radius_mm: Mapping[int, float], *, spacing_mm: tuple[float, float, float]
) -> UInt8[np.ndarray, "z y x"]:
    """Break off what is thinner than a ball: an organ keeps the balls, centred within the scan, that fit into it.

    Of a ball only the part within the scan has to fit.

    Args:
        labels: A label map.
        radius_mm: {label: radius of the ball}; labels that are not named stay as they are.
        spacing_mm: Between slices, rows and columns.

    Returns:
        A new label map; what breaks off is background. Opening again changes nothing.
    """
    result = labels.copy()
    for label, tight in boxes_of(labels, radius_mm.keys()).items():
        box = widen(tight, (1, 1, 1), labels.shape)
        mask = labels[box] == label
        reach = radius_mm[label] * (1 + TIE)
        core = _further_than(reach, mask, spacing_mm)
        result[box][mask & _further_than(reach, ~core, spacing_mm)] = 0
    return result


def close_organs(
    labels: UInt8[np.ndarray, "z y x"], radius_mm: Mapping[int, float], *, spacing_mm: tuple[float, float, float]
) -> UInt8[np.ndarray, "z y x"]:
    """Fill gaps and notches that a ball cannot enter, where they are background.

    Args:
        labels: A label map.
        radius_mm: {label: radius of the ball}. A gap between two of them goes to the one that is named first.
        spacing_mm: Between slices, rows and columns.

    Returns:
        A new label map. Beyond the scan there is room for the ball. Closing again changes nothing.
    """
    result = labels.copy()
    for label, box in boxes_of(labels, radius_mm.keys()).items():
        reach = radius_mm[label] * (1 + TIE)
        margins = [(floor(reach / step) + 1,) * 2 for step in spacing_mm]
        # What closing adds lies in the organ's own box, but the ball comes from outside of it.
        mask = np.pad(labels[box] == label, margins)
        gaps = ~_further_than(reach, ~mask, spacing_mm)
        closed = _further_than(reach, gaps, spacing_mm)
        z, y, x = (slice(before, -after) for before, after in margins)
        result[box][closed[z, y, x] & (result[box] == 0)] = label
    return result


def fill_holes(labels: UInt8[np.ndarray, "z y x"], wanted: Collection[int]) -> UInt8[np.ndarray, "z y x"]:
    """Fill the holes of some labels: background from which no path by voxel faces leads past the organ.

    Args:
        labels: A label map.
        wanted: The labels to fill. A hole within two of them goes to the one that comes first.

    Returns:
        A new label map. Other organs in a hole stay, only the background around them is filled. A hole that reaches the
        scan's edge is open.
    """
    result = labels.copy()
    for label, box in boxes_of(labels, tuple(wanted)).items():
        holes = _holes(labels[box] == label)
        if holes is not None:
            result[box][holes & (result[box] == 0)] = label
    return result


def _further_than(
    reach_mm: float, mask: Bool[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels that are further than this from all that is not in the mask; beyond the array there is nothing."""
    result = np.empty_like(mask)
    halo = floor(reach_mm / spacing_mm[0]) + 1
    # A slab and what is within reach of it: float32 distances of the whole box would need four times the label map.
    for first in range(0, len(mask), SLAB):
        begin = max(0, first - halo)
        near = mask[begin : first + SLAB + halo]
        if near.all() or not near.any():  # without both, no distance is defined or none is needed
            result[first : first + SLAB] = near[0, 0, 0]
            continue
        distance_mm = edt.edt(near, anisotropy=spacing_mm, parallel=1)
        result[first : first + SLAB] = distance_mm[first - begin : first - begin + SLAB] > reach_mm
    return result


def _holes(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"] | None:
    """Return what the mask encloses in its tight box; None where that is nothing."""
    pieces, count = cc3d.connected_components((~mask).astype(np.uint8), connectivity=6, return_N=True)
    enclosed = np.ones(count + 1, bool)
    enclosed[0] = False  # the mask itself
    for axis in range(3):
        for end in (0, -1):
            enclosed[pieces.take(end, axis=axis)] = False
    if not enclosed.any():
        return None
    open_pieces = np.flatnonzero(~enclosed[1:]) + 1
    if len(open_pieces) == 1:  # as nearly always: two comparisons instead of a look into a table for each voxel
        return (pieces != open_pieces[0]) & ~mask
    return np.stack([enclosed[plane] for plane in pieces])
