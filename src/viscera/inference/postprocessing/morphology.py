"""Open, close and fill organs, in millimetres whatever the voxels' shape.

The structuring element is the ball of the given radius: the voxels whose centres are no further away, from exact
Euclidean distances. A radius below the distance between slices therefore works within slices only, and one below the
smallest spacing does nothing. Nothing is known beyond the scan's edge, so nothing is made up there: opening takes nothing
from an organ because the edge cuts it, closing and filling do not take the edge for the far side of a gap.
"""

from collections.abc import Collection, Mapping
from functools import partial
from math import floor

import cv2
import edt
import numpy as np
from jaxtyping import Bool, UInt8

from viscera.boxes import Box, Extent, boxes_of, extents_of, pieces_of, widen
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

TIE = 1e-4
"""A distance that is larger than the radius by less than this share equals it: distances are float32."""
SLAB = 64
"""Slices whose distances are held at a time."""
HOLE, ORGAN, OUTSIDE = 0, 1, 2
"""What a pixel of a slice is by itself."""


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
    open_organs_(result, radius_mm, spacing_mm=spacing_mm)
    return result


def open_organs_(
    labels: UInt8[np.ndarray, "z y x"], radius_mm: Mapping[int, float], *, spacing_mm: tuple[float, float, float]
) -> None:
    """Do in place what ``open_organs`` does."""
    for label, tight in boxes_of(labels, radius_mm.keys()).items():
        box = widen(tight, (1, 1, 1), labels.shape)
        mask = labels[box] == label
        reach = radius_mm[label] * (1 + TIE)
        core = _further_than(reach, mask, spacing_mm)
        labels[box][mask & _further_than(reach, ~core, spacing_mm)] = 0


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
    close_organs_(result, radius_mm, spacing_mm=spacing_mm)
    return result


def close_organs_(
    labels: UInt8[np.ndarray, "z y x"], radius_mm: Mapping[int, float], *, spacing_mm: tuple[float, float, float]
) -> None:
    """Do in place what ``close_organs`` does."""
    for label, box in boxes_of(labels, radius_mm.keys()).items():
        reach = radius_mm[label] * (1 + TIE)
        margins = [(floor(reach / step) + 1,) * 2 for step in spacing_mm]
        # What closing adds lies in the organ's own box, but the ball comes from outside of it.
        mask = np.pad(labels[box] == label, margins)
        gaps = ~_further_than(reach, ~mask, spacing_mm)
        closed = _further_than(reach, gaps, spacing_mm)
        z, y, x = (slice(before, -after) for before, after in margins)
        labels[box][closed[z, y, x] & (labels[box] == 0)] = label


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
    fill_holes_(result, extents_of(labels, wanted), wanted)
    return result


def fill_holes_(labels: UInt8[np.ndarray, "z y x"], extents: Mapping[int, Extent], wanted: Collection[int]) -> None:
    """Do in place what ``fill_holes`` does, of organs of which it is known where they lie; that stays as it is."""
    wanted_extents = {label: extents[label] for label in wanted if label in extents}
    parts = on_all_cores(partial(_looked_through, labels), slabs_of(wanted_extents))
    for own in by_label(part for part in parts if part is not None).values():
        components = joined(own)
        is_open = np.zeros(sum(map(len, components)) + 1, bool)
        for part, of_slab in zip(own, components, strict=True):
            is_open[of_slab[part.tally > 0]] = True
        is_open[-1] = True  # what is no hole of a slice
        _fill_(labels, [(part.slab, ~is_open[of_slab]) for part, of_slab in zip(own, components, strict=True)])


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
        distance_mm = edt.edt(near, anisotropy=spacing_mm, parallel=max(1, cv2.getNumThreads()))
        result[first : first + SLAB] = distance_mm[first - begin : first - begin + SLAB] > reach_mm
    return result


def _flooded(labels: UInt8[np.ndarray, "z y x"], slab: Slab) -> UInt8[np.ndarray, "d h w"]:
    """Return for each pixel of a slab's planes whether it is the organ's, outside of it, or in a hole of it in its plane.

    A hole of an organ is within holes of its planes, which are few.
    """
    z, y, x = (part.stop - part.start for part in slab.box)
    planes = np.zeros((z, y + 2, x + 2), np.uint8)  # a frame that leads around the organ
    np.equal(labels[slab.box], slab.label, out=planes[:, 1:-1, 1:-1], casting="unsafe")
    for plane in planes:
        cv2.floodFill(plane, None, (0, 0), OUTSIDE, flags=4)
    return planes


def _holes(planes: UInt8[np.ndarray, "d h w"]) -> tuple[Box, np.ndarray, int]:
    """Return a box of all holes of the planes, their pieces' numbers in it and how many they are."""
    x, y, width, height = cv2.boundingRect((planes.min(axis=0) == HOLE).view(np.uint8))
    box = slice(0, len(planes)), slice(y, y + height), slice(x, x + width)
    pieces, count = pieces_of(planes[box] == HOLE, connectivity=6)
    return box, pieces, count


def _looked_through(labels: UInt8[np.ndarray, "z y x"], slab: Slab) -> Part | None:
    """Return the pieces of a slab's holes, with a number above 0 for the open ones; None where there are no holes."""
    planes = _flooded(labels, slab)
    if planes.all():
        return None
    box, pieces, count = _holes(planes)
    outside = planes[box] == OUTSIDE
    is_open = np.zeros(count + 1, np.int64)
    if slab.first:
        is_open[pieces[0]] = 1
    if slab.last:
        is_open[pieces[-1]] = 1
    for z in range(len(planes) - 1):
        for here, there in ((z, z + 1), (z + 1, z)):
            is_open[pieces[here][outside[there]]] = 1
    is_open[0] = 0
    return part_of(slab, pieces > 0, pieces, is_open)


def _fill_(labels: UInt8[np.ndarray, "z y x"], filled: Chosen) -> None:
    """Fill holes of an organ, from the first slab on: each is to find the next one's plane as it was."""
    for slab, enclosed in filled:
        if not enclosed.any():
            continue
        (_, y, x), pieces, _ = _holes(_flooded(labels, slab))
        z, top, left = (part.start for part in slab.own)
        part = labels[z : z + slab.planes, top + y.start - 1 : top + y.stop - 1, left + x.start - 1 : left + x.stop - 1]
        for plane, pieces_of_plane in zip(part, pieces[: slab.planes], strict=True):
            plane[enclosed.take(pieces_of_plane) & (plane == 0)] = slab.label
