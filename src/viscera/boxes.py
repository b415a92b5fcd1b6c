"""Where the labels of a map lie: what keeps every operation off the rest of the scan; and the pieces of a mask."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import cc3d
import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8

Box = tuple[slice, slice, slice]

BITS = 8
"""Labels that are looked for at a time: one bit of a byte each."""
NOWHERE = np.iinfo(np.int64).max
"""Where a label begins in a plane that does not hold it."""


@dataclass(frozen=True, eq=False)
class Extent:
    """Where a label lies in each plane.

    Attributes:
        sides: First row and column, and those behind the last; (NOWHERE, NOWHERE, 0, 0) in planes without the label.
        planes: The first plane with the label, and that behind the last.
    """

    sides: Int64[np.ndarray, "z 4"]
    planes: tuple[int, int]

    def box(self, first: int, stop: int) -> Box | None:
        """Return the planes asked for and the tight rows and columns of the label in them; None where it is in none."""
        top, left = self.sides[first:stop, :2].min(axis=0).tolist()
        bottom, right = self.sides[first:stop, 2:].max(axis=0).tolist()
        return (slice(first, stop), slice(top, bottom), slice(left, right)) if bottom else None


def extents_of(labels: UInt8[np.ndarray, "z y x"], wanted: Collection[int]) -> dict[int, Extent]:
    """Return where each wanted label that the map holds lies, in the order asked for."""
    if not wanted or not labels.size:
        return {}
    order = list(dict.fromkeys(wanted))
    frames = [cv2.boundingRect(np.ascontiguousarray(plane)) for plane in labels]
    found: dict[int, Extent] = {}
    for start in range(0, len(order), BITS):
        some = order[start : start + BITS]
        rows, columns = _bits_of(labels, some, frames)
        for place, label in enumerate(some):
            (top, bottom), (left, right) = _ends(rows, place), _ends(columns, place)
            sides = np.stack([top, left, bottom, right], axis=1)
            planes = np.flatnonzero(sides[:, 2])
            if planes.size:
                found[label] = Extent(sides, (int(planes[0]), int(planes[-1]) + 1))
    return found


def boxes_of(labels: UInt8[np.ndarray, "z y x"], wanted: Collection[int]) -> dict[int, Box]:
    """Return the tight box of each wanted label that the map holds, in the order asked for."""
    extents = extents_of(labels, wanted)
    return {label: box for label, extent in extents.items() if (box := extent.box(*extent.planes)) is not None}


def _bits_of(
    labels: UInt8[np.ndarray, "z y x"], some: Sequence[int], frames: Sequence[Sequence[int]]
) -> tuple[UInt8[np.ndarray, "z y"], UInt8[np.ndarray, "z x"]]:
    """Return which of up to eight labels each row and each column of each plane holds, as bits.

    Args:
        labels: A label map.
        some: The labels.
        frames: Column, row, width and height of what is not background in each plane.
    """
    table = np.zeros(256, np.uint8)
    table[list(some)] = 1 << np.arange(len(some))
    rows, columns = np.zeros(labels.shape[:2], np.uint8), np.zeros((len(labels), labels.shape[2]), np.uint8)
    for plane, of_row, of_column, (x, y, width, height) in zip(labels, rows, columns, frames, strict=True):
        if width:
            bits = cv2.LUT(np.ascontiguousarray(plane[y : y + height, x : x + width]), table)
            of_row[y : y + height] = np.bitwise_or.reduce(bits, axis=1)
            of_column[x : x + width] = np.bitwise_or.reduce(bits, axis=0)
    return rows, columns


def _ends(bits: UInt8[np.ndarray, "z n"], place: int) -> tuple[Int64[np.ndarray, " z"], Int64[np.ndarray, " z"]]:
    """Return where a bit is first set in each plane and behind where it is last set."""
    held = bits & (1 << place) > 0
    some = np.flatnonzero(held.any(axis=1))
    first, stop = np.full(len(bits), NOWHERE), np.zeros(len(bits), np.int64)
    first[some] = held[some].argmax(axis=1)
    stop[some] = held.shape[1] - held[some, ::-1].argmax(axis=1)
    return first, stop


def widen(box: Box, margins: tuple[int, int, int], shape: tuple[int, ...]) -> Box:
    """Return a box with some voxels more on each side, as far as the scan reaches."""
    z, y, x = (
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(box, margins, shape, strict=True)
    )
    return z, y, x


def pieces_of(mask: Bool[np.ndarray, "z y x"], *, connectivity: Literal[6, 26]) -> tuple[np.ndarray, int]:
    """Return the numbers of a mask's pieces, as they begin in the array, and how many they are.

    uint8, since cc3d 4.1.1 reckons with too few pieces of bool arrays that are one voxel thin: "maximum length exception".
    """
    return cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity, return_N=True)
