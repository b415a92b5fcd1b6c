import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from viscera.dicom.contours import Contour, contours_of, rasterise, trace
from viscera.errors import GeometryError


def plane(text):
    """Return a mask of one slice from a drawing, # for inside."""
    return np.array([[[letter == "#" for letter in row] for row in text.split()]])


def area(contour):
    """Return the signed area of a polygon (shoelace); clockwise on the screen is positive, as y points down."""
    y, x = contour.points.T
    return 0.5 * float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def test_one_voxel_is_the_square_around_its_centre():
    [contour] = contours_of(plane("... .#. ..."))
    assert contour.plane == 0
    assert contour.points.tolist() == [[0.5, 0.5], [0.5, 1.5], [1.5, 1.5], [1.5, 0.5]]


def test_only_corners_are_kept_and_the_area_is_the_number_of_voxels():
    [contour] = contours_of(plane("##### ##### ##..."))
    assert len(contour.points) == 6
    assert area(contour) == 12


def test_a_ring_is_one_contour_whose_keyhole_takes_nothing_from_the_area():
    ring = plane("##### #...# #...# #####")
    [contour] = contours_of(ring)
    assert area(contour) == ring.sum()
    assert len(contour.points) == 4 + 4 + 2  # outer corners, the hole's, and where the channel leaves and comes back
    assert (contour.points % 1 == 0.5).all()  # the channel too runs between voxels


def test_an_island_in_a_hole_is_a_contour_of_its_own():
    rings = plane("####### #.....# #.###.# #.#.#.# #.###.# #.....# #######")
    contours = contours_of(rings)
    assert sorted(area(one) for one in contours) == [8, 24]


def test_holes_beside_and_above_each_other_are_all_joined_to_the_one_outline():
    sieve = plane("######## #.#.#.## ######## #.##.#.# #.##...# ########")
    [contour] = contours_of(sieve)
    assert area(contour) == sieve.sum()


def test_voxels_that_touch_by_a_corner_are_contours_of_their_own():
    assert [len(one.points) for one in contours_of(plane("#. .#"))] == [4, 4]
    assert [len(one.points) for one in contours_of(plane(".# #."))] == [4, 4]


def test_a_hole_that_touches_another_by_a_corner_is_lost_in_neither():
    mask = plane("##### #.### ##.## #####")
    [contour] = contours_of(mask)
    assert area(contour) == mask.sum() == 18


def test_organs_of_a_label_map_are_traced_as_each_alone():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, (5, 9, 7), np.uint8)
    found = trace(labels, [1, 2, 3, 7])
    assert found[7] == []
    for value in (1, 2, 3):
        alone = contours_of(labels == value)
        assert [one.plane for one in found[value]] == [one.plane for one in alone]
        assert all((one.points == other.points).all() for one, other in zip(found[value], alone, strict=True))


SHAPES = {
    "nothing": np.zeros((2, 4, 5), bool),
    "everything": np.ones((2, 4, 5), bool),
    "chessboard": np.indices((3, 8, 9)).sum(axis=0) % 2 == 0,
    "rings in rings": np.maximum(*np.abs(np.indices((1, 21, 21))[1:] - 10)) % 4 < 2,
    "one row": np.array([[[1, 0, 1, 1, 0, 0, 1]]], bool),
    "no slice": np.zeros((0, 4, 5), bool),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_filling_contours_gives_back_the_mask(shape):
    mask = SHAPES[shape]
    assert (rasterise(contours_of(mask), mask.shape) == mask).all()


@settings(max_examples=300, deadline=None)
@given(arrays(bool, st.tuples(*[st.integers(1, 9)] * 3)))
def test_any_mask_comes_back_and_each_contour_has_only_corners(mask):
    contours = contours_of(mask)
    assert (rasterise(contours, mask.shape) == mask).all()
    assert sum(area(one) for one in contours) == mask.sum()
    for contour in contours:
        step = np.roll(contour.points, -1, axis=0) - contour.points
        assert ((step == 0).sum(axis=1) == 1).all()  # along y or along x
        assert ((step == 0) != (np.roll(step, 1, axis=0) == 0)).all()  # in turn: at every corner by a right angle
        assert area(contour) >= 1


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.just(1), st.integers(3, 9), st.integers(3, 9)), fill=st.just(True)))
def test_outlines_run_between_inside_and_outside_once_and_keyholes_twice_within(mask):
    padded = np.pad(mask[0], 1)
    rows = np.zeros((padded.shape[0] - 1, padded.shape[1]), int)  # how often the edge below a voxel is walked
    columns = np.zeros((padded.shape[0], padded.shape[1] - 1), int)
    for contour in contours_of(mask):
        corners = (contour.points + 0.5).astype(int)
        for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if y0 == y1:
                rows[y0, min(x0, x1) + 1 : max(x0, x1) + 1] += 1
            else:
                columns[min(y0, y1) + 1 : max(y0, y1) + 1, x0] += 1
    for walked, one, other in ((rows, padded[:-1], padded[1:]), (columns, padded[:, :-1], padded[:, 1:])):
        assert (walked[one != other] == 1).all()
        assert (walked[~one & ~other] == 0).all()
        assert np.isin(walked[one & other], (0, 2)).all()


def even_odd(points, y, x):
    """Say whether (y, x) is inside a polygon: how often a ray to the right crosses it, edge by edge."""
    crossings = 0
    for (y0, x0), (y1, x1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crossings += (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return crossings % 2 == 1


def distance(points, y, x):
    """Return how far (y, x) is from a polygon's outline."""
    to = np.roll(points, -1, axis=0) - points
    along = np.clip(((np.array([y, x]) - points) * to).sum(axis=1) / (to**2).sum(axis=1), 0, 1)
    return np.linalg.norm(points + along[:, None] * to - (y, x), axis=1).min()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9), st.integers(3, 20))
def test_polygons_of_other_programs_fill_the_voxels_whose_centres_they_hold(seed, count):
    points = np.random.default_rng(seed).uniform(-3, 12, (count, 2))
    mask = rasterise([Contour(0, points)], (1, 9, 10))[0]
    for y, x in np.ndindex(9, 10):
        assert mask[y, x] == even_odd(points, y, x) or distance(points, y, x) < 2e-3


def test_inner_contours_without_a_keyhole_are_holes():
    outer = np.array([[-0.5, -0.5], [-0.5, 6.5], [6.5, 6.5], [6.5, -0.5]])
    mask = rasterise([Contour(0, outer), Contour(0, outer[::-1] * 0.3 + 2)], (1, 7, 7))
    expected = np.ones((7, 7), bool)
    expected[2:4, 2:4] = False
    assert (mask[0] == expected).all()


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_voxels_whose_centres_lie_on_an_outline_are_inside_however_it_was_rounded(noise):
    points = np.array([[1, 2], [1, 6], [5, 6], [5, 2]], float)
    points += np.random.default_rng(0).uniform(-noise, noise, points.shape)
    expected = np.zeros((1, 8, 9), bool)
    expected[0, 1:6, 2:7] = True
    assert (rasterise([Contour(0, points)], expected.shape) == expected).all()


def test_what_lies_outside_of_the_grid_is_cut_off():
    far = np.array([[-1e5, -1e5], [-1e5, 1e5], [1e5, 1e5], [1e5, -1e5]])
    assert rasterise([Contour(1, far), Contour(7, far), Contour(-1, far)], (3, 4, 5)).sum(axis=(1, 2)).tolist() == [
        0,
        20,
        0,
    ]


def test_contours_that_would_fill_the_memory_are_refused():
    zigzag = np.tile([[0.0, 0.0], [600.0, 600.0]], (50_000, 1))
    with pytest.raises(GeometryError, match="cross its rows"):
        rasterise([Contour(0, zigzag)], (1, 600, 600))
