"""The frames of a SEG as they stand in a file of any program: where each lies, which segment it shows, its pixels.

This knows nothing of how viscera writes (seg_frames.py): check_seg.py proves by it what was written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from viscera.dicom.series import LPS_TO_RAS
from viscera.errors import FileError

if TYPE_CHECKING:
    from pydicom import Dataset

SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
"""SOP classes: Segmentation, and Label Map Segmentation."""
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


def open_seg(file: Path) -> "Dataset":
    """Read a SEG.

    Raises:
        FileError: The file is not a SEG, or is damaged.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        seg = pydicom.dcmread(file)
    except (InvalidDicomError, EOFError) as error:
        raise FileError(f"{file.name} is not a DICOM file", "Choose a DICOM SEG.", file=file) from error
    except OSError as error:
        raise FileError(
            f"{file.name} cannot be read: {error.strerror or error}", "Check the file.", file=file
        ) from error
    if seg.get("SOPClassUID") not in SEG_CLASSES:
        raise FileError(f"{file.name} is not a DICOM SEG", "Choose a file of modality SEG.", file=file)
    if seg.get("SegmentationType") not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise FileError(f"{file.name} does not say of what type its segments are", "Export it again.", file=file)
    return seg


def frames_of(seg: "Dataset") -> list[Frame]:
    """Return the frames in their order.

    Raises:
        KeyError, AttributeError, IndexError, TypeError, ValueError: The file lacks what places or names a frame.
    """
    shared = seg.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in seg else {}
    label_map = seg.SegmentationType == "LABELMAP"
    found, planes = [], {}
    for group in seg.PerFrameFunctionalGroupsSequence:
        orientation = _macro("PlaneOrientationSequence", group, shared).ImageOrientationPatient
        spacing = _macro("PixelMeasuresSequence", group, shared).PixelSpacing
        key = (*orientation, *spacing)
        if key not in planes:
            turned = np.array(orientation, float).reshape(2, 3)
            rows_mm, columns_mm = (float(value) for value in spacing)
            planes[key] = LPS_TO_RAS[:3, :3] @ np.column_stack((turned[1] * rows_mm, turned[0] * columns_mm))
        position = np.array(_macro("PlanePositionSequence", group, shared).ImagePositionPatient, float)
        segment = 0
        if not label_map:
            segment = int(_macro("SegmentIdentificationSequence", group, shared).ReferencedSegmentNumber)
        affine = np.eye(3)
        affine[:, :2], affine[:, 2] = planes[key], LPS_TO_RAS[:3, :3] @ position
        found.append(Frame(segment, affine))
    if len(found) != int(seg.NumberOfFrames):
        raise ValueError(f"{len(found)} frames are described, {int(seg.NumberOfFrames)} announced")
    return found


def _macro(keyword: str, group: "Dataset", shared: "Dataset | dict") -> "Dataset":
    """Return the functional group of a frame, its own or the shared one."""
    return (group if keyword in group else shared)[keyword][0]


def planes_of(seg: "Dataset") -> Iterator[Shaped[np.ndarray, "row column"]]:
    """Yield the pixels of each frame: bool in a BINARY, whole numbers else.

    Raises:
        ValueError, RuntimeError, NotImplementedError: The pixels are too few, or need a decoder that is not installed.
    """
    rows, columns, frames = int(seg.Rows), int(seg.Columns), int(seg.NumberOfFrames)
    if seg.BitsAllocated != 1 or seg.file_meta.TransferSyntaxUID not in NATIVE:
        from pydicom.pixels import iter_pixels

        for plane in iter_pixels(seg):
            yield plane.astype(bool) if seg.SegmentationType == "BINARY" else plane
        return
    stream, size = np.frombuffer(seg.PixelData, np.uint8), rows * columns
    if 8 * len(stream) < size * frames:
        raise ValueError(f"{8 * len(stream)} bits of pixels, {size * frames} announced")
    for number in range(frames):
        begin, end = number * size, (number + 1) * size
        bits = np.unpackbits(stream[begin // 8 : -(-end // 8)], bitorder="little")
        yield bits[begin % 8 : begin % 8 + size].reshape(rows, columns).view(bool)
