"""NRRD: a label map with its place, as 3D Slicer and ITK read it. Only writing; the format is teem's NRRD0004.

Source: http://teem.sourceforge.net/nrrd/format.html (fields "space", "space directions", "space origin", "encoding").
"""

from pathlib import Path
from typing import Literal

import numpy as np

from viscera.io.packing import packed as gzipped
from viscera.io.scans import Scan
from viscera.volume import Volume, to_axial

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def nrrd_bytes(labels: Volume, *, packed: bool = True, kind: Literal["uint8", "uint16"] = "uint8") -> bytes:
    """Return a label map as the contents of a .nrrd file.

    Args:
        labels: uint8, in any orientation.
        packed: With gzip; else raw.
        kind: Of the voxels in the file.

    Returns:
        A header whose numbers lead to exactly the volume's affine (every float64 with all its digits), and the voxels.
    """
    voxels = np.ascontiguousarray(labels.voxels, np.uint8).astype("<u2" if kind == "uint16" else "u1", copy=False)
    z, y, x = labels.shape
    lps = RAS_TO_LPS @ labels.affine[:3] + 0.0  # no -0.0, which would be written as such
    directions = " ".join(_vector(lps[:, axis]) for axis in (2, 1, 0))
    lines = (
        "NRRD0004",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {x} {y} {z}",
        f"space directions: {directions}",
        "kinds: domain domain domain",
        f"encoding: {'gzip' if packed else 'raw'}",
        f"space origin: {_vector(lps[:, 3])}",
        *(("endian: little",) if kind == "uint16" else ()),
    )
    header = ("\n".join(lines) + "\n\n").encode("ascii")
    content = voxels.tobytes()
    return header + (b"".join(gzipped([content])) if packed else content)


def as_viewers_have_it(labels: Volume, scan: Scan) -> Volume:
    """Return labels in the order in which viewers of DICOM keep a series: rows, columns, slices along the normal of these.

    A series has that order already. A NIfTI file may have any: it is turned to what a patient on the back, head first, has in
    DICOM (columns to the left, rows to the back, slices to the head), of which it may be a copy.

    Args:
        labels: On the scan's grid.
        scan: The scan.

    Source:
        Cornerstone3D, sortImageIdsAndGetSpacing: slices rise along the cross product of ImageOrientationPatient's vectors.
    """
    return to_axial(labels)[0] if isinstance(scan, Path) else labels


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"
