"""The attention U-Net: counted layers, what the gates do, sizes, checkpointing."""

import copy
import itertools

import pytest
import torch
from torch.nn import functional

from viscera.config import AttentionUNetShape
from viscera.errors import SettingError
from viscera.networks.attention_unet import AttentionUNet, Gate
from viscera.networks.build import build_network
from viscera.networks.unet import parameter_count

SMALL = AttentionUNetShape(widths=(4, 6, 8))


def described(widths: tuple[int, ...], *, classes: int) -> int:
    """Parameters of unet_CT_single_att_dsv_3D, added up from its description."""

    def convolution(into: int, out: int, side: int) -> int:
        return side**3 * into * out + out

    def level(into: int, out: int) -> int:
        return convolution(into, out, 3) + convolution(out, out, 3) + 2 * 2 * out

    def gate(channels: int, signal: int) -> int:
        coefficient = 8 * channels * channels + convolution(signal, channels, 1) + convolution(channels, 1, 1)
        return coefficient + 2 * (convolution(channels, channels, 1) + 2 * channels)

    pairs = list(itertools.pairwise(widths))
    down = level(1, widths[0]) + sum(level(a, b) for a, b in pairs)
    signal = convolution(widths[-1], widths[-1], 1) + 2 * widths[-1]
    gates = sum(gate(a, b) for a, b in pairs[1:])
    up = sum(level(a + b, a) for a, b in pairs)
    votes = sum(convolution(a, classes, 1) for a, _ in pairs) + convolution(classes * len(pairs), classes, 1)
    return down + signal + gates + up + votes


@pytest.mark.parametrize(("widths", "counted"), [((16, 32, 64, 128, 256), 6_214_432), ((40, 72, 136, 320), 8_249_297)])
def test_parameters_are_those_of_the_described_layers(widths: tuple[int, ...], counted: int):
    with torch.device("meta"):
        network = AttentionUNet(AttentionUNetShape(widths=widths), classes=5)
    assert parameter_count(network) == described(widths, classes=5) == counted


def test_four_levels_come_within_a_hundredth_of_runets_stated_parameters_and_operations():
    flops = pytest.importorskip("torch.utils.flop_counter")
    with torch.device("meta"), flops.FlopCounterMode(display=False) as counter:
        network = AttentionUNet(AttentionUNetShape(widths=(40, 72, 136, 320)), classes=5).eval()
        network(torch.zeros(1, 1, 128, 128, 128))
    assert parameter_count(network) == pytest.approx(8_271_238, rel=0.01)
    assert counter.get_total_flops() / 2 == pytest.approx(750_361_509_889, rel=0.01)  # one operation: multiply and add


def test_summed_votes_are_the_1x1x1_convolution_of_the_enlarged_votes_side_by_side():
    torch.manual_seed(0)
    network = AttentionUNet(SMALL, classes=3)
    features = [torch.randn(2, 6, 4, 4, 6), torch.randn(2, 4, 8, 8, 12)]
    votes = [
        functional.interpolate(v(f), size=(8, 8, 12), mode="trilinear")
        for v, f in zip(network.votes, features, strict=True)
    ]
    torch.testing.assert_close(network._summed(features, torch.Size((8, 8, 12))), network.sum(torch.cat(votes, dim=1)))


def test_a_closed_gate_lets_nothing_of_the_skip_connection_pass():
    torch.manual_seed(0)
    gate = Gate(4, 6).eval()
    signal = torch.randn(1, 6, 2, 2, 2)
    one, other = torch.randn(2, 1, 4, 4, 4, 4)
    assert not torch.allclose(gate(one, signal), gate(other, signal))
    torch.nn.init.constant_(gate.coefficient.bias, -1e4)
    assert torch.equal(gate(one, signal), gate(other, signal))


def test_logits_have_the_size_of_the_patch_and_a_channel_per_class():
    network = build_network(SMALL, classes=5).eval()
    assert isinstance(network, AttentionUNet)
    assert (network.stride, network.dimensions) == (4, 3)
    assert network(torch.zeros(2, 1, 8, 12, 16)).shape == (2, 5, 8, 12, 16)
    assert AttentionUNet(AttentionUNetShape(widths=(4, 8)), classes=2).eval()(torch.zeros(1, 1, 2, 2, 2)).shape[1] == 2


def test_sides_that_cannot_be_halved_are_named_with_those_next_to_them():
    with pytest.raises(
        SettingError, match="multiples of 4, got 8x10x8: instead of 10 take 8 or 12. Change sampling.size"
    ):
        AttentionUNet(SMALL, classes=2)(torch.zeros(1, 1, 8, 10, 8))


def test_a_single_voxel_on_the_coarsest_level_is_refused_in_training_only():
    network = AttentionUNet(SMALL, classes=2).train()
    with pytest.raises(SettingError, match="patch of 4x4x4 voxels is a single voxel on the coarsest level"):
        network(torch.zeros(1, 1, 4, 4, 4))
    network(torch.zeros(2, 1, 4, 4, 4))
    network.eval()(torch.zeros(1, 1, 4, 4, 4))


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_neither_gradients_nor_running_statistics_with_and_without_mixed_precision(
    autocast: bool,
):
    torch.manual_seed(0)
    plain = AttentionUNet(SMALL, classes=3).train()
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    patch = torch.randn(2, 1, 8, 8, 8)
    for network in (plain, saving):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(patch).float().square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(a, b), name
