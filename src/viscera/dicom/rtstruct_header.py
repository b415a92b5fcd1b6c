"""What a structure set says before its contours: on which series it was drawn, and which organs its ROIs are.

rtstruct_reading.py reads the contours.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.dicom.decoding import parsing_errors
from viscera.dicom.roi_names import near_organ, organ_of
from viscera.errors import FileError, LabelError
from viscera.io.doors import pydicom_module

if TYPE_CHECKING:
    from pydicom import Dataset

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Types of contours that enclose something."""


@dataclass(frozen=True)
class RoiHead:
    """What a structure set says of an ROI before its contours.

    Attributes:
        number: Its own, to which contours refer.
        name: As its program calls it.
        drawn_in: The frame of reference; "" where it does not say.
    """

    number: int
    name: str
    drawn_in: str


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what a damaged file makes of pydicom into a FileError, and keep pydicom's warnings (they quote headers) quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError as error:
        raise FileError(
            f"{file} cannot be read: {error.strerror or 'it ends early'}", "Check it.", file=file
        ) from error
    except parsing_errors() as error:
        raise FileError(
            f"{file.name} is damaged or not a structure set ({type(error).__name__})", "Export it anew.", file=file
        ) from error


def load(file: Path) -> "Dataset":
    """Return a structure set's dataset."""
    pydicom = pydicom_module()
    from pydicom.uid import RTStructureSetStorage

    if not file.is_file():
        raise FileError(f"{file}: no such file", "Check the path.", file=file)
    dataset = pydicom.dcmread(file)
    if dataset.get("SOPClassUID") != RTStructureSetStorage or not dataset.get("StructureSetROISequence"):
        raise FileError(f"{file.name} is not an RT Structure Set with ROIs", "Choose another file.", file=file)
    return dataset


def frames_of_reference(dataset: "Dataset") -> set[str]:
    """Return the UIDs of the frames of reference that a structure set names."""
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or []
    uids = {str(frame.get("FrameOfReferenceUID", "")) for frame in frames}
    uids |= {str(roi.get("ReferencedFrameOfReferenceUID", "")) for roi in dataset.StructureSetROISequence}
    return uids - {"", "None"}


def series_named(dataset: "Dataset") -> set[str]:
    """Return the UIDs of the series on which a structure set says that it was drawn."""
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or []
    uids = {
        str(one.get("SeriesInstanceUID", ""))
        for frame in frames
        for study in frame.get("RTReferencedStudySequence") or []
        for one in study.get("RTReferencedSeriesSequence") or []
    }
    return uids - {"", "None"}


def rois_of(dataset: "Dataset") -> list[RoiHead]:
    """Return the ROIs of a structure set, in its order."""
    return [
        RoiHead(
            int(roi.ROINumber),
            str(roi.get("ROIName") or "").strip(),
            str(roi.get("ReferencedFrameOfReferenceUID") or ""),
        )
        for roi in dataset.StructureSetROISequence
    ]


def organs_of(
    rois: Sequence[RoiHead], table: Mapping[str, str], frame_of_reference: str, file: Path
) -> tuple[dict[int, str], list[str]]:
    """Return {ROI number: organ} for the ROIs that are understood, and a note on each other, which begins with "ROI".

    Raises:
        LabelError: None is understood, or two are the same organ and the table names both or neither.
        FileError: Two ROIs have one number.
    """
    by_table = {name.strip().casefold() for name in table}
    if len({roi.number for roi in rois}) != len(rois):
        raise FileError(f"{file.name}: two ROIs have one number", "Export it anew.", file=file)
    notes, claims = [], {}
    for roi in rois:
        number, name = roi.number, roi.name
        organ = organ_of(name, table)
        if roi.drawn_in not in ("", frame_of_reference):
            notes.append(f"ROI '{name[:64]}': drawn in another frame of reference, so left out.")
        elif organ is None:
            notes.append(f"ROI '{name[:64]}': not the name of an organ, so left out.{near_organ(name)}")
        else:
            claims.setdefault(organ, []).append((number, name))
    found: dict[int, str] = {}
    for organ, all_of in claims.items():
        chosen = all_of if len(all_of) == 1 else [one for one in all_of if one[1].casefold() in by_table]
        if len(chosen) != 1:
            which = ", ".join(f"'{name[:64]}'" for _, name in all_of)
            raise LabelError(
                f"{file.name}: {len(all_of)} ROIs are {organ} ({which})", "Name the right one in the table.", file=file
            )
        found[chosen[0][0]] = organ
        notes += [f"ROI '{name[:64]}': the table names another one as {organ}" for _, name in all_of if len(all_of) > 1
                  and name != chosen[0][1]]  # fmt: skip
    if not found:
        raise LabelError(f"{file.name}: none of its {len(rois)} ROIs is an organ", " ".join(notes), file=file)
    return found, notes
