"""Structure sets of any program as label maps: the truth to train on and to compare with.

What cannot be understood is either refused or told in a note, never guessed; rtstruct.py writes structure sets.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from viscera.dicom.contour_images import OFF_PLANE_FRACTION, world_points
from viscera.dicom.contours import Contour, filled
from viscera.dicom.rtstruct_header import (
    CLOSED,
    frames_of_reference,
    load,
    organs_of,
    readable,
    rois_of,
    series_named,
)
from viscera.dicom.series import LPS_TO_RAS, Series
from viscera.errors import FileError, GeometryError, LabelError
from viscera.labels import whole_of

if TYPE_CHECKING:
    from pydicom import Dataset

LARGEST_MM = 100_000
"""No coordinate is farther away: a table is 2 m long."""
MOST_COMPARED = 100
"""Contours of one slice that are compared with each other; more are combined by the even-odd rule."""


@dataclass(frozen=True, eq=False)
class Structures:
    """The organs of a structure set.

    Attributes:
        labels: On the grid of the series; 0 where no organ is that was read.
        names: {value: organ}. Organs that are not among them are unknown, not absent.
        notes: What was left out or interpreted; names of ROIs stand in them.
    """

    labels: UInt8[np.ndarray, "z y x"]
    names: dict[int, str]
    notes: tuple[str, ...]


def read_rtstruct(
    file: Path, series: Series, *, names: Mapping[str, str] | None = None, needs_series: bool = True
) -> Structures:
    """Read the organs of a structure set on the grid of the series that it was drawn on.

    A voxel belongs to an organ where its centre is inside a contour or on it. A contour within another is a hole in it, with a
    note; contours that overlap otherwise count together, with a note. Where organs overlap, a part (a tumour, a side) goes
    before its whole, and a later ROI before an earlier one, with a note. An ROI without contours is unknown, not absent.

    Args:
        file: The structure set.
        series: Whose Series Instance UID and frame of reference it must name.
        names: The user's {ROI name: organ}, which goes before TG-263's names and viscera's own.
        needs_series: False where a frame of reference alone will do, if it names no series at all.

    Raises:
        FileError: It is damaged, not a structure set, or of another series.
        GeometryError: A contour does not lie in the plane of a slice, or refers to another slice than it lies on.
        LabelError: None of its ROIs is an organ, or two are the same.
    """
    with readable(file):
        dataset = load(file)
        _require_series(dataset, series, file, needs_series=needs_series)
        organs, notes = organs_of(rois_of(dataset), names or {}, series.frame_of_reference_uid, file)
        found: dict[int, _Roi] = {}
        for item in dataset.get("ROIContourSequence") or []:
            number = int(item.ReferencedROINumber)
            if number in organs and number not in found:
                found[number] = _contours(item, organs[number], series, file)
    labels = np.zeros(series.shape, np.uint8)
    values = dict(enumerate([number for number in organs if number in found and found[number].contours], start=1))
    for value, number in sorted(values.items(), key=lambda pair: _depth(organs[pair[1]])):
        notes += _paint_(labels, value, found[number], {one: organs[other] for one, other in values.items()})
    for number, organ in organs.items():
        if number not in found or not found[number].contours:
            notes.append(f"{organ}: its ROI has no closed contour within the scan, so it is unknown, not absent")
        if number in found:
            notes += found[number].notes
    drawn = {value: organs[number] for value, number in values.items() if found[number].voxels}
    if not drawn:
        raise LabelError(f"{file.name}: none of its ROIs holds a voxel of the scan", "Check the export.", file=file)
    return Structures(labels, drawn, tuple(notes))


@dataclass(eq=False)
class _Roi:
    """One ROI as it was read.

    Attributes:
        contours: The closed ones, in voxels.
        apart: Slices whose contours the file itself wants combined by XOR.
        notes: On what was left out.
        voxels: How many it fills; known once it is painted.
    """

    contours: list[Contour]
    apart: frozenset[int]
    notes: list[str]
    voxels: int = 0


def _require_series(dataset: "Dataset", series: Series, file: Path, *, needs_series: bool) -> None:
    """Raise FileError unless the structure set was drawn on this series."""
    uids = frames_of_reference(dataset)
    if not series.frame_of_reference_uid or series.frame_of_reference_uid not in uids:
        raise FileError(
            f"{file.name} and {series.name} have different frames of reference, so it was not drawn on this series",
            "Choose the structure set of this series.",
            file=file,
        )
    drawn_on = series_named(dataset)
    if not drawn_on and not needs_series:
        return
    if series.series_uid not in drawn_on:
        raise FileError(
            f"{file.name} does not name {series.name} as the series that it was drawn on",
            "Choose the structure set of this series.",
            file=file,
        )


def _contours(item: "Dataset", organ: str, series: Series, file: Path) -> _Roi:
    """Return the closed contours of an ROI in voxels.

    Raises:
        ValueError: The coordinates are malformed.
        GeometryError: A contour lies between slices, or on another one than it refers to.
    """
    to_voxels = np.linalg.inv(LPS_TO_RAS @ series.affine)
    contours: list[Contour] = []
    left_out: dict[str, int] = {}
    apart = set()
    for contour in item.get("ContourSequence") or []:
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in CLOSED:
            what = f"of type {kind[:16] or 'unknown'}"
            left_out[what] = left_out.get(what, 0) + 1
            continue
        world = world_points(contour)
        if int(contour.get("NumberOfContourPoints") or len(world)) != len(world):
            raise ValueError("the number of points is another one")
        if np.abs(world).max() > LARGEST_MM:
            raise ValueError("a coordinate is beyond any scanner")
        points = world @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        plane = int(np.rint(points[0, 0]))
        if np.abs(points[:, 0] - plane).max() > OFF_PLANE_FRACTION:
            raise GeometryError(
                f"{file.name}: a contour of {organ} does not lie in the plane of a slice (it is at slice "
                f"{points[:, 0].min() + 1:.2f} to {points[:, 0].max() + 1:.2f})",
                "Choose the structure set of this series.",
                file=file,
            )
        reason = "" if 0 <= plane < series.shape[0] else "outside of the scan"
        reason = reason or ("of fewer than three points" if len(points) < 3 else "")
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        _require_slice(contour, series, plane, organ, file)
        contours.append(Contour(plane, points[:, 1:]))
        if kind != "CLOSED_PLANAR":
            apart.add(plane)
    notes = [f"{organ}: {count} contours {reason} left out" for reason, count in left_out.items()]
    planes = {contour.plane for contour in contours}
    if planes and (missing := max(planes) - min(planes) + 1 - len(planes)):
        span = max(planes) - min(planes) + 1
        notes.append(f"{organ}: no contour on {missing} of the {span} slices from its first to its last")
    return _Roi(contours, frozenset(apart), notes)


def _require_slice(contour: "Dataset", series: Series, plane: int, organ: str, file: Path) -> None:
    """Raise GeometryError where a contour refers to another slice of the series than it lies on."""
    for image in contour.get("ContourImageSequence") or []:
        uid, frame = str(image.get("ReferencedSOPInstanceUID", "")), image.get("ReferencedFrameNumber")
        referred = [
            place
            for place, one in enumerate(series.slices)
            if one.sop_instance_uid == uid and (frame is None or one.frame is None or one.frame + 1 == int(frame))
        ]
        if referred and plane not in referred:
            raise GeometryError(
                f"{file.name}: a contour of {organ} lies on slice {plane + 1} but refers to slice {referred[0] + 1}",
                "Export the structure set anew.",
                file=file,
            )


def _paint_(labels: UInt8[np.ndarray, "z y x"], value: int, roi: _Roi, names: Mapping[int, str]) -> list[str]:
    """Set an ROI's voxels to a value, over what is there; return notes."""
    organ = names[value]
    place, inside = filled(roi.contours, labels.shape)
    nested = overlapping = crowded = 0
    by_plane: dict[int, list[Contour]] = {}
    for contour in roi.contours:
        by_plane.setdefault(contour.plane, []).append(contour)
    for plane, contours in by_plane.items():
        if len(contours) > MOST_COMPARED:
            crowded += 1
        elif len(contours) > 1 and plane not in roi.apart:
            together = _together(contours, (labels.shape[1], labels.shape[2]))
            if together is not None:
                mask, holes, crossing = together
                inside[plane - place[0].start] = mask[place[1:]]
                nested, overlapping = nested + holes, overlapping + crossing
    notes = []
    if nested:
        notes.append(f"{organ}: {nested} contours within others were read as holes")
    if crowded:
        notes.append(
            f"{organ}: {crowded} slices have more than {MOST_COMPARED} contours, combined by the even-odd rule"
        )
    if overlapping:
        notes.append(f"{organ}: {overlapping} pairs of contours overlap; they were taken together")
    before = labels[place][inside]
    for other in np.unique(before[before > 0]).tolist():
        count = int((before == other).sum())
        notes.append(f"{names[other]} and {organ} overlap in {count} voxels, which became {organ}")
    labels[place][inside] = value
    roi.voxels = int(inside.sum())
    if not roi.voxels:
        notes.append(f"{organ}: its contours enclose no voxel's centre, so it is unknown, not absent")
    return notes


def _together(contours: list[Contour], shape: tuple[int, int]) -> tuple[Bool[np.ndarray, "y x"], int, int] | None:
    """Combine the contours of one slice: one within another is a hole in it, others count together.

    Args:
        contours: Of one ROI.
        shape: Of the slice.

    Returns:
        The voxels, how many contours were holes, and how many pairs overlap otherwise; None where plain even-odd will do.
    """
    low = np.array([contour.points.min(axis=0) for contour in contours])
    high = np.array([contour.points.max(axis=0) for contour in contours])
    near = np.triu(np.all((low[:, None] <= high[None]) & (low[None] <= high[:, None]), axis=2), 1)
    if not near.any():
        return None
    masks = [_plane_of([contour], shape) for contour in contours]
    sizes = [int(mask.sum()) for mask in masks]
    within: dict[int, list[int]] = {}
    holes, same, crossing = set(), set(), 0
    for first, second in zip(*np.nonzero(near), strict=True):
        shared = int((masks[first] & masks[second]).sum())
        small, large = (first, second) if sizes[first] < sizes[second] else (second, first)
        if shared and sizes[first] == sizes[second] == shared:
            same.add(second)
        elif shared and shared == sizes[small]:
            within.setdefault(int(large), []).append(int(small))
            holes.add(int(small))
        else:
            crossing += shared > 0
    mask = np.zeros(shape, bool)
    for outer in range(len(contours)):
        if outer not in holes and outer not in same:
            inner = [contours[one] for one in within.get(outer, []) if one not in same]
            mask |= _plane_of([contours[outer], *inner], shape)
    return mask, len(holes - same), crossing + len(same)


def _plane_of(contours: Iterable[Contour], shape: tuple[int, int]) -> Bool[np.ndarray, "y x"]:
    """Return what contours fill of a slice."""
    mask = np.zeros((1, *shape), bool)
    place, inside = filled([Contour(0, contour.points) for contour in contours], (1, *shape))
    mask[place] = inside
    return mask[0]


def _depth(organ: str) -> int:
    """Return how many wholes an organ is part of: a tumour and a side of an organ are painted after the organ."""
    depth = 0
    while (whole := whole_of(organ)) is not None:
        depth, organ = depth + 1, whole
        if not whole:
            break
    return depth
