"""Which CT series of a folder or a ZIP are to be segmented, and where their results go."""

import warnings
from pathlib import Path

from viscera.errors import FileError, SettingError, VisceraError
from viscera.inference.jobs import (
    LeftOutWarning,
    ScanJob,
    refuse_scans_as_outputs,
    require_folder,
    require_kind,
)
from viscera.io import nifti
from viscera.io.dicom_files import is_dicom_place as is_dicom_place
from viscera.io.doors import pydicom_module


def find_dicom_jobs(
    place: Path, output: Path, *, series_uid: str | None = None
) -> tuple[list[ScanJob], dict[str, VisceraError]]:
    """List the CT series of a folder or ZIP, and where their label maps go.

    Args:
        place: The folder, at any depth, or the ZIP, or one of a series' files.
        output: The label map of the only series, or a folder.
        series_uid: Only this series.

    Returns:
        The series that can be segmented, and {name: why another one cannot}.

    Raises:
        FileError: There is no CT series, or the output cannot be.
        SettingError: viscera[dicom] is not installed.

    Warns:
        LeftOutWarning: The place holds something else, too.
    """
    require_pydicom()
    from viscera.dicom.finding import find_series

    require_kind(output)
    found = find_series(place, series_uid=series_uid)
    for note in found.notes:
        warnings.warn(f"{place}: {note}", LeftOutWarning, stacklevel=2)
    if nifti.is_nifti(output) and len(found.series) + len(found.problems) > 1:
        count = len(found.series) + len(found.problems)
        raise FileError(
            f"{place} holds {count} CT series, so the output must be a folder, not {output.name}",
            "Give a folder's name, or choose one of them: --series UID.",
        )
    if not nifti.is_nifti(output):
        require_folder(output, what=place.name)
    elif output.exists() and output.is_dir():
        raise FileError(f"cannot write {output}: it is a folder", "Choose another output.")
    jobs = [ScanJob(one, output if nifti.is_nifti(output) else output / f"{one.name}.nii.gz") for one in found.series]
    refuse_scans_as_outputs(jobs)
    if len(found.problems) == 1 and not jobs:
        raise next(iter(found.problems.values()))
    return jobs, dict(found.problems)


def require_pydicom() -> None:
    """Raise SettingError where what reads DICOM is not installed."""
    try:
        pydicom_module()
    except ImportError as error:
        raise SettingError(
            "reading DICOM needs packages that are not installed", "Run: pip install 'viscera[dicom]'."
        ) from error
