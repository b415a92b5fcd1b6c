"""Contrast: the grey levels of axial slices are enhanced before the network's input is made of them (upv).

Here: HU -> HU of the same window. Networks' input is made of these in intensity.py. A slice is always changed as a whole,
before windows and patches are cut out of it: read with sampling/, or given to a network in inference/.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Int16, Shaped, UInt8

from viscera.config import Contrast
from viscera.preparation.resampling import AIR_HU

UNCHANGED = Contrast()
"""HU stay as they are."""

LEVELS = 256
"""Grey levels, of uint8."""


def enhance(image: Int16[np.ndarray, "*z y x"], settings: Contrast) -> Int16[np.ndarray, "*z y x"]:
    """Enhance the contrast of axial slices, each as a whole and for itself.

    HU of the window become grey levels 0 to 255, linearly and rounded (ties to even), clipped beyond. The changed levels
    become HU of the window likewise; where it is narrower than 255 HU, some levels become the same HU.

    Args:
        image: HU of a slice or of a volume; whole slices, since what is cut off would change the rest.
        settings: The method, and from where to where.

    Returns:
        ``image`` itself with method "none". Otherwise a new array, within ``low_hu`` and ``high_hu`` (rounded to whole HU).
        A slice of one grey level stays one, which for CLAHE may be another.

    Source: the thesis on AbdomenCT-1K, Polytechnical University of Valencia, chapter 4 ("Preprocessing of the Dataset"):
    darkest levels to 0, then histogram equalisation; or CLAHE, for which see Zuiderveld 1994, Graphics Gems IV, VIII.5. Both
    are OpenCV's. Not stated, so ours: HU to grey levels, which of these are dark, how many tiles, where counts are clipped.

    Example:
        >>> slice_ = np.array([[-1000, 0], [10, 3000]], np.int16)
        >>> enhance(slice_, Contrast("equalisation", low_hu=-100, high_hu=155)).tolist()
        [[-100, -15], [70, 155]]
    """
    if settings.method == "none":
        return image
    levels_of, hu_of, change = _levels_of_hu(settings), hu_of_levels(settings), _method(settings)
    changed = np.empty(image.shape, np.int16)
    for place in np.ndindex(image.shape[:-2]):
        # int16 seen as uint16 counts 0 ... 32767, -32768 ... -1: the order of the table.
        grey = np.take(levels_of, image[place].view(np.uint16))
        changed[place] = cv2.LUT(change(grey), hu_of) if grey.size else 0
    return changed


def air_hu(settings: Contrast) -> int:
    """Return the HU of what lies beyond a slice: air, or the darkest of the window where grey levels are enhanced."""
    return AIR_HU if settings.method == "none" else int(hu_of_levels(settings)[0])


def hu_of_levels(settings: Contrast) -> Int16[np.ndarray, "256"]:
    """Return the whole HU of each grey level."""
    low, high = settings.low_hu, settings.high_hu
    hu = low + np.arange(LEVELS) * (high - low) / (LEVELS - 1)
    return np.rint(hu).clip(-32768, 32767).astype(np.int16)


def _levels_of_hu(settings: Contrast) -> UInt8[np.ndarray, "65536"]:
    """Return the grey level of each int16 HU, in the order of the same bits as uint16."""
    low, high = settings.low_hu, settings.high_hu
    hu = np.arange(65536, dtype=np.uint16).view(np.int16).astype(float).clip(low, high)
    return np.rint((hu - low) * (LEVELS - 1) / (high - low)).astype(np.uint8)


def _method(settings: Contrast) -> Callable[[UInt8[np.ndarray, "y x"]], Shaped[np.ndarray, "y x"]]:
    """Return what changes the grey levels of a slice. Each call makes a new one: OpenCV's CLAHE is not for several threads."""
    if settings.method == "clahe":
        rows, columns = settings.tiles
        return cv2.createCLAHE(settings.clip_limit, (columns, rows)).apply

    def equalise(grey: UInt8[np.ndarray, "y x"]) -> Shaped[np.ndarray, "y x"]:
        return cv2.equalizeHist(cv2.threshold(grey, settings.dark, 0, cv2.THRESH_TOZERO)[1])

    return equalise
