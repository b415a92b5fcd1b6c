"""Drop connected components: all but the largest ones of an organ, or those below a volume.

Components touch by a face, an edge or a corner (26-connected), as in nnU-Net and TotalSegmentator.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from viscera.boxes import Extent, extents_of, pieces_of
from viscera.inference.postprocessing.slabs import (
    Chosen,
    Part,
    Slab,
    by_label,
    joined,
    on_all_cores,
    part_of,
    slabs_of,
)

SAME = 1e-9
"""A component that is smaller than the limit by less than this share has the limit's volume, but for rounding."""


def select_components(
    labels: UInt8[np.ndarray, "z y x"], *, keep: Mapping[int, int], smallest_voxels: Mapping[int, float]
) -> UInt8[np.ndarray, "z y x"]:
    """Set the small connected components of some labels to background, then all but the largest ones of some.

    Args:
        labels: A label map.
        keep: {label: how many of its components stay}; labels that are not named stay as they are.
        smallest_voxels: {label: voxels of the smallest component that stays}; likewise.

    Returns:
        A new label map; an organ of which no component is large enough is gone from it. Of components of one size those
        nearer to the array's start stay.
    """
    result = labels.copy()
    extents = extents_of(labels, keep.keys() | smallest_voxels.keys())
    select_components_(result, extents, keep=keep, smallest_voxels=smallest_voxels)
    return result


def select_components_(
    labels: UInt8[np.ndarray, "z y x"],
    extents: Mapping[int, Extent],
    *,
    keep: Mapping[int, int],
    smallest_voxels: Mapping[int, float],
) -> None:
    """Do in place what ``select_components`` does, of organs of which it is known where they lie."""
    extents = {label: extent for label, extent in extents.items() if label in keep or label in smallest_voxels}
    parts = by_label(on_all_cores(partial(_measured, labels), slabs_of(extents)))
    drops = [
        _dropped(own, keep=keep.get(label), smallest=smallest_voxels.get(label, 0)) for label, own in parts.items()
    ]
    on_all_cores(partial(_drop_, labels), [drop for drop in drops if drop])


def _pieces(labels: UInt8[np.ndarray, "z y x"], slab: Slab) -> tuple[Bool[np.ndarray, "d h w"], np.ndarray, int]:
    """Return where an organ is in a slab, its pieces' numbers and how many they are."""
    mask = labels[slab.box] == slab.label
    pieces, count = pieces_of(mask, connectivity=26)
    return mask, pieces, count


def _measured(labels: UInt8[np.ndarray, "z y x"], slab: Slab) -> Part:
    """Return the pieces of a slab and their voxels, the next slab's plane left out."""
    mask, pieces, count = _pieces(labels, slab)
    own = mask[: slab.planes]
    if count == 1:
        sizes = np.array([0, np.count_nonzero(own)])
    else:
        sizes = np.zeros(count + 1, np.int64)
        for plane, pieces_of_plane in zip(own, pieces, strict=False):  # by planes: bincount takes 8 bytes per voxel
            sizes += np.bincount(pieces_of_plane[plane], minlength=count + 1)
    return part_of(slab, mask, pieces, sizes)


def _dropped(parts: Sequence[Part], *, keep: int | None, smallest: float) -> Chosen:
    """Return the slabs of an organ in which something goes, and what."""
    components = joined(parts)
    every = np.concatenate([of_slab[1:] for of_slab in components])
    voxels: Int64[np.ndarray, " piece"] = np.zeros(len(every), np.int64)
    np.add.at(voxels, every, np.concatenate([part.tally[1:] for part in parts]))
    own = np.flatnonzero(voxels)
    large = own[voxels[own] >= smallest * (1 - SAME)]
    largest = large[np.argsort(-voxels[large], kind="stable")][:keep]
    stays: Bool[np.ndarray, " piece"] = np.zeros(len(every) + 1, bool)
    stays[largest] = stays[-1] = True  # -1: what is not of the organ
    found = [(part.slab, ~stays[of_slab]) for part, of_slab in zip(parts, components, strict=True)]
    return [(slab, goes) for slab, goes in found if goes.any()]


def _drop_(labels: UInt8[np.ndarray, "z y x"], dropped: Chosen) -> None:
    """Set pieces to background, from the first slab on: each is to find the next one's plane as it was."""
    for slab, goes in dropped:
        _, pieces, _ = _pieces(labels, slab)
        for plane, pieces_of_plane in zip(labels[slab.own], pieces[: slab.planes], strict=True):
            plane[goes.take(pieces_of_plane)] = 0
