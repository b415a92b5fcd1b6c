"""What every DICOM object that viscera makes says: whose it is, who made it, and that it is for research only."""

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

SERIES_DESCRIPTION = "viscera RESEARCH ONLY"
CONTENT_LABEL = "RESEARCH"
CONTENT_DESCRIPTION = "not for clinical use"
MANUFACTURER = "viscera"
UID_ROOT = "2.25."
"""UIDs made from UUIDs need no registered root (PS3.5 B.2)."""

PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize"),
    *("PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    "LongitudinalTemporalInformationModified",
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "SpecificCharacterSet", "TimezoneOffsetFromUTC"),
)
"""Attributes of the patient and study modules, which an object shares with the images that it was made from."""


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
        if keyword in header:
            found[keyword] = deepcopy(header[keyword])
    return found
