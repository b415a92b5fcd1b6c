import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viscera.errors import SettingError
from viscera.resampling import resize_image, resize_labels, resized_affine
from viscera.volume import Volume

SIZES = [(8, 8), (16, 16), (32, 32), (5, 7), (16, 9), (1, 1), (40, 3)]


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
    resized = resized_affine(affine, shape, size)
    for corner in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]:
        old = [corner[0], *(side * n - 0.5 for side, n in zip(corner[1:], shape[1:], strict=True)), 1]
        new = [corner[0], *(side * n - 0.5 for side, n in zip(corner[1:], size, strict=True)), 1]
        np.testing.assert_allclose(resized @ new, affine @ old, atol=1e-9)


def test_spacing_doubles_when_the_size_halves():
    affine = np.diag([5.0, 0.7, 0.8, 1.0])[[2, 1, 0, 3]]
    resized = Volume(np.zeros((2, 4, 8), np.uint8), resized_affine(affine, (2, 8, 16), (4, 8)))
    assert resized.spacing_mm == pytest.approx((5.0, 1.4, 1.6))


def test_a_point_keeps_its_place_in_the_world():
    # A linear ramp of world y, sampled on the old grid and resized, is the world y of the new grid.
    affine = np.array([[0, 0, 1, 0], [0, 2, 0, 10], [3, 0, 0, 0], [0, 0, 0, 1]], float)
    ramp = np.broadcast_to((10 + 2 * np.arange(32) * 10)[None, :, None], (1, 32, 8)).astype(np.int16)
    resized = resize_image(ramp, (16, 8))
    affine[1] *= 10
    expected = (resized_affine(affine, ramp.shape, (16, 8)) @ [0, 5, 0, 1])[1] - 90  # the offset was not tenfold
    assert resized[0, 5, 0] == pytest.approx(expected, abs=0.5)
