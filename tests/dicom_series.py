"""CT series for tests, written by pydicom's own writer from an array: the truth against which reading is judged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Edit = Callable[[Dataset, int], None]


def ball(shape=(12, 48, 40)):
    """Return HU (int16) of a body (0) in air (-1000), with a bright block off the middle so that no mirror goes unseen."""
    z, y, x = np.indices(shape)
    hu = np.full(shape, -1000, np.int16)
    hu[((y - shape[1] / 2) / (0.45 * shape[1])) ** 2 + ((x - shape[2] / 2) / (0.45 * shape[2])) ** 2 < 1] = 0
    hu[1 : shape[0] // 3, 8:14, 6:20] = 300
    return hu + (3 * z + 2 * y + x).astype(np.int16) * (hu > -1000)


def write_series(
    folder: Path,
    hu=None,
    *,
    origin=(-100.0, -120.0, -300.0),
    orientation=(1, 0, 0, 0, 1, 0),
    spacing=(2.5, 0.8, 0.7),
    step=None,
    slope=1.0,
    intercept=-1024.0,
    edit: Edit = lambda dataset, index: None,
    name: Callable[[int], str] = "IM{:04d}".format,
    uids: tuple[str, str, str] | None = None,
) -> list[Path]:
    """Write a CT series.

    Args:
        folder: Made where it does not exist.
        hu: (z, y, x); ``ball()`` where there is none.
        origin: Of the first voxel of the first slice, LPS mm.
        orientation: ImageOrientationPatient: direction of a row (along x), then of a column (along y).
        spacing: Along z, y, x in mm.
        step: From a slice to the next, LPS mm; along the normal where None. Others shear the grid (a tilted gantry).
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        edit: Changes the dataset of a slice before it is written.
        name: Of the file of a slice.
        uids: Study, series and frame of reference; new ones where None.

    Returns:
        The files, in the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hu = ball() if hu is None else hu
    study, series, frame = uids or (generate_uid(), generate_uid(), generate_uid())
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    step = np.cross(row, column) * spacing[0] if step is None else np.array(step, float)
    files = []
    for index, plane in enumerate(hu):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PatientName, dataset.PatientID = "Test^Patient", "T1"
        dataset.PatientBirthDate, dataset.PatientSex = "19500101", "O"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20240102", "030405", "1", ""
        dataset.ReferringPhysicianName, dataset.Manufacturer = "", "viscera tests"
        dataset.PositionReferenceIndicator, dataset.KVP = "", "120"
        dataset.Modality, dataset.SeriesNumber, dataset.AcquisitionNumber = "CT", 3, 1
        dataset.ImageType, dataset.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in np.array(origin) + index * step]
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        dataset.PixelSpacing, dataset.SliceThickness = [f"{spacing[1]}", f"{spacing[2]}"], f"{spacing[0]}"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = f"{slope:g}", f"{intercept:g}", "HU"
        stored = np.rint((plane.astype(float) - intercept) / slope).astype("<i2")
        dataset.PixelData = stored.tobytes()
        edit(dataset, index)
        file = folder / name(index)
        dcmwrite(file, dataset, enforce_file_format=True)
        files.append(file)
    return files


def affine_of(origin=(-100.0, -120.0, -300.0), orientation=(1, 0, 0, 0, 1, 0), spacing=(2.5, 0.8, 0.7), step=None):
    """Return the analytic affine of such a series: index (z, y, x, 1) -> RAS+ mm."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    lps = np.eye(4)
    lps[:3, 0] = np.cross(row, column) * spacing[0] if step is None else step
    lps[:3, 1], lps[:3, 2], lps[:3, 3] = column * spacing[1], row * spacing[2], origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
