"""Geometry: the scanner's grid of a scan, and how its prepared grid comes from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Float

from viscera.preparation.resampling import PixelGrid, SliceGrid, resampled_affine, whole_pixel_grid
from viscera.volume import Turn, Volume, turn_volume


@dataclass(frozen=True, eq=False)
class Geometry:
    """The scanner's grid, and how the prepared one comes from it.

    Attributes:
        shape: Voxels (z, y, x) of the scanner's grid, in file order.
        affine: Of the scanner's grid, index (z, y, x, 1) -> world RAS+ mm.
        turn: From file order to axial order.
        size: Rows and columns of the prepared slices.
        start: The row and column in axial order at whose outer edge the prepared slices begin; negative where they reach
            beyond the scan.
        step: Pixels of the scanner per prepared pixel, along rows and columns; None where the whole slice is resized.
        slice_grid: Where the prepared slices lie among the scanner's; None where they are the same.
    """

    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]
    turn: Turn
    size: tuple[int, int]
    start: tuple[int, int] = (0, 0)
    step: tuple[Fraction, Fraction] | None = None
    slice_grid: SliceGrid | None = None

    @property
    def axial_shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the scanner's grid in axial order."""
        z, y, x = (self.shape[axis] for axis in self.turn.axes)
        return z, y, x

    @property
    def prepared_shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the prepared image."""
        return self.axial_shape[0] if self.slice_grid is None else self.slice_grid.size, *self.size

    @property
    def pixel_grid(self) -> PixelGrid:
        """Where the prepared pixels lie on the axial slices."""
        if self.step is None:
            return whole_pixel_grid(self.axial_shape[1:], self.size)
        return PixelGrid(self.size, self.start, self.step)

    @cached_property
    def prepared_affine(self) -> Float[np.ndarray, "4 4"]:
        """Index (z, y, x, 1) of the prepared image -> world RAS+ mm."""
        nothing = np.broadcast_to(np.uint8(0), self.shape)  # takes no memory
        axial = turn_volume(Volume(nothing, self.affine), self.turn)
        return resampled_affine(axial.affine, self.pixel_grid, self.slice_grid)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between neighbouring voxel centres of the prepared image, along (z, y, x)."""
        z, y, x = np.linalg.norm(self.prepared_affine[:3, :3], axis=0).tolist()
        return z, y, x


def geometry_to_json(geometry: Geometry) -> dict[str, object]:
    """Return a geometry for JSON, with what follows from it, for people who read the file."""
    written: dict[str, object] = {
        "shape": geometry.shape,
        "affine": geometry.affine.tolist(),
        "axes": geometry.turn.axes,
        "flips": geometry.turn.flips,
        "prepared_shape": geometry.prepared_shape,
        "spacing_mm": geometry.spacing_mm,
    }
    if geometry.step is not None:
        written["start"] = geometry.start
        written["step"] = [str(step) for step in geometry.step]
    if geometry.slice_grid is not None:
        written["ladder"] = [
            str(part) for part in (geometry.slice_grid.size, geometry.slice_grid.start, geometry.slice_grid.step)
        ]
    return written


def geometry_from_json(found: Mapping) -> Geometry:
    """Read what ``geometry_to_json`` gave.

    Raises:
        ValueError, KeyError, TypeError, ZeroDivisionError: It is damaged.
    """
    axes, flips, shape = (tuple(found[key]) for key in ("axes", "flips", "shape"))
    affine = np.array(found["affine"], dtype=float).reshape(4, 4)
    _, *size = found["prepared_shape"]
    kinds = sorted(axes) == [0, 1, 2] and len(flips) == len(shape) == 3 and len(size) == 2
    if not kinds or not all(isinstance(flip, bool) for flip in flips) or not np.isfinite(affine).all():
        raise ValueError("not a grid of three axes")
    grid = Geometry(shape, affine, Turn(axes, flips), tuple(size))
    if "step" not in found:
        return grid
    rows, columns = (Fraction(step) for step in found["step"])
    slice_grid = None
    if "ladder" in found:
        size, start, step = found["ladder"]
        slice_grid = SliceGrid(int(size), Fraction(start), Fraction(step))
    return Geometry(shape, affine, grid.turn, grid.size, tuple(found["start"]), (rows, columns), slice_grid)
