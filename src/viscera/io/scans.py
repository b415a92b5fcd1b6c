"""What a scan is on disk: one NIfTI file, or something of many files, such as a DICOM series; how either is read and told."""

import warnings
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float

from viscera.io import nifti
from viscera.io.atomic import sha256
from viscera.io.nifti import GridWarning
from viscera.volume import Volume


class LeftOutWarning(UserWarning):
    """Files in a folder of scans are not read, for a good reason."""


@runtime_checkable
class ScanFiles(Protocol):
    """A scan of several files."""

    @property
    def name(self) -> str:
        """What outputs and messages call it."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        ...

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Index (z, y, x, 1) -> world RAS+ mm."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it is read."""
        ...

    def read(self) -> Volume:
        """Read its voxels."""
        ...

    def sha256(self) -> str:
        """Return what tells it by its contents."""
        ...


Scan: TypeAlias = Path | ScanFiles


def read(scan: Scan) -> Volume:
    """Read a scan; for a NIfTI file see ``nifti.read``.

    Raises:
        FileError: A file is missing, damaged or of another kind.
        GeometryError: The grid is not a scanner's.

    Warns:
        GridWarning: What should be known of how it was read.
    """
    if isinstance(scan, Path):
        return nifti.read(scan)
    for note in scan.notes:
        warnings.warn(f"{scan.name}: {note}", GridWarning, stacklevel=2)
    return scan.read()


def stem(scan: Scan) -> str:
    """Return a scan's name without .nii or .nii.gz."""
    return nifti.stem(scan) if isinstance(scan, Path) else scan.name


def files_of(scan: Scan) -> tuple[Path, ...]:
    """Return the files that hold a scan."""
    return (scan,) if isinstance(scan, Path) else scan.files


def sha256_of(scan: Scan) -> str:
    """Return a SHA-256 over a scan's files, whatever they are called.

    Raises:
        OSError: One cannot be read.
    """
    return sha256(scan) if isinstance(scan, Path) else scan.sha256()
