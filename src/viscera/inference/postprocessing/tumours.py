"""Tumours over organs: the union of both, where a tumour lies, and what becomes of lesions that are too small to count."""

from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, UInt8

from viscera.boxes import Box, boxes_of, pieces_of, widen
from viscera.errors import GeometryError, LabelError
from viscera.inference.postprocessing.components import SAME
from viscera.labels import TUMOUR, LabelSpace

LISTED = 20
"""Components of a tumour that are described one by one, the largest first."""
NOWHERE = "none"
"""Where a tumour lies that no organ touches."""


@dataclass(frozen=True)
class TumourPart:
    """One connected component of a tumour.

    Attributes:
        volume_ml: Its size.
        organ: That which holds most of its voxels; where none holds any, that which touches most of it; or "none".
    """

    volume_ml: float
    organ: str


@dataclass(frozen=True)
class TumourReport:
    """Where a tumour lies; dataclasses.asdict makes JSON of it.

    Attributes:
        volume_ml: Of all components together.
        components: How many there are (26-connected).
        largest: The largest LISTED of them, the largest first.
        overlap_ml: {organ: how much of it the tumour overrides}, in the space's order; organs without overlap left out.
    """

    volume_ml: float
    components: int
    largest: tuple[TumourPart, ...]
    overlap_ml: dict[str, float]


def merge_tumour(
    organs: UInt8[np.ndarray, "z y x"], tumour: Bool[np.ndarray, "z y x"], *, index: int
) -> UInt8[np.ndarray, "z y x"]:
    """Put a tumour over the organs: a voxel that is called tumour is tumour, whatever organ it is in.

    Source: Gao, Xu, Fei & Liang, FLARE23 (gao2step): what both of its networks claim is tumour.

    Args:
        organs: A label map.
        tumour: Which voxels are tumour.
        index: The tumour's label, 1 to 255.

    Returns:
        A new label map.

    Raises:
        GeometryError: The two have different shapes.
        LabelError: The index is none.
    """
    _require_same_shape(organs, tumour)
    if not 1 <= index <= 255:
        raise LabelError(f"the tumour's label must be from 1 to 255, got {index}.")
    return np.where(tumour, np.uint8(index), organs)


def tumour_report(
    organs: UInt8[np.ndarray, "z y x"],
    tumour: Bool[np.ndarray, "z y x"],
    *,
    space: LabelSpace,
    voxel_ml: float,
) -> TumourReport:
    """Say how large a tumour is and inside which organs it lies.

    Args:
        organs: The organs before the tumour was put over them; a tumour label among them is not an organ.
        tumour: Which voxels are tumour.
        space: What the labels mean.
        voxel_ml: Volume of a voxel.

    Raises:
        GeometryError: The two have different shapes.
    """
    _require_same_shape(organs, tumour)
    boxes = boxes_of(tumour.view(np.uint8), (1,))
    if not boxes:
        return TumourReport(0.0, 0, (), {})
    box = widen(boxes[1], (1, 1, 1), tumour.shape)
    organs, tumour = organs[box], tumour[box]
    pieces, count = pieces_of(tumour, connectivity=26)
    statistics = cc3d.statistics(pieces)
    sizes = statistics["voxel_counts"].astype(np.int64)
    order = 1 + np.argsort(-sizes[1:], kind="stable")[:LISTED]
    parts = []
    for number in order.tolist():
        z, y, x = statistics["bounding_boxes"][number]
        around = widen((z, y, x), (1, 1, 1), tumour.shape)
        parts.append(
            TumourPart(float(sizes[number]) * voxel_ml, _host(organs, pieces, number, box=around, space=space))
        )
    counts = _organ_counts(organs[tumour], space)
    overlap = {organ: float(counts[label]) * voxel_ml for label, organ in space.labels.items() if counts[label]}
    return TumourReport(float(sizes[1:].sum()) * voxel_ml, int(count), tuple(parts), overlap)


def drop_small_lesions_(labels: UInt8[np.ndarray, "z y x"], smallest_voxels: Mapping[int, float]) -> None:
    """Give small lesions to what surrounds them, in place: within the liver they are liver, not holes in it.

    Args:
        labels: A label map.
        smallest_voxels: {label of a tumour: voxels of the smallest component (26-connected) that stays}.
    """
    for label, box in boxes_of(labels, tuple(smallest_voxels)).items():
        part = labels[widen(box, (1, 1, 1), labels.shape)]
        pieces, _ = pieces_of(part == label, connectivity=26)
        statistics = cc3d.statistics(pieces)
        small = statistics["voxel_counts"] < smallest_voxels[label] * (1 - SAME)
        for number in np.flatnonzero(small[1:]) + 1:
            z, y, x = statistics["bounding_boxes"][number]
            around = widen((z, y, x), (1, 1, 1), part.shape)
            lesion = pieces[around] == number
            counts = np.bincount(part[around][_shell(lesion)], minlength=1)
            part[around][lesion] = counts.argmax()


def _host(organs: UInt8[np.ndarray, "z y x"], pieces: np.ndarray, number: int, *, box: Box, space: LabelSpace) -> str:
    """Return the organ that a component lies in, or else touches."""
    part, beneath = pieces[box] == number, organs[box]
    counts = _organ_counts(beneath[part], space)
    if not counts.any():
        counts = _organ_counts(beneath[_shell(part)], space)
    return space.labels[int(counts.argmax())] if counts.any() else NOWHERE


def _shell(part: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels about a component: all 26 neighbours."""
    reach = part.copy()
    for axis in range(3):  # one voxel further along each axis in turn
        along, grown = np.moveaxis(reach.copy(), axis, 0), np.moveaxis(reach, axis, 0)
        grown[1:] |= along[:-1]
        grown[:-1] |= along[1:]
    return reach & ~part


def _organ_counts(values: UInt8[np.ndarray, " voxels"], space: LabelSpace) -> np.ndarray:
    """Return how many voxels each label has; 0 for background, for the tumour and for what the space does not hold."""
    counts = np.bincount(values, minlength=256)
    counts[0] = 0
    counts[len(space.organs) + 1 :] = 0
    if TUMOUR in space.organs:
        counts[space.index(TUMOUR)] = 0
    return counts


def _require_same_shape(organs: np.ndarray, tumour: np.ndarray) -> None:
    if organs.shape != tumour.shape:
        raise GeometryError(
            f"organs and tumour lie on different grids: {'x'.join(map(str, organs.shape))} against "
            f"{'x'.join(map(str, tumour.shape))} voxels",
            "Predict both on the grid of the scan.",
        )
