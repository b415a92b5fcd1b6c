"""Labels of enlarged slices: the class of the largest linearly interpolated logit at every pixel, computed only where it is open.

An interpolated logit is a convex mix of the four around it. Where one class is the largest at all four, it is so in the mix,
and rounding, which keeps order, does not change that: nothing has to be interpolated. The other pixels, a few in a hundred at
the organs' edges, are mixed with the weights and in the order of operations of torch, so that the labels are those of the argmax
of logits that torch enlarged. Only if two classes differ by less than the last bits of their logits may rounding make equals of
them, of which torch then takes the first, and this file the larger.

The same holds along z: the logits of a slice that the network has not seen are a mix of those of two that it has
(``SliceLogits.between``), so only pixels on which these two disagree have to be mixed.

Not here: which scanner's slices these are (slices.py); logits on a GPU (on_gpu.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

OPEN = 255
"""In place of a label: not yet decided."""

LOGITS_AT_ONCE = 32767
"""Mixed together, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Enlargement:
    """How slices become larger, or smaller: pixel centres at half steps, the outermost pixels repeated beyond their centres.

    Attributes:
        size: Rows and columns wanted.
        factors: New rows per old one, and columns; None: such that the whole slices get the size.
        start: The first row and column wanted of those that the factors give.
    """

    size: tuple[int, int]
    factors: tuple[float, float] | None = None
    start: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Side:
    """Which old rows (or columns) every new one is mixed from, and their weights.

    Attributes:
        low: The first.
        high: The second; the same where nothing is mixed.
        low_weight: Of the first.
        high_weight: Of the second.
        mixed: Whether anything is mixed at all.
    """

    low: Int64[np.ndarray, " new"]
    high: Int64[np.ndarray, " new"]
    low_weight: Float32[np.ndarray, " new"]
    high_weight: Float32[np.ndarray, " new"]
    mixed: bool

    def at(self, places: Int64[np.ndarray, " n"] | slice) -> "Side":
        """Return what some of the new rows are mixed from."""
        return Side(
            *(part[places] for part in (self.low, self.high, self.low_weight, self.high_weight)), mixed=self.mixed
        )


@dataclass(frozen=True, eq=False)
class SliceLogits:
    """A slice's logits, and which class has the largest.

    Attributes:
        planes: Class by class; finite.
        labels: The class of the largest logit, the first of equals.
    """

    planes: Float32[np.ndarray, "class rows columns"]
    labels: UInt8[np.ndarray, "rows columns"]

    @classmethod
    def of(cls, planes: Float32[np.ndarray, "class rows columns"]) -> "SliceLogits":
        """Find the labels of logits."""
        return cls(planes, first_largest(planes))

    def between(self, other: "SliceLogits", share: float) -> "SliceLogits":
        """Return the slice between this one and another.

        Args:
            other: The slice on the other side.
            share: Of the way to it, above 0 and below 1.
        """
        one, two = (each.reshape(len(each), -1) for each in (self.planes, other.planes))
        planes = cv2.addWeighted(one, 1 - share, two, share, 0).reshape(self.planes.shape)
        labels, open_ = self.labels.copy(), self.labels != other.labels
        labels[open_] = first_largest(planes[:, open_])
        return SliceLogits(planes, labels)

    def on_slice(self, enlargement: Enlargement) -> UInt8[np.ndarray, "y x"]:
        """Return the class of the largest logit at every pixel of the enlarged slice, the first of equals."""
        planes, size = self.planes, enlargement.size
        rows, columns = sides_of(planes.shape[1:], enlargement)
        cells = _cells(self.labels, rows, columns) if len(planes) < OPEN else np.full_like(self.labels, OPEN)
        labels = np.empty(size, np.uint8)
        np.take(cells.take(columns.low, axis=1), rows.low, axis=0, out=labels, mode="clip")
        _decide_open_(labels, planes.reshape(len(planes), -1), rows, columns, width=planes.shape[2])
        return labels


def sides_of(old: Sequence[int], enlargement: Enlargement) -> tuple[Side, Side]:
    """Return how the rows and the columns of a slice are enlarged."""
    size, factors, start = enlargement.size, enlargement.factors, enlargement.start
    rows, columns = (
        side_of(old[axis], size[axis], factor=None if factors is None else factors[axis], start=start[axis])
        for axis in (0, 1)
    )
    return rows, columns


@lru_cache(maxsize=64)
def side_of(old: int, size: int, *, factor: float | None = None, start: int = 0) -> Side:
    """Return how new rows (or columns) are mixed from old ones: pixel centres at half steps, as torch's interpolation has it.

    Args:
        old: How many there are.
        size: How many are wanted.
        factor: New ones per old one; None: such that all of them become ``size``.
        start: The first wanted of those that the factor gives.
    """
    if (size if factor is None else floor(old * factor)) == old:
        same = np.arange(start, start + size)
        return Side(same, same, np.ones(size, np.float32), np.zeros(size, np.float32), mixed=False)
    # Torch computes in float32, multiplying and subtracting in one operation.
    step = np.float64(np.float32(old / size if factor is None else 1 / factor))
    centres = (step * (np.arange(start, start + size) + 0.5) - 0.5).astype(np.float32).clip(0, None)
    low = np.minimum(centres.astype(np.int64), old - 1)
    share = (centres - low.astype(np.float32)).clip(0, 1)
    return Side(low, np.minimum(low + 1, old - 1), 1 - share, share, mixed=True)


def first_largest(planes: Float32[np.ndarray, "class *pixels"]) -> UInt8[np.ndarray, "*pixels"]:
    """Return the class of the largest logit, the first of equals: eight times as fast as max over the classes in torch."""
    largest, labels = planes[0].copy(), np.zeros(planes.shape[1:], np.uint8)
    larger = np.empty(planes.shape[1:], bool)
    numbers = larger.view(np.uint8)
    for number, plane in enumerate(planes[1:], start=1):
        np.greater(plane, largest, out=larger)
        np.maximum(largest, plane, out=largest)
        np.multiply(numbers, np.uint8(number), out=numbers)
        np.maximum(labels, numbers, out=labels)
    return labels


def _cells(low: UInt8[np.ndarray, "rows columns"], rows: Side, columns: Side) -> UInt8[np.ndarray, "rows columns"]:
    """Return the label on which a pixel agrees with the next one in its row, in its column and across; OPEN where they differ."""
    cells = low.copy()
    if columns.mixed:
        np.putmask(cells[:, :-1], low[:, :-1] != low[:, 1:], OPEN)
    if rows.mixed:
        np.putmask(cells[:-1], low[:-1] != low[1:], OPEN)
    if rows.mixed and columns.mixed:
        np.putmask(cells[:-1, :-1], low[:-1, :-1] != low[1:, 1:], OPEN)
    return cells


def _decide_open_(
    labels: UInt8[np.ndarray, "y x"],
    planes: Float32[np.ndarray, "class pixels"],
    rows: Side,
    columns: Side,
    *,
    width: int,
) -> None:
    """Set the labels that are open.

    Args:
        labels: Of the enlarged slice.
        planes: Logits of the slice as it was.
        rows: How it is enlarged.
        columns: Likewise.
        width: Its columns as it was.
    """
    flat = labels.reshape(-1)
    every = np.flatnonzero(flat == OPEN)
    y, x = np.divmod(every, labels.shape[1])
    rows, columns, step = rows.at(y), columns.at(x), LOGITS_AT_ONCE // len(planes)
    for first in range(0, len(every), step):
        part = slice(first, first + step)
        flat[every[part]] = first_largest(mixed_logits(planes, rows.at(part), columns.at(part), width=width))


def mixed_logits(
    planes: Float32[np.ndarray, "class pixels"], rows: Side, columns: Side, *, width: int
) -> Float32[np.ndarray, "class n"]:
    """Return interpolated logits at some pixels.

    Args:
        planes: Logits of a slice.
        rows: What each pixel is mixed from.
        columns: Likewise.
        width: Columns of the slice.
    """
    lower, upper = (
        _mixed(
            planes.take(row * width + columns.low, axis=1), planes.take(row * width + columns.high, axis=1), by=columns
        )
        for row in (rows.high, rows.low)
    )
    return _mixed(upper, lower, by=rows)


def _mixed(
    low: Float32[np.ndarray, "class n"], high: Float32[np.ndarray, "class n"], *, by: Side
) -> Float32[np.ndarray, "class n"]:
    """Return a weighted sum."""
    # In torch's kernel columns come before rows, and the product with the second weight is rounded before the one with the
    # first is added, both in one operation (found by trying all orders, on x86-64). Products of float32 are exact in float64.
    summed = low * by.low_weight.astype(np.float64)
    summed += high * by.high_weight
    return summed.astype(np.float32)
