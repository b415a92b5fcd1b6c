"""Axial slices on another pixel grid, and the affine that goes with it.

Pixel centres lie at half steps: pixel i of the new grid stands at (i + 0.5) * old / new - 0.5 of the old one, along
rows and along columns, for the image and for labels alike, so both keep covering the same rectangle of the patient. The
z axis is never touched. Slices are turned to axial order before (volume.py); labels and logits go back to the scanner's
grid in inference.py.
"""

import cv2
import numpy as np
from jaxtyping import Float, Int16, Integer

from viscera.errors import SettingError


def resize_image(slices: Int16[np.ndarray, "z y x"], size: tuple[int, int]) -> Int16[np.ndarray, "z rows columns"]:
    """Give axial slices of another size, linearly interpolated between the four nearest pixels, without smoothing.

    A slice twice as large becomes the mean of its 2x2 blocks. Beyond the outermost pixel centres the border pixel is
    repeated.

    Args:
        slices: HU, in any memory layout.
        size: Rows and columns wanted.

    Returns:
        HU rounded to the nearest whole number (a tie goes either way), C-contiguous.
    """
    _check_size(size)
    rows, columns = size
    resized = np.empty((len(slices), rows, columns), np.int16)
    for old, new in zip(slices, resized, strict=True):
        if old.shape == new.shape:
            new[:] = old
        else:
            cv2.resize(np.ascontiguousarray(old), (columns, rows), dst=new, interpolation=cv2.INTER_LINEAR)
    return resized


def resize_labels(slices: Integer[np.ndarray, "z y x"], size: tuple[int, int]) -> Integer[np.ndarray, "z rows columns"]:
    """Give label slices of another size, each pixel that of the nearest old pixel centre; a tie takes the later one.

    Computed in whole numbers, because OpenCV's INTER_NEAREST_EXACT takes now the one, now the other at a tie.

    Args:
        slices: Labels, in any memory layout.
        size: Rows and columns wanted.

    Returns:
        Labels of the same type, C-contiguous.
    """
    _check_size(size)
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(slices.shape[1:], size, strict=True)
    )
    return slices.take(rows, axis=1).take(columns, axis=2)


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 1:
        rows, columns = size
        raise SettingError(f"a slice cannot have {rows}x{columns} pixels. Set preparation.size to at least 1x1.")


def resized_affine(
    affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int], size: tuple[int, int]
) -> Float[np.ndarray, "4 4"]:
    """Give the affine of slices that were resized, so that old and new grid cover the same box.

    Args:
        affine: Of the grid before, index (z, y, x, 1) -> world mm.
        shape: Voxels before, (z, y, x).
        size: Rows and columns after.
    """
    step = np.eye(4)
    for axis, (old, new) in enumerate(zip(shape[1:], size, strict=True), start=1):
        step[axis, axis] = old / new
        step[axis, 3] = (old / new - 1) / 2
    return affine @ step
