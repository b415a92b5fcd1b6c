"""What measurement reports and captures begin with: whose object it is, who made it, and which images it comes from."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.dicom import outputs
from viscera.dicom.outputs import Maker
from viscera.dicom.series import Series
from viscera.errors import FileError, SettingError
from viscera.io.doors import pydicom_module

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
LONGEST = 64
"""Letters of a LO, such as a software version."""
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Must be there, though they may be empty."""


def source_header(series: Series, headers: "Sequence[Dataset] | None", file: Path) -> "Dataset":
    """Return the header of a series' first slice.

    Args:
        series: By whose UIDs an object is to refer to images.
        headers: Of its slices, where they are at hand (de-identified ones are); else they are read.
        file: Which is to be written, for messages.

    Raises:
        FileError: The series lacks a UID, so that nothing can refer to it.
        SettingError: The headers are of other images than the series, such as those before de-identification.
    """
    pydicom = pydicom_module()

    outputs.require_referable(series, file)
    if headers is None:
        return pydicom.dcmread(series.slices[0].file, stop_before_pixels=True)
    for keyword, expected in (("StudyInstanceUID", series.study_uid), ("SeriesInstanceUID", series.series_uid)):
        found = str(headers[0].get(keyword) or "")
        if found and found != expected:
            raise SettingError(
                f"the headers and the series {series.name} differ in {keyword}",
                "De-identify both with the same secret, or neither.",
                file=file,
            )
    return headers[0]


def begun(header: "Dataset", series: Series, maker: Maker, sop_class: str) -> "Dataset":
    """Return an object of a new series in the study of the images, without what makes it a report or a picture."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    dataset, now = outputs.patient_and_study(header), datetime.now()
    for keyword in TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    dataset.SpecificCharacterSet = "ISO_IR 192"  # holds every name of the patient, and our own sentences
    dataset.StudyInstanceUID = series.study_uid
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid(prefix=None)
    dataset.SeriesInstanceUID, dataset.InstanceNumber = generate_uid(prefix=None), 1
    dataset.SeriesDescription = outputs.SERIES_DESCRIPTION
    dataset.SeriesDate = dataset.ContentDate = dataset.InstanceCreationDate = f"{now:%Y%m%d}"
    dataset.SeriesTime = dataset.ContentTime = dataset.InstanceCreationTime = f"{now:%H%M%S}"
    dataset.Manufacturer = dataset.ManufacturerModelName = outputs.MANUFACTURER
    dataset.SoftwareVersions = [maker.viscera[:LONGEST], f"weights {maker.weights}"[:LONGEST].replace("\\", "/")]
    dataset.DeviceSerialNumber = maker.weights_sha256[:LONGEST]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def references(header: "Dataset", series: Series) -> "list[Dataset]":
    """Return the items that refer to a series' images: each file once, of the class that the header names."""
    from pydicom import Dataset

    items = []
    for uid in dict.fromkeys(one.sop_instance_uid for one in series.slices):
        item = Dataset()
        item.ReferencedSOPClassUID = str(header.get("SOPClassUID") or CT_IMAGE)
        item.ReferencedSOPInstanceUID = uid
        items.append(item)
    return items


def check_patient(written: "Dataset", header: "Dataset", file: Path) -> None:
    """Raise FileError where what was written belongs to another patient or study than the images, in any attribute."""
    for expected in outputs.patient_and_study(header):
        if expected.keyword not in ("SpecificCharacterSet", "StudyInstanceUID") and (
            expected.keyword not in written or _text(written[expected.keyword]) != _text(expected)
        ):
            raise cannot_be_read_back(file, expected.keyword)


def _text(element: "DataElement") -> str:
    return "" if element.is_empty else str(element.value).rstrip(" \0")


def cannot_be_read_back(file: Path, what: str) -> FileError:
    """Return the error of a file that does not say what was to be written; nothing of it is left."""
    return FileError(
        f"{file.name} was not kept: read back, it differs in {what}",
        "Report it as a fault of viscera, without the patient's images.",
        file=file,
    )
