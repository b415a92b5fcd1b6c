"""Label map -> tidier label map. One function per operation, each on all organs in one pass."""

from collections.abc import Mapping

import cc3d
import numpy as np
from jaxtyping import UInt8


def keep_largest_components(labels: UInt8[np.ndarray, "z y x"], keep: Mapping[int, int]) -> UInt8[np.ndarray, "z y x"]:
    """Set all but the largest connected components of some labels to background.

    Args:
        labels: A label map.
        keep: {label: how many of its components stay}; labels that are not named stay as they are.

    Returns:
        A new label map. Components touch by a face, an edge or a corner (26-connected), as in nnU-Net and TotalSegmentator;
        of components of one size those nearer to the array's start stay.
    """
    wanted = np.zeros(256, bool)
    wanted[list(keep)] = True
    if not keep or not wanted[labels].any():
        return labels.copy()
    parts, count = cc3d.connected_components(np.where(wanted[labels], labels, 0), connectivity=26, return_N=True)
    statistics = cc3d.statistics(parts, no_slice_conversion=True)
    sizes = statistics["voxel_counts"]
    owner = _labels_of_parts(labels, parts, count)
    stays = np.zeros(count + 1, bool)
    for label, number in keep.items():
        own = np.flatnonzero(owner == label)
        own = own[own > 0]
        stays[own[np.argsort(-sizes[own].astype(np.int64), kind="stable")][:number]] = True
    return np.where(wanted[labels] & ~stays[parts], 0, labels).astype(np.uint8)


def _labels_of_parts(labels: UInt8[np.ndarray, "z y x"], parts: np.ndarray, count: int) -> UInt8[np.ndarray, " parts"]:
    """Give the label of each component."""
    owner = np.zeros(count + 1, np.uint8)
    owner[parts.ravel()] = labels.ravel()
    owner[0] = 0
    return owner
