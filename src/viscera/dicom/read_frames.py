"""The frames of a SEG as they stand in a file of any program: where each lies, which segment it shows, its pixels.

This knows nothing of how viscera writes (seg_frames.py): check_seg.py proves by it what was written.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from jaxtyping import Float, Shaped

from viscera.dicom.decoding import parsing_errors
from viscera.dicom.series import LPS_TO_RAS
from viscera.errors import FileError
from viscera.io.doors import pydicom_module

if TYPE_CHECKING:
    from pydicom import Dataset

T = TypeVar("T")
SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
"""SOP classes: Segmentation, and Label Map Segmentation."""
RLE = "1.2.840.10008.1.2.5"
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"}
"""Transfer syntaxes of little endian pixels that are not compressed one by one."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        segment: The segment that it shows; 0 in a LABELMAP, whose frames show all.
        affine: Its index (row, column, 1) -> world RAS+ mm.
    """

    segment: int
    affine: Float[np.ndarray, "3 3"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings from being shown: they quote what headers hold. What they warn of is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_seg(file: Path, *, pixels: bool = True) -> "Dataset":
    """Read a SEG, or all of it but its pixels.

    Raises:
        FileError: The file is not a SEG, or is damaged.
    """
    pydicom = pydicom_module()
    from pydicom.errors import InvalidDicomError

    try:
        seg = pydicom.dcmread(file, stop_before_pixels=not pixels)
        kind, form = str(seg.get("SOPClassUID")), str(seg.get("SegmentationType"))
    except (InvalidDicomError, EOFError) as error:
        raise FileError(f"{file.name} is not a DICOM file", "Choose a DICOM SEG.", file=file) from error
    except OSError as error:
        raise FileError(
            f"{file.name} cannot be read: {error.strerror or error}", "Check the file.", file=file
        ) from error
    except parsing_errors() as error:
        raise FileError(
            f"{file.name} is damaged ({type(error).__name__})", "Export the SEG again.", file=file
        ) from error
    if kind not in SEG_CLASSES:
        raise FileError(f"{file.name} is not a DICOM SEG", "Choose a file of modality SEG.", file=file)
    if form not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise FileError(f"{file.name} does not say of what type its segments are", "Export it again.", file=file)
    return seg


def frames_of(seg: "Dataset") -> list[Frame]:
    """Return the frames in their order.

    Args:
        seg: As open_seg returns it.

    Raises:
        KeyError, AttributeError, IndexError, TypeError, ValueError: The file lacks what places or names a frame.
    """
    from pydicom import Dataset

    shared = seg.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in seg else Dataset()
    read, found = _Macros(shared), []
    for group in seg.PerFrameFunctionalGroupsSequence:
        segment = 0 if seg.SegmentationType == "LABELMAP" else read.of(group, "SegmentIdentificationSequence", _segment)
        orientation = read.of(group, "PlaneOrientationSequence", _orientation)
        spacing = read.of(group, "PixelMeasuresSequence", _spacing)
        affine = np.eye(3)
        affine[:, :2] = orientation * spacing
        affine[:, 2] = read.of(group, "PlanePositionSequence", _position)
        found.append(Frame(segment, affine))
    if len(found) != int(seg.NumberOfFrames):
        raise ValueError(f"{len(found)} frames are described, {int(seg.NumberOfFrames)} announced")
    return found


class _Macros:
    """Functional groups of frames, each decoded once where frames repeat it byte for byte."""

    def __init__(self, shared: "Dataset") -> None:
        self.shared = shared
        self.decoded: dict[tuple[str, bytes], object] = {}

    def of(self, group: "Dataset", keyword: str, decode: "Callable[[Dataset], T]") -> "T":
        """Return what a frame's own group says, or the shared one."""
        where = group if keyword in group else self.shared
        raw = where.get_item(keyword)
        if raw is None or not raw.is_raw or raw.value is None:
            return decode(where[keyword][0])
        key = keyword, raw.value
        if key not in self.decoded:
            self.decoded[key] = decode(where[keyword][0])
        return cast("T", self.decoded[key])


def _segment(item: "Dataset") -> int:
    return int(item.ReferencedSegmentNumber)


def _orientation(item: "Dataset") -> Float[np.ndarray, "3 2"]:
    """Return the directions of a column (down) and of a row (across) in RAS+."""
    across, down = np.array(item.ImageOrientationPatient, float).reshape(2, 3)
    return LPS_TO_RAS[:3, :3] @ np.column_stack((down, across))


def _spacing(item: "Dataset") -> Float[np.ndarray, " 2"]:
    """Return the distance between rows and between columns in mm."""
    return np.array(item.PixelSpacing, float)


def _position(item: "Dataset") -> Float[np.ndarray, " 3"]:
    return LPS_TO_RAS[:3, :3] @ np.array(item.ImagePositionPatient, float)


def planes_of(seg: "Dataset") -> Iterator[Shaped[np.ndarray, "row column"]]:
    """Yield the pixels of each frame: bool in a BINARY, whole numbers else.

    Raises:
        ValueError, RuntimeError, NotImplementedError: The pixels are too few, or need a decoder that is not installed.
    """
    rows, columns, frames = int(seg.Rows), int(seg.Columns), int(seg.NumberOfFrames)
    if seg.BitsAllocated != 1 or seg.file_meta.TransferSyntaxUID not in NATIVE:
        from pydicom.pixels.utils import iter_pixels

        own = "pydicom" if seg.file_meta.TransferSyntaxUID == RLE else ""  # not the library that viscera writes it with
        for plane in iter_pixels(seg, decoding_plugin=own):
            yield plane.astype(bool) if seg.SegmentationType == "BINARY" else plane
        return
    stream, size = np.frombuffer(seg.PixelData, np.uint8), rows * columns
    if 8 * len(stream) < size * frames:
        raise ValueError(f"{8 * len(stream)} bits of pixels, {size * frames} announced")
    for number in range(frames):
        begin, end = number * size, (number + 1) * size
        bits = np.unpackbits(stream[begin // 8 : -(-end // 8)], bitorder="little")
        yield bits[begin % 8 : begin % 8 + size].reshape(rows, columns).view(bool)
