"""Pictures as DICOM secondary captures, so that the overview of a result stands beside the images in a viewer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from viscera.dicom import outputs
from viscera.dicom.composing import begun, cannot_be_read_back, check_patient, references, source_header
from viscera.dicom.outputs import Maker
from viscera.dicom.series import Series
from viscera.errors import SettingError
from viscera.io.atomic import replacing
from viscera.io.doors import pydicom_module

if TYPE_CHECKING:
    from pydicom import Dataset

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Of captures: far from a scanner's."""
LARGEST = 65535
"""Rows or columns of a DICOM image."""


def write_capture(
    file: Path,
    picture: UInt8[np.ndarray, "y x 3"],
    series: Series,
    maker: Maker,
    *,
    headers: "Sequence[Dataset] | None" = None,
    burnt_in: bool = False,
) -> None:
    """Write a picture as a secondary capture of the study that a series belongs to, and read it back.

    Args:
        file: Is replaced.
        picture: RGB, as drawn by ``figures``.
        series: What it shows.
        maker: By what it was made.
        headers: Of the slices; read where None.
        burnt_in: Whether text in the picture could tell who the patient is: the name of a folder of the user's, for instance.

    Raises:
        SettingError: The picture is empty or too large, or the headers are of another series.
        FileError: The file cannot be written, or does not read back as it was meant.

    Source:
        PS3.3 A.8.1, Secondary Capture Image.
    """
    if not 0 < min(picture.shape) <= max(picture.shape) <= LARGEST:
        raise SettingError(f"a picture of {picture.shape[:2]} pixels does not fit a DICOM image", "Draw it smaller.")
    header = source_header(series, headers, file)
    capture = begun(header, series, maker, SECONDARY_CAPTURE)
    capture.Modality, capture.SeriesNumber, capture.ConversionType = "OT", outputs.SERIES_NUMBERS["capture"], "WSD"
    capture.SecondaryCaptureDeviceManufacturer = outputs.MANUFACTURER
    capture.SecondaryCaptureDeviceManufacturerModelName = outputs.MANUFACTURER
    capture.SecondaryCaptureDeviceSoftwareVersions = capture.SoftwareVersions
    capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
    capture.ImageType, capture.PatientOrientation, capture.Laterality = ["DERIVED", "SECONDARY"], "", ""
    capture.BurnedInAnnotation = "YES" if burnt_in else "NO"
    capture.DerivationDescription = f"Overview of a segmentation, {outputs.CONTENT_DESCRIPTION}"
    capture.ImageComments = f"{outputs.CONTENT_LABEL}: {outputs.CONTENT_DESCRIPTION}"
    capture.SourceImageSequence = references(header, series)
    _add_pixels(capture, picture)
    with replacing(file) as part:
        capture.save_as(part, enforce_file_format=True)
        _check(part, picture, header, file)


def _add_pixels(capture: "Dataset", picture: UInt8[np.ndarray, "y x 3"]) -> None:
    capture.Rows, capture.Columns = picture.shape[:2]
    capture.SamplesPerPixel, capture.PhotometricInterpretation, capture.PlanarConfiguration = 3, "RGB", 0
    capture.BitsAllocated, capture.BitsStored, capture.HighBit, capture.PixelRepresentation = 8, 8, 7, 0
    pixels = np.ascontiguousarray(picture).tobytes()
    capture.PixelData = pixels + b"\0" * (len(pixels) % 2)
    capture["PixelData"].VR = "OB"
    capture.LossyImageCompression = "00"


def _check(part: Path, picture: UInt8[np.ndarray, "y x 3"], header: "Dataset", file: Path) -> None:
    """Raise FileError where a capture does not say what it was meant to."""
    pydicom = pydicom_module()

    written = pydicom.dcmread(part)
    check_patient(written, header, file)
    if not np.array_equal(written.pixel_array, picture):
        raise cannot_be_read_back(file, "its pixels")
