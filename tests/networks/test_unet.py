"""The U-Net: published size, shapes, checkpointing."""

import copy
from dataclasses import replace

import pytest
import torch

from viscera.config import UNetShape
from viscera.errors import SettingError
from viscera.networks.unet import UNet, parameter_count

SMALL = UNetShape(widths=(4, 8, 16))


def conv_parameters(into: int, out: int) -> int:
    """Two 3x3 convolutions without bias, each with a batch normalisation (scale and shift)."""
    return 9 * into * out + 9 * out * out + 4 * out


def test_sigmoid_heads_fix_the_backgrounds_logit_at_zero():
    network = UNet(replace(SMALL, heads="sigmoid"), classes=5)
    logits = network(torch.rand(2, 1, 16, 16))
    assert logits.shape == (2, 5, 16, 16)
    assert (logits[:, 0] == 0).all()
    assert network.head.out_channels == 4


def test_full_width_has_the_parameters_of_the_described_layers():
    widths = (64, 128, 256, 512, 1024)
    down = sum(conv_parameters(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
    up = sum(4 * 2 * a * a + a + conv_parameters(2 * a, a) for a in widths[:-1])  # transposed convolution has a bias
    head = 64 * 12 + 12
    assert parameter_count(UNet(UNetShape(), classes=12)) == down + up + head
    assert round((down + up + head) / 1e6, 1) == 31.0  # million


def test_logits_have_the_size_of_the_image_and_a_channel_per_class():
    assert UNet(replace(SMALL, slices=3), classes=5)(torch.zeros(2, 3, 16, 24)).shape == (2, 5, 16, 24)


def test_sizes_that_cannot_be_halved_are_named():
    with pytest.raises(SettingError, match="multiples of 4, got 16x18"):
        UNet(SMALL, classes=2)(torch.zeros(1, 1, 16, 18))


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_neither_gradients_nor_running_statistics_with_and_without_mixed_precision(
    autocast: bool,
):
    torch.manual_seed(0)
    plain = UNet(SMALL, classes=3)
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    image = torch.randn(2, 1, 16, 16)
    for network in (plain, saving):
        network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(image).square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_checkpointing_keeps_fewer_activations():
    image = torch.randn(1, 1, 32, 32)
    kept = {}
    for checkpointing in (False, True):
        network = UNet(UNetShape(widths=(4, 8, 16), checkpointing=checkpointing), classes=2).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            network(image).sum().backward()
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.6 * kept[False]
