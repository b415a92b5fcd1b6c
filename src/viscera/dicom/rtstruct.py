"""Label maps as RT Structure Sets: written whole, read back and compared before they stand; rtstruct_reading.py reads others'.

Each organ is an ROI whose contours (contours.py) lie in the planes of the series' slices and refer to them. Coordinates are
LPS mm with ten significant digits, which fit the 16 characters of a decimal string. The transfer syntax is Implicit VR Little
Endian, because explicit VR has no room for the length of a long contour.
"""

import datetime
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from viscera.colours import colour
from viscera.dicom import outputs
from viscera.dicom.contour_images import OFF_PLANE_FRACTION, Image, contour_images, world_points
from viscera.dicom.contours import Contour, filled, trace
from viscera.dicom.outputs import Maker
from viscera.dicom.roi_names import roi_names_of
from viscera.dicom.series import LPS_TO_RAS, Series
from viscera.errors import FileError, GeometryError, LabelError
from viscera.io.atomic import replacing
from viscera.io.doors import pydicom_module
from viscera.labels import LESION_WORDS

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement

ITEM = (0xFFFE, 0xE000)
"""The tag of an item of a sequence."""
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""The (retired) SOP class by which RTSTRUCT refers to a study, PS3.3 C.8.8.5."""
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes that must be there, if only empty (type 2)."""
"""High, so that lists show structure sets after the images."""


def write_rtstruct(
    file: Path,
    labels: UInt8[np.ndarray, "z y x"],
    names: Mapping[int, str],
    series: Series,
    maker: Maker,
    *,
    roi_names: Mapping[str, str] | None = None,
    headers: "Sequence[Dataset] | None" = None,
) -> None:
    """Write the organs of a label map as an RT Structure Set that refers to the series, and check it before it stands.

    Args:
        file: Replaced where it exists.
        labels: On the grid of the series; 0 is background.
        names: {value: organ}; organs without a voxel are left out.
        series: What the labels were made from.
        maker: By what they were made.
        roi_names: The user's {organ: ROI name}; TG-263's names for the others.
        headers: Of each slice, where others than the series' are to be referred to (after de-identification).

    Raises:
        LabelError: No organ has a voxel, a value has no name, or ROI names are not allowed.
        GeometryError: The labels lie on another grid, or slices elsewhere than the series says.
        FileError: The series cannot be referred to, the file cannot be written, or does not read back as the labels.
    """
    from pydicom import config, dcmwrite

    if labels.shape != series.shape:
        raise GeometryError(f"labels of {labels.shape} voxels do not fit the series' {series.shape}")
    contours = trace(labels)
    if not contours:
        raise LabelError("no organ was found, so there is nothing to write as a structure set", "Look at the scan.")
    if nameless := [value for value in contours if value not in names]:
        raise LabelError(f"label {nameless[0]} has no name", "Name it.")
    found = {value: names[value] for value in contours}
    if len(set(found.values())) != len(found):
        raise LabelError("two labels are the same organ, which no structure set can tell apart", "Name each otherwise.")
    called = roi_names_of(found.values(), roi_names or {})
    with config.disable_value_validation():  # what images say of the patient is copied, well-formed or not
        headers = headers or series.headers()
        images = contour_images(series, headers)
        dataset = _structure_set(found, called, maker, headers[0])
        _refer_(dataset, series, headers[0], images)
        _draw_(dataset, contours, images, (LPS_TO_RAS @ series.affine)[:3, 1:3])
        with replacing(file) as part:
            dcmwrite(part, dataset, enforce_file_format=True)
            check_rtstruct(part, labels, names, series, roi_names=roi_names, headers=headers)


def _structure_set(organs: Mapping[int, str], called: Mapping[str, str], maker: Maker, header: "Dataset") -> "Dataset":
    """Return a structure set without contours and references.

    Args:
        organs: {value: organ}; the value becomes the ROI's number.
        called: {organ: ROI name}.
        maker: By what it was made.
        header: Of an image of the series.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    dataset = outputs.patient_and_study(header)
    for keyword in REQUIRED:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if not all(name.isascii() for name in called.values()):
        dataset = _in_utf8(dataset)
    now = _now(str(header.get("TimezoneOffsetFromUTC", "")))
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid(prefix=None)
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid(prefix=None)
    dataset.SeriesDate, dataset.SeriesTime = date, time
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.OperatorsName = (
        outputs.SERIES_NUMBERS["rtstruct"],
        outputs.SERIES_DESCRIPTION,
        "",
    )
    dataset.Manufacturer = dataset.ManufacturerModelName = outputs.MANUFACTURER
    dataset.SoftwareVersions = maker.viscera[:64]
    dataset.DeviceSerialNumber = maker.weights_sha256[:64]
    dataset.StructureSetLabel, dataset.StructureSetName = outputs.CONTENT_LABEL, outputs.SERIES_DESCRIPTION
    dataset.StructureSetDescription = outputs.CONTENT_DESCRIPTION
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.ApprovalStatus = "UNAPPROVED"
    made_by = f"{outputs.MANUFACTURER} {maker.viscera}, weights {maker.weights}"[:64]
    numbered = [(value, organ) for value, organ in organs.items()]
    dataset.StructureSetROISequence = [_roi(value, called[organ], made_by) for value, organ in numbered]
    dataset.ROIContourSequence = [_coloured(value, organ) for value, organ in numbered]
    dataset.RTROIObservationsSequence = [_observation(value, organ) for value, organ in numbered]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _in_utf8(dataset: "Dataset") -> "Dataset":
    """Return a dataset whose texts are to be written as UTF-8, which holds every ROI's name."""
    dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def _now(offset: str) -> datetime.datetime:
    """Return the time in the zone that the images name (as +0100), since dates of a dataset share it; else the local one."""
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdecimal():
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        zone = datetime.timezone(datetime.timedelta(minutes=-minutes if offset[0] == "-" else minutes))
        return datetime.datetime.now(zone)
    return datetime.datetime.now().astimezone()


def _roi(number: int, name: str, made_by: str) -> "Dataset":
    from pydicom import Dataset

    roi = Dataset()
    roi.ROINumber, roi.ROIName = number, name
    roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription = "AUTOMATIC", made_by
    return roi


def _coloured(number: int, organ: str) -> "Dataset":
    from pydicom import Dataset

    roi = Dataset()
    roi.ROIDisplayColor, roi.ReferencedROINumber = list(colour(organ)), number
    return roi


def _observation(number: int, organ: str) -> "Dataset":
    """Return what an ROI is taken for: an organ; nothing for a lesion, since a target is for a physician to declare."""
    from pydicom import Dataset

    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = "" if LESION_WORDS & set(organ.split("_")) else "ORGAN"
    observation.ROIInterpreter = ""
    return observation


def _reference(image: Image) -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.class_uid, image.instance_uid
    return item


def _refer_(dataset: "Dataset", series: Series, header: "Dataset", images: Sequence[Image]) -> None:
    """Let a structure set refer to the frame of reference, the study, the series and all its images.

    Args:
        dataset: Changed in place.
        series: Whose UIDs stand in for those that the header lacks.
        header: Of an image.
        images: A multi-frame file stands once.
    """
    from pydicom import Dataset

    of_series, study, frame = Dataset(), Dataset(), Dataset()
    files = {image.instance_uid: image for image in images}
    of_series.SeriesInstanceUID = str(header.get("SeriesInstanceUID") or series.series_uid)
    of_series.ContourImageSequence = [_reference(image) for image in files.values()]
    dataset.StudyInstanceUID = str(header.get("StudyInstanceUID") or series.study_uid)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = DETACHED_STUDY, dataset.StudyInstanceUID
    study.RTReferencedSeriesSequence = [of_series]
    dataset.FrameOfReferenceUID = str(header.get("FrameOfReferenceUID") or series.frame_of_reference_uid)
    dataset.PositionReferenceIndicator = ""
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = dataset.FrameOfReferenceUID, [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID


def _draw_(
    dataset: "Dataset",
    contours: Mapping[int, Sequence[Contour]],
    images: Sequence[Image],
    axes: Float[np.ndarray, "3 2"],
) -> None:
    """Give every ROI of a structure set its contours, encoded as the file will be.

    Args:
        dataset: Changed in place.
        contours: {ROI number: contours in voxels}.
        images: The slices.
        axes: LPS mm from a voxel to the next along y and along x.
    """
    from pydicom.charset import default_encoding

    for roi in dataset.ROIContourSequence:
        roi[0x30060040] = _contour_sequence(contours[int(roi.ReferencedROINumber)], images, axes)
        roi.set_original_encoding(is_implicit_vr=True, is_little_endian=True, character_encoding=default_encoding)


def _contour_sequence(
    contours: Sequence[Contour], images: Sequence[Image], axes: Float[np.ndarray, "3 2"]
) -> "RawDataElement":
    """Return contours in the planes of their slices, encoded: pydicom takes a millisecond for each, and an object a number.

    Args:
        contours: In voxels.
        images: The slices.
        axes: LPS mm from a voxel to the next along y and along x.
    """
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    items = []
    for number, contour in enumerate(contours, start=1):
        image = images[contour.plane]
        reference = _element(0x0008, 0x1150, image.class_uid, b"\0") + _element(
            0x0008, 0x1155, image.instance_uid, b"\0"
        )
        if image.frame is not None:
            reference += _element(0x0008, 0x1160, str(image.frame))
        items.append(
            _element(0x3006, 0x0016, _element(*ITEM, reference))
            + _element(0x3006, 0x0042, "CLOSED_PLANAR")
            + _element(0x3006, 0x0046, str(len(contour.points)))
            + _element(0x3006, 0x0048, str(number))
            + _element(0x3006, 0x0050, decimal_strings(image.origin + contour.points @ axes.T))
        )
    value = b"".join(_element(*ITEM, item) for item in items)
    return RawDataElement(Tag("ContourSequence"), "SQ", len(value), value, 0, True, True)


def _element(group: int, element: int, value: bytes | str, padding: bytes = b" ") -> bytes:
    r"""Return a data element in Implicit VR Little Endian (PS3.5 7.1.3), of even length.

    Example:
        >>> _element(0x3006, 0x0046, "4")
        b'\x060F\x00\x02\x00\x00\x004 '
    """
    content = value.encode("ascii") if isinstance(value, str) else value
    content += padding * (len(content) % 2)
    return struct.pack("<HHI", group, element, len(content)) + content


def decimal_strings(points: Float[np.ndarray, "points 3"]) -> bytes:
    r"""Return coordinates as DICOM writes them: at most 16 characters each, between backslashes.

    Example:
        >>> decimal_strings(np.array([[-0.0, 1 / 3, -123456.7890123]]))
        b'0\\0.3333333333\\-123456.789'
    """
    values = (points + 0.0).ravel().tolist()  # -0.0 becomes 0.0
    return ("%.10g\\" * len(values) % tuple(values))[:-1].encode()


def check_rtstruct(
    file: Path,
    labels: UInt8[np.ndarray, "z y x"],
    names: Mapping[int, str],
    series: Series,
    *,
    roi_names: Mapping[str, str] | None = None,
    headers: "Sequence[Dataset] | None" = None,
) -> None:
    """Raise unless a structure set of viscera's own holds a label map voxel for voxel, each contour on its slice.

    Contours are read from the world by the inverse of the series' affine, another way than they went.

    Args:
        file: The structure set; an ROI's number is the organ's value.
        labels: On the grid of the series.
        names: {value: organ}.
        series: What it must refer to.
        roi_names: The user's {organ: ROI name}.
        headers: As for ``write_rtstruct``.

    Raises:
        FileError: It does not.
    """
    pydicom = pydicom_module()

    dataset = pydicom.dcmread(file)
    images = contour_images(series, headers or series.headers())
    slice_of = {(image.instance_uid, image.frame): place for place, image in enumerate(images)}
    rois = {int(roi.ROINumber): str(roi.ROIName) for roi in dataset.StructureSetROISequence}
    called = roi_names_of([names[value] for value in rois if value in names], roi_names or {})
    if rois != {value: called.get(names.get(value, "")) for value in rois}:
        raise _differs("its ROIs are not the organs of the label map")
    to_voxels = np.linalg.inv(LPS_TO_RAS @ series.affine)
    found = np.zeros_like(labels)
    for roi in dataset.ROIContourSequence:
        value = int(roi.ReferencedROINumber)
        contours = []
        for item in roi.ContourSequence:
            points = world_points(item) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            plane = int(np.rint(points[0, 0]))
            image = item.ContourImageSequence[0]
            frame = image.get("ReferencedFrameNumber")
            referred = slice_of.get((str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame)))
            if referred != plane or np.abs(points[:, 0] - plane).max() > OFF_PLANE_FRACTION:
                raise _differs(f"a contour of {names[value]} does not lie on the slice that it refers to")
            contours.append(Contour(plane, points[:, 1:]))
        place, inside = filled(contours, labels.shape)
        if found[place][inside].any():
            raise _differs(f"{names[value]} overlaps another organ")
        found[place][inside] = value
    if not np.array_equal(found, labels):
        wrong, count = np.unique(np.maximum(found, labels)[found != labels], return_counts=True)
        raise _differs(f"{names[int(wrong[0])]} differs from the label map in {count[0]} voxels")


def _differs(what: str) -> FileError:
    return FileError(
        f"the structure set does not read back as it was meant: {what}; nothing was written",
        "Write NIfTI, and report this.",
    )
