"""Axial slices on another pixel grid, and the affine that goes with it.

Pixel centres lie at half steps: pixel i of the new grid stands at (i + 0.5) * old / new - 0.5 of the old one, along rows
and along columns, for the image and for labels alike, so both keep covering the same rectangle of the patient. The z axis
is never touched. Slices are turned to axial order before (volume.py); labels and logits go back to the scanner's grid in
inference.py.
"""

import cv2
import numpy as np
from jaxtyping import Float, Int16, Shaped, UInt8, UInt16

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
    return _resize(slices, size, np.dtype(np.int16), cv2.INTER_LINEAR)


def resize_labels(
    slices: UInt8[np.ndarray, "z y x"] | UInt16[np.ndarray, "z y x"], size: tuple[int, int]
) -> UInt8[np.ndarray, "z rows columns"] | UInt16[np.ndarray, "z rows columns"]:
    """Give label slices of another size, each pixel that of the nearest old pixel centre; a tie takes the later one.

    Args:
        slices: Labels, in any memory layout.
        size: Rows and columns wanted.
    """
    return _resize(slices, size, slices.dtype, cv2.INTER_NEAREST_EXACT)


def _resize(
    slices: Shaped[np.ndarray, "z y x"], size: tuple[int, int], dtype: np.dtype, interpolation: int
) -> Shaped[np.ndarray, "z rows columns"]:
    rows, columns = size
    if rows < 1 or columns < 1:
        raise SettingError(f"a slice cannot have {rows}x{columns} pixels. Set preparation.size to at least 1x1.")
    resized = np.empty((len(slices), rows, columns), dtype)
    for old, new in zip(slices, resized, strict=True):
        if old.shape == new.shape:
            new[:] = old
        else:
            cv2.resize(np.ascontiguousarray(old), (columns, rows), dst=new, interpolation=interpolation)
    return resized


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
