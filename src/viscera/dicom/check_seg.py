"""Whether a SEG that was written says what was meant: voxels, their place in the world, organs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from viscera.dicom.codes import plain_text
from viscera.dicom.read_frames import Frame, frames_of, open_seg, planes_of, quiet
from viscera.dicom.series import Series
from viscera.errors import FileError
from viscera.io.atomic import HIDDEN
from viscera.volume import GRID_TOLERANCE_MM


@quiet()
def check_seg(file: Path, labels: UInt8[np.ndarray, "z y x"], names: Mapping[int, str], series: Series) -> None:
    """Raise FileError unless a SEG holds exactly the label map, where the series lies.

    Args:
        file: The SEG.
        labels: What it should hold, on the grid of ``series``.
        names: {label: organ}.
        series: What it was made from.

    Raises:
        FileError: An organ, a frame or a voxel is missing, too many or elsewhere: by more than 0.01 mm at a corner.
    """
    name = HIDDEN.sub("", file.name)
    try:
        fault = _fault(file, labels, names, series)
    except (KeyError, AttributeError, IndexError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        fault = f"it cannot be decoded ({type(error).__name__})"
    if fault:
        raise FileError(
            f"what was written to {name} does not read back: {fault}",
            "Nothing was left behind. Check the disk; if it happens again, report it with the program's version.",
            file=file.with_name(name),
        )


def _fault(file: Path, labels: UInt8[np.ndarray, "z y x"], names: Mapping[int, str], series: Series) -> str:
    """Return in which way the file differs from the label map; "" where it does not."""
    seg = open_seg(file)
    if (seg.Rows, seg.Columns) != series.shape[1:]:
        return f"frames of {seg.Rows}x{seg.Columns} pixels"
    held = [np.flatnonzero(np.bincount(plane.ravel(), minlength=256)) for plane in labels]
    values = [value for value in np.unique(np.concatenate(held)).tolist() if value]
    segments = {int(item.SegmentNumber): str(item.SegmentLabel) for item in seg.SegmentSequence if item.SegmentNumber}
    if list(segments.values()) != [plain_text(names[value])[:64] for value in values]:
        return "the organs are others"
    label_of = np.zeros(max(segments) + 1, np.uint8)
    label_of[list(segments)] = values
    label_map = seg.SegmentationType == "LABELMAP"
    seen = set()
    for frame, plane in zip(frames_of(seg), planes_of(seg), strict=True):
        place = _slice_of(frame, series)
        if place is None:
            return "a frame lies elsewhere"
        if (frame.segment, place) in seen:
            return "a frame is there twice"
        seen.add((frame.segment, place))
        if label_map:
            same = np.array_equal(label_of[plane], labels[place])
        else:
            same = np.array_equal(plane, labels[place] == label_of[frame.segment])
        if not same:
            return f"slice {place + 1} holds other voxels"
    number_of = {label: number for number, label in enumerate(label_of.tolist()) if label}
    for place, found in enumerate(held):
        wanted = {number_of[label] for label in found.tolist() if label}
        if not {(0 if label_map else number, place) for number in wanted} <= seen:
            return f"slice {place + 1} is missing"
    return ""


def _slice_of(frame: Frame, series: Series) -> int | None:
    """Return the slice on which a frame lies, all four corners within GRID_TOLERANCE_MM; None where there is none."""
    step = series.affine[:3, 0]
    place = round(float((frame.affine[:, 2] - series.affine[:3, 3]) @ step / (step @ step)))
    if not 0 <= place < series.shape[0]:
        return None
    rows, columns = series.shape[1] - 1, series.shape[2] - 1
    corners = [(0, 0), (rows, 0), (0, columns), (rows, columns)]
    apart: Float[np.ndarray, "4 3"] = np.array(
        [frame.affine @ (y, x, 1) - (series.affine @ (place, y, x, 1))[:3] for y, x in corners]
    )
    return place if np.linalg.norm(apart, axis=1).max() <= GRID_TOLERANCE_MM else None
