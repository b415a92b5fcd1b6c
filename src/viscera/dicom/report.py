"""Measurement reports: the volumes of organs, their HU and what speaks against them, as a structured report (TID 1500).

A report says what ``quality`` measured; it measures nothing. How it is laid out: PS3.16 TID 1500, whose measurement groups are
TID 1411 where a SEG holds the organ, and TID 1501 of the images of the series where none does.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from viscera.dicom import outputs
from viscera.dicom.codes import Code as OwnCode
from viscera.dicom.codes import concept
from viscera.dicom.composing import begun, cannot_be_read_back, check_patient, references, source_header
from viscera.dicom.outputs import Maker
from viscera.dicom.read_report import BORDER, DAMAGED, OURS, Measured, items_below, measured_in
from viscera.dicom.series import Series
from viscera.errors import FileError, SettingError
from viscera.io.atomic import replacing
from viscera.io.doors import pydicom_module
from viscera.labels import organ_name

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        ContentItem,
        Measurement,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom import Dataset
    from pydicom.sr.coding import Code

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""
"""Of reports: far from a scanner's."""
DEVICE_UID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'https://github.com/viscera/viscera').int}"
"""Of the observer, which is the program wherever it runs."""


class OrganCode(NamedTuple):
    """How DICOM names an organ.

    Attributes:
        category: An anatomical structure or an abnormal one.
        type: The organ, or the abnormality.
        side: Of the body, where the organ has one.
        region: Of an abnormality, the organ that it lies in.
        region_side: Which side of it.
    """

    category: "Code"
    type: "Code"
    side: "Code | None" = None
    region: "Code | None" = None
    region_side: "Code | None" = None


@dataclass(frozen=True)
class _Segmentation:
    """What a report says of a SEG: its header, and {organ: item} and {organ: codes} of its segments."""

    header: "Dataset"
    segments: "Mapping[str, Dataset]"
    codes: Mapping[str, OrganCode]


def write_report(
    file: Path,
    measurements: Mapping[str, Measured],
    series: Series,
    maker: Maker,
    *,
    seg: Path | None = None,
    headers: "Sequence[Dataset] | None" = None,
) -> None:
    """Write a measurement report (Comprehensive 3D SR, TID 1500), unverified and preliminary, and read it back.

    Args:
        file: Is replaced.
        measurements: {organ: what was measured}, in the order of the report.
        series: What was measured.
        maker: By what.
        seg: The SEG of the same result, whose segments the report refers to, and whose codes it takes.
        headers: Of the slices; read where None.

    Raises:
        SettingError: There is nothing to report, a number is none, or the SEG or the headers are of another series.
        FileError: The SEG cannot be read, the file cannot be written, or it does not read back as it was meant.

    Source:
        PS3.16 TID 1500, 1411 and 1501; PS3.3 A.35.13 for the object.
    """
    _require_numbers(measurements, file)
    header = source_header(series, headers, file)
    segmentation = None if seg is None else _read_seg(seg, series)
    known = segmentation.codes if segmentation else {}
    content = _content(measurements, known, series, header, maker, segmentation)
    report = begun(header, series, maker, COMPREHENSIVE_3D_SR)
    report.Modality, report.SeriesNumber = "SR", outputs.SERIES_NUMBERS["report"]
    report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    report.PerformedProcedureCodeSequence, report.ReferencedPerformedProcedureStepSequence = [], []
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(header, series, segmentation)]
    report.CodingSchemeIdentificationSequence = [_our_scheme()]
    report.update(content[0])
    with replacing(file) as part:
        report.save_as(part, enforce_file_format=True)
        _check(part, measurements, header, file)


def _require_numbers(measurements: Mapping[str, Measured], file: Path) -> None:
    """Raise SettingError where there is nothing to report, or something that is not a measurement."""
    if not measurements:
        raise SettingError("a report without a measurement says nothing", "Write none.", file=file)
    for organ, one in measurements.items():
        numbers = [one.volume_ml, *(value for value in (one.mean_hu, one.sd_hu) if value is not None)]
        if not all(math.isfinite(number) for number in numbers) or one.volume_ml < 0 or (one.sd_hu or 0) < 0:
            raise SettingError(
                f"{organ} has {one.volume_ml} ml, mean {one.mean_hu} HU, SD {one.sd_hu} HU, which cannot be reported",
                "Give finite numbers, volumes and deviations of at least 0; None where there is none.",
                file=file,
            )


def _read_seg(seg: Path, series: Series) -> _Segmentation:
    """Return what a report refers to in a SEG.

    Raises:
        FileError: It cannot be read, or is something else.
        SettingError: It is of another series.
    """
    pydicom = pydicom_module()
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(seg, stop_before_pixels=True)
        kind, study = header.get("SOPClassUID"), header.get("StudyInstanceUID")
        of = [str(item.get("SeriesInstanceUID")) for item in header.get("ReferencedSeriesSequence") or []]
        items = [item for item in header.get("SegmentSequence") or [] if item.SegmentNumber]
        segments = {organ_name(str(item.SegmentLabel)): item for item in items}
        codes = {organ: _code_of_segment(item) for organ, item in segments.items()}
    except (OSError, InvalidDicomError, *DAMAGED) as error:
        raise FileError(f"{seg.name} cannot be read as a DICOM SEG", "Write the SEG again.", file=seg) from error
    if kind not in SEGMENTATIONS:
        raise FileError(f"{seg.name} is not a DICOM SEG", "Give the SEG of the same result.", file=seg)
    if len(segments) < len(items):
        raise FileError(f"{seg.name} has several segments of one name", "Give the SEG of the same result.", file=seg)
    if series.series_uid not in of or study != series.study_uid:
        raise SettingError(
            f"{seg.name} is of another series than {series.name}", "Give the SEG of the same result.", file=seg
        )
    return _Segmentation(header, segments, codes)


def _code_of_segment(segment: "Dataset") -> OrganCode:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    regions = segment.get("AnatomicRegionSequence") or []
    return OrganCode(
        _code(segment.SegmentedPropertyCategoryCodeSequence[0]),
        _code(kind),
        _modifier(kind, "SegmentedPropertyTypeModifierCodeSequence"),
        _code(regions[0]) if regions else None,
        _modifier(regions[0], "AnatomicRegionModifierSequence") if regions else None,
    )


def _modifier(item: "Dataset", keyword: str) -> "Code | None":
    modifiers = item.get(keyword) or []
    return _code(modifiers[0]) if modifiers else None


def _code(item: "Dataset") -> "Code":
    from pydicom.sr.coding import Code

    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))


def code_of(organ: str, codes: Mapping[str, OrganCode]) -> OrganCode:
    """Return the codes of an organ: the SEG's, else viscera's own."""
    from pydicom.sr.coding import Code

    known = codes.get(organ_name(organ))
    if known is not None:
        return known

    def coded(one: OwnCode) -> "Code":
        """Return a code as pydicom has it."""
        return Code(one.value, one.scheme, one.meaning)

    own = concept(organ)
    more = (None if one is None else coded(one) for one in (own.side, own.region, own.region_side))
    return OrganCode(coded(own.category), coded(own.type), *more)


def _content(
    measurements: Mapping[str, Measured],
    known: Mapping[str, OrganCode],
    series: Series,
    header: "Dataset",
    maker: Maker,
    segmentation: _Segmentation | None,
) -> "MeasurementReport":
    """Return the tree of a report: who observed, what was examined, a group for each organ."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        DEVICE_UID,
        name=f"{outputs.MANUFACTURER} {maker.viscera}",
        manufacturer_name=outputs.MANUFACTURER,
        model_name=f"weights {maker.weights}",
    )
    algorithm = sr.AlgorithmIdentification(
        outputs.MANUFACTURER,
        maker.viscera,
        parameters=[f"weights: {maker.weights}", f"SHA-256 of the weights: {maker.weights_sha256}"],
    )
    groups = [
        _group(organ, one, code_of(organ, known), algorithm, series, segmentation)
        for organ, one in measurements.items()
    ]
    tree = sr.MeasurementReport(
        sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        codes.LN.CTUnspecifiedBodyRegion,
        groups,
    )
    tree[0].ContentSequence.insert(-1, _library(header, series))  # the measurements come last
    return tree


def _our_scheme() -> "Dataset":
    from pydicom import Dataset

    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = OURS, outputs.MANUFACTURER
    return scheme


def _group(
    organ: str,
    one: Measured,
    code: OrganCode,
    algorithm: "AlgorithmIdentification",
    series: Series,
    segmentation: _Segmentation | None,
) -> "MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations":
    """Return the measurement group of one organ, which refers to its segment where there is one."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    segment = segmentation.segments.get(organ_name(organ)) if segmentation else None
    site = sr.FindingSite(code.region or code.type, laterality=code.region_side if code.region else code.side)
    touches = codes.SCT.Yes if one.touches_border else codes.SCT.No
    shared = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=str(segment.get("TrackingUID") or generate_uid(prefix=None)) if segment else generate_uid(prefix=None),
            identifier=organ,
        ),
        "finding_category": code.category,
        "finding_type": code.type,
        "finding_sites": [site],
        "algorithm_id": algorithm,
        "measurements": _numbers(one),
        "qualitative_evaluations": [sr.QualitativeEvaluation(Code(*BORDER), touches)],
    }
    if segmentation is None or segment is None:
        group = sr.MeasurementsAndQualitativeEvaluations(**shared)
    else:
        referenced = sr.ReferencedSegment(
            segmentation.header.SOPClassUID,
            segmentation.header.SOPInstanceUID,
            int(segment.SegmentNumber),
            source_series=sr.SourceSeriesForSegmentation(series.series_uid),
        )
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=referenced, **shared)
    contains = sr.RelationshipTypeValues.CONTAINS
    for sentence in (f"{outputs.CONTENT_LABEL}: {outputs.CONTENT_DESCRIPTION}", *_as_written(one).flags):
        group[0].ContentSequence.append(sr.TextContentItem(codes.DCM.Comment, sentence, contains))
    return group


def _numbers(one: Measured) -> "list[Measurement]":
    """Return volume, and mean and standard deviation of the attenuation where there are any."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    found = [sr.Measurement(codes.SCT.Volume, float(one.volume_ml), codes.UCUM.CubicCentimeter)]
    for value, derivation in ((one.mean_hu, codes.SCT.Mean), (one.sd_hu, codes.SCT.StandardDeviation)):
        if value is not None:
            unit = codes.UCUM.HounsfieldUnit
            found.append(sr.Measurement(codes.DCM.AttenuationCoefficient, float(value), unit, derivation=derivation))
    return found


def _library(header: "Dataset", series: Series) -> "Dataset":
    """Return the images that were measured, without what else their headers say (TID 1600)."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    contains, about = sr.RelationshipTypeValues.CONTAINS, sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    group = sr.ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=contains)
    items: list[ContentItem] = [sr.CodeContentItem(codes.DCM.Modality, codes.DCM.ComputedTomography, about)]
    if series.frame_of_reference_uid:
        items.append(sr.UIDRefContentItem(codes.DCM.FrameOfReferenceUID, series.frame_of_reference_uid, about))
    for image in references(header, series):
        name = sr.CodedConcept("260753009", "SCT", "Source")
        items.append(
            sr.ImageContentItem(
                name, image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID, relationship_type=contains
            )
        )
    group.ContentSequence = sr.ContentSequence(items)
    library = sr.ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _evidence(header: "Dataset", series: Series, segmentation: _Segmentation | None) -> "Dataset":
    """Return the item that lists what the report refers to: the images, and the SEG."""
    from pydicom import Dataset

    images, study = Dataset(), Dataset()
    images.SeriesInstanceUID, images.ReferencedSOPSequence = series.series_uid, references(header, series)
    listed = [images]
    if segmentation:
        one, of = Dataset(), Dataset()
        one.ReferencedSOPClassUID = segmentation.header.SOPClassUID
        one.ReferencedSOPInstanceUID = segmentation.header.SOPInstanceUID
        of.SeriesInstanceUID, of.ReferencedSOPSequence = segmentation.header.SeriesInstanceUID, [one]
        listed.append(of)
    study.StudyInstanceUID, study.ReferencedSeriesSequence = series.study_uid, listed
    return study


def _as_written(one: Measured) -> Measured:
    """Return measurements as a report holds them: plain numbers, sentences without the spaces that DICOM pads with."""
    mean, sd = (None if value is None else float(value) for value in (one.mean_hu, one.sd_hu))
    flags = tuple(flag.strip() for flag in one.flags if flag.strip())
    return Measured(float(one.volume_ml), mean, sd, bool(one.touches_border), flags)


def _check(part: Path, measurements: Mapping[str, Measured], header: "Dataset", file: Path) -> None:
    """Raise FileError where a report does not say what it was meant to: to the last bit, and to the eye.

    A number is written twice, as a double and in up to 16 letters, for readers that know only those.
    """
    pydicom = pydicom_module()

    report = pydicom.dcmread(part)
    check_patient(report, header, file)
    if measured_in(report) != {organ: _as_written(one) for organ, one in measurements.items()}:
        raise cannot_be_read_back(file, "its measurements")
    for item in items_below(report):
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            if not math.isclose(float(value.NumericValue), value.FloatingPointValue, rel_tol=1e-8, abs_tol=1e-12):
                raise cannot_be_read_back(file, "its numbers")
