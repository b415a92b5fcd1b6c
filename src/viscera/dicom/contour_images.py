"""What contours refer to: the images of a series, as their own headers tell them; and the points of a contour in the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from viscera.dicom.outputs import require_referable
from viscera.dicom.series import LPS_TO_RAS, Series
from viscera.errors import FileError, GeometryError

if TYPE_CHECKING:
    from pydicom import Dataset

OFF_PLANE_FRACTION = 0.1
"""Of the distance between slices, by which a contour may lie off its slice."""


@dataclass(frozen=True, eq=False)
class Image:
    """What contours refer to: one slice.

    Attributes:
        class_uid: SOP class.
        instance_uid: SOP instance.
        frame: From 1 in a multi-frame file; None in a file of one image.
        origin: LPS mm of the centre of its first voxel.
    """

    class_uid: str
    instance_uid: str
    frame: int | None
    origin: Float[np.ndarray, " 3"]


def contour_images(series: Series, headers: "Sequence[Dataset]") -> list[Image]:
    """Return what the contours of each slice refer to.

    Raises:
        FileError: The series cannot be referred to.
        GeometryError: A slice lies elsewhere than the series says.
    """
    require_referable(series, None)
    if not (headers[0].get("FrameOfReferenceUID") or series.frame_of_reference_uid):
        raise FileError(
            f"{series.name} has no frame of reference (0020,0052), which a structure set must name",
            "Export the series anew, or write NIfTI.",
        )
    if len(headers) != len(series.slices):
        headers = [headers[series.files.index(one.file)] for one in series.slices]
    affine = LPS_TO_RAS @ series.affine
    images = []
    for place, (one, header) in enumerate(zip(series.slices, headers, strict=True)):
        instance = str(header.get("SOPInstanceUID") or one.sop_instance_uid)
        class_uid = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", ""))
        if not instance or not class_uid:
            raise FileError(
                f"{series.name}: a slice has no SOP Instance UID, so no structure set can refer to it", "Write NIfTI."
            )
        expected = affine[:3, 3] + place * affine[:3, 0]
        origin = _position(header, one.frame, expected)
        if np.abs(origin - expected).max() > OFF_PLANE_FRACTION * np.linalg.norm(affine[:3, 0]):
            raise GeometryError(
                f"{series.name}: slice {place + 1} lies elsewhere than its series says", "Export the series anew."
            )
        images.append(Image(class_uid, instance, None if one.frame is None else one.frame + 1, origin))
    if len({(image.instance_uid, image.frame) for image in images}) != len(images):
        raise FileError(
            f"{series.name}: two slices have one SOP Instance UID, so no structure set can refer to them",
            "Export the series anew, or write NIfTI.",
        )
    return images


def _position(header: "Dataset", frame: int | None, expected: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    """Return where an image's first voxel is, as its own header says (LPS mm), or what is expected where it does not."""
    if frame is not None:
        groups = header.get("PerFrameFunctionalGroupsSequence")
        position = groups[frame].get("PlanePositionSequence") if groups else None
        header = position[0] if position else header
    position = header.get("ImagePositionPatient")
    return expected if not position else np.array(position, float)


def world_points(item: "Dataset") -> Float[np.ndarray, "points 3"]:
    """Return the points of a contour, LPS mm.

    Raises:
        ValueError: They are not points.
    """
    raw = item.get_item("ContourData")
    value = None if raw is None else raw.value
    if isinstance(value, bytes):
        value = value.decode("ascii").strip(" \0").split("\\")
    if isinstance(value, (str, float, int)):
        value = [value]
    points = np.array([float(number) for number in value or []])
    if points.size == 0 or points.size % 3 or not np.isfinite(points).all():
        raise ValueError("not three finite numbers for every point")
    return points.reshape(-1, 3)
