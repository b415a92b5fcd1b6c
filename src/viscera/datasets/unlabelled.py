"""The layout of scans without labels: CASE.nii.gz or CASE_0000.nii.gz directly in a folder.

Such scans can be segmented, and prepared for teachers to label (pseudolabels/). Nothing in a folder says that its files are
scans: what is none is found out when it is read.
"""

from pathlib import Path

from viscera.datasets.sources import Found, Problem, Source, files_by_case

SUFFIX = "_0000"
"""nnU-Net's, of the first channel; no part of the case's name."""


def find(folder: Path) -> Found | None:
    """Find the scans, or None where no NIfTI file lies directly in the folder."""
    sources, problems = [], []
    for name, files in sorted(files_by_case(folder, suffix=SUFFIX).items()):
        if len(files) == 1:
            sources.append(Source(name, folder.name, name, files[0], None, (), ()))
        else:
            there = ", ".join(file.name for file in files)
            problems.append(Problem(name, there, f"{len(files)} files for one case", "keep one of them"))
    return (sources, problems) if sources or problems else None
