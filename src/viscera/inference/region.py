"""Where to look: the parts of a prepared scan that may hold organs, as a map of blocks.

By default a cheap first pass finds them: a finder, that is any other run, or the same network in windows that do not overlap.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from viscera.inference.plans import BLOCK, Plan, holds, places
from viscera.preparation.geometry import Geometry
from viscera.preparation.resampling import resample_labels, resample_labels_along_z


def blocks_of(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "bz by bx"]:
    """Return the blocks that hold anything of a mask on the prepared grid."""
    for axis in range(3):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], BLOCK), axis=axis)
    return mask


def widened(
    wanted: Bool[np.ndarray, "bz by bx"], *, margin_mm: float, spacing_mm: Sequence[float]
) -> Bool[np.ndarray, "bz by bx"]:
    """Return the blocks that lie within a margin of wanted ones, along each axis."""
    for axis, mm in enumerate(spacing_mm):
        found = np.moveaxis(wanted.copy(), axis, 0)
        old = np.moveaxis(wanted, axis, 0)
        for step in range(1, min(ceil(margin_mm / (BLOCK * mm)), len(old) - 1) + 1):
            found[step:] |= old[:-step]
            found[:-step] |= old[step:]
        wanted = np.moveaxis(found, 0, axis)
    return wanted


def blocks_of_labels(labels: UInt8[np.ndarray, "z y x"], geometry: Geometry) -> Bool[np.ndarray, "bz by bx"]:
    """Return the prepared blocks that hold anything of a label map on the scanner's axial slices."""
    return blocks_of(on_prepared(labels, geometry) > 0)


def on_prepared(labels: Shaped[np.ndarray, "z y x"], geometry: Geometry) -> Shaped[np.ndarray, "pz py px"]:
    """Return labels of the scanner's axial slices on the prepared grid."""
    small = resample_labels(labels, geometry.pixel_grid)
    return small if geometry.slice_grid is None else resample_labels_along_z(small, geometry.slice_grid)


def windows_of(
    shape: Sequence[int], plan: Plan, wanted: Bool[np.ndarray, "bz by bx"] | None
) -> list[tuple[int, int, int]]:
    """Return the windows to look at: all of the scan's, or those that hold a wanted block.

    The latter are laid over the box of the wanted blocks, made as large as a window where the scan is large enough: no
    voxels are made up at the box's edges.
    """
    if wanted is None:
        return places(shape, plan)
    if not wanted.any():
        return []
    box = [
        _side(np.flatnonzero(wanted.any(tuple({0, 1, 2} - {axis}))), length=length, span=span)
        for axis, (length, span) in enumerate(zip(shape, plan.span, strict=True))
    ]
    found = []
    for z, y, x in places([side.stop - side.start for side in box], plan):
        place = (z + box[0].start, y + box[1].start, x + box[2].start)
        if holds(place, plan, wanted):
            found.append(place)
    return found


def _side(blocks: Int[np.ndarray, " n"], *, length: int, span: int) -> slice:
    """Return the voxels from the first to the last block, and at least a window's where there are so many."""
    low, high = int(blocks[0]) * BLOCK, min((int(blocks[-1]) + 1) * BLOCK, length)
    low = max(0, min(low - max(0, span - (high - low)) // 2, length - span))
    return slice(low, min(length, max(high, low + span)))
