from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from viscera.errors import SettingError
from viscera.preparation.resampling import (
    AIR_HU,
    Ladder,
    Raster,
    climb_image,
    climb_labels,
    resample_image,
    resample_labels,
    resampled_affine,
    resize_image,
    spaced_ladder,
    spaced_raster,
    whole_raster,
)
from viscera.volume import Volume

SIZES = [(8, 8), (16, 16), (32, 32), (5, 7), (16, 9), (1, 1), (40, 3)]


def resize_labels(slices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resample_labels(slices, whole_raster(slices.shape[1:], size))


def oracle(slices: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """torch's interpolation, whose pixel centres lie at half steps too."""
    extra = {"align_corners": False, "antialias": False} if mode == "bilinear" else {}
    image = torch.from_numpy(np.ascontiguousarray(slices)).double()[:, None]
    return torch.nn.functional.interpolate(image, size, mode=mode, **extra)[:, 0].numpy()


@pytest.mark.parametrize("size", SIZES)
def test_image_is_torchs_bilinear_rounded_to_the_nearest_whole_hu(size):
    slices = np.random.default_rng(0).integers(-1024, 3072, (3, 16, 16)).astype(np.int16)
    resized = resize_image(slices, size)
    assert resized.dtype == np.int16
    assert np.abs(resized - oracle(slices, size, "bilinear")).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_torchs_nearest_exact(size, dtype):
    slices = np.random.default_rng(1).integers(0, 256, (3, 16, 16)).astype(dtype)
    resized = resize_labels(slices, size)
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized, oracle(slices, size, "nearest-exact"))


def test_scanner_sizes_agree_with_torch():
    slices = np.random.default_rng(2).integers(-1024, 3072, (1, 512, 512)).astype(np.int16)
    for size in [(256, 256), (192, 320), (512, 256)]:
        assert np.abs(resize_image(slices, size) - oracle(slices, size, "bilinear")).max() <= 0.5 + 1e-2
        labels = slices.astype(np.uint8)
        np.testing.assert_array_equal(resize_labels(labels, size), oracle(labels, size, "nearest-exact"))


def test_halving_gives_the_mean_of_each_block():
    slices = np.array([[[0, 4, 100, 100], [8, 12, 100, 104]]], np.int16)
    assert resize_image(slices, (1, 2)).tolist() == [[[6, 101]]]


def test_extremes_of_int16_stay():
    slices = np.full((1, 8, 8), -32768, np.int16)
    slices[:, 4:] = 32767
    resized = resize_image(slices, (16, 16))
    assert (resized.min(), resized.max()) == (-32768, 32767)


def test_the_same_size_changes_nothing():
    slices = np.random.default_rng(3).integers(-1024, 3072, (2, 16, 24)).astype(np.int16)
    np.testing.assert_array_equal(resize_image(slices, (16, 24)), slices)
    np.testing.assert_array_equal(resize_labels(slices.astype(np.uint8), (16, 24)), slices.astype(np.uint8))


@pytest.mark.parametrize("memory", ["transposed", "flipped", "read-only"])
def test_the_memory_layout_does_not_matter(memory):
    slices = np.random.default_rng(4).integers(-1024, 3072, (3, 20, 30)).astype(np.int16)
    expected = resize_image(slices, (16, 16))
    if memory == "transposed":
        slices = np.ascontiguousarray(slices.T).T
    elif memory == "flipped":
        slices = np.ascontiguousarray(slices[:, ::-1, ::-1])[:, ::-1, ::-1]
    else:
        slices.flags.writeable = False
    resized = resize_image(slices, (16, 16))
    np.testing.assert_array_equal(resized, expected)
    assert resized.flags.c_contiguous


def test_no_slices_give_no_slices():
    assert resize_image(np.zeros((0, 8, 8), np.int16), (16, 16)).shape == (0, 16, 16)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(SettingError, match=r"cannot have 0x16 pixels. Set preparation.size to at least 1x1"):
        resize_image(np.zeros((1, 8, 8), np.int16), (0, 16))


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    size=st.tuples(*[st.integers(1, 40)] * 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_resized_grid_covers_the_same_box(shape, size, seed):
    affine = np.eye(4)
    affine[:3] = np.random.default_rng(seed).normal(size=(3, 4))
    resized = resampled_affine(affine, whole_raster(shape[1:], size))
    for corner in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]:
        old = [corner[0], *(side * n - 0.5 for side, n in zip(corner[1:], shape[1:], strict=True)), 1]
        new = [corner[0], *(side * n - 0.5 for side, n in zip(corner[1:], size, strict=True)), 1]
        np.testing.assert_allclose(resized @ new, affine @ old, atol=1e-9)


def test_spacing_doubles_when_the_size_halves():
    affine = np.diag([5.0, 0.7, 0.8, 1.0])[[2, 1, 0, 3]]
    resized = Volume(np.zeros((2, 4, 8), np.uint8), resampled_affine(affine, whole_raster((8, 16), (4, 8))))
    assert resized.spacing_mm == pytest.approx((5.0, 1.4, 1.6))


def test_a_point_keeps_its_place_in_the_world():
    # A linear ramp of world y, sampled on the old grid and resized, is the world y of the new grid.
    affine = np.array([[0, 0, 1, 0], [0, 2, 0, 10], [3, 0, 0, 0], [0, 0, 0, 1]], float)
    ramp = np.broadcast_to((10 + 2 * np.arange(32) * 10)[None, :, None], (1, 32, 8)).astype(np.int16)
    resized = resize_image(ramp, (16, 8))
    affine[1] *= 10
    expected = (resampled_affine(affine, whole_raster((32, 8), (16, 8))) @ [0, 5, 0, 1])[
        1
    ] - 90  # the offset was not tenfold
    assert resized[0, 5, 0] == pytest.approx(expected, abs=0.5)


RASTERS = [
    Raster((16, 32), (0, 0), (Fraction(1), Fraction(1))),
    Raster((32, 16), (-5, 3), (Fraction(1), Fraction(1))),
    Raster((16, 16), (-4, 7), (Fraction(5, 4), Fraction(3, 2))),
    Raster((48, 48), (3, -2), (Fraction(5, 8), Fraction(2, 3))),
    Raster((16, 16), (-9, 5), (Fraction(13, 4), Fraction(37, 16))),
    Raster((16, 16), (1, 0), (Fraction(3), Fraction(2))),
]


def places(raster: Raster, axis: int) -> list[Fraction]:
    """Where the new pixels' centres are on the old slice, the first old pixel's centre being at 0."""
    return [
        raster.start[axis] + (i + Fraction(1, 2)) * raster.step[axis] - Fraction(1, 2) for i in range(raster.size[axis])
    ]


def shares(raster: Raster, axis: int, count: int) -> np.ndarray:
    """How much of each new pixel lies on each old one."""
    edges = raster.start[axis] + np.arange(raster.size[axis] + 1) * float(raster.step[axis])
    old = np.arange(count)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return overlap.clip(0) / float(raster.step[axis])


@pytest.mark.parametrize("raster", RASTERS)
def test_pixels_are_where_the_raster_says_and_air_is_beyond_the_scan(raster):
    slices = np.random.default_rng(5).integers(-1024, 3072, (2, 40, 37)).astype(np.int16)
    resampled = resample_image(slices, raster)
    assert resampled.shape == (2, *raster.size)
    if min(raster.step) > 2:
        filled = slices.astype(float) - AIR_HU
        expected = shares(raster, 0, 40) @ filled @ shares(raster, 1, 37).T + AIR_HU
    else:
        around = np.pad(slices, ((0, 0), (60, 60), (60, 60)), constant_values=AIR_HU).astype(float)
        rows, columns = ([float(place) + 60 for place in places(raster, axis)] for axis in (0, 1))
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = np.stack([map_coordinates(one, grid, order=1) for one in around])
    inner = (
        np.s_[:] if min(raster.step) >= 1 else np.s_[:, 1:-1, 1:-1]
    )  # the outermost of enlarged pixels see no others
    assert np.abs(resampled[inner] - expected[inner]).max() <= 0.5 + 0.02


@pytest.mark.parametrize("raster", RASTERS)
def test_labels_are_those_of_the_nearest_pixel_and_nothing_beyond_the_scan(raster):
    slices = np.random.default_rng(6).integers(1, 256, (2, 40, 37)).astype(np.uint8)
    expected = np.zeros((2, *raster.size), np.uint8)
    for i, row in enumerate(places(raster, 0)):
        for j, column in enumerate(places(raster, 1)):
            y = max(range(-60, 120), key=lambda old, row=row: (-abs(old - row), old))  # the later one of two as near
            x = max(range(-60, 120), key=lambda old, column=column: (-abs(old - column), old))
            if 0 <= y < 40 and 0 <= x < 37:
                expected[:, i, j] = slices[:, y, x]
    np.testing.assert_array_equal(resample_labels(slices, raster), expected)


def test_slices_that_have_the_spacing_are_only_cut():
    slices = np.random.default_rng(7).integers(-1024, 3072, (2, 61, 70)).astype(np.int16)
    raster = spaced_raster((slice(10, 45), slice(5, 30)), (2.5, 2.5), spacing_mm=(2.5, 2.5), margin_mm=10)
    assert (raster.size, raster.step) == ((48, 48), (1, 1))
    top, left = raster.start
    around = np.pad(slices, ((0, 0), (50, 50), (50, 50)), constant_values=AIR_HU)
    np.testing.assert_array_equal(resample_image(slices, raster), around[:, 50 + top : 98 + top, 50 + left : 98 + left])


def test_a_raster_beside_the_scan_shows_air():
    raster = Raster((16, 16), (50, 0), (Fraction(1), Fraction(1)))
    assert not resample_labels(np.ones((1, 40, 40), np.uint8), raster).any()


@settings(deadline=None)
@given(
    low=st.integers(0, 300),
    length=st.integers(1, 300),
    pixel_mm=st.floats(0.2, 6),
    spacing_mm=st.floats(0.3, 20),
    margin_mm=st.floats(0, 40),
)
def test_a_spaced_raster_covers_the_box_and_its_margin_with_as_few_pixels_as_can_be(
    low, length, pixel_mm, spacing_mm, margin_mm
):
    box = slice(low, low + length)
    raster = spaced_raster((box, box), (pixel_mm, pixel_mm), spacing_mm=(spacing_mm, spacing_mm), margin_mm=margin_mm)
    (start, _), (stop, _), (size, _) = raster.start, raster.stop, raster.size
    assert float(raster.step[0]) * pixel_mm == pytest.approx(spacing_mm, abs=pixel_mm / 8192 + 1e-9)
    assert size % 16 == 0
    margin = margin_mm / pixel_mm
    assert start <= low - margin + 0.001
    assert stop >= low + length + margin - 0.001
    assert (size - 16) * raster.step[0] < length + 2 * margin + 2.01
    assert abs((low - start) - (stop - low - length)) <= 1  # as much on either side
    inside = raster.inside((low + length, low + length))
    assert inside == (slice(max(start, 0), low + length),) * 2


def test_a_resampled_point_keeps_its_place_in_the_world():
    # Two linear ramps, of world y and of world x, are still those after resampling.
    affine = np.array([[0, 1.5, -7, 100], [0, -8, 2, 30], [3, 0, 0, 0], [0, 0, 0, 1]])
    index = np.indices((1, 60, 50)).reshape(3, -1)
    x, y, _ = (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, 1, 60, 50).round().astype(np.int16)
    for raster in RASTERS[2:]:
        found = [resample_image(ramp, raster) for ramp in (x, y)]
        new = resampled_affine(affine, raster)
        for place in np.argwhere(np.ones(raster.size, bool)):
            old = np.linalg.solve(affine, new @ [0, *place, 1])
            if 2 < old[1] < 57 and 2 < old[2] < 47 and min(place) > 0 and (place < np.array(raster.size) - 1).all():
                expected = new @ [0, *place, 1]
                assert [ramp[0][tuple(place)] for ramp in found] == pytest.approx(expected[:2], abs=1.1)


# --- along z

LADDERS = {
    "5 mm to 1 mm": spaced_ladder(9, 5.0, spacing_mm=1.0),
    "2.5 mm to 3 mm": spaced_ladder(10, 2.5, spacing_mm=3.0),
    "1.5 mm to 3 mm": spaced_ladder(11, 1.5, spacing_mm=3.0),
    "0.7 mm to 3 mm": spaced_ladder(40, 0.7, spacing_mm=3.0),
    "one slice of 5 mm to 1 mm": spaced_ladder(1, 5.0, spacing_mm=1.0),
    "one slice of 1 mm to 3 mm": spaced_ladder(1, 1.0, spacing_mm=3.0),
}
OLD_SLICES = dict(zip(LADDERS, (9, 10, 11, 40, 1, 1), strict=True))
ladders = pytest.mark.parametrize("name", LADDERS)


def slices_of(name: str, dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (OLD_SLICES[name], 3, 4)).astype(dtype)


@settings(deadline=None)
@given(count=st.integers(1, 900), slice_mm=st.floats(0.2, 10), spacing_mm=st.floats(0.3, 20))
def test_a_ladder_covers_the_scan_with_as_few_slices_as_can_be(count, slice_mm, spacing_mm):
    ladder = spaced_ladder(count, slice_mm, spacing_mm=spacing_mm)
    assert float(ladder.step) * slice_mm == pytest.approx(spacing_mm, abs=slice_mm / 8192 + 1e-9)
    slack = Fraction(1, 100) * ladder.step + Fraction(
        ladder.size, 8192
    )  # of a new slice, and what the step is rounded by
    below, above = -ladder.start, ladder.start + ladder.size * ladder.step - count
    assert below == above  # as much on either side
    assert -slack <= below <= ladder.step / 2 + slack


@ladders
def test_back_says_where_old_slices_lie_among_the_new_ones(name):
    ladder, old = LADDERS[name], np.arange(OLD_SLICES[name])
    new = ladder.back(old)
    np.testing.assert_allclose(float(ladder.start) + (new + 0.5) * float(ladder.step) - 0.5, old, atol=1e-12)
    if ladder.size > 1:
        inside = (new >= 0) & (new <= ladder.size - 1)
        np.testing.assert_allclose(np.interp(new[inside], np.arange(ladder.size), ladder.places), old[inside])


@ladders
def test_new_slices_are_linear_between_old_ones_or_the_mean_of_what_they_cover(name):
    ladder, slices = LADDERS[name], slices_of(name)
    if ladder.step > 2:
        edges = float(ladder.start) + np.arange(ladder.size + 1) * float(ladder.step)
        around = np.pad(slices, ((9, 9), (0, 0), (0, 0)), mode="edge").astype(float)
        old = np.arange(-9, len(slices) + 9)
        overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
        expected = np.tensordot(overlap.clip(0) / float(ladder.step), around, 1)
    else:
        grid = np.meshgrid(ladder.places, np.arange(3), np.arange(4), indexing="ij")
        expected = map_coordinates(slices.astype(float), grid, order=1, mode="nearest")
    found = climb_image(slices, ladder)
    assert found.dtype == np.int16
    assert found.shape == (ladder.size, 3, 4)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


@ladders
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_new_labels_are_those_of_the_nearest_old_slice_the_later_of_two(name, dtype):
    ladder, slices = LADDERS[name], slices_of(name, dtype)
    found = climb_labels(slices, ladder)
    assert found.dtype == dtype
    for number in range(ladder.size):
        place = ladder.start + (number + Fraction(1, 2)) * ladder.step - Fraction(1, 2)
        nearest = max(range(len(slices)), key=lambda old, place=place: (-abs(old - place), old))
        np.testing.assert_array_equal(found[number], slices[nearest])


def test_slices_that_have_the_spacing_stay_as_they_are():
    ladder = spaced_ladder(7, 2.5, spacing_mm=2.5)
    assert ladder == Ladder(7, Fraction(0), Fraction(1))
    slices = np.random.default_rng(8).integers(-1024, 3072, (7, 3, 4)).astype(np.int16)
    np.testing.assert_array_equal(climb_image(slices, ladder), slices)
    np.testing.assert_array_equal(climb_labels(slices, ladder), slices)
    assert spaced_ladder(7, float(np.float32(0.7)), spacing_mm=0.7) == ladder  # the float32 of a file


def test_the_affine_of_a_ladder_moves_slices_along_z_only():
    affine = np.array([[0.0, 0, -1, 5], [0.3, -1, 0, 2], [4, 0.1, 0, -90], [0, 0, 0, 1]])
    ladder = LADDERS["5 mm to 1 mm"]
    new = resampled_affine(affine, whole_raster((6, 8), (6, 8)), ladder)
    for number, place in enumerate(ladder.places):
        np.testing.assert_allclose(new @ [number, 2, 3, 1], affine @ [place, 2, 3, 1])


def test_extreme_hu_survive_interpolation():
    slices = np.array([-32768, 32767, -32768], np.int16)[:, None, None]
    for spacing_mm in (0.5, 1.0, 2.0, 3.0):
        found = climb_image(slices, spaced_ladder(3, 1.0, spacing_mm=spacing_mm))
        assert (found.min() >= -32768) & (found.max() <= 32767)
    assert climb_image(slices, spaced_ladder(3, 1.0, spacing_mm=0.5))[[0, -1]].ravel().tolist() == [-32768, -32768]
