"""What every DICOM object that viscera makes says: whose it is, who made it, and that it is for research only."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.dicom.series import Series
from viscera.errors import FileError

if TYPE_CHECKING:
    from pydicom import Dataset

SERIES_DESCRIPTION = "viscera RESEARCH ONLY"
CONTENT_LABEL = "RESEARCH"
CONTENT_DESCRIPTION = "not for clinical use"
MANUFACTURER = "viscera"
UID_ROOT = "2.25."
"""UIDs made from UUIDs need no registered root (PS3.5 B.2)."""

SERIES_NUMBERS = {"seg": 9001, "rtstruct": 9002, "report": 9003, "capture": 9004}
"""Of the series that objects make up; scanners count from 1."""

PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize"),
    *("PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    "LongitudinalTemporalInformationModified",
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "SpecificCharacterSet", "TimezoneOffsetFromUTC"),
)
"""Attributes of the patient and study modules, which an object shares with the images that it was made from."""


def require_referable(series: Series, file: Path | None) -> None:
    """Raise FileError where DICOM objects cannot refer to a series, since it lacks identifiers or its images share them."""
    images = [(one.sop_instance_uid, one.frame) for one in series.slices]
    reason = series.cannot_be_referenced
    if not reason and not (series.series_uid and series.study_uid and all(uid for uid, _ in images)):
        reason = "has no identifiers (SOP, series or study UID empty), so no other DICOM object can refer to it"
    if not reason and len(set(images)) < len(images):
        reason = "has several images of one identifier (SOP Instance UID), so no other DICOM object can refer to it"
    if reason:
        remedy = "Write NIfTI instead, or export the series again."
        raise FileError(f"series {series.name} {reason}", remedy, file=file)


@dataclass(frozen=True)
class Maker:
    """By what a result was made.

    Attributes:
        viscera: The program's version.
        weights: The weights' name, such as "starter 2".
        weights_sha256: Of the weights file.
    """

    viscera: str
    weights: str
    weights_sha256: str


def patient_and_study(header: "Dataset") -> "Dataset":
    """Return a new dataset with the patient and study attributes of an image's header, as far as it has them.

    They are copies: who changes them does not change the header.
    """
    from pydicom import Dataset

    found = Dataset()
    for keyword in PATIENT_AND_STUDY:
        try:
            if keyword in header:
                found[keyword] = deepcopy(header[keyword])
        except (ValueError, TypeError, OverflowError):  # a number that is none: left out rather than guessed
            continue
    return found
