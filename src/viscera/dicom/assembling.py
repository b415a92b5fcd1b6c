"""Images that belong together into a series that can be segmented, or why they cannot be one."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from viscera.dicom.decoding import parsing_errors
from viscera.dicom.geometry import SAME_PLACE_MM, Grid, Place, along_normal, grid_of
from viscera.dicom.headers import Image
from viscera.dicom.pixels import AIR_HU
from viscera.dicom.series import Series, Slice
from viscera.errors import FileError, GeometryError, VisceraError
from viscera.io.doors import pydicom_module

REMEDY = "Export the series again, complete and by itself."
UID = re.compile(r"[0-9.]{1,64}")
TILT_MATTERS_DEGREES = 0.5


@dataclass(frozen=True)
class _Placed:
    """An image, where it lies, and how far along the normal."""

    image: Image
    place: Place
    along_mm: float


def assemble(name: str, images: Sequence[Image], kept: object = None) -> Series:
    """Return the series that images make.

    Args:
        name: What it is called.
        images: In any order.
        kept: See Series.

    Raises:
        VisceraError: They make none; the message begins with the name or with a file.
    """
    _check_each(name, images)
    _check_same(name, images)
    try:
        placed, dropped = _in_order(images)
        grid = grid_of([one.place for one in placed])
    except VisceraError as error:
        raise type(error)(f"{name}: {error.what}", error.remedy) from error
    ordered = [one.image for one in placed]
    _check_not_interleaved(name, ordered)
    uids = [(one.sop_instance_uid, one.frame) for one in ordered if one.sop_instance_uid]
    if len(set(uids)) < len(uids):
        raise FileError(f"{name}: several of its images have the same SOP Instance UID", REMEDY)
    first = ordered[0]
    reason = _cannot_be_referenced(ordered)
    return Series(
        name,
        tuple(Slice(one.file, one.sop_instance_uid, one.frame, one.pixels) for one in ordered),
        grid.affine,
        (len(ordered), *first.shape),
        first.series_uid,
        first.study_uid,
        first.frame_of_reference_uid,
        grid.tilt_degrees,
        (*grid.notes, *_notes(ordered, grid, dropped), *([f"it {reason}"] if reason else [])),
        reason,
        kept,
    )


def _check_each(name: str, images: Sequence[Image]) -> None:
    """Raise VisceraError if an image cannot be read or does not say where it lies."""
    faults = [one.fault for one in images if one.fault]
    if faults:
        more = f", and {len(faults) - 1} more of the {len(images)} images of {name}" if len(faults) > 1 else ""
        raise FileError(faults[0].what + more, faults[0].remedy, file=faults[0].file)
    wanted = {"position": "position", "orientation": "orientation", "spacing": "distance of pixels"}
    for attribute, word in wanted.items():
        missing = sum(getattr(one, attribute) is None for one in images)
        if missing:
            raise GeometryError(f"{name}: {missing} of its {len(images)} images have no {word}", REMEDY)


def _check_same(name: str, images: Sequence[Image]) -> None:
    """Raise FileError if images are not of one patient, study and frame of reference."""
    wanted = {"patient": "patient", "study_uid": "study", "frame_of_reference_uid": "frame of reference"}
    for attribute, word in wanted.items():
        if len({getattr(one, attribute) for one in images}) > 1:
            raise FileError(f"{name}: its images are not all of the same {word}", "Separate them.")


def _check_not_interleaved(name: str, images: Sequence[Image]) -> None:
    """Raise FileError if acquisitions, kernels or times take turns from slice to slice.

    Two phases whose slices lie half a distance off each other make a regular grid, and no volume. Scanners that count an
    acquisition for each rotation or region do so in the order of the slices.
    """
    parts = [one.part for one in images]
    runs = 1 + sum(a != b for a, b in pairwise(parts))
    if runs > len(set(parts)):
        raise FileError(
            f"{name}: several acquisitions, phases or reconstructions are mixed in it",
            "Export each phase, acquisition or reconstruction as a series of its own.",
        )


def _in_order(images: Sequence[Image]) -> tuple[list[_Placed], int]:
    """Return images in order along their normal, and how many were left out because they are there twice.

    Raises:
        GeometryError: Images that are not the same lie at the same position, or they are not parallel.
    """
    places = [
        Place(one.position or (), one.orientation or (), one.spacing or (), one.shape)  # checked before
        for one in images
    ]
    along = along_normal(places).tolist()
    order = sorted(range(len(images)), key=lambda index: (along[index], images[index].file, images[index].frame or 0))
    placed = [_Placed(images[index], places[index], along[index]) for index in order]
    double = [b for a, b in pairwise(placed) if b.along_mm - a.along_mm < SAME_PLACE_MM]
    if not double:
        return placed, 0
    kept = [placed[0]]
    for one in placed[1:]:
        before = kept[-1]
        if one.along_mm - before.along_mm >= SAME_PLACE_MM:
            kept.append(one)
        elif not _same_content(before.image, one.image):
            where = ", ".join(f"{value:.1f}" for value in one.place.position)
            raise GeometryError(
                f"it has {len(double)} images too many: different ones lie at the same position, first at ({where}) mm; "
                "perhaps it holds several phases or reconstructions"
                if len(double) > 1
                else f"two different images lie at the same position, ({where}) mm",
                "Export each phase, acquisition or reconstruction as a series of its own.",
            )
    return kept, len(placed) - len(kept)


def _same_content(a: Image, b: Image) -> bool:
    """Tell whether two images are copies of each other: equal files, or equal data sets with all that they hold."""
    if a.frame != b.frame:
        return False
    try:
        if _size(a.file) == _size(b.file) and a.file.read_bytes() == b.file.read_bytes():
            return True
        if a.frame is not None or a.sop_instance_uid != b.sop_instance_uid:
            return False
        pydicom = pydicom_module()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(pydicom.dcmread(a.file, force=True) == pydicom.dcmread(b.file, force=True))
    except parsing_errors():
        return False


def _size(file: Path) -> int:
    return file.stat().st_size


def _cannot_be_referenced(images: Sequence[Image]) -> str:
    """Return why no other DICOM object can refer to images; "" where one can."""
    first = images[0]
    missing = [
        *(["SOP"] if any(one.mended or not UID.fullmatch(one.sop_instance_uid) for one in images) else []),
        *(["study"] if not UID.fullmatch(first.study_uid) else []),
        *(["series"] if not UID.fullmatch(first.series_uid) else []),
        *(["frame of reference"] if not UID.fullmatch(first.frame_of_reference_uid) else []),
    ]
    if not missing:
        return ""
    words = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
    return f"has no valid {words} UID in its data sets, so no other DICOM object can refer to it"


def _notes(images: Sequence[Image], grid: Grid, dropped: int) -> list[str]:
    """Return what the user should know of how images were read."""
    notes = []
    if dropped:
        notes.append(
            f"{dropped} images are there twice, and were read once" if dropped > 1 else "1 image is there twice"
        )
    if any(one.inverted for one in images):
        notes.append("it is meant to be shown with air in white (MONOCHROME1), which does not change its HU")
    if any(one.pixels and one.pixels.padding_shows() for one in images):
        notes.append(f"what its headers mark as padding, outside the scanner's view, is read as {AIR_HU} HU")
    elif any(one.pixels and one.pixels.padding_within() for one in images):
        notes.append("the value that its headers mark as padding is one of tissue, too: such voxels stay as they are")
    said = max((abs(one.tilt_degrees) for one in images), default=0.0)
    if said > TILT_MATTERS_DEGREES and grid.tilt_degrees == 0:
        notes.append(f"its headers speak of a gantry tilted by {said:.1f} degrees, but its slices are not shifted")
    return notes
