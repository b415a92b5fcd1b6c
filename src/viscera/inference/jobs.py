"""Which scans are to be segmented, and where their label maps go; predict.py does it."""

import os
from dataclasses import dataclass
from pathlib import Path

from viscera.errors import FileError
from viscera.io import nifti


@dataclass(frozen=True)
class ScanJob:
    """One scan to segment."""

    scan: Path
    output: Path

    @property
    def sidecar(self) -> Path:
        """NAME.json beside the label map."""
        return self.output.with_name(nifti.stem(self.output) + ".json")


def find_scan_jobs(scan: Path, output: Path) -> list[ScanJob]:
    """List what a user asks for: one file to one file (or into a folder), or all scans of a folder into a folder.

    A trailing _0000 (nnU-Net's channel number) is left out of the name of the label map.

    Raises:
        FileError: No such scan, a folder without any, or one output name for two scans.
    """
    if scan.is_file():
        if nifti.is_nifti(output):
            return [ScanJob(scan, output)]
        if output.exists() and not output.is_dir():
            raise FileError(f"{output} is another kind of file", "Give a name that ends in .nii.gz, or a folder.")
        return [ScanJob(scan, output / output_name(scan))]
    if not scan.is_dir():
        raise FileError(f"there is no scan at {scan}", "Give a .nii or .nii.gz file, or a folder of them.")
    require_folder(output, what=scan.name)
    jobs = [ScanJob(file, output / output_name(file)) for file in nifti.find_files(scan)]
    if not jobs:
        raise FileError(
            f"{scan} holds no .nii or .nii.gz file",
            "Give the folder that holds the scans themselves; convert DICOM series first, for instance with dcm2niix.",
        )
    names = [job.output.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise FileError(f"two scans in {scan} would both become {twice}", "Rename one.")
    return jobs


def require_folder(output: Path, *, what: str) -> None:
    """Raise FileError if the place for the label maps of several scans is, or is named as, a file."""
    if nifti.is_nifti(output) or (output.exists() and not output.is_dir()):
        raise FileError(
            f"{what} is a folder, so the output must be one too, not {output.name}", "Give a folder's name."
        )


def output_name(scan: Path) -> str:
    """Return the label map's file name for a scan's."""
    return nifti.stem(scan).removesuffix("_0000") + ".nii.gz"


def require_place(output: Path) -> None:
    """Raise FileError if a label map cannot be written there, before the time for it is spent."""
    folder = next((folder for folder in output.parents if folder.exists()), Path())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(
            f"cannot write {output}: {folder} is not a folder that you may write to", "Choose another output."
        )
