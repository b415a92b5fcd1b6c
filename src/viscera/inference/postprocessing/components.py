"""Drop connected components: all but the largest ones of an organ, or those below a volume.

Components touch by a face, an edge or a corner (26-connected), as in nnU-Net and TotalSegmentator. Those of all organs
are found in one pass over the box that holds the organs.
"""

from collections.abc import Mapping

import cc3d
import numpy as np
from jaxtyping import Shaped, UInt8

from viscera.inference.postprocessing.boxes import box_around, boxes_of

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
    boxes = boxes_of(labels, keep.keys() | smallest_voxels.keys())
    if not boxes:
        return result
    part = result[box_around(boxes.values())]
    wanted = np.zeros(256, bool)
    wanted[list(boxes)] = True
    pieces, count = cc3d.connected_components(np.where(wanted[part], part, 0), connectivity=26, return_N=True)
    sizes, owner = _sizes_and_owners(part, pieces, count)
    goes = np.zeros(count + 1, bool)
    for label in boxes:
        own = np.flatnonzero(owner == label)
        large = own[sizes[own] >= smallest_voxels.get(label, 0) * (1 - SAME)]
        largest = large[np.argsort(-sizes[large], kind="stable")][: keep.get(label, count)]
        goes[own] = True
        goes[largest] = False
    for plane, pieces_of_plane in zip(part, pieces, strict=True):  # by planes: an index array has 8 bytes per voxel
        plane[goes[pieces_of_plane]] = 0
    return result


def _sizes_and_owners(
    labels: UInt8[np.ndarray, "z y x"], pieces: Shaped[np.ndarray, "z y x"], count: int
) -> tuple[Shaped[np.ndarray, " pieces"], UInt8[np.ndarray, " pieces"]]:
    """Return the voxels and the label of each component; component 0 is all else and has label 0."""
    sizes, owner = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.uint8)
    for plane, pieces_of_plane in zip(labels, pieces, strict=True):
        sizes += np.bincount(pieces_of_plane.ravel(), minlength=count + 1)
        owner[pieces_of_plane.ravel()] = plane.ravel()
    owner[0] = 0
    return sizes, owner
