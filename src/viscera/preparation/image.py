"""A raw scan -> the image that a network sees: turned to axial order, resized, or resampled and cut to the body.

``prepare_image`` is for a scan in memory; ``prepare_file`` takes the same way slab by slab, so that the scan (432 MB of 824
slices) is never whole in memory. Labels follow in case.py; undoing it for a prediction is in inference/.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from viscera.config import Preparation
from viscera.io import nifti
from viscera.preparation.body import Coarse, coarse_grid, coarse_scan, find_body, find_coarse_body
from viscera.preparation.geometry import Geometry
from viscera.preparation.intensity import HounsfieldCheck, hounsfield, to_int16
from viscera.preparation.resampling import (
    resample_along_z,
    resample_image,
    resize_image,
    spaced_pixel_grid,
    spaced_slice_grid,
)
from viscera.volume import Turn, Volume, axial_turn, with_voxels

SLAB_BYTES = 1 << 22
"""Of the scan, in memory at a time: few enough to stay in the processor's cache."""


def prepare_image(volume: Volume, preparation: Preparation) -> tuple[Int16[np.ndarray, "z y x"], Geometry]:
    """Turn a scan to axial order, and resize its slices, or resample and cut them or the volume to the body.

    Args:
        volume: HU in any orientation. int16 is taken as it is; other types go through ``hounsfield``.
        preparation: The size of the slices, of their pixels or voxels; or nothing.

    Returns:
        int16 HU, and the way back to the scanner's grid. However the file was oriented, the voxels are the same.

    Raises:
        GeometryError: The affine is not a scanner's.
        FileError: The voxels are not HU.
    """
    turn = axial_turn(volume.affine)
    hu = volume.voxels if volume.voxels.dtype == np.int16 else hounsfield(volume, where="the scan")
    axial = turn.apply(hu)
    body = find_body(axial, _axial_spacing_mm(volume, turn)) if preparation.pixel_mm else None
    geometry = _geometry(volume, turn, preparation=preparation, body=body)
    return _along_z(_in_plane(axial, geometry), geometry), geometry


def prepare_file(
    path: str | Path, preparation: Preparation, *, where: str, keep_bytes: int = 0, slab_bytes: int = SLAB_BYTES
) -> tuple[Int16[np.ndarray, "z y x"], Geometry, Coarse]:
    """Read, check and prepare a scan slab by slab: in memory is little more than the prepared image.

    The result is that of ``nifti.read``, ``hounsfield`` and ``prepare_image``, to the bit. Where the body is to be found
    the file is decompressed twice, which for 275 slices takes 0.3 s of a core more and 128 MiB less. A file whose axial
    slices do not lie one after the other, as after reformatting, is read whole.

    Args:
        path: A NIfTI file.
        preparation: As for ``prepare_image``.
        where: The case or file, for messages on intensities.
        keep_bytes: A scan no larger than this is rather kept whole than decompressed twice.
        slab_bytes: Of the scan, in memory at a time; at least a slice is.

    Returns:
        int16 HU; the way back to the scanner's grid; and that grid with the file's header, whose voxels are all 0 and take
        no memory, beside some voxels of the scan.

    Raises:
        FileError: The file cannot be read, or its voxels are not HU.
        GeometryError: The affine is not a scanner's.
    """
    with nifti.open_slabs(path) as scan:
        grid, turn, twice = scan.grid, axial_turn(scan.affine), preparation.pixel_mm is not None
        scan_bytes = grid.voxels.size * scan.dtype.itemsize
        if turn.axes[0] != 0 or (twice and scan_bytes <= keep_bytes):
            volume = scan.read()
            ct = with_voxels(volume, hounsfield(volume, where=where))
            return *prepare_image(ct, preparation), coarse_scan(ct)
        count = max(1, slab_bytes * grid.shape[0] // scan_bytes)
        slabs = _axial_slabs(scan, turn, count=count, check=HounsfieldCheck(scan.dtype, scan.shape, where=where))
        coarse, body = _empty_coarse(grid, turn), None
        slabs = _collected(slabs, coarse, turn)
        if twice:
            for _ in slabs:
                pass
            body = find_coarse_body(coarse.hu, turn.apply(grid.voxels).shape[1:], _axial_spacing_mm(grid, turn))
            slabs = _axial_slabs(scan, turn, count=count, check=None)
        geometry = _geometry(grid, turn, preparation=preparation, body=body)
        image = np.empty((grid.shape[0], *geometry.size), np.int16)
        for first, slab in slabs:
            image[first : first + len(slab)] = _in_plane(slab, geometry)
    return _along_z(image, geometry), geometry, coarse


def _axial_slabs(
    scan: nifti.OpenVolume, turn: Turn, *, count: int, check: HounsfieldCheck | None
) -> Iterator[tuple[int, Int16[np.ndarray, "part y x"]]]:
    """Yield HU in axial order, so many slices at a time: the number of a slab's lowest slice, and the slab.

    The slabs come from the feet on or from the head on. At the end they are checked, if they are to be.
    """
    for first, slab in scan.slabs(count):
        if check is not None:
            check.add(slab)
        lowest = scan.shape[0] - first - len(slab) if turn.flips[0] else first
        yield lowest, turn.apply(to_int16(slab))
    if check is not None:
        check.finish()


def _empty_coarse(grid: Volume, turn: Turn) -> Coarse:
    """Return the place for a scan's voxels every few millimetres."""
    z, y, x = coarse_grid(_axial_spacing_mm(grid, turn))
    return Coarse(np.empty(turn.apply(grid.voxels)[z, y, x].shape, np.int16), grid)


def _collected(
    slabs: Iterable[tuple[int, Int16[np.ndarray, "part y x"]]], coarse: Coarse, turn: Turn
) -> Iterator[tuple[int, Int16[np.ndarray, "part y x"]]]:
    """Yield axial slabs as they are, and keep some of their voxels."""
    z, y, x = coarse_grid(_axial_spacing_mm(coarse.grid, turn))
    for first, slab in slabs:
        seen = slab[-first % z.step :: z.step, y, x]
        start = -(-first // z.step)
        coarse.hu[start : start + len(seen)] = seen
        yield first, slab


def _axial_spacing_mm(grid: Volume, turn: Turn) -> tuple[float, float, float]:
    z, y, x = (grid.spacing_mm[axis] for axis in turn.axes)
    return z, y, x


def _geometry(grid: Volume, turn: Turn, *, preparation: Preparation, body: tuple[slice, slice] | None) -> Geometry:
    """Return where the prepared voxels lie. Slices that are cut to the body are cut to these rows and columns."""
    slices, rows, columns = turn.apply(grid.voxels).shape
    if preparation.pixel_mm is None:
        return Geometry(grid.shape, grid.affine, turn, preparation.size or (rows, columns))
    z, y, x = _axial_spacing_mm(grid, turn)
    box = body or (slice(0, rows), slice(0, columns))
    pixel_grid = spaced_pixel_grid(box, (y, x), spacing_mm=preparation.pixel_mm, margin_mm=preparation.margin_mm)
    slice_grid = spaced_slice_grid(slices, z, spacing_mm=preparation.slice_mm) if preparation.slice_mm else None
    return Geometry(grid.shape, grid.affine, turn, pixel_grid.size, pixel_grid.start, pixel_grid.step, slice_grid)


def _in_plane(axial: Int16[np.ndarray, "z y x"], geometry: Geometry) -> Int16[np.ndarray, "z rows columns"]:
    """Prepare axial slices, each by itself."""
    if geometry.step is not None:
        return resample_image(axial, geometry.pixel_grid)
    same = geometry.size == axial.shape[1:]
    return np.ascontiguousarray(axial) if same else resize_image(axial, geometry.size)


def _along_z(image: Int16[np.ndarray, "z rows columns"], geometry: Geometry) -> Int16[np.ndarray, "depth rows columns"]:
    """Return the slices between the prepared ones where they are to have another distance."""
    return image if geometry.slice_grid is None else resample_along_z(image, geometry.slice_grid)
