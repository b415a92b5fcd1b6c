"""Labels of enlarged slices: the class of the largest linearly interpolated logit at every pixel, computed only where it is open.

An interpolated logit is a convex mix of the four around it. Where one class is the largest at all four, it is so in the mix,
and rounding, which keeps order, does not change that: nothing has to be interpolated. The other pixels, a few in a hundred at
the organs' edges, are mixed with the weights and in the order of operations of torch, bit by bit, so that the labels are those
of the argmax of enlarged logits. Only if two classes differ by less than the last bits of their logits at all four may rounding
make equals of them, of which torch then takes the first, and this file the larger.

Not here: which scanner's slices these are (slices.py).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import floor

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

OPEN = 255
"""In place of a label: not yet decided."""

LOGITS_AT_ONCE = 32767
"""Mixed together. Torch spreads more over its threads, which then wait for each other: 100 slices took 7.5 s instead of 0.2 s
with two threads on two cores that were busy with other work (one run)."""

MOSTLY_OPEN = 0.4
"""Share of open prepared pixels above which interpolating everything is quicker; organs' edges are 0.1, noise is 1."""

SMALL = 128
"""Rows and columns together up to which torch mixes all four logits in one go, rounding otherwise; such slices are its own."""


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


@torch.inference_mode()
def enlarged_labels(
    logits: Float[Tensor, "slice class rows columns"], enlargement: Enlargement
) -> UInt8[np.ndarray, "slice y x"]:
    """Return the class of the largest logit at every pixel of enlarged slices, the first of equals.

    Args:
        logits: Finite. Slices that lie channels last are read as they are.
        enlargement: What is wanted.
    """
    old = (int(logits.shape[2]), int(logits.shape[3]))
    size, factors, start = enlargement.size, enlargement.factors, enlargement.start
    if logits.device.type != "cpu" or sum(size) <= SMALL or logits.shape[1] >= OPEN:
        return plain_labels(logits, enlargement)
    rows, columns = (
        side_of(old[axis], size[axis], factor=None if factors is None else factors[axis], start=start[axis])
        for axis in (0, 1)
    )
    labels = np.empty((len(logits), *size), np.uint8)
    for one, found in zip(logits.detach(), labels, strict=True):
        planes = planes_of(one)
        cells = _cells(first_largest(planes).reshape(old), rows, columns)
        if np.count_nonzero(cells == OPEN) > MOSTLY_OPEN * cells.size:
            found[:] = plain_labels(one[None], enlargement)[0]
            continue
        np.take(cells.take(columns.low, axis=1), rows.low, axis=0, out=found, mode="clip")
        _decide_open_(found, planes, rows, columns, width=old[1])
    return labels


@torch.inference_mode()
def plain_labels(
    logits: Float[Tensor, "slice class rows columns"], enlargement: Enlargement
) -> UInt8[np.ndarray, "slice y x"]:
    """Return the same as ``enlarged_labels`` by interpolating all logits, one slice after the other to keep memory small."""
    height, width = enlargement.size
    top, left = enlargement.start
    whole = enlargement.size if enlargement.factors is None else None
    found = []
    for one in logits:
        # Interpolation is twice as fast on contiguous logits, and max ten times as fast as argmax.
        image = one[None].float().contiguous()
        if whole != image.shape[2:]:
            image = interpolate(
                image,
                whole,
                scale_factor=enlargement.factors,  # type: ignore[arg-type]
                mode="bilinear",
                align_corners=False,
            )
        found.append(image[..., top : top + height, left : left + width].max(1).indices.to(torch.uint8))
    return torch.cat(found).cpu().numpy()


@lru_cache(maxsize=64)
def side_of(old: int, size: int, *, factor: float | None = None, start: int = 0) -> Side:
    """Return how new rows (or columns) are mixed from old ones.

    Args:
        old: How many there are.
        size: How many are wanted.
        factor: New ones per old one; None: such that all of them become ``size``.
        start: The first wanted of those that the factor gives.
    """
    if (size if factor is None else floor(old * factor)) == old:
        same = np.arange(start, start + size)
        return Side(same, same, np.ones(size, np.float32), np.zeros(size, np.float32), mixed=False)
    # Torch itself says its weights: those of one row are what becomes of a 1 there. One row more, so that the last ones, which
    # torch mixes with themselves, can be told apart too.
    ones = torch.eye(old + 1)[None]
    large = interpolate(ones, scale_factor=size / old if factor is None else factor, mode="linear", align_corners=False)
    weights = large[0, :, start : start + size].numpy()
    every, low = np.arange(size), (weights > 0).argmax(0)
    return Side(low, np.minimum(low + 1, old - 1), weights[low, every], weights[low + 1, every], mixed=True)


def planes_of(logits: Float[Tensor, "class rows columns"]) -> Float32[np.ndarray, "class pixels"]:
    """Return logits class by class."""
    # NumPy knows no bfloat16: it sees them as the upper halves of float32, and OpenCV, which transposes four times as fast as
    # torch, moves any two bytes.
    halves = logits.dtype == torch.bfloat16
    by_pixel = (logits.view(torch.int16) if halves else logits).permute(1, 2, 0)
    if by_pixel.is_contiguous() and not logits.is_contiguous():
        flat = by_pixel.reshape(-1, len(logits)).numpy()
        planes = cv2.transpose(flat.view(np.int16) if flat.dtype == np.float16 else flat).view(flat.dtype)
    else:
        planes = by_pixel.permute(2, 0, 1).reshape(len(logits), -1).numpy()
    if halves:
        return np.left_shift(planes.view(np.uint16), np.uint32(16), dtype=np.uint32).view(np.float32)
    return planes.astype(np.float32, copy=False)


def first_largest(planes: Float32[np.ndarray, "class pixels"]) -> UInt8[np.ndarray, " pixels"]:
    """Return the class of the largest logit, the first of equals: eight times as fast as max over the classes in torch."""
    largest, labels = planes[0].copy(), np.zeros(planes.shape[1], np.uint8)
    larger = np.empty(planes.shape[1], bool)
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
    """Return interpolated logits at some pixels, bit by bit those that torch gives.

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
    # first is added, both in one operation; addcmul does the same (found by trying all orders, on x86-64).
    summed = torch.from_numpy(high * by.high_weight)
    return summed.addcmul_(torch.from_numpy(low), torch.from_numpy(by.low_weight)).numpy()
