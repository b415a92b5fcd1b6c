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
    PixelGrid,
    SliceGrid,
    resample_along_z,
    resample_image,
    resample_labels,
    resample_labels_along_z,
    resampled_affine,
    resize_image,
    spaced_pixel_grid,
    spaced_slice_grid,
    whole_pixel_grid,
)
from viscera.volume import Volume

SIZES = [(8, 8), (16, 16), (32, 32), (5, 7), (16, 9), (1, 1), (40, 3)]


def resize_labels(slices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resample_labels(slices, whole_pixel_grid(slices.shape[1:], size))


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
    resized = resampled_affine(affine, whole_pixel_grid(shape[1:], size))
    for corner in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]:
        old = [corner[0], *(side * n - 0.5 for side, n in zip(corner[1:], shape[1:], strict=True)), 1]
        new = [corner[0], *(side * n - 0.5 for side, n in zip(corner[1:], size, strict=True)), 1]
        np.testing.assert_allclose(resized @ new, affine @ old, atol=1e-9)


def test_spacing_doubles_when_the_size_halves():
    affine = np.diag([5.0, 0.7, 0.8, 1.0])[[2, 1, 0, 3]]
    resized = Volume(np.zeros((2, 4, 8), np.uint8), resampled_affine(affine, whole_pixel_grid((8, 16), (4, 8))))
    assert resized.spacing_mm == pytest.approx((5.0, 1.4, 1.6))


def test_a_point_keeps_its_place_in_the_world():
    # A linear ramp of world y, sampled on the old grid and resized, is the world y of the new grid.
    affine = np.array([[0, 0, 1, 0], [0, 2, 0, 10], [3, 0, 0, 0], [0, 0, 0, 1]], float)
    ramp = np.broadcast_to((10 + 2 * np.arange(32) * 10)[None, :, None], (1, 32, 8)).astype(np.int16)
    resized = resize_image(ramp, (16, 8))
    affine[1] *= 10
    expected = (resampled_affine(affine, whole_pixel_grid((32, 8), (16, 8))) @ [0, 5, 0, 1])[
        1
    ] - 90  # the offset was not tenfold
    assert resized[0, 5, 0] == pytest.approx(expected, abs=0.5)


PIXEL_GRIDS = [
    PixelGrid((16, 32), (0, 0), (Fraction(1), Fraction(1))),
    PixelGrid((32, 16), (-5, 3), (Fraction(1), Fraction(1))),
    PixelGrid((16, 16), (-4, 7), (Fraction(5, 4), Fraction(3, 2))),
    PixelGrid((48, 48), (3, -2), (Fraction(5, 8), Fraction(2, 3))),
    PixelGrid((16, 16), (-9, 5), (Fraction(13, 4), Fraction(37, 16))),
    PixelGrid((16, 16), (1, 0), (Fraction(3), Fraction(2))),
]


def places(pixel_grid: PixelGrid, axis: int) -> list[Fraction]:
    """Where the new pixels' centres are on the old slice, the first old pixel's centre being at 0."""
    return [
        pixel_grid.start[axis] + (i + Fraction(1, 2)) * pixel_grid.step[axis] - Fraction(1, 2)
        for i in range(pixel_grid.size[axis])
    ]


def shares(pixel_grid: PixelGrid, axis: int, count: int) -> np.ndarray:
    """How much of each new pixel lies on each old one."""
    edges = pixel_grid.start[axis] + np.arange(pixel_grid.size[axis] + 1) * float(pixel_grid.step[axis])
    old = np.arange(count)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return overlap.clip(0) / float(pixel_grid.step[axis])


@pytest.mark.parametrize("pixel_grid", PIXEL_GRIDS)
def test_pixels_are_where_the_pixel_grid_says_and_air_is_beyond_the_scan(pixel_grid):
    slices = np.random.default_rng(5).integers(-1024, 3072, (2, 40, 37)).astype(np.int16)
    resampled = resample_image(slices, pixel_grid)
    assert resampled.shape == (2, *pixel_grid.size)
    if min(pixel_grid.step) > 2:
        filled = slices.astype(float) - AIR_HU
        expected = shares(pixel_grid, 0, 40) @ filled @ shares(pixel_grid, 1, 37).T + AIR_HU
    else:
        around = np.pad(slices, ((0, 0), (60, 60), (60, 60)), constant_values=AIR_HU).astype(float)
        rows, columns = ([float(place) + 60 for place in places(pixel_grid, axis)] for axis in (0, 1))
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = np.stack([map_coordinates(one, grid, order=1) for one in around])
    inner = (
        np.s_[:] if min(pixel_grid.step) >= 1 else np.s_[:, 1:-1, 1:-1]
    )  # the outermost of enlarged pixels see no others
    assert np.abs(resampled[inner] - expected[inner]).max() <= 0.5 + 0.02


@pytest.mark.parametrize("pixel_grid", PIXEL_GRIDS)
def test_labels_are_those_of_the_nearest_pixel_and_nothing_beyond_the_scan(pixel_grid):
    slices = np.random.default_rng(6).integers(1, 256, (2, 40, 37)).astype(np.uint8)
    expected = np.zeros((2, *pixel_grid.size), np.uint8)
    for i, row in enumerate(places(pixel_grid, 0)):
        for j, column in enumerate(places(pixel_grid, 1)):
            y = max(range(-60, 120), key=lambda old, row=row: (-abs(old - row), old))  # the later one of two as near
            x = max(range(-60, 120), key=lambda old, column=column: (-abs(old - column), old))
            if 0 <= y < 40 and 0 <= x < 37:
                expected[:, i, j] = slices[:, y, x]
    np.testing.assert_array_equal(resample_labels(slices, pixel_grid), expected)


def test_slices_that_have_the_spacing_are_only_cut():
    slices = np.random.default_rng(7).integers(-1024, 3072, (2, 61, 70)).astype(np.int16)
    pixel_grid = spaced_pixel_grid((slice(10, 45), slice(5, 30)), (2.5, 2.5), spacing_mm=(2.5, 2.5), margin_mm=10)
    assert (pixel_grid.size, pixel_grid.step) == ((48, 48), (1, 1))
    top, left = pixel_grid.start
    around = np.pad(slices, ((0, 0), (50, 50), (50, 50)), constant_values=AIR_HU)
    np.testing.assert_array_equal(
        resample_image(slices, pixel_grid), around[:, 50 + top : 98 + top, 50 + left : 98 + left]
    )


def test_a_pixel_grid_beside_the_scan_shows_air():
    pixel_grid = PixelGrid((16, 16), (50, 0), (Fraction(1), Fraction(1)))
    assert not resample_labels(np.ones((1, 40, 40), np.uint8), pixel_grid).any()


@settings(deadline=None)
@given(
    low=st.integers(0, 300),
    length=st.integers(1, 300),
    pixel_mm=st.floats(0.2, 6),
    spacing_mm=st.floats(0.3, 20),
    margin_mm=st.floats(0, 40),
)
def test_a_spaced_pixel_grid_covers_the_box_and_its_margin_with_as_few_pixels_as_can_be(
    low, length, pixel_mm, spacing_mm, margin_mm
):
    box = slice(low, low + length)
    pixel_grid = spaced_pixel_grid(
        (box, box), (pixel_mm, pixel_mm), spacing_mm=(spacing_mm, spacing_mm), margin_mm=margin_mm
    )
    (start, _), (stop, _), (size, _) = pixel_grid.start, pixel_grid.stop, pixel_grid.size
    assert float(pixel_grid.step[0]) * pixel_mm == pytest.approx(spacing_mm, abs=pixel_mm / 8192 + 1e-9)
    assert size % 16 == 0
    margin = margin_mm / pixel_mm
    assert start <= low - margin + 0.001
    assert stop >= low + length + margin - 0.001
    assert (size - 16) * pixel_grid.step[0] < length + 2 * margin + 2.01
    assert abs((low - start) - (stop - low - length)) <= 1  # as much on either side
    inside = pixel_grid.inside((low + length, low + length))
    assert inside == (slice(max(start, 0), low + length),) * 2


def test_a_resampled_point_keeps_its_place_in_the_world():
    # Two linear ramps, of world y and of world x, are still those after resampling.
    affine = np.array([[0, 1.5, -7, 100], [0, -8, 2, 30], [3, 0, 0, 0], [0, 0, 0, 1]])
    index = np.indices((1, 60, 50)).reshape(3, -1)
    x, y, _ = (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, 1, 60, 50).round().astype(np.int16)
    for pixel_grid in PIXEL_GRIDS[2:]:
        found = [resample_image(ramp, pixel_grid) for ramp in (x, y)]
        new = resampled_affine(affine, pixel_grid)
        for place in np.argwhere(np.ones(pixel_grid.size, bool)):
            old = np.linalg.solve(affine, new @ [0, *place, 1])
            if 2 < old[1] < 57 and 2 < old[2] < 47 and min(place) > 0 and (place < np.array(pixel_grid.size) - 1).all():
                expected = new @ [0, *place, 1]
                assert [ramp[0][tuple(place)] for ramp in found] == pytest.approx(expected[:2], abs=1.1)


# --- along z

SLICE_GRIDS = {
    "5 mm to 1 mm": spaced_slice_grid(9, 5.0, spacing_mm=1.0),
    "2.5 mm to 3 mm": spaced_slice_grid(10, 2.5, spacing_mm=3.0),
    "1.5 mm to 3 mm": spaced_slice_grid(11, 1.5, spacing_mm=3.0),
    "0.7 mm to 3 mm": spaced_slice_grid(40, 0.7, spacing_mm=3.0),
    "one slice of 5 mm to 1 mm": spaced_slice_grid(1, 5.0, spacing_mm=1.0),
    "one slice of 1 mm to 3 mm": spaced_slice_grid(1, 1.0, spacing_mm=3.0),
}
OLD_SLICES = dict(zip(SLICE_GRIDS, (9, 10, 11, 40, 1, 1), strict=True))
slice_grids = pytest.mark.parametrize("name", SLICE_GRIDS)


def slices_of(name: str, dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (OLD_SLICES[name], 3, 4)).astype(dtype)


@settings(deadline=None)
@given(count=st.integers(1, 900), slice_mm=st.floats(0.2, 10), spacing_mm=st.floats(0.3, 20))
def test_a_slice_grid_covers_the_scan_with_as_few_slices_as_can_be(count, slice_mm, spacing_mm):
    slice_grid = spaced_slice_grid(count, slice_mm, spacing_mm=spacing_mm)
    assert float(slice_grid.step) * slice_mm == pytest.approx(spacing_mm, abs=slice_mm / 8192 + 1e-9)
    slack = Fraction(1, 100) * slice_grid.step + Fraction(
        slice_grid.size, 8192
    )  # of a new slice, and what the step is rounded by
    below, above = -slice_grid.start, slice_grid.start + slice_grid.size * slice_grid.step - count
    assert below == above  # as much on either side
    assert -slack <= below <= slice_grid.step / 2 + slack


@slice_grids
def test_back_says_where_old_slices_lie_among_the_new_ones(name):
    slice_grid, old = SLICE_GRIDS[name], np.arange(OLD_SLICES[name])
    new = slice_grid.back(old)
    np.testing.assert_allclose(float(slice_grid.start) + (new + 0.5) * float(slice_grid.step) - 0.5, old, atol=1e-12)
    if slice_grid.size > 1:
        inside = (new >= 0) & (new <= slice_grid.size - 1)
        np.testing.assert_allclose(np.interp(new[inside], np.arange(slice_grid.size), slice_grid.places), old[inside])


@slice_grids
def test_new_slices_are_linear_between_old_ones_or_the_mean_of_what_they_cover(name):
    slice_grid, slices = SLICE_GRIDS[name], slices_of(name)
    if slice_grid.step > 2:
        edges = float(slice_grid.start) + np.arange(slice_grid.size + 1) * float(slice_grid.step)
        around = np.pad(slices, ((9, 9), (0, 0), (0, 0)), mode="edge").astype(float)
        old = np.arange(-9, len(slices) + 9)
        overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
        expected = np.tensordot(overlap.clip(0) / float(slice_grid.step), around, 1)
    else:
        grid = np.meshgrid(slice_grid.places, np.arange(3), np.arange(4), indexing="ij")
        expected = map_coordinates(slices.astype(float), grid, order=1, mode="nearest")
    found = resample_along_z(slices, slice_grid)
    assert found.dtype == np.int16
    assert found.shape == (slice_grid.size, 3, 4)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


@slice_grids
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_new_labels_are_those_of_the_nearest_old_slice_the_later_of_two(name, dtype):
    slice_grid, slices = SLICE_GRIDS[name], slices_of(name, dtype)
    found = resample_labels_along_z(slices, slice_grid)
    assert found.dtype == dtype
    for number in range(slice_grid.size):
        place = slice_grid.start + (number + Fraction(1, 2)) * slice_grid.step - Fraction(1, 2)
        nearest = max(range(len(slices)), key=lambda old, place=place: (-abs(old - place), old))
        np.testing.assert_array_equal(found[number], slices[nearest])


def test_slices_that_have_the_spacing_stay_as_they_are():
    slice_grid = spaced_slice_grid(7, 2.5, spacing_mm=2.5)
    assert slice_grid == SliceGrid(7, Fraction(0), Fraction(1))
    slices = np.random.default_rng(8).integers(-1024, 3072, (7, 3, 4)).astype(np.int16)
    np.testing.assert_array_equal(resample_along_z(slices, slice_grid), slices)
    np.testing.assert_array_equal(resample_labels_along_z(slices, slice_grid), slices)
    assert spaced_slice_grid(7, float(np.float32(0.7)), spacing_mm=0.7) == slice_grid  # the float32 of a file


def test_the_affine_of_a_slice_grid_moves_slices_along_z_only():
    affine = np.array([[0.0, 0, -1, 5], [0.3, -1, 0, 2], [4, 0.1, 0, -90], [0, 0, 0, 1]])
    slice_grid = SLICE_GRIDS["5 mm to 1 mm"]
    new = resampled_affine(affine, whole_pixel_grid((6, 8), (6, 8)), slice_grid)
    for number, place in enumerate(slice_grid.places):
        np.testing.assert_allclose(new @ [number, 2, 3, 1], affine @ [place, 2, 3, 1])


def test_extreme_hu_survive_interpolation():
    slices = np.array([-32768, 32767, -32768], np.int16)[:, None, None]
    for spacing_mm in (0.5, 1.0, 2.0, 3.0):
        found = resample_along_z(slices, spaced_slice_grid(3, 1.0, spacing_mm=spacing_mm))
        assert (found.min() >= -32768) & (found.max() <= 32767)
    assert resample_along_z(slices, spaced_slice_grid(3, 1.0, spacing_mm=0.5))[[0, -1]].ravel().tolist() == [
        -32768,
        -32768,
    ]
