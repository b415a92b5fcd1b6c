"""DICOM data sets for tests: series, and structure sets and SEGs of them as another program's."""

from pathlib import Path

import numpy as np
import pydicom

from dicom_series import write_series
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker
from viscera.dicom.rtstruct import write_rtstruct
from viscera.dicom.seg import write_seg

GERMAN = {"liver": "Leber", "spleen": "Milz"}
NAMES = {1: "liver", 2: "spleen"}
SHAPE = (4, 32, 32)


def striped(seed: int, shape=SHAPE):
    """Return HU of half air, half tissue, and labels: 1 and 2 as stripes in the tissue."""
    hu = np.random.default_rng(seed).normal(-1000, 15, shape)
    hu[:, shape[1] // 2 :] += 1050
    labels = np.zeros(shape, np.uint8)
    labels[:, -8:, : shape[2] // 2] = 1
    labels[1:, -8:, shape[2] // 2 :] = 2
    return hu.round().astype(np.int16), labels


def write_truth(file: Path, scan: Path, labels, *, seg=False, names=NAMES, edit=lambda dataset: None, roi_names=GERMAN):
    """Write a structure set or SEG of a series as another program would sign it.

    Args:
        file: To be written.
        scan: Folder of the series.
        labels: On its grid.
        seg: A SEG instead of a structure set.
        names: {value: organ}.
        edit: Changes the dataset.
        roi_names: {organ: ROI name}.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    [series] = find_series(scan).series
    maker = Maker("1", "w", "0" * 64)
    if seg:
        write_seg(file, labels, names, series, maker)
    else:
        write_rtstruct(file, labels, names, series, maker, roi_names=roi_names)
    dataset = pydicom.dcmread(file)
    dataset.Manufacturer = "Another"
    edit(dataset)
    dataset.save_as(file)
    return file


def case(folder: Path, name: str, seed: int, *, truth="rtstruct", patient=None, step=None, shape=SHAPE, **options):
    """Write PATIENT/CT and PATIENT/RT.dcm; return the labels."""
    hu, labels = striped(seed, shape)

    def edit(dataset, index):
        dataset.PatientID = f"ID{name}" if patient is None else patient

    write_series(folder / name / "CT", hu, edit=edit, step=step, spacing=(2.0, 1.0, 1.0))
    if truth:
        write_truth(folder / name / "RT" / "RS.dcm", folder / name / "CT", labels, seg=truth == "seg", **options)
    return labels
