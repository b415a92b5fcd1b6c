"""Label maps as DICOM SEG (PS3.3 A.51), one bit for each organ and voxel (BINARY) or one value for each voxel (LABELMAP).

    write_seg    writes, reads what it wrote by another path (check_seg.py), and leaves nothing where the two differ
    read_seg     in read_seg.py: SEGs of any program as truth to learn from

The geometry is that of the series: a frame has its own position, so a tilted gantry's sheared grid is written as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from viscera.colours import colour
from viscera.dicom import outputs
from viscera.dicom.check_seg import check_seg
from viscera.dicom.codes import Code, cielab, concept, plain_text
from viscera.dicom.outputs import Maker
from viscera.dicom.read_frames import quiet
from viscera.dicom.seg_frames import (
    FRAME_GROUPS,
    PIXELS,
    ds,
    frame_groups,
    packed_bits,
    present_in_slices,
    run_lengths,
    write_element,
)
from viscera.dicom.series import LPS_TO_RAS, Series
from viscera.errors import FileError, GeometryError, LabelError
from viscera.io.atomic import replacing

if TYPE_CHECKING:
    from pydicom import Dataset

SegKind = Literal["binary", "labelmap"]
"""Of SEG: "binary" is what every viewer reads; "labelmap" (2024) is far smaller."""

BINARY_CLASS, LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
"""Segmentation Storage, Label Map Segmentation Storage."""
SERIES_NUMBER = 7000
"""Added to the source's, so that the SEG stands beside it and clashes with no series of the scanner."""
AI = Code("123110", "Artificial Intelligence", "DCM")
SEGMENTATION = Code("113076", "Segmentation", "DCM")
SOURCE = Code("121322", "Source image for image processing operation", "DCM")
BACKGROUND = Code("125040", "Background", "DCM")


@quiet()
def write_seg(
    file: Path,
    labels: UInt8[np.ndarray, "z y x"],
    names: Mapping[int, str],
    series: Series,
    maker: Maker,
    *,
    kind: SegKind = "binary",
    headers: "Sequence[Dataset] | None" = None,
) -> None:
    """Write a label map as a DICOM SEG that refers to the series it was made from, and make sure that it reads back.

    Args:
        file: Is replaced where it exists.
        labels: On the grid of ``series``, its first axis in the order of ``series.slices``.
        names: {label: organ}. Organs of which there is no voxel are left out.
        series: What was segmented.
        maker: By what.
        kind: BINARY or LABELMAP.
        headers: Of the slices, as ``series.headers()`` returns them, where they are at hand: without pixels.

    Raises:
        LabelError: There is no organ to write, or a label without a name.
        GeometryError: The labels are not on the grid of the series.
        FileError: The series lacks the UIDs that a SEG refers to, the file cannot be written, or does not read back.
    """
    require_referable(series, file)
    if labels.shape != series.shape:
        raise GeometryError(f"labels of {labels.shape} voxels do not fit the series {series.name} of {series.shape}.")
    present = present_in_slices(labels)
    values = [value for value in range(1, 256) if present[:, value].any()]
    if unnamed := [value for value in values if value not in names]:
        raise LabelError(f"the labels hold {unnamed[0]}, which has no name", "Add its organ to the names.")
    if not values:
        raise LabelError(
            f"no organ was found in {series.name}, so there is nothing to write in a SEG",
            "Write another kind of output, or check that the scan shows what the weights know.",
        )
    header, classes = _source(series, headers)
    seg = outputs.patient_and_study(header)
    _describe(seg, header, series, maker, kind)
    seg.SegmentSequence = _segments([names[value] for value in values], maker, kind)
    seg.ReferencedSeriesSequence = [_referenced_series(series, classes)]
    by_segment = kind == "binary"
    if by_segment:
        planes = [(number, int(z)) for number, value in enumerate(values, 1) for z in np.flatnonzero(present[:, value])]
    else:
        planes = [(0, int(z)) for z in np.flatnonzero(present[:, 1:].any(axis=1))]
    groups = _add_geometry(
        seg, series, planes, [_derivation(series, z, one) for z, one in enumerate(classes)], by_segment=by_segment
    )
    pixels = _add_pixels(seg, labels, planes, values, by_segment=by_segment)
    with replacing(file) as part:
        seg.save_as(part, enforce_file_format=True)
        with part.open("ab") as end:
            write_element(end, FRAME_GROUPS, "SQ", groups)
            write_element(end, PIXELS, "OB", pixels, encapsulated=not by_segment)
        check_seg(part, labels, names, series)


def require_referable(series: Series, file: Path) -> None:
    """Raise FileError where DICOM objects cannot refer to a series, since it lacks identifiers or its images share them."""
    images = [(one.sop_instance_uid, one.frame) for one in series.slices]
    reason = getattr(series, "cannot_be_referenced", "")
    if not reason and not (series.series_uid and series.study_uid and all(uid for uid, _ in images)):
        reason = "has no identifiers (SOP, series or study UID empty), so no other DICOM object can refer to it"
    if not reason and len(set(images)) < len(images):
        reason = "has several images of one identifier (SOP Instance UID), so no other DICOM object can refer to it"
    if reason:
        remedy = "Write NIfTI instead, or export the series again."
        raise FileError(f"series {series.name} {reason}", remedy, file=file)


def _source(series: Series, headers: "Sequence[Dataset] | None") -> "tuple[Dataset, list[str]]":
    """Return the header of the first slice, and of each slice its SOP class."""
    from pydicom.uid import CTImageStorage

    if headers is None:
        headers = replace(series, slices=series.slices[:1]).headers()
    classes = [str(header.get("SOPClassUID", "") or CTImageStorage) for header in headers]
    return headers[0], classes if len(classes) == len(series.slices) else classes[:1] * len(series.slices)


def _describe(seg: "Dataset", header: "Dataset", series: Series, maker: Maker, kind: SegKind) -> None:
    """Say what the object is, whose, by whom and since when."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

    binary, now = kind == "binary", datetime.now()
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if binary else RLELossless
    seg.SOPClassUID = BINARY_CLASS if binary else LABELMAP_CLASS
    seg.SOPInstanceUID, seg.SeriesInstanceUID = _new_uid(), _new_uid()
    seg.file_meta.MediaStorageSOPClassUID = UID(seg.SOPClassUID)
    seg.file_meta.MediaStorageSOPInstanceUID = UID(seg.SOPInstanceUID)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        if keyword not in seg:
            setattr(seg, keyword, "")
    for keyword in ("AccessionNumber", "ReferringPhysicianName"):
        if keyword not in seg:
            setattr(seg, keyword, "")
    seg.StudyInstanceUID = series.study_uid
    seg.Modality, seg.SeriesDescription = "SEG", outputs.SERIES_DESCRIPTION
    seg.SeriesNumber, seg.InstanceNumber = _series_number(header), 1
    seg.SeriesDate = seg.ContentDate = seg.InstanceCreationDate = f"{now:%Y%m%d}"
    seg.SeriesTime = seg.ContentTime = seg.InstanceCreationTime = f"{now:%H%M%S}"
    seg.Manufacturer = seg.ManufacturerModelName = outputs.MANUFACTURER
    seg.DeviceSerialNumber = maker.weights_sha256[:16] or "0"
    seg.SoftwareVersions = plain_text(maker.viscera)
    seg.ContentLabel, seg.ContentDescription = outputs.CONTENT_LABEL, outputs.CONTENT_DESCRIPTION
    seg.ContentCreatorName = ""
    seg.ImageType = ["DERIVED", "PRIMARY"]
    if series.frame_of_reference_uid:
        seg.FrameOfReferenceUID, seg.PositionReferenceIndicator = series.frame_of_reference_uid, ""
    seg.LossyImageCompression = "01" if header.get("LossyImageCompression") == "01" else "00"
    if seg.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in header:
                seg[keyword] = header[keyword]


def _new_uid() -> str:
    """Return an identifier made from a UUID."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def _series_number(header: "Dataset") -> int:
    """Return a series number that follows from the source's."""
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return SERIES_NUMBER + (number if 0 <= number < 1_000_000 else 0)


def _coded(code: Code) -> "Dataset":
    """Return the item of a code sequence."""
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def _segments(organs: Sequence[str], maker: Maker, kind: SegKind) -> "list[Dataset]":
    """Return the items of SegmentSequence: an organ each, after the background that LABELMAP describes as well."""
    from pydicom import Dataset

    items = []
    if kind == "labelmap":
        background = Dataset()
        background.SegmentNumber, background.SegmentLabel = 0, "Background"
        background.SegmentAlgorithmType, background.SegmentAlgorithmName = "AUTOMATIC", outputs.MANUFACTURER
        background.SegmentedPropertyCategoryCodeSequence = [_coded(BACKGROUND)]
        background.SegmentedPropertyTypeCodeSequence = [_coded(BACKGROUND)]
        background.RecommendedDisplayCIELabValue = list(cielab((0, 0, 0)))
        items.append(background)
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_coded(AI)]
    algorithm.AlgorithmName = outputs.MANUFACTURER
    version = f"{maker.viscera}; {maker.weights}"
    algorithm.AlgorithmVersion = f"{plain_text(version)[:43]}; sha256 {maker.weights_sha256[:12]}"
    for number, organ in enumerate(organs, start=1):
        known, item = concept(organ), Dataset()
        item.SegmentNumber, item.SegmentLabel = number, plain_text(organ)[:64]
        item.SegmentAlgorithmType, item.SegmentAlgorithmName = "AUTOMATIC", outputs.MANUFACTURER
        item.SegmentationAlgorithmIdentificationSequence = [algorithm]
        item.SegmentedPropertyCategoryCodeSequence = [_coded(known.category)]
        item.SegmentedPropertyTypeCodeSequence = [_coded(known.type)]
        if known.side is not None:
            item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_coded(known.side)]
        if known.region is not None:
            item.AnatomicRegionSequence = [_coded(known.region)]
            if known.region_side is not None:
                item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_coded(known.region_side)]
        item.TrackingID, item.TrackingUID = f"{outputs.MANUFACTURER} {item.SegmentLabel}", _new_uid()
        item.RecommendedDisplayCIELabValue = list(cielab(colour(organ)))
        items.append(item)
    return items


def _referenced_series(series: Series, classes: Sequence[str]) -> "Dataset":
    """Return the item of ReferencedSeriesSequence: every image of the series, one of many frames once."""
    from pydicom import Dataset

    item, instances = Dataset(), []
    for uid, sop_class in {one.sop_instance_uid: cls for one, cls in zip(series.slices, classes, strict=True)}.items():
        instance = Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = sop_class, uid
        instances.append(instance)
    item.SeriesInstanceUID, item.ReferencedInstanceSequence = series.series_uid, instances
    return item


def _derivation(series: Series, place: int, sop_class: str) -> "Dataset":
    """Return the item of DerivationImageSequence that leads from a frame to its slice."""
    from pydicom import Dataset

    item, source, one = Dataset(), Dataset(), series.slices[place]
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = sop_class, one.sop_instance_uid
    if one.frame is not None:
        source.ReferencedFrameNumber = one.frame + 1
    source.SpatialLocationsPreserved, source.PurposeOfReferenceCodeSequence = "YES", [_coded(SOURCE)]
    item.SourceImageSequence, item.DerivationCodeSequence = [source], [_coded(SEGMENTATION)]
    return item


def _add_geometry(
    seg: "Dataset",
    series: Series,
    planes: Sequence[tuple[int, int]],
    derivations: "Sequence[Dataset]",
    *,
    by_segment: bool,
) -> bytes:
    """Say how the frames lie and in which order they come; return what is said of each, which stands last in the file."""
    from pydicom import Dataset
    from pydicom.tag import Tag

    lps = LPS_TO_RAS @ series.affine
    down, across = lps[:3, 1], lps[:3, 2]
    spacing_y, spacing_x = float(np.linalg.norm(down)), float(np.linalg.norm(across))
    normal = np.cross(across / spacing_x, down / spacing_y)
    thickness = ds(abs(float(normal @ lps[:3, 0])))
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [ds(spacing_y), ds(spacing_x)]
    measures.SliceThickness = measures.SpacingBetweenSlices = thickness
    orientation.ImageOrientationPatient = [ds(value) for value in (*(across / spacing_x), *(down / spacing_y))]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    seg.SharedFunctionalGroupsSequence = [shared]
    organisation = Dataset()
    organisation.DimensionOrganizationUID = _new_uid()
    seg.DimensionOrganizationSequence = [organisation]
    pointers = [(0x0062000B, 0x0062000A, "Segment")] * by_segment + [(0x00200032, 0x00209113, "Position")]
    seg.DimensionIndexSequence = [Dataset() for _ in pointers]
    for item, (attribute, group, label) in zip(seg.DimensionIndexSequence, pointers, strict=True):
        item.DimensionOrganizationUID = organisation.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer = Tag(attribute), Tag(group)
        item.DimensionDescriptionLabel = label
    positions = lps[:3, 3] + np.arange(series.shape[0])[:, None] * lps[:3, 0]
    seg.NumberOfFrames = len(planes)
    return frame_groups(planes, positions_mm=positions, derivations=derivations, by_segment=by_segment)


def _add_pixels(
    seg: "Dataset",
    labels: UInt8[np.ndarray, "z y x"],
    planes: Sequence[tuple[int, int]],
    values: Sequence[int],
    *,
    by_segment: bool,
) -> bytes | memoryview:
    """Say what the pixels are, and return them, which stand last in the file."""
    seg.Rows, seg.Columns = labels.shape[1:]
    seg.SamplesPerPixel, seg.PhotometricInterpretation, seg.PixelRepresentation = 1, "MONOCHROME2", 0
    seg.SegmentsOverlap = "NO"
    if by_segment:
        seg.SegmentationType = "BINARY"
        seg.BitsAllocated, seg.BitsStored, seg.HighBit = 1, 1, 0
        return packed_bits(labels, planes, values)
    seg.SegmentationType, seg.PixelPaddingValue = "LABELMAP", 0
    seg.BitsAllocated, seg.BitsStored, seg.HighBit = 8, 8, 7
    numbers = np.zeros(256, np.uint8)
    numbers[values] = np.arange(1, len(values) + 1)
    return run_lengths(labels, [place for _, place in planes], numbers)
