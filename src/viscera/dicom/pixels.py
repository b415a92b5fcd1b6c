"""Stored values of CT images into Hounsfield units, each image by its own slope and intercept.

Uncompressed values are read straight into the array: 275 images of 512x512 in 0.3 s. Compressed ones come from decoding.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer, Shaped

from viscera.dicom.decoding import decoded
from viscera.dicom.inflating import inflate
from viscera.errors import FileError

if TYPE_CHECKING:
    from viscera.dicom.series import Slice

AIR_HU = -1024
"""What is read where an image says that it shows nothing: as dark as 12 bits go, which quality flags take for air."""
PADDING_IS_BEYOND_HU = (-1024.0, 4000.0)
"""A padding value within these is a HU that air, tissue or metal has, too: voxels that hold it stay as they are."""
AIR_ENDS_HU = -900.0
"""Padding up to here is air's own value, and nothing needs to be said."""
EXPORT_AGAIN = "Export the series again."


@dataclass(frozen=True)
class Pixels:
    """Where and how a file stores the values of one image.

    Attributes:
        offset: Of the first byte, in the file, or in what a deflated file inflates to; -1 where they are compressed.
        deflated: All of the file but its first part is.
        dtype: Of a value, such as "<u2"; of compressed ones only the sign counts.
        bits: Of a value which hold it, from the lowest: (first, behind the last).
        slope: HU = slope * stored + intercept.
        intercept: See slope.
        padding: Values from here to there are of no measurement.
    """

    offset: int
    deflated: bool
    dtype: str
    bits: tuple[int, int]
    slope: float
    intercept: float
    padding: tuple[int, int] | None = None

    def padding_hu(self) -> tuple[float, float] | None:
        """Return the padding values in HU, the lower first; None where there are none."""
        if self.padding is None:
            return None
        low, high = sorted(self.slope * value + self.intercept for value in self.padding)
        return low, high

    def padding_within(self) -> bool:
        """Tell whether padding has a HU that a body may have, too."""
        hu = self.padding_hu()
        return hu is not None and not self.padding_shows() and hu[1] > AIR_ENDS_HU

    def padding_shows(self) -> bool:
        """Tell whether padding is told from what was measured by its value."""
        hu = self.padding_hu()
        return hu is not None and (hu[1] < PADDING_IS_BEYOND_HU[0] or hu[0] > PADDING_IS_BEYOND_HU[1])


def read_slices(slices: "Sequence[Slice]", shape: tuple[int, int, int]) -> Shaped[np.ndarray, "z y x"]:
    """Decode slices and turn their stored values into HU: int16 where all are whole numbers that fit, else float32.

    Raises:
        FileError: A file is damaged, or was changed since it was found.
        SettingError: It needs a decoder that is not installed.
    """
    voxels: Shaped[np.ndarray, "z y x"] = np.empty(shape, np.int16)
    for place, values in stored_values(slices, (shape[1], shape[2])):
        hu = to_hu(values, _pixels(slices[place]))
        if hu.dtype != np.int16 and voxels.dtype == np.int16:
            voxels = voxels.astype(np.float32)
        voxels[place] = hu
    return voxels


def stored_values(
    slices: "Sequence[Slice]", shape: tuple[int, int]
) -> "Iterator[tuple[int, Integer[np.ndarray, 'y x']]]":
    """Yield the number of each slice and its values as they are stored, first of all that are not compressed."""
    inflated: tuple[Path | None, bytes] = (None, b"")
    packed = []
    for place, one in enumerate(slices):
        pixels = _pixels(one)
        if pixels.offset < 0:
            packed.append(place)
        elif pixels.deflated:
            if inflated[0] != one.file:
                inflated = (one.file, inflate(one.file))
            yield place, _from_bytes(inflated[1][pixels.offset :], pixels, shape, one.file)
        else:
            yield place, _from_file(one.file, pixels, shape)
    images = [(slices[place].file, slices[place].frame or 0) for place in packed]
    yield from zip(packed, decoded(images, shape) if images else (), strict=True)


def _pixels(one: "Slice") -> Pixels:
    if one.pixels is None:
        raise FileError(f"{one.file}: it is not known how its pixels are stored", "Find the series with find_series.")
    return one.pixels


def _from_file(file: Path, pixels: Pixels, shape: tuple[int, int]) -> Integer[np.ndarray, "y x"]:
    values = np.empty(shape, pixels.dtype)
    try:
        with file.open("rb", buffering=0) as stream:
            stream.seek(pixels.offset)
            count = stream.readinto(values.view(np.uint8).reshape(-1).data)
    except OSError as error:
        raise FileError(f"{file}: cannot be read ({error.strerror})", "Check the disk.", file=file) from error
    if count != values.nbytes:
        raise FileError(f"{file}: its pixel data end early", EXPORT_AGAIN, file=file)
    return values


def _from_bytes(content: bytes, pixels: Pixels, shape: tuple[int, int], file: Path) -> Integer[np.ndarray, "y x"]:
    count = shape[0] * shape[1]
    if len(content) < count * np.dtype(pixels.dtype).itemsize:
        raise FileError(f"{file}: its pixel data end early", EXPORT_AGAIN, file=file)
    return np.frombuffer(content, pixels.dtype, count).reshape(shape)


def to_hu(raw: Integer[np.ndarray, "y x"], pixels: Pixels) -> Shaped[np.ndarray, "y x"]:
    """Turn stored values into HU: int16 where all are whole numbers within it, else float32.

    Args:
        raw: As they are stored; bits that hold no part of the value are dropped, and the sign is extended.
        pixels: What they mean.
    """
    values = _values(raw, pixels)
    whole = float(pixels.slope).is_integer() and float(pixels.intercept).is_integer()
    if whole and max(abs(pixels.slope), abs(pixels.intercept)) < 2**15 and raw.dtype.itemsize <= 2:
        hu = values.astype(np.int32)
        if pixels.slope != 1:
            hu *= int(pixels.slope)
        hu += int(pixels.intercept)
    else:
        hu = values * pixels.slope + pixels.intercept
        whole = bool((hu == np.rint(hu)).all())
    if pixels.padding_shows():
        hu[_is_padding(raw, values, pixels)] = AIR_HU
    limits = np.iinfo(np.int16)
    fits = whole and hu.size and limits.min <= hu.min() and hu.max() <= limits.max
    return hu.astype(np.int16 if fits else np.float32)


def _values(raw: Integer[np.ndarray, "y x"], pixels: Pixels) -> Integer[np.ndarray, "y x"]:
    """Return the values that the stored bits hold."""
    first, behind = pixels.bits
    signed = np.dtype(pixels.dtype).kind == "i"
    least, most = _range(pixels)
    if first == 0 and raw.size and least <= raw.min() and raw.max() <= most:
        return raw
    values = (raw.astype(np.int64) >> first) & ((1 << (behind - first)) - 1)
    if signed:
        sign = 1 << (behind - first - 1)
        values = (values ^ sign) - sign
    return values


def _range(pixels: Pixels) -> tuple[int, int]:
    """Return the least and the greatest value that the stored bits can hold."""
    count = pixels.bits[1] - pixels.bits[0]
    if np.dtype(pixels.dtype).kind == "i":
        return -(1 << (count - 1)), (1 << (count - 1)) - 1
    return 0, (1 << count) - 1


def _is_padding(
    raw: Integer[np.ndarray, "y x"], values: Integer[np.ndarray, "y x"], pixels: Pixels
) -> Shaped[np.ndarray, "y x"]:
    """Tell which values are padding.

    Some scanners pad with a value that the stored bits cannot hold (63536 in 12 bits): it is looked for before bits are dropped,
    for without its upper ones it would be a bone's.
    """
    low, high = sorted(pixels.padding or (0, 0))
    least, most = _range(pixels)
    where = values if least <= low and high <= most else raw
    return (where >= low) & (where <= high)
