"""Scans of a tilted gantry: their slices are shifted against each other, so that organs look leaning to a network.

``straighten`` shifts every slice back for the network; ``Shear.back`` takes its labels onto the scanner's own grid again.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, Shaped

from viscera.volume import Turn, Volume, axial_turn, turn_volume, with_voxels

LEAST_DEGREES = 1.0
"""Of tilt: below it 300 mm of slices are shifted by 5 mm, and nothing is done."""
RIGHT_ANGLE = 1e-3
"""Cosine of what counts as a right angle between rows and columns; other grids are left as they are."""


@dataclass(frozen=True, eq=False)
class Shear:
    """How the slices of a scan are shifted against each other, in its axial order.

    Attributes:
        grid: The scanner's grid; its voxels are all 0 and take no memory.
        turn: To axial order.
        degrees: Between the way from slice to slice and the normal of the slices.
        shifts: By how many pixels (down the rows, along the columns) each slice lies beside its place in the straight scan.
        first: Row and column of the straight scan at which the unshifted slice begins.
        size: Rows and columns of the straight scan.
    """

    grid: Volume
    turn: Turn
    degrees: float
    shifts: Float[np.ndarray, "z 2"]
    first: tuple[int, int]
    size: tuple[int, int]

    @property
    def noted(self) -> str:
        """What the user should know."""
        return f"the gantry was tilted by {self.degrees:.1f} degrees: the slices are shifted above each other for the network"

    def forth(self, labels: Integer[np.ndarray, "a b c"]) -> Integer[np.ndarray, "z row column"]:
        """Return labels on the scanner's grid as ``straighten`` shifts their scan: of each voxel the nearest, 0 beside it."""
        axial = self.turn.apply(labels)
        straight = np.zeros((len(axial), *self.size), labels.dtype)
        for z, (down, along) in enumerate(np.rint(self.shifts).astype(int) + self.first):
            straight[z, down : down + axial.shape[1], along : along + axial.shape[2]] = axial[z]
        return straight

    def back(self, labels: Volume) -> Volume:
        """Return the straight scan's labels (axial order) on the scanner's grid: of each voxel the nearest."""
        depth, rows, columns = (self.grid.shape[axis] for axis in self.turn.axes)
        found = np.empty((depth, rows, columns), np.uint8)
        for z, (down, along) in enumerate(np.rint(self.shifts).astype(int) + self.first):
            found[z] = labels.voxels[z, down : down + rows, along : along + columns]
        return with_voxels(self.grid, self.turn.undo(found))


def shear_of(grid: Volume) -> Shear | None:
    """Return how a grid is sheared; None where it is not, or not as a tilted gantry does it."""
    turn = axial_turn(grid.affine)
    axial = turn_volume(with_voxels(grid, np.broadcast_to(np.uint8(0), grid.shape)), turn)
    step, down, along = (axial.affine[:3, axis] for axis in range(3))
    lengths = np.linalg.norm([down, along], axis=1)
    down, along = down / lengths[0], along / lengths[1]
    if abs(down @ along) > RIGHT_ANGLE:
        return None
    beside = np.array([step @ down, step @ along])
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(beside), abs(step @ np.cross(down, along)))))
    if degrees < LEAST_DEGREES:
        return None
    shifts = np.arange(axial.shape[0])[:, None] * beside / lengths
    low, high = np.floor(shifts.min(axis=0)).astype(int), np.ceil(shifts.max(axis=0)).astype(int)
    rows, columns = (int(more) for more in np.array(axial.shape[1:]) + high - low)
    first = int(-low[0]), int(-low[1])
    return Shear(
        with_voxels(grid, np.broadcast_to(np.int16(0), grid.shape)), turn, degrees, shifts, first, (rows, columns)
    )


def straighten(ct: Volume) -> tuple[Volume, Shear | None]:
    """Return a scan whose slices lie above each other, in axial order, and the way back; the scan itself where they do.

    Pixels are interpolated linearly within their slices; what no slice shows gets the scan's lowest value.

    Args:
        ct: HU, any orientation.
    """
    shear = shear_of(ct)
    if shear is None:
        return ct, None
    axial = turn_volume(ct, shear.turn)
    straight = np.full((axial.shape[0], *shear.size), axial.voxels.min(), ct.voxels.dtype)
    for z, shift in enumerate(shear.shifts):
        whole = np.floor(shift).astype(int)
        plane = _shifted(_shifted(axial.voxels[z], shift[0] - whole[0]).T, shift[1] - whole[1]).T
        down, along = whole + shear.first
        rows, columns = min(plane.shape[0], shear.size[0] - down), min(plane.shape[1], shear.size[1] - along)
        straight[z, down : down + rows, along : along + columns] = plane[:rows, :columns]
    affine = axial.affine.copy()
    unit = affine[:3, 1:3] / np.linalg.norm(affine[:3, 1:3], axis=0)
    affine[:3, 0] -= unit @ (unit.T @ affine[:3, 0])
    affine[:3, 3] -= axial.affine[:3, 1:3] @ np.array(shear.first)
    return Volume(straight, affine), shear


def _shifted(plane: Shaped[np.ndarray, "row column"], part: float) -> Shaped[np.ndarray, "more column"]:
    """Return a plane shifted down by a part of a pixel; its ends are repeated, so that no edge of air appears."""
    if part == 0:
        return plane
    padded = np.concatenate([plane[:1], plane, plane[-1:]]).astype(np.float32)
    mixed = padded[1:] * (1 - part) + padded[:-1] * part
    return np.rint(mixed).astype(plane.dtype) if np.issubdtype(plane.dtype, np.integer) else mixed.astype(plane.dtype)
