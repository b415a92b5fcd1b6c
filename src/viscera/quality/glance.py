"""Signs that concern a whole scan, from a glance: on voxels every few millimetres, so that it costs next to nothing."""

from dataclasses import asdict, replace

import numpy as np

from viscera.preparation.body import Coarse, coarse_grid
from viscera.quality.flags import Sign
from viscera.quality.judging import signs
from viscera.quality.measuring import Organ, at_border, look_at, measure_organs
from viscera.volume import Volume, axial_turn


def scan_doubts(scan: Coarse, labels: Volume, names: dict[int, str]) -> list[dict[str, object]]:
    """Return the signs of the whole scan, as ``signs`` gives them of all voxels, for JSON.

    Pieces are not counted, and the network is not asked how sure it was: that is for --statistics.

    Args:
        scan: Some of its voxels.
        labels: What was found on its grid.
        names: {label: organ}, those that were looked for.
    """
    return [asdict(sign) for sign in _signs(scan, labels, names)]


def _signs(scan: Coarse, labels: Volume, names: dict[int, str]) -> tuple[Sign, ...]:
    return signs(_organs(scan, labels, names), look_at(scan)).scan


def _organs(scan: Coarse, labels: Volume, names: dict[int, str]) -> dict[str, Organ]:
    """Measure organs on some voxels; each in one piece."""
    turn = axial_turn(labels.affine)
    axial = turn.apply(labels.voxels)
    z_mm, y_mm, x_mm = (labels.spacing_mm[axis] for axis in turn.axes)
    z, y, x = coarse_grid((z_mm, y_mm, x_mm))
    few = np.ascontiguousarray(axial[z, y, x])
    # In axial order along x, y, z the world is LPS turned round: only distances matter here.
    affine = np.diag([-x.step * x_mm, -y.step * y_mm, z.step * z_mm, 1.0])[:, [2, 1, 0, 3]]
    found = measure_organs(Volume(scan.hu, affine), few, names)
    cut = at_border(axial)
    if not few.any() and labels.voxels.any():  # too little to be met every few millimetres
        counts = np.bincount(labels.voxels.ravel(), minlength=256)
        found = {
            organ: replace(found[organ], volume_ml=counts[index] * labels.voxel_ml) for index, organ in names.items()
        }
    return {
        organ: replace(found[organ], touches_border=bool(cut[index]), pieces=1, shares=found[organ].shares and (1.0,))
        for index, organ in names.items()
    }
