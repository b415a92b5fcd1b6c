"""What a user names as one scan or one label map: a NIfTI file, or DICOM."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from viscera.dicom.finding import MOST_SHOWN, Found, find_series
from viscera.dicom.read_frames import SEG_CLASSES
from viscera.dicom.series import Series
from viscera.errors import FileError, SettingError
from viscera.io.dicom_files import is_dicom_place
from viscera.io.doors import pydicom_module
from viscera.io.scans import LeftOutWarning, Scan
from viscera.volume import Volume


def open_scan(place: Path, *, series_uid: str | None = None) -> Scan:
    """Return the scan that a path names: the CT series of a DICOM file, folder or ZIP, else the path itself.

    Args:
        place: The path.
        series_uid: Which series, where there are several.

    Raises:
        FileError: It holds no CT series or several, or the only one cannot be read.
        SettingError: viscera[dicom] is not installed.

    Warns:
        LeftOutWarning: It holds other files, too.
    """
    if series_uid is None and not is_dicom_place(place):
        return place
    found = find_series(place, series_uid=series_uid)
    if len(found.series) + len(found.problems) > 1:
        raise _several(place, found)
    if found.problems:
        raise next(iter(found.problems.values()))
    for note in found.notes:
        warnings.warn(f"{place}: {note}", LeftOutWarning, stacklevel=2)
    return found.series[0]


def _several(place: Path, found: Found) -> FileError:
    """Return what to say where one scan is wanted and there are more."""
    uids = sorted((name, one.series_uid) for name, one in found.identities.items())
    names = ", ".join(f"{name} ({uid or 'without a UID'})" for name, uid in uids[:MOST_SHOWN])
    more = f" and {len(uids) - MOST_SHOWN} more" if len(uids) > MOST_SHOWN else ""
    return FileError(
        f"{place} holds {len(uids)} CT series: {names}{more}",
        "Choose one by its UID (--series UID; in Python, series=UID), or give its own folder.",
        file=place,
    )


def read_dicom_labels(file: Path, scan: Scan) -> tuple[Volume, Mapping[int, str]]:
    """Read a SEG or an RTSTRUCT on the grid of the series that it was drawn on.

    Args:
        file: The SEG or RTSTRUCT.
        scan: Its series.

    Returns:
        The labels, and {label: organ}.

    Raises:
        SettingError: The scan is not a DICOM series.
        FileError, GeometryError, LabelError: As ``read_seg`` and ``read_rtstruct``.

    Warns:
        LeftOutWarning: What was left out or interpreted.
    """
    if not isinstance(scan, Series):
        raise SettingError(
            f"{file.name} is DICOM, whose labels lie on the slices of a series, but the scan is not a series",
            "Give the series' folder as the scan.",
        )
    if _is_seg(file):
        from viscera.dicom.read_seg import read_seg

        found = read_seg(file, scan)
    else:
        from viscera.dicom.rtstruct_reading import read_rtstruct

        found = read_rtstruct(file, scan)
    for note in found.notes:
        text = "".join(letter if letter.isprintable() else "?" for letter in note)
        warnings.warn(f"{file.name}: {text.removeprefix(f'{file.name}: ')}", LeftOutWarning, stacklevel=2)
    return Volume(found.labels, scan.affine), found.names


def _is_seg(file: Path) -> bool:
    """Tell a SEG from all else."""
    pydicom = pydicom_module()
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = pydicom.dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except (OSError, InvalidDicomError, ValueError, LookupError, EOFError):
        return False  # reading it says what is wrong
    return head.get("SOPClassUID") in SEG_CLASSES
