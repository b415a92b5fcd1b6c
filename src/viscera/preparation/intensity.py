"""Hounsfield units: are a scan's intensities HU, and HU -> network input.

Nothing here imports torch: preparing needs none, and every worker process would pay for it.
"""

import math
from typing import TypeVar

import numpy as np
from jaxtyping import Int16, Shaped

from viscera.config import ForegroundScore, Intensity, RawHU, Window
from viscera.errors import FileError, SettingError
from viscera.preparation.histogram import Histogram, Reason
from viscera.volume import Volume

TISSUE_HU = -200
"""Every scan of a patient has voxels above (fat, the least dense tissue, is at -120 to -60 HU)."""
CLIPPED_ABOVE_HU = -300
"""Scans whose lowest value is above, and frequent, were clipped to a window; below, only air and lung are lost."""
CLIPPED_SHARE = 0.02
"""Share of voxels at exactly the lowest value that no crop of a scan has; noise spreads them over tens of HU."""
LEAST_SPAN_HU = 20
"""Even one organ's noise spans more; scaled (0 to 1) and standardised (-3 to 3) images span less."""
BEYOND_SHARE = 0.001
"""Share of voxels outside int16 that are taken for flecks (metal, reconstruction) and clipped."""
LEAST_FAT_SHARE = 0.005
"""Share of voxels below FAT_BELOW_HU that a scan without air has, unless it is a crop of an organ's inside."""
FAT_BELOW_HU = -30
BRIGHT_HU = 300
"""Above is bone and contrast only; in MR and in PET (Bq/ml) most of the body."""
BRIGHT_SHARE = 0.2
DARK_SHARE = 0.4
"""Share of voxels within 20 of 0 that MR and PET have beside a bright body, their air; 66 crops of bone without fat from real
scans, 4 to 64 voxels a side, had at most 0.33, those of 16 and more 0.05."""
EMPTY_SHARE = 0.5
"""Share of voxels within 1 of 0 that no crop of a CT has: noise spreads water over tens of HU."""
WATER_SHARE = 0.5
"""Of the voxels above 600 in a CT stored with an offset of 1024, those of soft tissue and fat; in MR far fewer."""
PART_VOXELS = 1 << 20
"""That are looked at together: few enough to stay in the processor's cache."""

CT_ONLY = "viscera segments CT only: give the CT, in HU."

Image = TypeVar("Image")
"""A numpy array or a torch tensor."""


def network_input(image: Image, settings: Intensity) -> Image:
    """Return the network's input for HU.

    Args:
        image: A numpy array or a torch tensor of any shape.
        settings: A window, the organs' statistics, or HU as they are.

    Returns:
        The same kind of array, in floats.

    Raises:
        SettingError: The statistics have not been measured.
    """
    match settings:
        case Window():
            return apply_window(image, settings)
        case ForegroundScore(measured=measured):
            if measured is None:
                raise SettingError(
                    "intensity.measured is not known", "It is measured when training begins: train, or give it."
                )
            low, high, mean, deviation = measured
            return (image.clip(low, high) - mean) / deviation  # pyright: ignore[reportAttributeAccessIssue]
        case RawHU():
            return image * 1.0  # pyright: ignore[reportOperatorIssue]


def apply_window(image: Image, window: Window) -> Image:
    """Clip HU to a window and scale it to [0, 1].

    Args:
        image: A numpy array or a torch tensor of any shape.
        window: From where to where.

    Returns:
        The same kind of array; whole numbers become floats (torch: its default type, numpy: float64).

    Example:
        >>> apply_window(np.array([-1024, -400, 0, 400, 3071], np.int16), Window(-400, 400)).tolist()
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    clipped = image.clip(window.low_hu, window.high_hu)  # pyright: ignore[reportAttributeAccessIssue]
    return (clipped - window.low_hu) / (window.high_hu - window.low_hu)


def hounsfield(volume: Volume, *, where: str) -> Int16[np.ndarray, "z y x"]:
    """Return a scan's voxels as int16 HU, after checking that they can be HU.

    Fractions are rounded to the nearest whole number (ties to even). Padding such as -1024, -2000 or -3024 is kept.
    At most BEYOND_SHARE of the voxels may lie outside int16; they are clipped to it. A crop without any air is fine.

    Args:
        volume: A scan, in any number type.
        where: The case or file, for messages.

    Raises:
        FileError: No voxels, all the same, NaN or infinite ones, or intensities that are not HU.
    """
    voxels = volume.voxels
    check = HounsfieldCheck(voxels.dtype, voxels.shape, where=where)
    count = max(1, PART_VOXELS // voxels[0].size)
    parts = [voxels[first : first + count] for first in range(0, len(voxels), count)]
    for part in parts:
        check.add(part)
    check.finish()
    if voxels.dtype == np.int16:
        return voxels
    whole = np.empty(voxels.shape, np.int16)
    for first, part in zip(range(0, len(voxels), count), parts, strict=True):
        whole[first : first + count] = to_int16(part)
    return whole


class HounsfieldCheck:
    """Tells whether intensities can be HU, from a scan that is seen part by part, each part once.

    Raises:
        FileError: There are no voxels, or not one number per voxel.
    """

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...], *, where: str) -> None:
        """Begin.

        Args:
            dtype: Of the voxels.
            shape: Of the whole scan.
            where: The case or file, for messages.
        """
        if dtype.kind not in "iuf":
            raise FileError(f"{where}: voxels of type {dtype} are not HU", "Export the CT with one number per voxel.")
        self._where, self._size = where, math.prod(shape)
        if self._size == 0:
            text = "x".join(map(str, shape))
            raise FileError(f"{where}: the scan is empty ({text} voxels along z, y, x)", "Export it again.")
        self._low, self._high = math.inf, -math.inf
        self._histogram = Histogram()
        self._endless = self._beyond = self._wrapped = self._at_lowest = 0
        self._fat = self._bright = self._dark = self._zero = self._fractions = self._above_600 = self._near_1024 = 0

    def add(self, part: Shaped[np.ndarray, "part y x"]) -> None:
        """Take in some of the scan's planes."""
        lowest, highest = part.min(), part.max()
        low, high = float(lowest), float(highest)
        if not math.isfinite(low) or not math.isfinite(high):  # so is the whole, whatever else is in it
            self._endless += part.size - int(np.count_nonzero(np.isfinite(part)))
            return
        self._histogram.add(part)
        if low < -32768 or high > 32767:
            self._beyond += _outside(part, -32768, 32767)
            self._wrapped += _inside(part, 65536 - 3100, 65535)
        if low < self._low:
            self._at_lowest = 0
        self._low, self._high = min(self._low, low), max(self._high, high)
        # Only where it can matter in the end, which for most scans is nowhere.
        if self._low == low > CLIPPED_ABOVE_HU:
            self._at_lowest += int(np.count_nonzero(part == lowest))
        if self._low > CLIPPED_ABOVE_HU:
            self._fat += int(np.count_nonzero(part < FAT_BELOW_HU))
            self._bright += int(np.count_nonzero(part > BRIGHT_HU))
            self._dark += _inside(part, -20, 20)
            self._zero += _inside(part, -1, 1)
        if self._low >= 0:
            self._fractions += int(np.count_nonzero(part != np.rint(part))) if part.dtype.kind == "f" else 0
            self._above_600 += int(np.count_nonzero(part > 600))
            self._near_1024 += _inside(part, 1024 - 150, 1024 + 150)

    def finish(self) -> None:
        """Judge the scan when all its parts were added.

        Raises:
            FileError: Voxels are all the same, NaN or infinite, or intensities are not HU.
        """
        if self._endless:
            raise FileError(
                f"{self._where}: {self._endless} of {self._size} voxels are NaN or infinite",
                "Replace them by -1024 (air), or export the CT again.",
            )
        reason = self._why_not_hu()
        if reason:
            what, remedy = reason
            raise FileError(f"{self._where}: {what}", remedy)

    def _why_not_hu(self) -> Reason | None:
        """Say why intensities cannot be HU and what to do, or None."""
        low, high = self._low, self._high
        span = f"{low:g} to {high:g}"
        if low == high:
            return (f"every voxel is {low:g}, the scan is empty", "Export it again, or take it out of the data set.")
        if high - low < LEAST_SPAN_HU:
            return (f"intensities from {span} are not HU, but {self._scaled()}", "Export the CT in HU.")
        if self._beyond / self._size > BEYOND_SHARE:
            return self._why_beyond(span)
        if low < 0 and (reason := self._histogram.why_not_hu()):
            return reason
        if high < TISSUE_HU:
            return (
                f"intensities from {span} HU hold nothing above {TISSUE_HU} HU, so no patient",
                "Export the CT in HU.",
            )
        if low >= 0:
            return self._why_not_negative(span)
        at_lowest = self._at_lowest / self._size
        if at_lowest > CLIPPED_SHARE:
            return (
                f"{at_lowest:.0%} of the voxels are exactly {low:g}, the lowest value: the scan was clipped to a "
                f"window ({span}), and air can no longer be told from tissue",
                "Export the CT unclipped.",
            )
        return self._why_no_fat(span) if low > CLIPPED_ABOVE_HU else None

    def _scaled(self) -> str:
        """Guess what holds a few units only."""
        if self._low >= 0 and not self._fractions:
            return "a label map, or a scaled image"
        return "a scaled or standardised image" + (", or PET in SUV" if self._low >= 0 and self._high > 2 else "")

    def _why_beyond(self, span: str) -> Reason | None:
        """Say what a scan may be of which much lies outside int16."""
        share = f"{self._beyond / self._size:.1%} of the voxels lie outside -32768 to 32767 HU ({span})"
        if self._low <= CLIPPED_ABOVE_HU:
            return share, "Export the CT as int16 HU."
        if self._wrapped > 0.5 * self._beyond:
            return f"{share}. Negative HU may have been stored as unsigned numbers", "Export the CT as int16 HU."
        return f"{share}. Perhaps PET in Bq/ml, or MR", CT_ONLY

    def _why_not_negative(self, span: str) -> Reason | None:
        """Say what a scan is that holds nothing below 0, where fat and air would be."""
        if self._high <= 255 and self._fractions:
            return (f"intensities from {span}, with fractions, are not HU: PET in SUV, or a scaled image", CT_ONLY)
        if self._high <= 255:
            return (f"intensities from {span} look like an 8-bit picture, not HU", "Export the CT in HU.")
        near_1024 = self._near_1024 / self._size
        if near_1024 > 0.05 and self._near_1024 > WATER_SHARE * self._above_600:
            return (
                f"intensities from {span} look stored with an offset of 1024 ({near_1024:.0%} of the voxels are "
                "within 150 of 1024, where water would be)",
                "Set scl_inter to -1024 in the header, or export the CT in HU.",
            )
        perhaps = "PET in Bq/ml, or MR" if self._high > 4095 else "MR, PET, or a CT that was masked"
        return (f"no intensity is below 0 ({span}), so neither fat nor air: not HU, perhaps {perhaps}", CT_ONLY)

    def _why_no_fat(self, span: str) -> Reason | None:
        """Say what a scan is that is not clipped and holds neither air nor fat, but what no crop of a CT holds; or None."""
        fat, bright, dark, zero = (count / self._size for count in (self._fat, self._bright, self._dark, self._zero))
        glowing = bright > BRIGHT_SHARE and dark > DARK_SHARE
        if fat >= LEAST_FAT_SHARE or not (glowing or zero > EMPTY_SHARE):
            return None
        what = (
            f"{bright:.0%} above {BRIGHT_HU}, where only bone is, beside {dark:.0%} within 20 of 0"
            if glowing
            else f"{zero:.0%} within 1 of 0, and not spread by any noise"
        )
        return (
            f"{fat:.1%} of the voxels are below {FAT_BELOW_HU}, so neither fat nor air, and {what} ({span}): not HU, "
            "perhaps MR, PET, or a CT that was masked",
            CT_ONLY,
        )


def _inside(part: Shaped[np.ndarray, "part y x"], low: float, high: float) -> int:
    """Count the voxels in [low, high]."""
    return int(np.count_nonzero((part >= low) & (part <= high)))


def _outside(part: Shaped[np.ndarray, "part y x"], low: float, high: float) -> int:
    """Count the voxels outside [low, high]."""
    return int(np.count_nonzero((part < low) | (part > high)))


def to_int16(voxels: Shaped[np.ndarray, "part y x"]) -> Int16[np.ndarray, "part y x"]:
    """Round voxels to whole numbers and clip them to int16; what is int16 already is given back, NaN may become anything."""
    if voxels.dtype == np.int16:
        return voxels
    low, high = -32768, 32767
    if voxels.dtype.kind == "f":
        voxels = np.rint(voxels)
    else:
        limits = np.iinfo(voxels.dtype)
        low, high = max(low, limits.min), min(high, limits.max)
    with np.errstate(invalid="ignore"):  # NaN: ``HounsfieldCheck`` finds it
        return voxels.clip(low, high).astype(np.int16)
