"""Which scans are to be segmented, and where their label maps go; predict.py does it."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from viscera.datasets.sources import Source, label_files
from viscera.errors import FileError
from viscera.io import nifti
from viscera.io.same_file import refuse_inputs
from viscera.io.scans import LeftOutWarning, Scan, files_of
from viscera.json_text import load_json

OTHER_KINDS = (
    *(
        ".nrrd",
        ".nhdr",
        ".mha",
        ".mhd",
        ".hdr",
        ".img",
        ".dcm",
        ".mgz",
        ".mgh",
        ".mnc",
        ".nii",
        ".gz",
        ".zip",
        ".bz2",
        ".xz",
    ),
    *(".npy", ".npz", ".h5", ".tif", ".tiff", ".png", ".jpg", ".stl", ".json", ".csv", ".txt", ".html", ".ctbl"),
)
"""Endings of files that are no folder's, so that a user who gives one as the output means a file."""

COLOUR_FILES = ("labels.ctbl", "labels.itksnap.txt")
"""What is written beside label maps, one pair per folder: for 3D Slicer, and for ITK-SNAP."""


@dataclass(frozen=True)
class ScanJob:
    """One scan to segment.

    Attributes:
        scan: What holds it; of one at a URL, what may be shown of that, until it is fetched (io/remote.py).
        output: Where its label map goes.
        url: Where it is to be fetched from; "" where it is on the disk.
    """

    scan: Scan
    output: Path
    url: str = field(default="", repr=False)

    @property
    def sidecar(self) -> Path:
        """NAME.json beside the label map."""
        return self.output.with_name(nifti.stem(self.output) + ".json")


def find_scan_jobs(scan: Path, output: Path) -> list[ScanJob]:
    """List what a user asks for: one file to one file (or into a folder), or all scans of a folder into a folder.

    A trailing _0000 (nnU-Net's channel number) is left out of the name of the label map. Whatever in the folder has a scan's
    name counts as a scan, links to nothing and folders too: they fail when it is their turn. Label maps that viscera wrote
    do not.

    Raises:
        FileError: No such scan, a folder without any, one output name for two scans, or an output that is a scan.

    Warns:
        LeftOutWarning: The folder holds label maps of viscera's that this command would not write.
    """
    if not os.path.isdir(scan):  # noqa: PTH112 (which takes names that no disk takes)
        if not os.path.exists(scan):  # noqa: PTH110
            gone = "is a link to a file that is not there" if os.path.islink(scan) else ""  # noqa: PTH114
            raise FileError(
                f"{scan} {gone}" if gone else f"there is no scan at {scan}",
                "Give a .nii or .nii.gz file, or a folder of them.",
            )
        if output.exists() and not nifti.is_nifti(output) and not output.is_dir():
            raise FileError(f"{output} is another kind of file", "Give a name that ends in .nii.gz, or a folder.")
        require_kind(output)
        jobs = [ScanJob(scan, output if nifti.is_nifti(output) else output / output_name(scan))]
    else:
        require_folder(output, what=scan.name)
        jobs = _jobs_of_folder(scan, output)
    refuse_scans_as_outputs(jobs)
    return jobs


def _jobs_of_folder(folder: Path, output: Path) -> list[ScanJob]:
    """List the scans of a folder."""
    files = nifti.find_files(folder)
    made = [file for file in files if is_own_label_map(file)]
    jobs = [ScanJob(file, output / output_name(file)) for file in files if file not in set(made)]
    if not jobs:
        if made:
            raise FileError(
                f"{folder} holds no scan, only label maps that viscera wrote", "Give the folder that holds the scans."
            )
        raise FileError(
            f"{folder} holds no .nii or .nii.gz file",
            "Give the folder that holds the scans themselves; of NIfTI, viscera looks into no subfolders.",
        )
    names = [job.output.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise FileError(f"two scans in {folder} would both become {twice}", "Rename one.")
    others = sorted({file.name for file in made} - ({*names} if _same_folder(folder, output) else set()))
    if others:
        warnings.warn(
            f"{folder}: {len(others)} label map{'s' * (len(others) != 1)} that viscera wrote ({others[0]}"
            f"{', ...' * (len(others) > 1)}) {'is' if len(others) == 1 else 'are'} no scan and left out.",
            LeftOutWarning,
            stacklevel=3,
        )
    return jobs


def _same_folder(one: Path, two: Path) -> bool:
    """Tell whether two paths are one folder."""
    return one.exists() and two.exists() and one.samefile(two)


def refuse_scans_as_outputs(jobs: Sequence[ScanJob], sources: Iterable[Source] = ()) -> None:
    """Raise FileError if anything that is to be written is a scan, or a label of its data set, whatever its path's spelling."""
    written = [path for job in jobs for path in (job.output, job.sidecar)]
    folders = {job.output.parent for job in jobs}
    shared = [folder / name for folder in folders for name in COLOUR_FILES]
    inputs = [file for job in jobs if not job.url for file in files_of(job.scan) if not os.path.isdir(file)]  # noqa: PTH112
    for source in sources:
        inputs += [*files_of(source.image), *label_files(source)]
    refuse_inputs([*written, *shared], inputs)


def own_facts(sidecar: Path) -> dict | None:
    """Return what NAME.json holds if viscera wrote it beside a label map; None if there is no such file."""
    try:
        facts = load_json(sidecar)
    except (OSError, ValueError):
        return None
    return facts if is_own(facts) else None


def is_own(facts: object) -> TypeGuard[dict]:
    """Tell whether JSON is what viscera writes beside a label map."""
    if not isinstance(facts, dict) or not isinstance(facts.get("labels"), dict):
        return False
    run = facts.get("run")
    return isinstance(run, dict) and "weights_sha256" in run


def is_own_label_map(file: Path) -> bool:
    """Tell whether a file is a label map that viscera wrote, by the NAME.json beside it."""
    facts = own_facts(file.with_name(nifti.stem(file) + ".json"))
    if facts is None:
        return False
    described = described_name(facts, file)  # of o.nii, o.json does not make o.nii.gz a label map
    return described == file.name or not os.path.lexists(file.with_name(described))


def described_name(facts: dict, file: Path) -> str:
    """Return the name of the label map that a NAME.json of viscera's describes; a file's own where it does not say."""
    name = facts["run"].get("label_map")
    return name if isinstance(name, str) and name and Path(name).name == name else file.name


def require_kind(output: Path) -> None:
    """Raise FileError if an output is named as a file that viscera does not write; folders that exist may have any name."""
    if nifti.is_nifti(output) or output.is_dir():
        return
    kind = next((kind for kind in OTHER_KINDS if output.name.lower().endswith(kind)), None)
    if kind or ".nii" in output.name.lower():
        raise FileError(
            f"{output.name} is neither a folder's name nor ends in .nii.gz or .nii, which is what viscera writes",
            "Give a name that ends in .nii.gz and does not begin with a dot, or a folder.",
        )


def require_folder(output: Path, *, what: str) -> None:
    """Raise FileError if the place for the label maps of several scans is, or is named as, a file."""
    if nifti.is_nifti(output) or (output.exists() and not output.is_dir()):
        raise FileError(
            f"{what} is a folder, so the output must be one too, not {output.name}", "Give a folder's name."
        )
    require_kind(output)


def output_name(scan: Path) -> str:
    """Return the label map's file name for a scan's."""
    return nifti.stem(scan).removesuffix("_0000") + ".nii.gz"


def require_place(output: Path) -> None:
    """Raise FileError if a label map cannot be written there, before the time for it is spent."""
    if output.is_dir():
        raise FileError(f"cannot write {output}: it is a folder", "Choose another output.")
    folder = next((folder for folder in output.parents if folder.exists()), Path())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(
            f"cannot write {output}: {folder} is not a folder that you may write to", "Choose another output."
        )
