"""Headers without a person in them, from which DICOM outputs can be written that tell nobody's name.

What is kept is a list of what outputs need, geometry above all; everything else goes, whatever it is. The profile is the
Basic Application Level Confidentiality Profile of PS3.15 annex E without any of its options: no dates, no descriptions, no
device, and every UID replaced. The images themselves are not written, so what is burnt into their pixels does not matter here.

An output then refers to images by replaced UIDs. It fits a copy of the series whose UIDs were replaced in the same way: by
``deidentified`` with the same secret. Beside the original series no viewer will show it, which is the purpose.
"""

import hashlib
import hmac
import math
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from viscera.dicom.series import Series
from viscera.errors import FileError, SettingError

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

SHORTEST_SECRET = 16
"""Bytes. From a shorter secret the UIDs of known images could be found again by trying."""

IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image Storage",
}
"""{SOP Class UID: its name} of what viscera segments."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "DimensionOrganizationUID")
NUMBERS = (
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "SamplesPerPixel"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "DimensionIndexValues", "DimensionIndexPointer"),
    *("FunctionalGroupPointer", "InStackPositionNumber", "LossyImageCompressionRatio"),
)
WORDS: Mapping[str, tuple[str, ...]] = {
    "Modality": ("CT",),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2"),
    "PatientPosition": ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"),
    "ImageType": (*("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "VOLUME", "NONE", "LOCALIZER"),),
    "RescaleType": ("HU", "US"),
    "LossyImageCompression": ("00", "01"),
    "LossyImageCompressionMethod": ("ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15"),
}
"""{attribute: the words that it may hold}; another word is no longer the standard's, and may be anything."""
GROUPS = (
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelMeasuresSequence"),
    *("PlanePositionSequence", "PlaneOrientationSequence", "FrameContentSequence", "DimensionIndexSequence"),
    *("PixelValueTransformationSequence", "DimensionOrganizationSequence"),
)
"""Sequences of multi-frame images; of their items the same is kept."""

BLANK = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""What every image must have, though it may be empty."""
METHOD = ("viscera: only geometry kept, all else removed", "PS3.15 Basic Profile, no options")
METHOD_CODE = ("113100", "DCM", "Basic Application Confidentiality Profile")


def deidentified(headers: "Sequence[Dataset]", *, secret: bytes) -> "list[Dataset]":
    """Return the headers of images with what outputs need of them, and nothing that leads to the patient.

    Numbers that are none, words that are not the standard's, private attributes and everything that is not on this module's
    lists is gone, at any depth. Patient and study are blank. The marks that the profile asks for are set.

    Args:
        headers: Of the slices of a series. They stay as they are.
        secret: At least 16 bytes, from ``secrets.token_bytes(32)`` for instance: the key by which UIDs are replaced. The same
            secret replaces a UID by the same other one, in every run, so that outputs of several series and days agree with
            each other; a new secret for each run makes them strangers. Who has the secret and the original UIDs can tell
            which belongs to which, so keep it as you keep a list of names, or forget it. It is not stored anywhere.

    Raises:
        SettingError: The secret is shorter.
        FileError: A header is not a CT image's, or lacks one of the UIDs by which images are told apart.

    Source:
        PS3.15 annex E, table E.1-1, column "Basic Prof."; codes from PS3.16 CID 7050.
    """
    _require_long(secret)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values that they complain about
        return [_deidentified(header, secret) for header in headers]


def deidentified_series(series: Series, *, secret: bytes) -> Series:
    """Return a series with the UIDs that ``deidentified`` puts in its headers: what outputs refer to.

    Args:
        series: Its files, and what is read from them, stay.
        secret: As for the headers.

    Raises:
        SettingError: The secret is too short.
    """
    _require_long(secret)

    def other(uid: str) -> str:
        return replaced_uid(uid, secret=secret) if _plain(uid) else ""

    return replace(
        series,
        slices=tuple(replace(one, sop_instance_uid=other(one.sop_instance_uid)) for one in series.slices),
        series_uid=other(series.series_uid),
        study_uid=other(series.study_uid),
        frame_of_reference_uid=other(series.frame_of_reference_uid),
    )


def _require_long(secret: bytes) -> None:
    """Raise SettingError where a secret could be guessed."""
    if len(secret) < SHORTEST_SECRET:
        raise SettingError(
            f"the secret for replacing UIDs has {len(secret)} bytes, fewer than {SHORTEST_SECRET}",
            "Give at least 16 random bytes.",
        )


def replaced_uid(uid: str, *, secret: bytes) -> str:
    """Return the UID that stands for another one: 2.25 and a UUID of 122 bits of HMAC-SHA256.

    Source:
        PS3.5 B.2 for UIDs of UUIDs; the bits are as good as random for who does not have the secret, hence UUID version 4.

    Example:
        >>> replaced_uid("1.2.3", secret=b"sixteen bytes or more")
        '2.25.127377334591520963264970819653810516692'
    """
    digest = hmac.new(secret, _plain(uid).encode(), hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def _plain(uid: str) -> str:
    return uid.strip(" \0")


def _deidentified(header: "Dataset", secret: bytes) -> "Dataset":
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    image = _kept(header, secret)
    of_file = getattr(header, "file_meta", FileMetaDataset())
    kind = _plain(str(header.get("SOPClassUID") or of_file.get("MediaStorageSOPClassUID") or ""))
    if kind not in IMAGES:
        raise FileError("a header is not of a CT image", "De-identify only the series that was segmented.")
    image.SOPClassUID = kind
    if "SOPInstanceUID" not in image and _plain(str(of_file.get("MediaStorageSOPInstanceUID") or "")):
        image.SOPInstanceUID = replaced_uid(str(of_file.MediaStorageSOPInstanceUID), secret=secret)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if keyword not in image:
            raise FileError(f"an image has no {keyword}", "Write the series anew with the UIDs that DICOM asks for.")
    for keyword in BLANK:
        setattr(image, keyword, "")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = list(METHOD)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = METHOD_CODE
    image.DeidentificationMethodCodeSequence = [code]
    image.LongitudinalTemporalInformationModified = "REMOVED"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = UID(kind)
    image.file_meta.MediaStorageSOPInstanceUID = UID(image.SOPInstanceUID)
    return image


def _kept(dataset: "Dataset", secret: bytes) -> "Dataset":
    """Return what is on the lists of a dataset, and of the items of the sequences that are on them."""
    from pydicom import Dataset

    kept = Dataset()
    checks: list[tuple[Sequence[str] | Mapping[str, tuple[str, ...]], Callable[[str, DataElement], bool]]] = [
        (NUMBERS, lambda _, element: _is_numbers(element)),
        (WORDS, lambda keyword, element: set(_values(element)) <= {*WORDS[keyword]}),
    ]
    for keywords, is_sound in checks:
        for keyword in keywords:
            element = _element(dataset, keyword)
            if element is not None and is_sound(keyword, element):
                setattr(kept, keyword, element.value)
    for keyword in UIDS:
        uid = _plain(str(dataset.get(keyword) or ""))
        if uid:
            setattr(kept, keyword, replaced_uid(uid, secret=secret))
    for keyword in GROUPS:
        element = _element(dataset, keyword)
        if element is not None and element.VR == "SQ":
            setattr(kept, keyword, [_kept(item, secret) for item in element.value])
    return kept


def _element(dataset: "Dataset", keyword: str) -> "DataElement | None":
    """Return an attribute that is there and can be understood."""
    try:
        return dataset[keyword] if keyword in dataset and not dataset[keyword].is_empty else None
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # text where the standard has a number
        return None


def _values(element: "DataElement") -> list:
    return list(element.value) if element.VM > 1 else [element.value]


def _is_numbers(element: "DataElement") -> bool:
    """Tell whether an attribute holds finite numbers and nothing else."""
    try:
        return all(math.isfinite(float(value)) for value in _values(element))
    except (ValueError, TypeError):
        return False
