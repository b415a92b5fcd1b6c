"""A U-Net whose first level has half the rows and columns, and one that takes context."""

import pytest
import torch
from torch import nn

from viscera.config import PlainUNetShape, Recipe, SpacedSlices, UNetShape
from viscera.config.context import Context
from viscera.errors import SettingError
from viscera.networks.build import build_network, context_network, network_of
from viscera.networks.onnx import folded
from viscera.networks.runners import shape_of_recipe
from viscera.networks.unet import Stem


def test_the_stem_is_a_convolution_of_blocks_of_pixels():
    stem = Stem(3, 0, 5, step=2).eval()
    image = torch.rand(2, 3, 16, 24)
    blocks = nn.functional.pixel_unshuffle(image, 2)
    # The kernel of 6x6 pixels is one of 3x3 blocks, each of 2x2 pixels.
    kernel = stem.seen.weight.reshape(5, 3, 3, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(5, 12, 3, 3)
    expected = nn.functional.conv2d(blocks, kernel, padding=1)
    assert torch.allclose(stem.seen(image), expected, atol=1e-5)


@pytest.mark.parametrize("heads", ["softmax", "sigmoid"])
def test_logits_have_all_rows_and_columns(heads):
    shape = UNetShape(widths=(4, 8, 12), slices=3, stem=2, heads=heads)
    network = build_network(shape, classes=5, context=4).eval()
    assert network.stride == shape_of_recipe(shape)[0] == 8
    assert network(torch.rand(2, 7, 16, 24)).shape == (2, 5, 16, 24)
    with pytest.raises(SettingError, match="multiples of 8"):
        network(torch.rand(1, 7, 12, 24))


def test_context_reaches_the_logits_and_nothing_but_its_place():
    torch.manual_seed(0)
    network = build_network(UNetShape(widths=(4, 8), slices=1, stem=2), classes=3, context=2).eval()
    image = torch.rand(1, 3, 32, 32)
    other = image.clone()
    other[:, 1, 2:4, 2:4] += 1
    changed = (network(other) != network(image)).any(1)[0]
    assert changed.any()
    assert not changed[20:, 20:].any()


def test_folding_changes_nothing():
    torch.manual_seed(0)
    for network, image in (
        (build_network(UNetShape(widths=(4, 8), stem=2), classes=3, context=2), torch.rand(2, 3, 16, 16)),
        (build_network(PlainUNetShape(widths=(4, 8), norm="batch"), classes=3), torch.rand(2, 1, 8, 8, 8)),
    ):
        network.train()
        network(image)
        network.eval()
        assert torch.allclose(folded(network)(image), network(image), atol=1e-5)


def test_a_recipe_says_how_many_channels_there_are():
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=SpacedSlices(),
        network=UNetShape(widths=(4, 8), slices=3),
        context=Context(network=PlainUNetShape(widths=(4, 8))),
    )
    assert recipe.channels == 3 + 4
    assert network_of(recipe)(torch.rand(1, 7, 16, 16)).shape == (1, 5, 16, 16)
    assert context_network(recipe).eval()(torch.rand(1, 1, 8, 8, 8)).shape == (1, 5, 8, 8, 8)


def test_only_a_network_of_slices_takes_context():
    with pytest.raises(SettingError, match="takes no context"):
        build_network(PlainUNetShape(widths=(4, 8)), classes=3, context=2)
