"""Connected pieces of organs slab by slab, on all cores: no array of all pieces ever exists.

Each slab also looks at the first plane of the next one. What lies in that plane has a number in both slabs, which says which of
their pieces are one. Pieces are numbered as they begin in the array, slabs and whole maps alike.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Int64, Shaped

from viscera.boxes import Box, Extent

PLANES = 16
"""Planes of a slab."""
MOST_AT_ONCE = 4
"""Slabs in work: four take a tenth of a second for a scan, and each takes SLAB_BYTES per voxel."""
SLAB_BYTES = 8
"""Per voxel of a slab: a mask, what is flooded, and pieces as uint32, with what NumPy takes of them."""

Chosen = Sequence[tuple["Slab", np.ndarray]]
"""An organ's slabs in their order, and which of their pieces are chosen: a bool for each, for 0 too."""

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Slab:
    """Some planes of an organ.

    Attributes:
        label: The organ's.
        box: Those planes and the first one of the next slab; in them, the rows and columns that the organ takes.
        planes: How many are the slab's own.
        first: Whether the organ begins with it.
        last: Whether it ends with it: there is no next one.
    """

    label: int
    box: Box
    planes: int
    first: bool
    last: bool

    @property
    def own(self) -> Box:
        """Return the box without the next slab's plane."""
        z, y, x = self.box
        return slice(z.start, z.start + self.planes), y, x


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of the pieces in a slab.

    Attributes:
        slab: Which.
        tally: A number for each piece, for 0 too, which is all else.
        begin: Pieces at the beginnings of the runs in the first plane, in the array's order.
        end: Likewise in the next slab's plane; empty for the last one.
    """

    slab: Slab
    tally: Shaped[np.ndarray, " piece"]
    begin: Shaped[np.ndarray, " first"]
    end: Shaped[np.ndarray, " last"]


def slabs_of(extents: Mapping[int, Extent]) -> list[Slab]:
    """Return the slabs of some organs, those of each in a row."""
    found = []
    for label, extent in extents.items():
        begin, end = extent.planes
        for start in range(begin, end, PLANES):
            stop = min(start + PLANES, end)
            box = extent.box(start, min(stop + 1, end))
            if box is not None:
                found.append(Slab(label, box, stop - start, first=start == begin, last=stop == end))
    return found


def part_of(
    slab: Slab, mask: Bool[np.ndarray, "z y x"], pieces: Shaped[np.ndarray, "z y x"], tally: Int64[np.ndarray, " piece"]
) -> Part:
    """Return what is known of the pieces in a slab.

    Args:
        slab: Which.
        mask: What the pieces are of.
        pieces: Their numbers.
        tally: A number for each.
    """
    return Part(slab, tally, _runs(mask[0], pieces[0]), _runs(mask[-1], pieces[-1])[: None if not slab.last else 0])


def joined(parts: Sequence[Part]) -> list[Int64[np.ndarray, " piece"]]:
    """Return the component that each piece of an organ's slabs belongs to, by the number of its first piece of all.

    Args:
        parts: Of one organ, in the slabs' order; slabs without pieces may be missing.

    Returns:
        For each slab, with one for number 0, which belongs to nothing and is -1.
    """
    counts = [len(part.tally) - 1 for part in parts]
    offsets = np.cumsum([0, *counts])
    low, high = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for before, after, offset, next_offset in zip(parts, parts[1:], offsets, offsets[1:], strict=False):
        if before.slab.box[0].stop == after.slab.box[0].start + 1:
            low.append(offset + before.end.astype(np.int64) - 1)
            high.append(next_offset + after.begin.astype(np.int64) - 1)
    root = _roots(np.concatenate(low), np.concatenate(high), count=int(offsets[-1]))
    return [np.append(-1, root[start : start + count]) for start, count in zip(offsets, counts, strict=False)]


def by_label(parts: Iterable[Part]) -> dict[int, list[Part]]:
    """Sort parts by organ."""
    found: dict[int, list[Part]] = {}
    for part in parts:
        found.setdefault(part.slab.label, []).append(part)
    return found


def on_all_cores(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """Return the results of some work, done on the cores that OpenCV may use (networks/device.py says how many)."""
    workers = min(MOST_AT_ONCE, cv2.getNumThreads(), len(tasks))
    if workers < 2:
        return [work(task) for task in tasks]
    with ThreadPoolExecutor(workers, "tidying") as pool:
        return list(pool.map(work, tasks))


def _runs(mask: Bool[np.ndarray, "y x"], pieces: Shaped[np.ndarray, "y x"]) -> Shaped[np.ndarray, " run"]:
    """Return the piece at the beginning of each run of a plane's rows; each piece of the plane has one."""
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    return pieces[starts]


def _roots(
    one: Int64[np.ndarray, " pair"], other: Int64[np.ndarray, " pair"], *, count: int
) -> Int64[np.ndarray, " piece"]:
    """Return the lowest number that each of some numbers is the same as, by way of others.

    Args:
        one: Numbers below ``count``.
        other: What each is the same as.
        count: How many numbers there are.
    """
    root = np.arange(count)
    while True:
        first, second = root[one], root[other]
        if np.array_equal(first, second):
            return root
        np.minimum.at(root, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(root, root[root]):
            root = root[root]
