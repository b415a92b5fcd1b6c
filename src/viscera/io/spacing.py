"""The spacing to measure distances with: the header's own, the same however the grid is turned."""

import math

import numpy as np

from viscera.volume import Volume

AGREEMENT = 1e-4
"""Largest relative difference at which the header's voxel sizes count as the affine's: float32 leaves 1e-7, writers that
round to four digits a little less than this."""

DIGITS = 6
ROUNDING = 2.5e-7
"""A length so near, relatively, to a number of six digits is that number: the lengths of an affine in float32 are off by up to
two units in the last place. Spacings with more digits (0.9765625 mm) are further away, and stay."""


def header_spacing_mm(volume: Volume) -> tuple[float, float, float]:
    """Return the distance between neighbouring voxel centres along (z, y, x), as the file's header gives it, in float32.

    The affine of an oblique grid gives 1.4999999 or 1.5000001 mm where the header says 1.5; a surface that lies exactly one
    voxel away then is within a tolerance of 1.5 mm at one angle and beyond it at another. Without a header, or where it
    contradicts the affine, the lengths are the affine's.
    """
    by_affine = volume.spacing_mm
    if volume.header is not None:
        from viscera.io.nifti_header import Header

        if isinstance(volume.header, Header):
            _, x, y, z = (abs(float(size)) for size in volume.header["pixdim"][:4])
            if all(math.isclose(a, b, rel_tol=AGREEMENT) for a, b in zip((z, y, x), by_affine, strict=True)):
                z, y, x = (float(np.float32(_plain(size))) for size in (z, y, x))
                return z, y, x
    z, y, x = (_plain(length) for length in by_affine)
    return z, y, x


def _plain(length: float) -> float:
    """Return the number of DIGITS that a length stands for, else the length."""
    plain = float(f"{length:.{DIGITS}g}")
    return plain if math.isclose(plain, length, rel_tol=ROUNDING) else length
