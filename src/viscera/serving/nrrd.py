"""NRRD: a label map with its place, as 3D Slicer and ITK read it. Only writing; the format is teem's NRRD0004.

Source: http://teem.sourceforge.net/nrrd/format.html (fields "space", "space directions", "space origin", "encoding").
"""

import numpy as np
from isal import igzip
from jaxtyping import UInt8

from viscera.volume import Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
GZIP_LEVEL = 1
"""isal's, as of label maps in NIfTI (io/nifti.py)."""


def nrrd_bytes(labels: Volume, *, packed: bool = True) -> bytes:
    """Return a label map as the contents of a .nrrd file.

    Args:
        labels: uint8, in any orientation.
        packed: With gzip; else raw.

    Returns:
        A header whose numbers lead to exactly the volume's affine (every float64 with all its digits), and the voxels.
    """
    voxels: UInt8[np.ndarray, "z y x"] = np.ascontiguousarray(labels.voxels, np.uint8)
    z, y, x = labels.shape
    lps = RAS_TO_LPS @ labels.affine[:3] + 0.0  # no -0.0, which would be written as such
    directions = " ".join(_vector(lps[:, axis]) for axis in (2, 1, 0))
    lines = (
        "NRRD0004",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {x} {y} {z}",
        f"space directions: {directions}",
        "kinds: domain domain domain",
        f"encoding: {'gzip' if packed else 'raw'}",
        f"space origin: {_vector(lps[:, 3])}",
    )
    header = ("\n".join(lines) + "\n\n").encode("ascii")
    content = voxels.tobytes()
    return header + (igzip.compress(content, GZIP_LEVEL) if packed else content)


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"
