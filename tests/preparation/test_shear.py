import numpy as np
import pytest

from viscera.preparation.shear import shear_of, straighten
from viscera.volume import Turn, Volume, turn_volume

SHAPE, SPACING = (20, 48, 40), (5.0, 2.0, 2.5)


def tilted(degrees, *, turn=None):
    """Return a scan of a ramp in world coordinates, whose slices are those of a tilted gantry."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    # LPS-like order: rows go to the back, columns to the left; the step goes to the head, the slices lean
    affine[:3, 2] = -SPACING[2], 0, 0
    affine[:3, 1] = 0, -SPACING[1] * np.cos(angle), SPACING[1] * np.sin(angle)
    affine[:3, 0] = 0, 0, SPACING[0]
    affine[:3, 3] = 60, 40, -50
    z, y, x = np.indices(SHAPE)
    world = np.tensordot(affine[:3, :3], np.stack([z, y, x]), axes=1) + affine[:3, 3, None, None, None]
    volume = Volume((2 * world[0] + 3 * world[1] + 4 * world[2]).astype(np.float32), affine)
    return volume if turn is None else turn_volume(volume, turn)


@pytest.mark.parametrize("degrees", [15, -15, 30])
@pytest.mark.parametrize("turn", [None, Turn((2, 0, 1), (True, False, True))])
def test_a_tilted_scan_is_straightened_to_what_lies_at_each_place(degrees, turn):
    straight, shear = straighten(tilted(degrees, turn=turn))
    assert shear.degrees == pytest.approx(abs(degrees))
    directions = straight.affine[:3, :3] / np.linalg.norm(straight.affine[:3, :3], axis=0)
    assert np.abs(directions.T @ directions - np.eye(3)).max() < 1e-12
    z, y, x = np.indices(straight.shape)
    world = (
        np.tensordot(straight.affine[:3, :3], np.stack([z, y, x]), axes=1) + straight.affine[:3, 3, None, None, None]
    )
    # where the scanner measured nothing, there is the lowest value; beside it, the ends of the rows are repeated
    inside = shear.forth(np.ones(shear.grid.shape, np.uint8)) > 0
    inside[:, 1:-1, 1:-1] &= inside[:, :-2, 1:-1] & inside[:, 2:, 1:-1] & inside[:, 1:-1, :-2] & inside[:, 1:-1, 2:]
    inside[:, [0, 1, -2, -1]] = inside[:, :, [0, 1, -2, -1]] = False
    assert inside.mean() > 0.4
    truth = 2 * world[0] + 3 * world[1] + 4 * world[2]
    assert np.abs(straight.voxels - truth)[inside].max() < 1e-3


@pytest.mark.parametrize("degrees", [15, -15])
@pytest.mark.parametrize("turn", [None, Turn((2, 0, 1), (True, False, True))])
def test_labels_come_back_to_the_voxels_of_the_scanner(degrees, turn):
    scan = tilted(degrees, turn=turn)
    shear = shear_of(scan)
    labels = np.random.default_rng(1).integers(0, 9, scan.shape, np.uint8)
    straight, _ = straighten(scan)
    back = shear.back(Volume(shear.forth(labels), straight.affine))
    assert (back.voxels == labels).all()
    assert (back.affine == scan.affine).all()


@pytest.mark.parametrize("degrees", [0, 0.5, -0.9])
def test_a_scan_that_is_hardly_tilted_is_left_as_it_is(degrees):
    scan = tilted(degrees)
    straight, shear = straighten(scan)
    assert straight is scan
    assert shear is None


def test_rows_that_lean_against_columns_are_no_tilted_gantrys():
    scan = tilted(0)
    scan.affine[0, 1] = 1.0
    assert shear_of(scan) is None
