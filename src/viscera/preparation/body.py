"""Where the patient is in a scan, found from the image alone, so that prediction finds the same as preparing did."""

from dataclasses import dataclass, replace

import cc3d
import cv2
import numpy as np
from jaxtyping import Bool, Int, Int16, Integer, UInt8

from viscera.volume import Volume, axial_turn

TISSUE_HU = -250
"""Above it lie fat (-120 to -60), muscle, bone and metal; below it air, lung, foam and most of a blanket."""

COARSE_MM = (5.0, 3.0, 3.0)
"""Between the voxels that are looked at, along (z, y, x). Opened by 3x3 of them, table shells of up to 6 mm vanish."""

SMALLEST_MM = 50.0
"""Nothing narrower is a body (a newborn's trunk is twice as wide); then the whole slice is taken."""


@dataclass(frozen=True, eq=False)
class Coarse:
    """A scan's voxels every few millimetres.

    Attributes:
        hu: Those on the ``coarse_grid``, in axial order.
        grid: The whole scan's, in the file's order; its voxels are all 0 and take no memory.
    """

    hu: Int16[np.ndarray, "z y x"]
    grid: Volume


def coarse_scan(ct: Volume) -> Coarse:
    """Return some voxels of a scan in HU, copied."""
    turn = axial_turn(ct.affine)
    z, y, x = coarse_grid((ct.spacing_mm[turn.axes[0]], ct.spacing_mm[turn.axes[1]], ct.spacing_mm[turn.axes[2]]))
    grid = replace(ct, voxels=np.broadcast_to(np.int16(0), ct.shape))  # so that the scan itself can go
    return Coarse(np.ascontiguousarray(turn.apply(ct.voxels)[z, y, x]), grid)


def find_body(hu: Int16[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]) -> tuple[slice, slice]:
    """Return the rows and columns in which the body lies, over all slices together.

    The body is the largest connected piece of what is denser than lung, without thin shells such as those of the table,
    with all that it encloses (lungs, bowel gas), and any further piece at least half as large (the other leg). Arms beside
    the body may or may not belong to it.

    Args:
        hu: Axial slices, in any memory layout.
        spacing_mm: Along (z, y, x).

    Returns:
        Rows and columns, on each side at most two steps of the coarse grid too wide; the whole slice where there is no body.
    """
    z, y, x = coarse_grid(spacing_mm)
    return find_coarse_body(hu[z, y, x], hu.shape[1:], spacing_mm)


def coarse_grid(spacing_mm: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """Return which slices, rows and columns of a scan are looked at: from the first on, every so many.

    Args:
        spacing_mm: Along (z, y, x).
    """
    z, y, x = (
        slice(0, None, max(1, int(coarse / mm + 1e-3))) for coarse, mm in zip(COARSE_MM, spacing_mm, strict=True)
    )
    return z, y, x


def find_coarse_body(
    hu: Int16[np.ndarray, "z y x"], size: tuple[int, int], spacing_mm: tuple[float, float, float]
) -> tuple[slice, slice]:
    """Return what ``find_body`` gives, from the voxels on the ``coarse_grid`` alone.

    Args:
        hu: Those voxels of axial slices.
        size: Rows and columns of the scan.
        spacing_mm: Of the scan, along (z, y, x).
    """
    whole = slice(0, size[0]), slice(0, size[1])
    steps = [part.step for part in coarse_grid(spacing_mm)]
    tissue = (hu > TISSUE_HU).astype(np.uint8)
    thick = np.zeros_like(tissue)
    for old, new in zip(tissue, thick, strict=True):
        new[:] = _solid(old)
    pieces, count = cc3d.connected_components(thick, connectivity=6, return_N=True)
    if not count:
        return whole
    seen = _shadow(pieces, count)
    rows, columns = (
        _widened(np.flatnonzero(seen.any(1 - axis)), step=steps[1 + axis], count=size[axis]) for axis in (0, 1)
    )
    lengths_mm = ((side.stop - side.start) * mm for side, mm in zip((rows, columns), spacing_mm[1:], strict=True))
    return whole if min(lengths_mm) < SMALLEST_MM else (rows, columns)


def _solid(tissue: UInt8[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    """Return a slice's tissue without what is thin, with what it encloses."""
    # Beyond the border there may be more of the body: the border is not eroded (OpenCV's default), and nothing that
    # reaches it is enclosed.
    opened = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    framed = cv2.copyMakeBorder(opened, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(framed, None, (0, 0), 2)
    return (framed[1:-1, 1:-1] != 2).astype(np.uint8)


def _shadow(pieces: Integer[np.ndarray, "z y x"], count: int) -> Bool[np.ndarray, "y x"]:
    """Return where the largest pieces lie in any slice."""
    voxels = np.bincount(pieces.ravel(), minlength=count + 1)
    voxels[0] = 0
    return (2 * voxels >= voxels.max())[pieces].any(0)


def _widened(places: Int[np.ndarray, " n"], *, step: int, count: int) -> slice:
    """Return the range that reaches almost to the second next place on each side.

    One place farther than the body was seen, since opening cut off the tips of what is round; almost two, since what lies
    between the places was not looked at.
    """
    return slice(max(0, (int(places[0]) - 2) * step + 1), min(count, (int(places[-1]) + 2) * step))
