"""SEGs of any program as label maps on the grid of a series: truth to learn from and to compare with."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from viscera.dicom.codes import Code, Concept, organ_named, standard_codes
from viscera.dicom.decoding import parsing_errors
from viscera.dicom.read_frames import Frame, frames_of, open_seg, planes_of, quiet
from viscera.dicom.series import Series
from viscera.errors import FileError, GeometryError, LabelError

if TYPE_CHECKING:
    from pydicom import Dataset

OFF_GRID_VOXELS = 0.1
"""A corner of a frame that is farther from a voxel's centre lies off the grid: programs round positions, none to a tenth."""


@dataclass(frozen=True, eq=False)
class SegTruth:
    """A SEG on the grid of a series.

    Attributes:
        labels: On the grid of the series; 0 where no segment is.
        names: {label: organ}, segments without voxels included.
        notes: What the user should know of how it was read.
    """

    labels: UInt8[np.ndarray, "z y x"]
    names: Mapping[int, str]
    notes: tuple[str, ...] = ()


@quiet()
def read_seg(file: Path, series: Series) -> SegTruth:
    """Read a SEG of any program onto the grid of the series that it was drawn on.

    Frames are matched by their position, never by their order; they may be turned against the slices, cover a part of
    them, or be left out where they are empty. FRACTIONAL segments count from one half. Segments that overlap: the later wins.

    Args:
        file: The SEG: BINARY, FRACTIONAL or LABELMAP.
        series: Of the images that it was drawn on.

    Raises:
        FileError: The file is not a SEG, is damaged, or was drawn on another series.
        GeometryError: A frame lies off the grid of the series.
        LabelError: It has more than 255 organs, or a segment without a name.
    """
    seg = open_seg(file)
    try:
        _require_source(seg, file, series)
        return _read(seg, file, series)
    except parsing_errors() as error:
        raise FileError(
            f"{file.name} cannot be decoded ({type(error).__name__})", "Export the SEG again.", file=file
        ) from error


def _require_source(seg: "Dataset", file: Path, series: Series) -> None:
    """Raise FileError where the file says that it was drawn on another series, or in another frame of reference."""
    sources = {str(item.get("SeriesInstanceUID", "")) for item in seg.get("ReferencedSeriesSequence") or ()} - {""}
    frame = str(seg.get("FrameOfReferenceUID", ""))
    elsewhere = not sources and frame and series.frame_of_reference_uid not in ("", frame)
    if (sources and series.series_uid not in sources) or elsewhere:
        raise FileError(
            f"{file.name} was drawn on another series than {series.name}",
            "Choose the SEG of this series, or the series of this SEG.",
            file=file,
        )


def _read(seg: "Dataset", file: Path, series: Series) -> SegTruth:
    """Return the label map of a SEG that belongs to the series."""
    label_map = seg.SegmentationType == "LABELMAP"
    notes = []
    values, names, described = segment_labels(seg, file, notes)
    threshold = 0.0
    if seg.SegmentationType == "FRACTIONAL":
        threshold = float(seg.get("MaximumFractionalValue", 255)) / 2
        notes.append(f"{file.name}: fractions of one half and more count as the organ")
    from_world = np.linalg.inv(series.affine)
    labels, overlaps = np.zeros(series.shape, np.uint8), Counter()
    for frame, plane in zip(frames_of(seg), planes_of(seg), strict=True):
        target = _placed(labels, frame, plane.shape, from_world)
        if target is None:
            raise GeometryError(
                f"{file.name} has a frame that lies off the grid of series {series.name}",
                "Resample the SEG onto the series, or choose the series that it was drawn on.",
                file=file,
            )
        if not described[np.unique(plane) if label_map else frame.segment].all():
            raise FileError(
                f"{file.name} has pixels of a segment that it does not describe", "Export the SEG again.", file=file
            )
        if label_map:
            target[...] = values[plane]
            continue
        mask: Bool[np.ndarray, "row column"] = plane if plane.dtype == bool else plane >= max(threshold, 1)
        value = values[frame.segment]
        for other in np.unique(target[mask & (target != 0) & (target != value)]).tolist():
            overlaps[names[other], names[int(value)]] += int((target[mask] == other).sum())
        target[mask] = value
    notes += [
        f"{file.name}: {count} voxels are of {former} and of {latter}; they count as {latter}"
        for (former, latter), count in overlaps.items()
    ]
    return SegTruth(labels, names, tuple(notes))


def segment_labels(
    seg: "Dataset", file: Path, notes: list[str]
) -> tuple[UInt8[np.ndarray, " segment"], dict[int, str], Bool[np.ndarray, " segment"]]:
    """Return the label of each segment number, the organ of each label, and which numbers are described; note shared ones."""
    segments = [item for item in seg.SegmentSequence if not _is_background(item)]
    values, names, described = np.zeros(65536, np.uint8), {}, np.zeros(65536, bool)
    described[[0, *(int(item.SegmentNumber) for item in seg.SegmentSequence)]] = True
    described[0] = seg.SegmentationType == "LABELMAP"
    for item in segments:
        number, label = int(item.SegmentNumber), str(item.get("SegmentLabel", ""))
        name = organ_named(_concept(item), label)
        if not name:
            raise LabelError(
                f"segment {number} of {file.name} has neither a known code nor a label",
                "Name it, then export it again.",
            )
        known = {organ: value for value, organ in names.items()}
        if name in known:
            notes.append(f"{file.name}: several segments are {name}; they are merged")
        elif len(names) == 255:
            raise LabelError(f"{file.name} has more than 255 organs", "Split it into several files.")
        values[number] = known.get(name, len(names) + 1)
        names[int(values[number])] = name
    return values, names, described


def _is_background(item: "Dataset") -> bool:
    """Tell whether a segment of a LABELMAP is what no organ is."""
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or ()
    code = _code(kinds[0]) if kinds else None
    return int(item.SegmentNumber) == 0 or (code is not None and (code.value, code.scheme) == ("125040", "DCM"))


def _concept(item: "Dataset") -> Concept:
    """Return what a segment is coded as."""
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or ()
    regions = item.get("AnatomicRegionSequence") or ()
    kind, region = kinds[0] if kinds else None, regions[0] if regions else None
    sides = kind.get("SegmentedPropertyTypeModifierCodeSequence") if kind is not None else None
    region_sides = region.get("AnatomicRegionModifierSequence") if region is not None else None
    category = item.get("SegmentedPropertyCategoryCodeSequence") or ()
    nothing = Code("", "", "")
    return Concept(
        (_code(category[0]) if category else None) or nothing,
        (_code(kind) if kind is not None else None) or nothing,
        _code(sides[0]) if sides else None,
        _code(region) if region is not None else None,
        _code(region_sides[0]) if region_sides else None,
    )


def _code(item: "Dataset") -> Code | None:
    """Return a code, those of SNOMED RT (SRT, up to 2018) as the SNOMED CT that they became."""
    from pydicom.sr.coding import Code as Known

    value = str(item.get("CodeValue", "") or item.get("LongCodeValue", ""))
    scheme = str(item.get("CodingSchemeDesignator", ""))
    if not value:
        return None
    if scheme == "SRT":
        same = (code for code in standard_codes() if Known(value, scheme, "") == Known(code, "SCT", ""))
        value, scheme = next(((code, "SCT") for code in same), (value, scheme))
    return Code(value, "", scheme)


def _placed(
    labels: UInt8[np.ndarray, "z y x"],
    frame: Frame,
    shape: tuple[int, ...],
    from_world: Float[np.ndarray, "4 4"],
) -> Shaped[np.ndarray, "row column"] | None:
    """Return the voxels that a frame covers as a view in the frame's order; None where it lies off the grid.

    Args:
        labels: The volume.
        frame: Where the frame lies.
        shape: Its rows and columns.
        from_world: World RAS+ mm -> index (z, y, x) of the volume.
    """
    to_index = from_world[:3, :3] @ frame.affine
    to_index[:, 2] += from_world[:3, 3]
    whole = np.rint(to_index).astype(int)
    last = np.array(shape) - 1
    ends = np.array([(0, 0, 1), (last[0], 0, 1), (0, last[1], 1), (last[0], last[1], 1)]).T
    corners = whole @ ends
    unit = np.abs(whole[:, :2]).sum(axis=0)
    axes = np.abs(whole[:, :2]).argmax(axis=0)
    if (
        np.abs(to_index @ ends - corners).max() > OFF_GRID_VOXELS
        or (unit != 1).any()
        or axes[0] == axes[1]
        or (corners < 0).any()
        or (corners >= np.array(labels.shape)[:, None]).any()
    ):
        return None
    picks: list[slice | int] = [int(index) for index in whole[:, 2]]
    for axis, column in zip(axes, (0, 1), strict=True):
        begin, step = int(whole[axis, 2]), int(whole[axis, column])
        end = begin + step * shape[column]
        picks[axis] = slice(begin, None if end < 0 else end, step)
    view = labels[tuple(picks)]
    return view if axes[0] < axes[1] else view.T
