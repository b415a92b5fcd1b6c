"""The spacing to measure distances with: the header's own, the same however the grid is turned."""

import math

from viscera.volume import Volume

AGREEMENT = 1e-4
"""Largest relative difference at which the header's voxel sizes count as the affine's: float32 leaves 1e-7, writers that
round to four digits a little less than this."""

DIGITS = 6
"""Significant digits that an affine in float32 leaves of the lengths of its columns."""


def header_spacing_mm(volume: Volume) -> tuple[float, float, float]:
    """Return the distance between neighbouring voxel centres along (z, y, x), as the file's header gives it.

    The affine of an oblique grid gives 1.4999999 or 1.5000001 mm where the header says 1.5; a surface that lies exactly one
    voxel away then is within a tolerance of 1.5 mm at one angle and beyond it at another. Without a header, or where it
    contradicts the affine, the affine's lengths are rounded to DIGITS.
    """
    by_affine = volume.spacing_mm
    if volume.header is not None:
        from viscera.io.nifti_header import Header

        if isinstance(volume.header, Header):
            _, x, y, z = (abs(float(size)) for size in volume.header["pixdim"][:4])
            if all(math.isclose(a, b, rel_tol=AGREEMENT) for a, b in zip((z, y, x), by_affine, strict=True)):
                return z, y, x
    z, y, x = (float(f"{length:.{DIGITS}g}") for length in by_affine)
    return z, y, x
