"""``viscera.read``: a scan or a label map as a Volume, whatever it is on disk."""

import os
from pathlib import Path

from viscera.dicom.opening import open_scan
from viscera.io import scans
from viscera.volume import Volume


def read(path: str | os.PathLike[str] | scans.ScanFiles, *, series: str | None = None) -> Volume:
    """Read a scan or a label map.

    Voxels keep the file's type in the machine's byte order, unless the file scales them (NIfTI's scl_slope, scl_inter): then
    they are float32. Values are not checked. A NIfTI file's place is the sform's if it is set, else the qform's, else what the
    voxel sizes give; trailing axes of length 1 are dropped. A DICOM series is read in HU, its slices in the order of their
    positions.

    Args:
        path: A .nii or .nii.gz file; or a folder (at any depth), ZIP or file of DICOM with one CT series; or the image of a
            case from ``find_cases``.
        series: Of DICOM, the Series Instance UID of the one that is wanted.

    Returns:
        The volume; of a NIfTI file, its header kept for ``write``.

    Raises:
        FileError: It is missing, damaged, no NIfTI and no DICOM, or holds something else than one 3D volume of numbers.
        GeometryError: Its affine is not a scanner's.
        SettingError: It is DICOM, and viscera[dicom] is not installed.

    Warns:
        GridWarning: sform and qform disagree by more than a millimetre, or neither is set; how a series was read.
        LeftOutWarning: A folder of DICOM holds something else, too.

    Example:
        >>> import numpy as np, viscera
        >>> viscera.write("scan.nii.gz", viscera.Volume(np.zeros((4, 8, 8), np.int16), np.diag([5.0, 1.0, 1.0, 1.0])))
        >>> scan = viscera.read("scan.nii.gz")
        >>> scan.voxels.shape, scan.voxels.dtype.name, scan.spacing_mm  # all in the order z, y, x
        ((4, 8, 8), 'int16', (5.0, 1.0, 1.0))
    """
    if isinstance(path, scans.ScanFiles):
        return scans.read(path)
    return scans.read(open_scan(Path(path), series_uid=series))
