"""CT series for tests, written by pydicom's own writer from an array: the truth against which reading is judged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    generate_uid,
)

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
    syntax: str = ExplicitVRLittleEndian,
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
        syntax: Transfer syntax that the files are written in; compressed after ``edit``.

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
        write_as(file, dataset, syntax)
        files.append(file)
    return files


def write_as(file: Path, dataset: Dataset, syntax: str) -> None:
    """Write an uncompressed little-endian dataset in a transfer syntax."""
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        dcmwrite(file, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
        return
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        import imagecodecs

        bits = int(dataset.BitsStored)
        plane = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns) & ((1 << bits) - 1)
        dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(plane, lossless=True, bitspersample=bits)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    elif "PixelData" in dataset and pydicom.uid.UID(syntax).is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(file, dataset, enforce_file_format=True)


def write_enhanced(
    file: Path,
    hu=None,
    *,
    origin=(-100.0, -120.0, -300.0),
    orientation=(1, 0, 0, 0, 1, 0),
    spacing=(2.5, 0.8, 0.7),
    intercepts=None,
    order=None,
    edit: Edit = lambda dataset, index: None,
    syntax: str = ExplicitVRLittleEndian,
) -> Path:
    """Write an Enhanced CT Image: one file of frames, each with its position and its rescale.

    Args:
        file: To be written.
        hu: (z, y, x); ``ball()`` where there is none.
        origin: Of the first voxel of the first slice, LPS mm.
        orientation: ImageOrientationPatient, which all frames share.
        spacing: Along z, y, x in mm.
        intercepts: RescaleIntercept of each slice; -1024 where None.
        order: Which slice is the first frame, the second ...; as they are where None.
        edit: Changes the whole dataset (index -1) before it is written.
        syntax: Transfer syntax.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    hu = ball() if hu is None else hu
    intercepts = [-1024] * len(hu) if intercepts is None else intercepts
    order = range(len(hu)) if order is None else order
    [plain] = write_series(file.parent, hu[:1], name=lambda index: file.name)
    dataset = pydicom.dcmread(plain)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        del dataset[keyword]
    del dataset.RescaleIntercept, dataset.RescaleType, dataset.SliceThickness
    step = np.cross(orientation[:3], orientation[3:]) * spacing[0]
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [f"{spacing[1]}", f"{spacing[2]}"]
    for index in order:
        frame = Dataset()
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [Dataset()], [Dataset()]
        position = np.array(origin) + index * step
        frame.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.10g}" for value in position]
        rescale = frame.PixelValueTransformationSequence[0]
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "1", f"{intercepts[index]}", "HU"
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], Sequence(frames)
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = np.stack([hu[index].astype(int) - intercepts[index] for index in order]).astype("<i2").tobytes()
    edit(dataset, -1)
    write_as(file, dataset, syntax)
    return file


def affine_of(origin=(-100.0, -120.0, -300.0), orientation=(1, 0, 0, 0, 1, 0), spacing=(2.5, 0.8, 0.7), step=None):
    """Return the analytic affine of such a series: index (z, y, x, 1) -> RAS+ mm."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    lps = np.eye(4)
    lps[:3, 0] = np.cross(row, column) * spacing[0] if step is None else step
    lps[:3, 1], lps[:3, 2], lps[:3, 3] = column * spacing[1], row * spacing[2], origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
