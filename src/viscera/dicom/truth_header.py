"""RTSTRUCT and SEG as truth: on which series each was drawn and which organs it holds, without reading contours or pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viscera.dicom import outputs
from viscera.dicom.decoding import parsing_errors
from viscera.dicom.read_frames import open_seg, quiet
from viscera.dicom.read_seg import segment_labels
from viscera.dicom.roi_names import near_organ, organ_of
from viscera.dicom.rtstruct_header import (
    CLOSED,
    RoiHead,
    frames_of_reference,
    load,
    organs_of,
    readable,
    rois_of,
    series_named,
)
from viscera.errors import FileError, LabelError

if TYPE_CHECKING:
    from pydicom import Dataset

RTSTRUCT = "RTStructureSetStorage"
SEGS = ("SegmentationStorage", "LabelMapSegmentationStorage")
Kind = Literal["rtstruct", "seg"]


@dataclass(frozen=True, eq=False)
class TruthHeader:
    """What a truth says of itself.

    Attributes:
        file: The file.
        kind: What it is.
        is_own: viscera wrote it: a result, not a truth.
        series_uids: Of the series that it names.
        frames: UIDs of the frames of reference that it names.
        images: SOP Instance UIDs of images that it was drawn on, some of each organ.
        rois: Of an RTSTRUCT, in its order.
        closed: Numbers of the ROIs that have a closed contour.
        segments: Of a SEG: {label as read_seg gives it: organ}.
    """

    file: Path
    kind: Kind
    is_own: bool
    series_uids: frozenset[str]
    frames: frozenset[str]
    images: frozenset[str] = frozenset()
    rois: tuple[RoiHead, ...] = ()
    closed: frozenset[int] = frozenset()
    segments: Mapping[int, str] = field(default_factory=dict)


def read_truth_header(file: Path, kind: Kind) -> TruthHeader:
    """Read what a truth says of itself.

    Raises:
        FileError: It is damaged or of another kind.
        LabelError: A segment has no name.
    """
    if kind == "rtstruct":
        with readable(file):
            return _of_rtstruct(file, load(file))
    try:
        with quiet():
            return _of_seg(file, open_seg(file, pixels=False))
    except parsing_errors() as error:
        raise FileError(
            f"{file.name} is damaged ({type(error).__name__})", "Export the SEG again.", file=file
        ) from error


def organs_in(
    header: TruthHeader, table: Mapping[str, str], frame_of_reference: str
) -> tuple[tuple[tuple[int, str], ...], list[str]]:
    """Return ((value, organ), ...) of a truth, and a note on each name that is not understood.

    A value is the place of an ROI in its structure set, from 1, or a label as ``read_seg`` gives it, so that another table
    gives another list. ROIs without a closed contour are unknown, and left out.

    Args:
        header: The truth's.
        table: The user's {ROI name or segment label: organ}.
        frame_of_reference: Of the series.

    Raises:
        LabelError: No ROI is an organ, or two are the same.
        FileError: Two ROIs have one number.
    """
    if header.kind == "seg":
        found = {value: organ_in_table(name, table) for value, name in header.segments.items()}
        notes = [
            f"segment '{name}': not the name of an organ that viscera knows.{near_organ(name)}"
            for name in found.values()
            if organ_of(name) is None
        ]
        return tuple(found.items()), notes
    organs, notes = organs_of(header.rois, table, frame_of_reference, header.file)
    found = tuple(
        (place, organs[roi.number])
        for place, roi in enumerate(header.rois, start=1)
        if roi.number in organs and roi.number in header.closed
    )
    if not found:
        raise LabelError(
            f"{header.file.name}: none of its organs has a closed contour", "Export it anew.", file=header.file
        )
    return found, notes


def organ_in_table(name: str, table: Mapping[str, str]) -> str:
    """Return what the user's table says that a SEG's organ is, as ``read_seg`` names it; the name itself where nothing."""
    from viscera.dicom.codes import name_of_label

    return {name_of_label(label): organ for label, organ in table.items()}.get(name, name)


def _of_rtstruct(file: Path, dataset: "Dataset") -> TruthHeader:
    images, closed = set[str](), set[int]()
    for item in dataset.get("ROIContourSequence") or []:
        contours = item.get("ContourSequence") or []
        first = next((one for one in contours if str(one.get("ContourGeometricType", "")) in CLOSED), None)
        if first is not None:
            closed.add(int(item.ReferencedROINumber))
            references = first.get("ContourImageSequence") or []
            images.update(str(one.get("ReferencedSOPInstanceUID", "")) for one in references)
    return TruthHeader(
        file,
        "rtstruct",
        _is_own(dataset),
        frozenset(series_named(dataset)),
        frozenset(frames_of_reference(dataset)),
        frozenset(images - {""}),
        tuple(rois_of(dataset)),
        frozenset(closed),
    )


def _of_seg(file: Path, seg: "Dataset") -> TruthHeader:
    named = list(seg.get("ReferencedSeriesSequence") or [])
    images = {
        str(image.get("ReferencedSOPInstanceUID", ""))
        for series in named
        for image in series.get("ReferencedInstanceSequence") or []
    }
    return TruthHeader(
        file,
        "seg",
        _is_own(seg),
        frozenset({str(series.get("SeriesInstanceUID", "")) for series in named} - {""}),
        frozenset({str(seg.get("FrameOfReferenceUID", ""))} - {"", "None"}),
        frozenset(images - {""}),
        segments=segment_labels(seg, file, [])[1],
    )


def _is_own(dataset: "Dataset") -> bool:
    return str(dataset.get("Manufacturer", "")).strip().casefold() == outputs.MANUFACTURER.casefold()
