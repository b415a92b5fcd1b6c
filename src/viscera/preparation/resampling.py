"""Axial slices on another pixel grid, and the affine that goes with it.

A ``PixelGrid`` says where the new pixels lie. Pixel centres lie at half steps: pixel i of the new slice stands at
start + (i + 0.5) * step - 0.5 of the old one, along rows and along columns, for the image and for labels alike, so both
cover the same rectangle of the patient. A ``SliceGrid`` says the same of slices along z; without one they stay. Slices are
turned to axial order before (volume.py); which part of a slice is the body is found in body.py; labels and logits go back
to the scanner's grid in inference/.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import cv2
import numpy as np
from jaxtyping import Float, Int16, Integer

from viscera.errors import SettingError

AIR_HU = -1024
"""What lies beyond the scan."""

SMOOTH_ABOVE = 2
"""Old pixels per new one from which on all of them are averaged. At 2 averaging and interpolation are the same thing."""

FINENESS = 4096
"""Steps are whole multiples of 1/4096 old pixel (0.2 um at most): the float32 of a file's affine then changes no voxel."""

MOST_THREADS = 4
"""That resample slices at once; memory is too slow for more."""

HALVINGS = 16
"""Rows and columns of a cut slice are multiples of this, so that networks can halve them four times."""


@dataclass(frozen=True)
class PixelGrid:
    """Where the pixels of new slices lie among those of the old ones. In fractions, so that a tie is a tie.

    Attributes:
        size: New rows and columns.
        start: The old row and column at whose outer edge the new slices begin; negative where they reach beyond.
        step: Old pixels per new one, along rows and along columns.
    """

    size: tuple[int, int]
    start: tuple[int, int]
    step: tuple[Fraction, Fraction]

    @property
    def stop(self) -> tuple[Fraction, Fraction]:
        """Where the new slices end, in old rows and columns."""
        rows, columns = (
            start + count * step for start, count, step in zip(self.start, self.size, self.step, strict=True)
        )
        return rows, columns

    def inside(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the old rows and columns that are covered from edge to edge.

        Args:
            shape: Old rows and columns.
        """
        rows, columns = (
            slice(max(start, 0), min(floor(stop), count))
            for start, stop, count in zip(self.start, self.stop, shape, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class SliceGrid:
    """Where new slices lie among the old ones along z, as a ``PixelGrid`` for rows and columns.

    Attributes:
        size: New slices.
        start: Where among the old ones, in slices, the outer edge of the first new one lies.
        step: Old slices per new one.
    """

    size: int
    start: Fraction
    step: Fraction

    @property
    def places(self) -> Float[np.ndarray, " new"]:
        """Where the centres of the new slices lie among those of the old ones."""
        return float(self.start) + (np.arange(self.size) + 0.5) * float(self.step) - 0.5

    def back(self, slices: Integer[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return where the centres of old slices lie among those of the new ones."""
        return (slices + 0.5 - float(self.start)) / float(self.step) - 0.5


def spaced_slice_grid(count: int, slice_mm: float, *, spacing_mm: float) -> SliceGrid:
    """Return the slice grid over all slices of a scan, to a hundredth of a new one; it reaches less than half a new one beyond.

    Args:
        count: Old slices.
        slice_mm: Between them.
        spacing_mm: Between the new ones.
    """
    step = Fraction(max(1, round(spacing_mm / slice_mm * FINENESS)), FINENESS)
    size = max(
        1, ceil(round(count * slice_mm / spacing_mm, 2))
    )  # 6 slices of 5 mm are 30 of 1 mm, whatever step is rounded to
    return SliceGrid(size, (count - size * step) / 2, step)


def whole_pixel_grid(shape: tuple[int, int], size: tuple[int, int]) -> PixelGrid:
    """Return the pixel grid that covers a whole slice with another number of pixels.

    Args:
        shape: Old rows and columns.
        size: New rows and columns.

    Raises:
        SettingError: A size of nothing.
    """
    rows, columns = size
    if min(size) < 1:
        raise SettingError(f"a slice cannot have {rows}x{columns} pixels", "Set preparation.size to at least 1x1.")
    return PixelGrid(size, (0, 0), (Fraction(shape[0], rows), Fraction(shape[1], columns)))


def spaced_pixel_grid(
    box: tuple[slice, slice], pixel_mm: tuple[float, float], *, spacing_mm: tuple[float, float], margin_mm: float
) -> PixelGrid:
    """Return the pixel grid that covers a box with pixels of a given size.

    It begins at the edge of an old pixel, so that slices which already have the spacing are only cut.

    Args:
        box: Old rows and columns to be covered.
        pixel_mm: Spacing of the old rows and columns.
        spacing_mm: Of the new rows and columns.
        margin_mm: To be covered on each side of the box, to a thousandth of an old pixel.
    """
    sizes, starts, steps = [], [], []
    for side, old_mm, new_mm in zip(box, pixel_mm, spacing_mm, strict=True):
        step = Fraction(max(1, round(new_mm / old_mm * FINENESS)), FINENESS)
        margin = ceil(round(margin_mm / old_mm, 3))
        low, high = side.start - margin, side.stop + margin
        size = ceil((high - low) / step / HALVINGS) * HALVINGS
        sizes.append(size)
        starts.append(round((low + high - size * step) / 2))
        steps.append(step)
    return PixelGrid((sizes[0], sizes[1]), (starts[0], starts[1]), (steps[0], steps[1]))


def resize_image(slices: Int16[np.ndarray, "z y x"], size: tuple[int, int]) -> Int16[np.ndarray, "z rows columns"]:
    """Return whole axial slices of another size, linearly interpolated between the four nearest pixels, without smoothing.

    A slice twice as large becomes the mean of its 2x2 blocks. Beyond the outermost pixel centres the border pixel is
    repeated.

    Args:
        slices: HU, in any memory layout.
        size: Rows and columns wanted.

    Returns:
        HU rounded to the nearest whole number (a tie goes either way), C-contiguous.
    """
    return _resample(slices, whole_pixel_grid(slices.shape[1:], size), method=cv2.INTER_LINEAR)


def resample_image(slices: Int16[np.ndarray, "z y x"], pixel_grid: PixelGrid) -> Int16[np.ndarray, "z rows columns"]:
    """Return axial slices on a pixel grid, air (AIR_HU) beyond the scan.

    A new pixel is the mean of all that it covers where it is more than SMOOTH_ABOVE times as large as the old ones along
    rows and along columns, which keeps their noise low; otherwise it is interpolated linearly, as in ``resize_image``.
    (OpenCV leaves out what covers less than a thousandth of an old pixel.)

    Args:
        slices: HU, in any memory layout.
        pixel_grid: Where the new pixels lie.

    Returns:
        HU rounded to the nearest whole number (a tie goes either way), C-contiguous.
    """
    return _resample(
        slices, pixel_grid, method=cv2.INTER_AREA if min(pixel_grid.step) > SMOOTH_ABOVE else cv2.INTER_LINEAR
    )


def _resample(
    slices: Int16[np.ndarray, "z y x"], pixel_grid: PixelGrid, *, method: int
) -> Int16[np.ndarray, "z rows columns"]:
    ends = tuple(ceil(stop) for stop in pixel_grid.stop)
    limits = list(zip(pixel_grid.start, ends, slices.shape[1:], strict=True))
    rows, columns = (slice(max(low, 0), min(high, count)) for low, high, count in limits)
    (above, below), (left, right) = ((max(-low, 0), max(high - count, 0)) for low, high, count in limits)
    resized = np.empty((len(slices), *pixel_grid.size), np.int16)
    fy, fx = (float(1 / step) for step in pixel_grid.step)

    def resample(old: Int16[np.ndarray, "y x"], new: Int16[np.ndarray, "rows columns"]) -> None:
        """Resample one slice."""
        part = np.ascontiguousarray(old)
        if above or below or left or right:
            part = cv2.copyMakeBorder(part, above, below, left, right, cv2.BORDER_CONSTANT, value=(AIR_HU,))
        if pixel_grid.step != (1, 1):
            # Given factors and no size, OpenCV takes the factors as they are, and one pixel too many at times.
            part = cv2.resize(part, None, fx=fx, fy=fy, interpolation=method)
        new[:] = part[: pixel_grid.size[0], : pixel_grid.size[1]]

    # OpenCV itself takes one core for slices of this size; a process that may use one only has set its threads to 1.
    with ThreadPoolExecutor(max(1, min(MOST_THREADS, cv2.getNumThreads()))) as pool:
        for _ in pool.map(resample, slices[:, rows, columns], resized):
            pass
    return resized


def resample_labels(
    slices: Integer[np.ndarray, "z y x"], pixel_grid: PixelGrid
) -> Integer[np.ndarray, "z rows columns"]:
    """Return label slices on a pixel grid: each pixel that of the nearest old pixel centre, a tie the later one, 0 beyond.

    Computed in whole numbers, because OpenCV's INTER_NEAREST_EXACT takes now the one, now the other at a tie.

    Args:
        slices: Labels, in any memory layout.
        pixel_grid: Where the new pixels lie.

    Returns:
        Labels of the same type, C-contiguous.
    """
    places, within = [], []
    for count, start, step, new in zip(
        slices.shape[1:], pixel_grid.start, pixel_grid.step, pixel_grid.size, strict=True
    ):
        nearest = start + (2 * np.arange(new) + 1) * step.numerator // (2 * step.denominator)
        there = np.flatnonzero((nearest >= 0) & (nearest < count))
        places.append(nearest[there])
        within.append(slice(there[0], there[-1] + 1) if there.size else slice(0, 0))
    taken = slices.take(places[0], axis=1).take(places[1], axis=2)
    if taken.shape[1:] == pixel_grid.size:
        return taken
    labels = np.zeros((len(slices), *pixel_grid.size), slices.dtype)
    labels[:, within[0], within[1]] = taken
    return labels


def resample_along_z(slices: Int16[np.ndarray, "z y x"], slice_grid: SliceGrid) -> Int16[np.ndarray, "new y x"]:
    """Return an image's slices on a slice grid.

    They are linear between the two nearest, or the mean of those covered where there are more than SMOOTH_ABOVE of them;
    beyond the scan its last slice repeats.

    Returns:
        HU rounded to the nearest whole number (ties to even).
    """
    if slice_grid.step == 1 and slice_grid.size == len(slices):
        return slices
    moved = np.empty((slice_grid.size, *slices.shape[1:]), np.int16)
    last, reach = len(slices) - 1, float(slice_grid.step) / 2
    for number, place in enumerate(slice_grid.places):
        if slice_grid.step > SMOOTH_ABOVE:
            near = np.arange(floor(place - reach + 0.5), ceil(place + reach + 0.5))
            weights = np.minimum(near + 0.5, place + reach) - np.maximum(near - 0.5, place - reach)
        else:
            near = floor(place) + np.arange(2)
            weights = 1 - np.abs(near - place)
        mixed = np.zeros(slices.shape[1:], np.float32)
        for old, weight in zip(near.clip(0, last), weights / weights.sum(), strict=True):
            if weight > 0:
                mixed += np.float32(weight) * slices[old]
        np.rint(mixed, out=mixed)
        moved[number] = mixed
    return moved


def resample_labels_along_z(
    slices: Integer[np.ndarray, "z y x"], slice_grid: SliceGrid
) -> Integer[np.ndarray, "new y x"]:
    """Return label slices on a slice grid: each that of the nearest old one, a tie the later one, beyond the scan its last."""
    nearest = [floor(slice_grid.start + (2 * new + 1) * slice_grid.step / 2) for new in range(slice_grid.size)]
    return slices[np.clip(nearest, 0, len(slices) - 1)]


def resampled_affine(
    affine: Float[np.ndarray, "4 4"], pixel_grid: PixelGrid, slice_grid: SliceGrid | None = None
) -> Float[np.ndarray, "4 4"]:
    """Return the affine of slices on a pixel grid.

    Args:
        affine: Of the grid before, index (z, y, x, 1) -> world mm.
        pixel_grid: Where the new pixels lie.
        slice_grid: Where the new slices lie; None: where they were.
    """
    new = np.eye(4)
    along_z = (Fraction(0), Fraction(1)) if slice_grid is None else (slice_grid.start, slice_grid.step)
    for axis, (start, step) in enumerate([along_z, *zip(pixel_grid.start, pixel_grid.step, strict=True)]):
        new[axis, axis] = step
        new[axis, 3] = start + (step - 1) / 2
    return affine @ new
