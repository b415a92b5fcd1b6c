"""The scanner's grid and the prepared one: where voxels lie, against SimpleITK, and what is written of them."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import SimpleITK as sitk

from viscera.preparation.geometry import Geometry, geometry_from_json, geometry_to_json
from viscera.preparation.resampling import SliceGrid
from viscera.volume import Turn

AFFINE = np.array([[0.8, 0, 0, -100], [0, 0, 0.7, -90], [0, -2.5, 0, 300], [0, 0, 0, 1]])
"""Axes as in the file: left to right, head to feet, back to front."""
TURN = Turn((1, 2, 0), (True, True, True))
"""To feet to head, front to back, right to left."""
WHOLE = Geometry((40, 6, 30), AFFINE, TURN, (15, 10))
CUT = Geometry(
    (40, 6, 30),
    AFFINE,
    TURN,
    (16, 32),
    (4, -2),
    (Fraction(2), Fraction(1, 3)),
    SliceGrid(7, Fraction(-1, 2), Fraction(5, 4)),
)
WRITTEN = {
    "shape": [40, 6, 30],
    "affine": AFFINE.tolist(),
    "axes": [1, 2, 0],
    "flips": [True, True, True],
    "prepared_shape": [7, 16, 32],
    "spacing_mm": [3.125, 1.4, pytest.approx(0.8 / 3)],
    "start": [4, -2],
    "step": ["2", "1/3"],
    "ladder": ["7", "-1/2", "5/4"],
}


def in_json(geometry):
    return json.loads(json.dumps(geometry_to_json(geometry)))


def test_what_is_written_of_a_grid_is_what_follows_by_hand():
    assert in_json(CUT) == WRITTEN
    assert in_json(WHOLE) == {
        **{key: value for key, value in WRITTEN.items() if key in ("shape", "affine", "axes", "flips")},
        "prepared_shape": [6, 15, 10],
        "spacing_mm": pytest.approx([2.5, 1.4, 3.2]),  # 30 rows of 0.7 mm in 15, 40 columns of 0.8 mm in 10
    }


@pytest.mark.parametrize("geometry", [WHOLE, CUT, replace(CUT, slice_grid=None)])
def test_what_is_read_is_what_was_written(geometry):
    found = geometry_from_json(in_json(geometry))
    np.testing.assert_array_equal(found.affine, geometry.affine)
    assert found.affine.dtype == np.float64
    for name in ("shape", "turn", "size", "start", "step", "slice_grid", "prepared_shape"):
        assert getattr(found, name) == getattr(geometry, name), name
    np.testing.assert_array_equal(found.prepared_affine, geometry.prepared_affine)


def test_a_grid_of_whole_millimetres_is_read_as_one_of_floats():
    written = in_json(WHOLE) | {"affine": [[0, 0, -1, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]]}
    assert geometry_from_json(written).affine.dtype == np.float64


def test_prepared_pixels_lie_where_simpleitk_finds_the_same_content():
    # Cut without resampling: a voxel's place in the world must be that of the scanner's voxel that it was taken from.
    geometry = Geometry((40, 6, 30), AFFINE, TURN, (16, 32), (4, -2), (Fraction(1), Fraction(1)))
    image = sitk.GetImageFromArray(np.zeros((40, 6, 30), np.uint8))
    lps = np.diag([-1, -1, 1])
    image.SetSpacing((0.7, 2.5, 0.8))
    image.SetDirection((lps @ AFFINE[:3, [2, 1, 0]] / [0.7, 2.5, 0.8]).ravel().tolist())
    image.SetOrigin((lps @ AFFINE[:3, 3]).tolist())
    for z, y, x in ((0, 0, 0), (5, 15, 31), (2, 7, 11)):
        # Axial (z, y, x) is the file's (y from the end, z from the end, x from the end): rows 4 and up, columns from -2.
        column, row = x - 2, y + 4
        expected = lps @ image.TransformContinuousIndexToPhysicalPoint((29.0 - row, 5.0 - z, 39.0 - column))
        np.testing.assert_allclose((geometry.prepared_affine @ [z, y, x, 1])[:3], expected, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": [0, 1, 1]},
        {"axes": [0, 1]},
        {"axes": [1, 2, 3]},
        {"flips": [True, False]},
        {"flips": [True, False, True, False]},
        {"flips": [True, False, 1]},
        {"shape": [40, 6]},
        {"shape": [40, 6, 30, 1]},
        {"shape": [40, 6, 30, 1], "flips": [True, False, True, False]},
        {"prepared_shape": [6, 15]},
        {"prepared_shape": [6, 15, 10, 1]},
        {"affine": [*AFFINE[:3].tolist(), [0, 0, 0, float("nan")]]},
        {"affine": [[float("inf"), 0, 0, 0], *AFFINE[1:].tolist()]},
    ],
)
def test_what_is_no_grid_of_three_axes_is_refused(changes):
    with pytest.raises(ValueError, match=r"^not a grid of three axes$"):
        geometry_from_json(in_json(CUT) | changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"affine": [1, 2, 3]}, ValueError),
        ({"step": ["1"]}, ValueError),
        ({"step": ["1", "1/0"]}, ZeroDivisionError),
        ({"ladder": ["7", "0"]}, ValueError),
        ({"shape": None}, TypeError),
    ],
)
def test_other_damage_is_an_error_of_its_own(changes, error):
    with pytest.raises(error):
        geometry_from_json(in_json(CUT) | changes)


@pytest.mark.parametrize("key", ["shape", "affine", "axes", "flips", "prepared_shape", "start"])
def test_nothing_but_the_cut_may_be_missing(key):
    with pytest.raises(KeyError):
        geometry_from_json({name: value for name, value in in_json(CUT).items() if name != key})
