"""Which CT series of a folder or a ZIP are to be segmented, and where their results go."""

import warnings
from pathlib import Path

from viscera.errors import FileError, VisceraError
from viscera.inference.jobs import (
    ScanJob,
    refuse_scans_as_outputs,
    require_folder,
    require_kind,
)
from viscera.io import nifti
from viscera.io.scans import LeftOutWarning


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
