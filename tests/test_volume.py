import itertools
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from viscera.errors import GeometryError
from viscera.volume import (
    GRID_TOLERANCE_MM,
    Turn,
    Volume,
    axial_turn,
    axis_codes,
    check_affine,
    check_extent,
    require_same_grid,
    same_grid,
    to_axial,
    turn_volume,
    turned_onto,
    with_voxels,
)

SHAPE = (3, 4, 5)
TURNS = [
    Turn(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
AXIAL = np.array([[0, 0, -0.8, 100], [0, -0.7, 0, 90], [2.5, 0, 0, -300], [0, 0, 0, 1]])
"""Feet to head, front to back, right to left: the patient's right (+x) comes first, as does the front (+y)."""


def numbered(affine=AXIAL, shape=SHAPE):
    """Every voxel its own value."""
    return Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)


def places(volume):
    """Return {voxel value: where it is in the world}."""
    return {
        int(volume.voxels[index]): np.round((volume.affine @ [*index, 1])[:3], 6)
        for index in np.ndindex(volume.voxels.shape)
    }


def same_places(a, b):
    first, second = places(a), places(b)
    return first.keys() == second.keys() and all(np.allclose(first[key], second[key], atol=1e-5) for key in first)


def oblique(angles, spacing=(2.5, 0.7, 0.8)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() @ AXIAL[:3, :3] / [2.5, 0.7, 0.8] * spacing
    affine[:3, 3] = [10, -20, 30]
    return affine


def canonical(volume):
    """nibabel's nearest canonical order, as an oracle: RAS+ (x, y, z) is ours with y and x reversed."""
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.voxels.T), volume.affine[:, [2, 1, 0, 3]])
    closest = nibabel.as_closest_canonical(image)
    return np.asarray(closest.dataobj).T[:, ::-1, ::-1]


def test_there_are_48_turns():
    assert len(set(TURNS)) == 48


@pytest.mark.parametrize("turn", TURNS)
def test_every_turn_is_undone(turn):
    voxels = numbered().voxels
    assert np.array_equal(turn.undo(turn.apply(voxels)), voxels)
    assert turn.apply(voxels).shape == tuple(SHAPE[axis] for axis in turn.axes)
    assert np.shares_memory(turn.apply(voxels), voxels)


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_volume_has_each_voxel_where_it_was(turn):
    volume = numbered(oblique((0.2, -0.1, 0.3)))
    turned = turn_volume(volume, turn)
    assert same_places(volume, turned)
    assert np.isclose(turned.voxel_ml, volume.voxel_ml)


@pytest.mark.parametrize("turn", TURNS)
def test_axial_order_is_found_from_any_order_and_equals_nibabels(turn):
    disordered = turn_volume(numbered(), turn)
    axial, back = to_axial(disordered)
    assert np.array_equal(axial.voxels, numbered().voxels)
    assert np.allclose(axial.affine, AXIAL)
    assert np.array_equal(axial.voxels, canonical(disordered))
    assert np.array_equal(back.undo(axial.voxels), disordered.voxels)


@settings(deadline=None, max_examples=60)
@given(
    angles=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    turn=st.sampled_from(TURNS),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_oblique_grids_turn_as_nibabels(angles, turn, spacing, shape):
    disordered = turn_volume(numbered(oblique(angles, spacing), shape), turn)
    axial, back = to_axial(disordered)
    assert same_places(axial, disordered)
    assert np.array_equal(axial.voxels, canonical(disordered))
    assert np.allclose(turn_volume(axial, Turn((0, 1, 2), (False, False, False))).affine, oblique(angles, spacing))
    assert np.array_equal(back.undo(axial.voxels), disordered.voxels)


@settings(deadline=None, max_examples=60)
@given(angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3))
def test_any_rotation_ends_nearest_to_axial(angles):
    axial, _ = to_axial(numbered(oblique(angles)))
    directions = axial.affine[:3, :3] / np.linalg.norm(axial.affine[:3, :3], axis=0)
    agreement = [directions[2, 0], -directions[1, 1], -directions[0, 2]]
    assume(min(np.abs(agreement)) > 1e-6)  # an axis at right angles to its own has no better direction
    assert min(agreement) > 0
    # No other order agrees better.
    others = [sum(abs(directions[2 - i, order[i]]) for i in range(3)) for order in itertools.permutations(range(3))]
    assert sum(agreement) >= max(others) - 1e-6
    assert axial_turn(axial.affine) == Turn((0, 1, 2), (False, False, False))


def test_turning_to_axial_drops_the_header_that_no_longer_fits():
    assert to_axial(replace(numbered(), header="header"))[0].header is None
    assert with_voxels(replace(numbered(), header="header"), numbered().voxels).header == "header"


def test_spacing_shape_and_volume_follow_from_the_affine():
    volume = numbered(oblique((0.3, 0.2, 0.1)))
    assert volume.shape == SHAPE
    assert np.allclose(volume.spacing_mm, (2.5, 0.7, 0.8))
    assert np.isclose(volume.voxel_ml, 2.5 * 0.7 * 0.8 / 1000)


@pytest.mark.parametrize("turn", TURNS)
def test_axis_codes_are_nibabels_backwards(turn):
    affine = turn_volume(numbered(), turn).affine
    expected = "".join(nibabel.aff2axcodes(affine[:, [2, 1, 0, 3]]))[::-1]
    assert axis_codes(affine) == expected


def test_axial_order_is_called_by_its_letters():
    assert axis_codes(AXIAL) == "SPL"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_affines_that_are_not_finite_are_refused(value):
    affine = AXIAL.copy()
    affine[0, 3] = value
    with pytest.raises(GeometryError, match=r"NaN or infinity\. Rewrite"):
        check_affine(affine)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_zero_spacing_is_refused(column):
    affine = AXIAL.copy()
    affine[:3, column] = 0
    with pytest.raises(GeometryError, match=r"singular \(spacing (\S+x)?0(x\S+)? mm along z, y, x\)"):
        to_axial(numbered(affine))


def test_parallel_axes_are_refused_however_small_the_voxels():
    affine = AXIAL.copy()
    affine[:3, 0] = affine[:3, 1]
    message = r"singular \(spacing 0\.7x0\.7x0\.8 mm along z, y, x\)\. Rewrite the file with its true spacing"
    with pytest.raises(GeometryError, match=message):
        check_affine(affine)
    check_affine(np.diag([1e-3, 1e-3, 1e-3, 1]))


def test_grids_are_the_same_within_the_tolerance():
    a = numbered()
    for shift, same in ((0.9 * GRID_TOLERANCE_MM, True), (1.1 * GRID_TOLERANCE_MM, False), (np.nan, False)):
        affine = AXIAL.copy()
        affine[1, 3] += shift
        assert same_grid(a, replace(a, affine=affine)) is same


def test_a_small_error_of_spacing_counts_at_the_far_corner():
    shape = (2, 2, 500)
    a = numbered(shape=shape)
    affine = AXIAL.copy()
    affine[0, 2] *= 1 + 1e-4  # 0.04 mm over 500 voxels
    assert not same_grid(a, numbered(affine, shape))
    assert same_grid(numbered(), numbered(affine))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_corners_that_count_are_those_of_the_grid_itself_along_every_axis(axis):
    def moved(steps, at_start, at_end):
        """Return whether a grid is the same if one axis, of so many steps, moves by parts of the tolerance at its ends."""
        shape = tuple(steps if which == axis else 33 - steps for which in range(3))
        affine = AXIAL.copy()
        affine[1, 3] += at_start * GRID_TOLERANCE_MM
        affine[1, axis] += (at_end - at_start) * GRID_TOLERANCE_MM / steps
        return same_grid(numbered(shape=shape), numbered(affine, shape))

    for steps in (3, 30):
        assert moved(steps, 0, 0.9)
        assert moved(steps, 0.9, 0)
        assert not moved(steps, 0, 1.1)
        assert not moved(steps, 1.1, 0)


@pytest.mark.parametrize("turn", TURNS)
def test_the_same_grid_in_another_order_is_turned_back_without_loss(turn):
    grid = numbered(oblique((0.2, -0.1, 0.3)))
    found = turned_onto(grid, turn_volume(grid, turn))
    assert found is not None
    assert np.array_equal(found.voxels, grid.voxels)
    assert np.allclose(found.affine, grid.affine)


def test_a_volume_on_the_grid_is_itself_and_one_elsewhere_is_not_turned():
    grid = numbered()
    assert turned_onto(grid, grid) is grid
    flipped = turn_volume(grid, Turn((2, 0, 1), (True, False, True)))
    for shift in (0.9 * GRID_TOLERANCE_MM, 1.1 * GRID_TOLERANCE_MM):
        affine = flipped.affine.copy()
        affine[2, 3] += shift
        assert (turned_onto(grid, replace(flipped, affine=affine)) is None) == (shift > GRID_TOLERANCE_MM)
    # Between two orders: each axis is as near to one as to another.
    between = np.eye(4)
    between[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    assert turned_onto(numbered(np.eye(4)), numbered(between)) is None
    assert turned_onto(grid, numbered(AXIAL @ np.diag([2, 1, 1, 1]))) is None


def grid_of(spacing_mm, shape):
    """Check a grid whose axes run along the world's."""
    check_extent(np.diag([*spacing_mm, 1.0]), shape)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_a_grid_may_be_as_large_as_a_table_can_move_and_as_fine_as_a_scanners(order):
    def sorted_as(values):
        return tuple(values[place] for place in order)

    grid_of((200.0, 200.0, 200.0), sorted_as((16, 8, 8)))
    grid_of((0.01, 0.01, 0.01), (3, 3, 3))
    for spacing_mm, shape in (((200.0,) * 3, (17, 8, 8)), ((200.0,) * 3, (16, 9, 8)), ((200.5, 1.0, 1.0), (1, 1, 1))):
        with pytest.raises(GeometryError, match="larger than any body"):
            grid_of(sorted_as(spacing_mm), sorted_as(shape))
    with pytest.raises(GeometryError, match="finer than any scanner's"):
        grid_of(sorted_as((0.0099, 5.0, 5.0)), (3, 3, 3))


@pytest.mark.parametrize(
    ("spacing_mm", "shape", "guess"),
    [
        # Divided by 1000: voxels of 0.01 mm or more, and 3.2 m at most.
        ((10.0, 10.0, 10.0), (400, 4, 4), "micrometres"),
        ((9.999, 10.0, 10.0), (400, 4, 4), "damaged"),
        ((10.0, 9.0, 10.0), (400, 4, 4), "damaged"),
        ((200.0, 200.0, 200.0), (16000, 1, 1), "micrometres"),
        ((200.0, 200.0, 200.0), (16001, 1, 1), "damaged"),
        ((200.0, 200.0, 200.0), (16000000, 1, 1), "damaged"),
        # Times 1000: voxels of 0.01 mm or more.
        ((1e-5, 1e-5, 1e-5), (4, 4, 4), "metres"),
        ((9.995e-6, 1e-5, 1e-5), (4, 4, 4), "damaged"),
        ((0.005, 0.001, 1e-7), (4, 4, 4), "damaged"),
    ],
)
def test_an_impossible_grid_says_what_its_unit_may_be(spacing_mm, shape, guess):
    what = "larger than any body" if max(spacing_mm) > 1 else "finer than any scanner's"
    guess = "its spacing is damaged" if guess == "damaged" else f"its header counts in {guess}"
    message = rf"it.* would be {what}: .* mm between voxels, .* mm in all \(z, y, x\); perhaps {guess}\. Rewrite"
    with pytest.raises(GeometryError, match=message):
        grid_of(spacing_mm, shape)


def test_an_impossible_grid_is_described_in_four_digits():
    with pytest.raises(GeometryError, match=r"body: 1234x0\.001235x2 mm between voxels, 1234x0\.002469x6 mm in all"):
        grid_of((1234.4, 0.00123456, 2.0), (1, 2, 3))
    with pytest.raises(GeometryError, match=r"0\.00000012x5x5 mm between voxels, 0\.00000024x5x5 mm in all"):
        grid_of((0.00000012, 5.0, 5.0), (2, 1, 1))


def test_the_extent_of_a_grid_is_measured_along_its_own_axes_and_its_affine_is_checked():
    # 45 degrees about z: steps of 150 mm, whose parts along x and y are 106 mm each; eight rows are 1200 mm.
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix() @ np.diag([150, 50, 1])
    check_extent(affine, (8, 8, 8))
    with pytest.raises(GeometryError, match=r"150x50x1 mm between voxels, 3300x400x8 mm in all"):
        check_extent(affine, (22, 8, 8))
    with pytest.raises(GeometryError, match="singular"):
        check_extent(np.diag([1.0, 0.0, 1.0, 1.0]), (8, 8, 8))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            numbered(AXIAL @ np.diag([1.0005, 1, 1, 1]), (40, 4, 5)),
            r"\(SPL from \[100\.0, 90\.0, -300\.0\] mm against SPL",
        ),
        (
            numbered(AXIAL @ np.diag([1.002, 1, 1, 1]), (40, 4, 5)),
            r"\(2\.5050x0\.7000x0\.8000 mm against 2\.5000x0\.7000x0\.8000 mm",
        ),
        (
            numbered(AXIAL @ np.diag([1, 1, 1.01625, 1]), (40, 4, 5)),
            r"\(2\.50x0\.70x0\.81 mm against 2\.50x0\.70x0\.80 mm",
        ),
    ],
)
def test_spacing_is_named_as_the_difference_if_it_is_more_than_a_thousandth_and_with_digits_that_show_it(
    labels, message
):
    with pytest.raises(GeometryError, match=message):
        require_same_grid(numbered(shape=(40, 4, 5)), labels, where="liver_003")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (numbered(shape=(2, 4, 5)), r"liver_003: .*\(2x4x5 voxels \(z, y, x\) against 3x4x5 voxels.*Resample"),
        (numbered(AXIAL @ np.diag([2, 1, 1, 1])), r"\(5\.00x0\.70x0\.80 mm against 2\.50x0\.70x0\.80 mm\)"),
        (numbered(AXIAL @ np.diag([1, -1, 1, 1])), r"\(SAL from .* against SPL from"),
    ],
)
def test_labels_on_another_grid_are_refused_with_both_grids(labels, message):
    with pytest.raises(GeometryError, match=message):
        require_same_grid(numbered(), labels, where="liver_003")
    require_same_grid(numbered(), numbered(), where="liver_003")


def test_other_voxels_on_the_same_grid_take_the_place_of_the_old():
    other = with_voxels(numbered(), numbered().voxels[::-1])
    assert np.array_equal(other.voxels, numbered().voxels[::-1])
    assert np.array_equal(other.affine, AXIAL)


def test_voxels_of_another_shape_do_not_fit():
    with pytest.raises(GeometryError, match=r"\(1, 4, 5\) voxels do not fit the grid \(3, 4, 5\)"):
        with_voxels(numbered(), numbered().voxels[:1])
