"""Contrast: against NumPy transcriptions and scikit-image, degenerate slices, and that training and prediction see the same."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import exposure
from torch import nn

from bad_inputs.files import RECIPE
from viscera.cli.command import main
from viscera.config import (
    Contrast,
    ForegroundScore,
    PatchSampling,
    PlainUNetShape,
    RawHU,
    Recipe,
    ScannerGrid,
    SliceInference,
    SliceSampling,
    UNetShape,
    VolumeAugmentation,
    WindowInference,
)
from viscera.config.recipe_json import recipe_from_json, recipe_to_json
from viscera.errors import RunError, SettingError
from viscera.inference.model import Model, with_others
from viscera.inference.plans import places, plan_of
from viscera.inference.segment import segment
from viscera.inference.slices import slice_logits
from viscera.inference.volumes import read_logits
from viscera.labels import ABDOMENCT1K, TUMOUR_ONLY
from viscera.learning.foreground_hu import measure_foreground
from viscera.learning.sampling.index import open_training, open_validation, read_batch
from viscera.learning.setup import scaled, with_measurements
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.weights import Weights, load_weights, save_weights
from viscera.preparation.contrast import air_hu, enhance
from viscera.recipes.catalogue import RECIPES
from viscera.volume import Volume

METHODS = ("none", "equalisation", "clahe")
LEVELS = Contrast("equalisation", low_hu=0, high_hu=255, dark=0)
"""HU are grey levels."""


def body(shape=(96, 128), seed=0) -> np.ndarray:
    """Return HU of a noisy body in air with organs, fat and bone."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    organs = 40 + 60 * np.sign(gaussian_filter(generator.normal(size=shape), 6, mode="wrap"))
    hu = np.where(y**2 + x**2 < 0.8, organs, -1000.0)
    hu[(y - 0.5) ** 2 + (x / 2) ** 2 < 0.02] = 600
    hu[(y + 0.4) ** 2 + x**2 < 0.03] = -100
    return np.rint(hu + generator.normal(0, 15, shape)).astype(np.int16)


def scan(shape=(6, 24, 32)) -> np.ndarray:
    """Return HU of slices that differ."""
    return np.stack([body(shape[1:], seed) for seed in range(shape[0])])


def grey(hu: np.ndarray, low: float = -160, high: float = 240) -> np.ndarray:
    """Return grey levels."""
    return np.rint((np.clip(hu.astype(float), low, high) - low) * 255 / (high - low)).astype(np.uint8)


# The grey levels


@pytest.mark.parametrize(("low", "high"), [(-160, 240), (-400.0, 400.0), (-1024.5, 3071.0), (0, 10)])
def test_hu_become_grey_levels_of_the_window_and_changed_ones_hu_of_it(low, high):
    hu = np.arange(-2000, 4000, dtype=np.int16).reshape(60, 100)
    changed = enhance(hu, Contrast("equalisation", low_hu=low, high_hu=high, dark=0))
    assert changed.dtype == np.int16
    levels, first = grey(hu, low, high), int((grey(hu, low, high) == 0).sum())
    # The ramp holds every HU once, so the share of the slice up to a level is known without a histogram.
    last = {int(level): int(np.flatnonzero(levels == level)[-1]) + 1 for level in np.unique(levels)}
    for level, count in last.items():
        there = np.unique(changed[levels == level])
        expected = low + np.round((count - first) * 255 / (hu.size - first)) * (high - low) / 255
        assert there == [np.rint(expected)]


def test_a_window_beyond_int16_gives_no_hu_beyond_it():
    changed = enhance(np.array([[-32768, 32767]], np.int16), Contrast("equalisation", low_hu=-40000, high_hu=40000))
    assert changed.tolist() == [[-32768, 32767]]


@pytest.mark.parametrize("dark", [0, 25, 100, 255])
def test_equalisation_is_that_of_a_numpy_transcription(dark):
    hu = body()
    levels = grey(hu)
    levels[levels <= dark] = 0
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = counts[np.flatnonzero(counts)[0]]
    table = np.round((np.cumsum(counts) - lowest) * 255 / max(1, levels.size - lowest))
    expected = np.rint(-160 + table[levels] * 400 / 255)
    assert np.array_equal(enhance(hu, Contrast("equalisation", dark=dark)), expected)


@pytest.mark.parametrize("seed", range(4))
def test_equalisation_is_scikit_images_over_all_but_the_lowest_level_within_half_a_level(seed):
    levels = grey(body(seed=seed)).astype(np.int16)
    expected = exposure.equalize_hist(levels.astype(np.uint8), mask=levels > 0) * 255
    expected[levels == 0] = 0
    assert np.abs(enhance(levels, LEVELS) - expected).max() <= 0.5 + 1e-4


def zuiderveld(levels: np.ndarray, tiles: tuple[int, int], clip_limit: float) -> np.ndarray:
    """Return CLAHE of slices that tiles divide: each tile's table, mixed linearly between the tiles' centres."""
    sides = [side // count for side, count in zip(levels.shape, tiles, strict=True)]
    area = sides[0] * sides[1]
    limit = max(int(clip_limit * area / 256), 1)
    tables = np.empty((*tiles, 256))
    for row, column in np.ndindex(tiles):
        part = levels[row * sides[0] : (row + 1) * sides[0], column * sides[1] : (column + 1) * sides[1]]
        counts = np.bincount(part.ravel(), minlength=256)
        share, rest = divmod(int(np.maximum(counts - limit, 0).sum()), 256)
        counts = np.minimum(counts, limit) + share
        if rest:
            counts[np.arange(rest) * max(256 // rest, 1)] += 1
        tables[row, column] = np.round(np.cumsum(counts) * 255 / area)
    mixed = np.zeros(levels.shape)
    ends = []
    for length, side, count in zip(levels.shape, sides, tiles, strict=True):
        at = np.arange(length) / side - 0.5
        low = np.floor(at).astype(int)
        ends.append([(low.clip(0, count - 1), 1 - (at - low)), ((low + 1).clip(0, count - 1), at - low)])
    for row, row_weight in ends[0]:
        for column, column_weight in ends[1]:
            weight = row_weight[:, None] * column_weight[None]
            mixed += weight * tables[row[:, None], column[None], levels]
    return mixed


@pytest.mark.parametrize("tiles", [(8, 8), (2, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("clip_limit", [0.5, 2.0, 40.0])
def test_clahe_is_that_of_a_numpy_transcription_within_half_a_level(tiles, clip_limit):
    levels = grey(body()).astype(np.int16)
    settings = replace(LEVELS, method="clahe", tiles=tiles, clip_limit=clip_limit)
    assert np.abs(enhance(levels, settings) - zuiderveld(levels, tiles, clip_limit)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_clahe_is_scikit_images_within_16_levels_and_3_on_average(seed):
    # Not the same: scikit-image hands out clipped counts only below the limit, and stretches the result to 0-255 at last.
    levels = grey(body((128, 192), seed)).astype(np.int16)
    ours = enhance(levels, replace(LEVELS, method="clahe", tiles=(2, 4))).astype(float)
    stretched = (ours - ours.min()) * 255 / (ours.max() - ours.min())
    theirs = exposure.equalize_adapthist(levels.astype(np.uint8), kernel_size=(64, 48), clip_limit=2 / 256, nbins=256)
    difference = np.abs(stretched - theirs * 255)
    assert difference.max() <= 16
    assert difference.mean() <= 3


# Properties


@pytest.mark.parametrize("seed", range(3))
def test_equalisation_keeps_the_order_of_hu_within_a_slice(seed):
    hu = body(seed=seed)
    changed = enhance(hu, Contrast("equalisation"))
    order = np.argsort(hu, axis=None)
    assert (np.diff(changed.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_equalisation_of_the_mirrored_slice_is_the_mirrored_equalisation(axes):
    hu, settings = body(), Contrast("equalisation")
    assert np.array_equal(enhance(np.flip(hu, axes), settings), np.flip(enhance(hu, settings), axes))


def test_none_is_the_image_itself_beyond_the_window_too():
    image = scan()
    assert enhance(image, Contrast()) is image
    assert air_hu(Contrast()) == -1024


@pytest.mark.parametrize("method", METHODS[1:])
def test_each_slice_of_a_volume_is_changed_for_itself_and_the_volume_stays_as_it_was(method):
    image = scan()
    before = image.copy()
    changed = enhance(image, Contrast(method))
    assert np.array_equal(image, before)
    assert changed.flags.writeable
    for hu, found in zip(image, changed, strict=True):
        assert np.array_equal(enhance(hu, Contrast(method)), found)
    assert np.array_equal(
        enhance(image[None, ::-1, :, ::-2], Contrast(method))[0, 0], enhance(image[-1, :, ::-2], Contrast(method))
    )


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (8, 9), (17, 33), (64, 1)])
def test_slices_of_any_size_are_changed_and_those_of_one_grey_level_stay_so(method, shape):
    settings = Contrast(method)
    for hu in (-1000, 0, 3000):
        assert len(np.unique(enhance(np.full(shape, hu, np.int16), settings))) == 1
    noise = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    changed = enhance(noise, settings)
    assert changed.shape == shape
    assert -160 <= changed.min() <= changed.max() <= 240


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (0, 4, 4)])
def test_nothing_stays_nothing(shape):
    for method in METHODS:
        assert enhance(np.zeros(shape, np.int16), Contrast(method)).shape == shape


def test_several_threads_change_slices_as_one_does():
    slices = [body((64, 64), seed) for seed in range(8)] * 6
    expected = [enhance(hu, Contrast("clahe")) for hu in slices]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda hu: enhance(hu, Contrast("clahe")), slices))
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


# What networks see


class Recorder(nn.Module):
    """Gives what it is given, or finds the first organ everywhere or nothing; keeps what it was given."""

    stride, dimensions = 1, 2

    def __init__(self, classes: int = 0, *, finds: bool = False):
        super().__init__()
        self.classes, self.sign, self.seen = classes, 1 if finds else -1, []

    def forward(self, image):
        self.seen.append(image.numpy())
        if not self.classes:
            return image
        logits = torch.zeros((len(image), self.classes, *image.shape[2:]))
        logits[:, 1] = self.sign
        return logits


def model(contrast: Contrast, *, slices: Literal[1, 3]) -> Model:
    """Return a 2D network that gives the HU that it sees."""
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=ScannerGrid(),
        contrast=contrast,
        intensity=RawHU(),
        network=UNetShape(slices=slices),
        inference=SliceInference(batch_size=4),
    )
    return Model(TorchRunner(Recorder()), recipe, ABDOMENCT1K, "cpu", "hash")


def deep_model(contrast: Contrast, network: Recorder, *, size, stride=(1, 1, 1)) -> Model:
    """Return a 3D network that sees HU."""
    space = ABDOMENCT1K if network.classes > 2 else TUMOUR_ONLY
    recipe = Recipe(
        label_space=space.name,
        preparation=ScannerGrid(),
        contrast=contrast,
        intensity=RawHU(),
        network=PlainUNetShape(),
        sampling=PatchSampling(size=size, stride=stride),
        augmentation=VolumeAugmentation(),
        inference=WindowInference(region="whole"),
    )
    return Model(TorchRunner(network), recipe, space, "cpu", "hash")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("slices", [1, 3])
def test_training_validation_and_prediction_see_the_same_slices(method, slices, make_case):
    contrast, image = Contrast(method, tiles=(4, 4)), scan()
    case = make_case("a__0", annotated=(), labels=np.zeros(image.shape, np.uint8), image=image)
    everything, reach = np.arange(len(image)), slices // 2
    predicted = slice_logits(image, model(contrast, slices=slices), range(len(image)))
    alone = [slice_logits(image, model(contrast, slices=slices), range(z, z + 1)) for z in everything]
    assert np.array_equal(predicted, np.concatenate(alone))
    assert np.array_equal(read_logits(image, model(contrast, slices=slices))(range(2, 5)), predicted[2:5])
    assert np.array_equal(predicted[:, reach], enhance(image, contrast))
    if slices == 3:
        assert np.array_equal(predicted[:, 0], enhance(image, contrast)[[0, 0, 1, 2, 3, 4]])
    validation = open_validation([case], SliceSampling(), reach=reach, contrast=contrast)
    assert np.array_equal(read_batch(validation, everything, space=ABDOMENCT1K, distance=None).image, predicted)
    training = open_training([case], SliceSampling(window=(16, 16)), reach=reach, contrast=contrast)
    places_ = np.tile([0.0, 0.999], (len(image), 1))
    cut = read_batch(training, everything, space=ABDOMENCT1K, distance=None, places=places_).image
    assert np.array_equal(cut, predicted[..., :16, -16:])
    wider = open_training([case], SliceSampling(window=(32, 48)), reach=reach, contrast=contrast)
    filled = read_batch(wider, everything, space=ABDOMENCT1K, distance=None).image.numpy()
    assert np.array_equal(filled[..., 4:28, 8:40], predicted)
    filled[..., 4:28, 8:40] = air_hu(contrast)
    assert (filled == (-1024 if method == "none" else -160)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "stride"), [((4, 8, 8), (1, 1, 1)), ((3, 8, 8), (2, 3, 4)), ((8, 16, 40), (1, 1, 1))])
def test_patches_of_training_and_windows_of_prediction_are_the_same_parts_of_whole_slices(
    method, size, stride, make_case
):
    contrast, image = Contrast(method), scan()
    case = make_case("a__0", annotated=(), labels=np.zeros(image.shape, np.uint8), image=image)
    network = Recorder(len(ABDOMENCT1K.classes))
    predicting = deep_model(contrast, network, size=size, stride=stride)
    read_logits(image, predicting)(range(len(image)))
    plan, whole = plan_of(predicting), enhance(image, contrast)
    index = open_training([case], predicting.recipe.sampling, contrast=contrast)
    starts = places(image.shape, plan)
    ends = [max(a - n + 1, min(s, a)) for a, n, s in zip(image.shape, plan.span, stride, strict=True)]
    assert len(network.seen) == len(starts)
    for start, window in zip(starts, network.seen, strict=True):
        shares = [(first + 0.5) / end for first, end in zip(start, ends, strict=True)]
        place = np.array([[0.999, 0.5, 0.5, *shares]])
        patch = read_batch(index, np.array([0]), space=ABDOMENCT1K, distance=None, places=place).image.numpy()
        assert np.array_equal(patch, window)
        part = whole[tuple(slice(a, a + n, s) for a, n, s in zip(start, plan.span, stride, strict=True))]
        assert np.array_equal(patch[0, 0, : part.shape[0], : part.shape[1], : part.shape[2]], part)


def test_organs_finder_and_tumours_each_get_their_own_contrast():
    affine = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    ct, methods = Volume(scan(), affine), dict(zip(("organs", "finder", "tumour"), METHODS, strict=True))
    networks = {part: Recorder(len(ABDOMENCT1K.classes), finds=True) for part in ("organs", "finder")}
    networks["tumour"] = Recorder(len(TUMOUR_ONLY.classes))
    models = {part: deep_model(Contrast(methods[part]), networks[part], size=ct.voxels.shape) for part in methods}
    segment(ct, with_others(models["organs"], tumour=models["tumour"], finder=models["finder"]))
    for part, method in methods.items():
        assert len(networks[part].seen) == 1
        assert np.array_equal(networks[part].seen[0][0, 0], enhance(ct.voxels, Contrast(method)))


# The organs' HU


def test_the_organs_hu_are_measured_after_the_contrast(make_case, tmp_path):
    image = scan()
    labels = (image > 20).astype(np.uint8)
    case = make_case("a__0", annotated=("liver",), labels=labels, image=image)
    contrast = Contrast("equalisation")
    found = measure_foreground([case], ForegroundScore(), contrast=contrast)
    hu = enhance(image, contrast)[labels > 0].astype(float)
    low, high = np.percentile(hu, [0.5, 99.5], method="inverted_cdf")
    assert found.measured == pytest.approx((low, high, hu.mean(), hu.std()), abs=1e-3)
    recipe = Recipe(label_space="abdomenct1k", contrast=contrast, intensity=ForegroundScore())
    assert with_measurements(recipe, [case], None).intensity == found
    trained = replace(recipe, intensity=ForegroundScore(measured=(0.0, 1.0, 0.5, 1.0)))
    save_weights(tmp_path / "best.safetensors", Weights(trained, ABDOMENCT1K, {"a": torch.zeros(1)}, {}))
    assert with_measurements(recipe, [case], tmp_path).intensity == trained.intensity
    other = replace(recipe, contrast=Contrast("clahe"))
    expected = measure_foreground([case], ForegroundScore(), contrast=other.contrast)
    assert with_measurements(other, [case], tmp_path).intensity == expected  # what was measured is of other HU


def test_a_window_that_leaves_nothing_of_the_organs_is_said(make_case):
    labels = np.ones((2, 8, 8), np.uint8)
    case = make_case("a__0", annotated=("liver",), labels=labels, image=labels.astype(np.int16) * 50)
    case.image[0, 0] = 60
    with pytest.raises(RunError, match="contrast 'equalisation' leaves nothing of them from 100 to 200 HU. Widen"):
        measure_foreground([case], ForegroundScore(), contrast=Contrast("equalisation", low_hu=100, high_hu=200))


# The setting


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_every_contrast(name, make_case):
    image = scan((8, 48, 48))
    for method in METHODS:
        recipe = replace(RECIPES[name], contrast=Contrast(method))
        assert recipe_from_json(recipe_to_json(recipe), where="here") == recipe
        organ = recipe.space.organs[0]
        labels = np.where(image > 0, np.uint8(recipe.space.index(organ)), np.uint8(0))
        case = make_case("a__0", annotated=(organ,), labels=labels, image=image)
        smaller = {"window": (32, 32)} if isinstance(recipe.sampling, SliceSampling) else {"size": (8, 16, 16)}
        recipe = with_measurements(replace(recipe, sampling=replace(recipe.sampling, **smaller)), [case], None)
        reach = recipe.network.slices // 2 if isinstance(recipe.network, UNetShape) else 0
        index = open_training([case], recipe.sampling, reach=reach, contrast=recipe.contrast)
        batch = read_batch(index, np.array([0]), space=recipe.space, distance=None)
        assert np.isin(batch.image, enhance(image, recipe.contrast)).all()
        assert torch.isfinite(scaled(batch, recipe).image).all()


def test_an_empty_window_and_unknown_methods_are_said():
    with pytest.raises(SettingError, match="contrast: low_hu 10 must be below high_hu 10"):
        Contrast("clahe", low_hu=10, high_hu=10)
    assert recipe_from_json("{}", where="a recipe of before there was contrast").contrast == Contrast()
    with pytest.raises(SettingError, match=r"contrast.method.*'none', 'equalisation' or 'clahe'"):
        recipe_from_json('{"contrast": {"method": "equalise"}}', where="here")


def test_a_run_trained_with_a_contrast_keeps_it_with_its_weights(small_store, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(RECIPE))
    words = [str(tmp_path / "tiny.json"), str(small_store), str(tmp_path / "run"), "--machine.accelerator", "cpu"]
    words += ["--machine.threads", "1", "--contrast.method", "clahe", "--contrast.tiles", "2", "4"]
    assert main(["train", *words]) == 0
    expected = Contrast("clahe", tiles=(2, 4))
    assert recipe_from_json((tmp_path / "run" / "recipe.json").read_text(), where="run").contrast == expected
    assert load_weights(tmp_path / "run" / "best.safetensors").recipe.contrast == expected
