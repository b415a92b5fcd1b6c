"""Whether a path is DICOM, told by first bytes and without the packages that read it (dicom/ does)."""

import os
from itertools import islice
from pathlib import Path

from viscera.io import nifti

LOOKED_AT = 2000
"""Files of a folder that are looked at."""


def is_dicom(file: Path) -> bool:
    """Tell whether a file is DICOM, by its contents or its name."""
    if not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or file.suffix.lower() == ".dcm"


def is_dicom_place(place: Path) -> bool:
    """Tell whether a path is a DICOM file, a ZIP file, or a folder that holds DICOM files at any depth and no NIfTI file."""
    try:
        if place.is_file():
            return is_dicom(place) or (not nifti.is_nifti(place) and is_zip(place))
        if not place.is_dir() or any(nifti.is_nifti(file) for file in place.iterdir()):
            return False
    except (OSError, ValueError):  # what no disk takes for a name, or cannot be looked into: reading it says so
        return False
    return holds_dicom(place)


def holds_dicom(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files at any depth, among the first LOOKED_AT files."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in sorted(names))
    return any(is_dicom(file) for file in islice(files, LOOKED_AT))


def is_zip(file: Path) -> bool:
    """Tell whether a file is a ZIP, by how it begins, or is at least called so."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04" or file.suffix.lower() == ".zip"
