"""Where the labels of a map lie: what keeps every operation off the rest of the scan."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, UInt8

Box = tuple[slice, slice, slice]


def boxes_of(labels: UInt8[np.ndarray, "z y x"], wanted: Collection[int]) -> dict[int, Box]:
    """Return the tight box of each wanted label that the map holds, in one pass over the map, slice by slice."""
    if not wanted or not labels.size:
        return {}
    depth, *size = labels.shape
    order = list(dict.fromkeys(wanted))
    planes = {label: np.zeros(depth, bool) for label in order}
    sides = {label: [np.zeros(length, bool) for length in size] for label in order}
    mask = np.empty(size, bool)
    for z in np.flatnonzero(labels.max(axis=(1, 2))).tolist():
        for label in order:
            np.equal(labels[z], label, out=mask)
            rows = mask.any(axis=1)
            if rows.any():
                planes[label][z] = True
                sides[label][0] |= rows
                sides[label][1] |= mask.any(axis=0)
    return {
        label: (_span(planes[label]), _span(sides[label][0]), _span(sides[label][1]))
        for label in order
        if planes[label].any()
    }


def _span(seen: Bool[np.ndarray, " n"]) -> slice:
    """Return from the first to the last place that is seen."""
    at = np.flatnonzero(seen)
    return slice(int(at[0]), int(at[-1]) + 1)


def widen(box: Box, margins: tuple[int, int, int], shape: tuple[int, ...]) -> Box:
    """Return a box with some voxels more on each side, as far as the scan reaches."""
    z, y, x = (
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(box, margins, shape, strict=True)
    )
    return z, y, x
