"""A network of slices with context: what the coarse look says reaches the right pixels, and saves the rest of the work."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from viscera.config import Context, PlainUNetShape, Recipe, SliceInference, SpacedSlices, UNetShape, Window
from viscera.errors import SettingError
from viscera.inference.context import DEPTH, ScanContext, box_of, see_scan, stretches
from viscera.inference.model import Model
from viscera.inference.prepared import prepared_labels
from viscera.inference.segment import segment
from viscera.inference.slices import context_of, label_slices, slice_inputs
from viscera.labels import ABDOMENCT1K
from viscera.networks.torch_runner import TorchRunner
from viscera.preparation.image import prepare_image
from viscera.preparation.resampling import spaced_slice_grid
from viscera.volume import Volume

LIVER = 1
SPACED = SpacedSlices(spacing_mm=2.5, margin_mm=0)
RECIPE = Recipe(
    label_space="abdomenct1k",
    preparation=SPACED,
    intensity=Window(-400, 400),
    network=UNetShape(widths=(4, 8), stem=2),
    context=Context(network=PlainUNetShape(widths=(4, 8), norm="batch")),
    inference=SliceInference(batch_size=2, look_mm=10.0),
)


class Bright(nn.Module):
    """Sure of the liver where the HU are above 200."""

    stride, dimensions = 2, 3

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, image):
        self.shapes.append(tuple(image.shape[2:]))
        logits = torch.full((1, 5, *image.shape[2:]), -30.0)
        logits[:, 0] = 0
        logits[:, LIVER] = torch.where(image[:, 0] > 0.75, 30.0, -30.0)
        return logits


class Repeat(nn.Module):
    """Gives the context back: the liver where it had a probability of more than a half."""

    stride, dimensions = 2, 2

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, image):
        assert image.shape[1] == 1 + 4
        self.shapes.append(tuple(image.shape))
        logits = torch.zeros(len(image), 5, *image.shape[2:])
        logits[:, LIVER] = image[:, 1] - 0.5
        return logits


def model(context=None, network=None):
    runner = TorchRunner(network or Repeat(), streams=1)
    return Model(runner, RECIPE, ABDOMENCT1K, "cpu", "hash", context=TorchRunner(context or Bright()))


def scan(depth=60, slice_mm=2.5, where=(slice(30, 42), slice(32, 48), slice(48, 64))):
    hu = np.full((depth, 80, 96), 0, np.int16)
    hu[where] = 390
    return Volume(hu, np.array([[0, 0, -2.5, 0], [0, -2.5, 0, 0], [slice_mm, 0, 0, 0], [0, 0, 0, 1.0]]))


def test_what_the_context_sees_comes_out_where_it_was():
    found = segment(scan(), model())
    expected = scan().voxels > 200
    assert np.array_equal(found.voxels == LIVER, expected)


def test_mirrored_or_turned_scans_give_the_same():
    volume = scan()
    change = np.diag([1.0, -1, -1, 1])
    change[1, 3], change[2, 3] = 79, 95
    turned = Volume(np.ascontiguousarray(volume.voxels[:, ::-1, ::-1]), volume.affine @ change)
    assert np.array_equal(segment(turned, model()).voxels[:, ::-1, ::-1], segment(volume, model()).voxels)


def test_slices_rows_and_columns_without_organs_are_not_looked_at():
    network = Repeat()
    segment(scan(depth=120), model(network=network))
    seen = sum(shape[0] for shape in network.shapes)
    assert seen < 12 + 2 * 12 + 4  # the organ, 20 mm and a look on either side
    assert {shape[2:] for shape in network.shapes} == {(48, 48)}  # 16 of 80 rows, 16 of 96 columns, 20 mm around


def test_a_scan_without_organs_needs_no_network_of_slices():
    network = Repeat()
    empty = Volume(np.zeros((20, 80, 96), np.int16), scan().affine)
    assert not segment(empty, model(network=network)).voxels.any()
    assert network.shapes == []


def test_only_wanted_organs_count_for_the_box():
    image, geometry = prepare_image(scan(), SPACED)
    seen = context_of(image, geometry, model())
    assert seen is not None
    assert any(box_of(seen, geometry, [LIVER]).holds)
    assert not any(box_of(seen, geometry, [LIVER + 1]).holds)
    labels = label_slices(image, geometry, model(), organs=[LIVER + 1])
    assert not labels.any()


def test_probabilities_are_linear_between_coarse_slices():
    organs = np.zeros((1, 3, 2, 2), np.uint8)
    organs[0, 1], organs[0, 2] = 255, 51
    seen = ScanContext(organs, spaced_slice_grid(12, 1.0, spacing_mm=4.0), 2)
    values = seen.of(range(12))[:, 0, 0, 0]
    # coarse slices lie at 1.5, 5.5 and 9.5
    expected = np.interp(np.arange(12), [1.5, 5.5, 9.5], [0, 1, 0.2])
    assert np.allclose(values, expected, atol=1e-6)
    channels = np.full((12, 1, 4, 4), np.nan, np.float32)
    seen.fill_(channels, range(12))
    assert np.allclose(channels, expected[:, None, None, None], atol=1e-6)


def test_a_part_of_the_slice_gets_its_part_of_the_context():
    image, geometry = prepare_image(scan(), SPACED)
    one = model()
    seen = context_of(image, geometry, one)
    whole = slice_inputs(image, one, [29, 33], context=seen)
    box = (slice(16, 64), slice(32, 80))
    assert np.array_equal(slice_inputs(image, one, [29, 33], context=seen, box=box), whole[:, :, *box])
    assert whole.shape[1] == 1 + 4
    assert whole[1, 1].max() == 1


def test_long_scans_are_seen_in_stretches_that_leave_nothing_out():
    for depth in (1, DEPTH, DEPTH + 1, 2 * DEPTH, 999):
        parts = stretches(depth)
        assert [first for first, *_ in parts[1:]] == [last for _, last, *_ in parts[:-1]]
        assert (parts[0][0], parts[-1][1]) == (0, depth)
        for first, last, start, stop in parts:
            assert 0 <= start <= first < last <= stop <= depth
            assert stop - start <= DEPTH
    for depth in (7, 16, 17, 100):
        parts = stretches(depth, 8)
        assert [first for first, *_ in parts[1:]] == [last for _, last, *_ in parts[:-1]]
        assert (parts[0][0], parts[-1][1]) == (0, depth)
        assert all(start <= first < last <= stop <= start + 8 for first, last, start, stop in parts)


def test_a_single_slice_has_context_too():
    one = scan(depth=1, where=(slice(0, 1), slice(32, 48), slice(48, 64)))
    assert np.array_equal(segment(one, model()).voxels == LIVER, one.voxels > 200)


def test_a_long_scan_gives_what_its_slices_give():
    network = Bright()
    image, geometry = prepare_image(scan(depth=150, slice_mm=5.0), SPACED)
    seen = see_scan(image, geometry, runner=TorchRunner(network), recipe=RECIPE)
    assert len(network.shapes) == 2
    shown = np.flatnonzero(seen.shown([], 0.5).any((1, 2)))
    assert shown.tolist() == list(range(30, 42))


def test_labels_of_a_prepared_scan_need_its_geometry():
    image, geometry = prepare_image(scan(), SPACED)
    found = prepared_labels(image, model(), geometry)
    assert np.array_equal(found == LIVER, image > 200)
    with pytest.raises(SettingError, match="needs the scan's geometry"):
        prepared_labels(image, model())


def test_a_recipe_without_context_gives_none():
    image, geometry = prepare_image(scan(), SPACED)
    with pytest.raises(SettingError, match="has no context"):
        see_scan(image, geometry, runner=TorchRunner(Bright()), recipe=replace(RECIPE, context=None))
