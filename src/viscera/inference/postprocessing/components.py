"""Drop connected components: all but the largest ones of an organ, or those below a volume.

Components touch by a face, an edge or a corner (26-connected), as in nnU-Net and TotalSegmentator. Those of an organ are found
in its own box.
"""

from collections.abc import Iterator, Mapping

import cc3d
import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from viscera.inference.postprocessing.boxes import boxes_of

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
    for label, box in boxes_of(labels, keep.keys() | smallest_voxels.keys()).items():
        mask = labels[box] == label
        pieces, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
        if count == 1 and label not in smallest_voxels:
            continue
        sizes = np.zeros(count + 1, np.int64)
        for _, own in _planes(mask, pieces):
            sizes += np.bincount(own, minlength=count + 1)
        large = np.flatnonzero(sizes >= max(1.0, smallest_voxels.get(label, 0) * (1 - SAME)))
        goes = np.ones(count + 1, bool)
        goes[large[np.argsort(-sizes[large], kind="stable")][: keep.get(label, count)]] = False
        for plane, (places, own) in zip(result[box], _planes(mask, pieces), strict=True):
            gone = goes[own]
            if gone.any():
                plane[np.unravel_index(places[gone], plane.shape)] = 0
    return result


def _planes(
    mask: Bool[np.ndarray, "z y x"], pieces: Shaped[np.ndarray, "z y x"]
) -> Iterator[tuple[Int[np.ndarray, " voxel"], Shaped[np.ndarray, " voxel"]]]:
    """Yield of each plane where the organ is, as places in the flat plane, and in which components."""
    for inside, numbers in zip(mask, pieces, strict=True):
        places = np.flatnonzero(inside)
        yield places, numbers.ravel()[places]
