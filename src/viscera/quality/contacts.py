"""Where organs end at tissue that looks like their own: no edge in the image tells that they end there.

A surface is looked at on slices, every few millimetres, from the mean HU of nine voxels inside to that of nine outside, so that
neither noise nor voxels on the surface itself count.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from viscera.preparation.body import coarse_grid
from viscera.volume import Volume, axial_turn

ALIKE_HU = 15.0
"""Two sides of a surface that differ less look alike; the noise of a mean of nine voxels is 1 to 15 HU."""


@dataclass(frozen=True)
class Contact:
    """An organ's surface.

    Attributes:
        faces: Of voxels on the grid that is looked at, on slices, between the organ and another label or none.
        alike_fraction: Share of them with another label behind them that looks alike.
        alike_with: Which label that is mostly; "" for none.
        open_fraction: Share of them with no label behind them, though it looks alike.
    """

    faces: int
    alike_fraction: float
    alike_with: str
    open_fraction: float


def measure_contacts(ct: Volume, labels: UInt8[np.ndarray, "z y x"], names: dict[int, str]) -> dict[str, Contact]:
    """Measure the surfaces of the organs of a label map.

    Args:
        ct: HU.
        labels: On its grid, in the same order.
        names: {label: organ}.

    Returns:
        {organ: its surface}, of those that have one on this grid.
    """
    turn = axial_turn(ct.affine)
    z_mm, y_mm, x_mm = (ct.spacing_mm[axis] for axis in turn.axes)
    grid = coarse_grid((z_mm, y_mm, x_mm))
    few = np.ascontiguousarray(turn.apply(labels)[grid])
    hu = turn.apply(ct.voxels)[grid]
    faces, alike = np.zeros((2, 256 * 256), np.int64)
    for plane, values in zip(few, hu, strict=True):
        if plane.any():
            _add_faces_(faces, alike, plane, values)
    faces, alike = faces.reshape(256, 256), alike.reshape(256, 256)
    found = {}
    for index, organ in names.items():
        count = int(faces[index].sum())
        if count:
            others = {name: int(alike[index, other]) for other, name in names.items() if other != index}
            most = max(others, key=others.__getitem__, default="")
            found[organ] = Contact(
                count,
                sum(others.values()) / count,
                most if others.get(most) else "",
                int(alike[index, 0]) / count,
            )
    return found


def _add_faces_(
    faces: Shaped[np.ndarray, " pair"],
    alike: Shaped[np.ndarray, " pair"],
    plane: UInt8[np.ndarray, "y x"],
    values: Shaped[np.ndarray, "y x"],
) -> None:
    """Count the faces of a slice, by the label on this side and on that, and those with like HU on both."""
    smooth: Float32[np.ndarray, "y x"] = cv2.blur(np.ascontiguousarray(values, np.float32), (3, 3))
    for lab, grey in ((plane, smooth), (plane.T, smooth.T)):
        if lab.shape[1] < 4:
            continue
        edge = lab[:, :-1] != lab[:, 1:]
        one, two = lab[:, :-1][edge], lab[:, 1:][edge]
        # The voxel before the face's own on either side, whose nine voxels do not reach across; all of the label of their side.
        inner = np.zeros(edge.shape, bool)
        inner[:, 1:-1] = (
            edge[:, 1:-1]
            & (lab[:, :-3] == lab[:, 1:-2])
            & (lab[:, 2:-1] == lab[:, 3:])
            & (np.abs(grey[:, :-3] - grey[:, 3:]) <= ALIKE_HU)
        )
        like = inner[edge]
        for here, there in ((one, two), (two, one)):
            pair = here.astype(np.int64) * 256 + there
            faces += np.bincount(pair, minlength=faces.size)
            alike += np.bincount(pair[like], minlength=alike.size)
