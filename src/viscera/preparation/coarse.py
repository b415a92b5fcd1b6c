"""A prepared scan in coarse voxels: what a network that sees the whole patient looks at.

Coarse voxels are so many times as large as prepared pixels, and lie on their edges: no interpolation within the slice is needed on
the way there, nor on the way back. Along z the scanner's slices are resampled to the same distance.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
from jaxtyping import Int16, Shaped

from viscera.errors import SettingError
from viscera.preparation.geometry import Geometry
from viscera.preparation.resampling import (
    PixelGrid,
    resample_along_z,
    resample_labels,
    resample_labels_along_z,
    spaced_slice_grid,
)
from viscera.preparation.store import Case


def coarse_geometry(geometry: Geometry, pixels: int) -> Geometry:
    """Return where coarse voxels lie on the scanner's grid.

    Args:
        geometry: Of a scan prepared by ``SpacedSlices``: all of the scanner's slices, rows and columns of one spacing.
        pixels: Prepared pixels per coarse voxel.

    Raises:
        SettingError: The scan was prepared otherwise.
    """
    if geometry.step is None or geometry.slice_grid is not None or any(side % pixels for side in geometry.size):
        raise SettingError(
            "context needs slices of one pixel spacing, cut to the body",
            "Take preparation.kind 'spaced', or set the recipe's context to null.",
        )
    slice_mm, pixel_mm, _ = geometry.spacing_mm
    rows, columns = (Fraction(step) * pixels for step in geometry.step)
    grid = spaced_slice_grid(geometry.prepared_shape[0], slice_mm, spacing_mm=pixels * pixel_mm)
    size = geometry.size[0] // pixels, geometry.size[1] // pixels
    return replace(geometry, size=size, step=(rows, columns), slice_grid=grid)


def coarse_image(
    image: Int16[np.ndarray, "z y x"], geometry: Geometry, pixels: int
) -> tuple[Int16[np.ndarray, "cz cy cx"], Geometry]:
    """Return a prepared scan in coarse voxels: the mean of the pixels that each covers, linear or the mean along z.

    Args:
        image: HU, prepared by ``SpacedSlices``.
        geometry: Its.
        pixels: Prepared pixels per coarse voxel, along rows and columns; along z a coarse voxel is as long as it is wide.

    Returns:
        HU, and where the coarse voxels lie.

    Raises:
        SettingError: The scan was prepared otherwise.
    """
    coarse = coarse_geometry(geometry, pixels)
    rows, columns = coarse.size
    flat = np.empty((len(image), rows, columns), np.int16)
    for number, plane in enumerate(image):
        sums = plane.reshape(rows, pixels, columns, pixels).sum(axis=(1, 3), dtype=np.int32)
        flat[number] = np.rint(sums / np.float32(pixels**2))
    return resample_along_z(flat, coarse.slice_grid), coarse  # type: ignore[arg-type]


def coarse_case(case: Case, pixels: int) -> Case:
    """Return a case in coarse voxels; each has the label of one of the prepared voxels next to its middle.

    Raises:
        SettingError: It was prepared otherwise; see ``coarse_geometry``.
    """
    image, geometry = coarse_image(case.image, case.geometry, pixels)
    grid = PixelGrid(geometry.size, (0, 0), (Fraction(pixels), Fraction(pixels)))

    def small(array: Shaped[np.ndarray, "z y x"] | None) -> Shaped[np.ndarray, "cz cy cx"] | None:
        if array is None:
            return None
        flat = resample_labels(np.asarray(array).view(np.uint8), grid)
        return resample_labels_along_z(flat, geometry.slice_grid).view(array.dtype)  # type: ignore[arg-type]

    return replace(
        case,
        image=image,
        labels=small(case.labels),
        known=small(case.known),
        pseudo=small(case.pseudo),
        geometry=geometry,
    )
