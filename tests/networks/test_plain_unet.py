"""nnU-Net's plain 3D U-Net: its oracle, sizes, published count, checkpointing."""

import copy
import itertools

import pytest
import torch
from torch import nn

from viscera.config import PlainUNetShape
from viscera.errors import SettingError, WeightsError
from viscera.networks.build import build_network
from viscera.networks.levels import channels_innermost
from viscera.networks.plain_unet import PlainUNet, from_plain_conv_unet
from viscera.networks.unet import parameter_count

SMALL = PlainUNetShape(widths=(4, 6, 8))


def nnunets(widths, *, classes: int):
    """The network of nnU-Net v2's 3D plans."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    levels = len(widths)
    network = unet.PlainConvUNet(
        1, levels, widths, nn.Conv3d, 3, [1] + [2] * (levels - 1), 2, classes, [2] * (levels - 1), conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # its own start leaves all biases and normalisations alike
    return network


@pytest.fixture
def pair():
    torch.manual_seed(0)
    theirs = nnunets((4, 6, 8, 8), classes=3)
    ours = PlainUNet(PlainUNetShape(widths=(4, 6, 8, 8)), classes=3)
    ours.load_state_dict(from_plain_conv_unet(theirs.state_dict()))
    return ours, theirs


def test_nnunets_weights_give_nnunets_logits_on_every_level_in_training(pair):
    ours, theirs = pair
    patch = torch.randn(2, 1, 16, 24, 8)
    logits, expected = ours.train()(patch), theirs.train()(patch)
    assert [tuple(level.shape) for level in logits] == [(2, 3, 16, 24, 8), (2, 3, 8, 12, 4), (2, 3, 4, 6, 2)]
    for level, theirs_level in zip(logits, expected, strict=True):
        torch.testing.assert_close(level, theirs_level, atol=1e-4, rtol=0)


def test_nnunets_weights_give_nnunets_finest_logits_in_evaluation(pair):
    ours, theirs = pair
    patch = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(patch), theirs.eval()(patch)[0], atol=1e-4, rtol=0)


def test_weights_of_another_network_are_refused_by_name():
    with pytest.raises(WeightsError, match=r"'encoder.stages.0.blocks.0.conv1.conv.weight' has no place"):
        from_plain_conv_unet({"encoder.stages.0.blocks.0.conv1.conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="two convolutions per level"):
        from_plain_conv_unet({"encoder.stages.0.0.convs.2.conv.weight": torch.zeros(1)})


def test_parameters_at_full_width_are_within_a_hundredth_of_the_stated_31_42_million():
    def level(into: int, out: int) -> int:
        return 27 * into * out + 27 * out * out + 2 * (out + 2 * out)  # biases, scales and shifts

    widths = (32, 64, 128, 256, 320, 320)
    down = sum(level(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
    up = sum(8 * b * a + a + level(2 * a, a) for a, b in itertools.pairwise(widths))
    for classes, counted in ((14, 31_205_254), (2, 31_195_594)):
        heads = sum((a + 1) * classes for a in widths[:-1])
        with torch.device("meta"):
            assert parameter_count(PlainUNet(PlainUNetShape(), classes=classes)) == down + up + heads == counted
        assert abs(counted / 31.42e6 - 1) < 0.01


def test_without_deep_supervision_training_gives_the_finest_logits_and_the_same_weights_fit():
    alone = PlainUNet(PlainUNetShape(widths=SMALL.widths, deep_supervision=False), classes=3).train()
    assert alone(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    alone.load_state_dict(PlainUNet(SMALL, classes=3).state_dict())


def test_weights_start_he_normal_and_biases_at_zero():
    torch.manual_seed(0)
    convolution = PlainUNet(PlainUNetShape(widths=(32, 64)), classes=2).down[1][0]
    assert convolution.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (27 * 32)) ** 0.5, rel=0.02)
    assert not convolution.bias.any()


def test_sides_that_cannot_be_halved_are_named_with_those_next_to_them():
    with pytest.raises(
        SettingError, match=r"multiples of 4, got 18x16x3: instead of 18 take 16 or 20, instead of 3 take 4\."
    ):
        PlainUNet(SMALL, classes=2)(torch.zeros(1, 1, 18, 16, 3))
    with torch.device("meta"):
        network = PlainUNet(PlainUNetShape(), classes=2)
        with pytest.raises(SettingError, match="got 100x128x128: instead of 100 take 96 or 128. Change sampling.size"):
            network(torch.zeros(1, 1, 100, 128, 128))


def test_a_patch_that_ends_as_a_single_voxel_is_refused():
    with pytest.raises(SettingError, match="patch of 4x4x4 voxels is a single voxel on the coarsest level"):
        PlainUNet(SMALL, classes=2)(torch.zeros(2, 1, 4, 4, 4))
    assert PlainUNet(SMALL, classes=2).eval()(torch.zeros(2, 1, 4, 4, 8)).shape == (2, 2, 4, 4, 8)


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_no_gradient_with_and_without_mixed_precision(autocast: bool):
    torch.manual_seed(0)
    plain = PlainUNet(SMALL, classes=3).train()
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    patch = torch.randn(2, 1, 8, 8, 8)
    for network in (plain, saving):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            sum(level.float().square().mean() for level in network(patch)).backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_checkpointing_keeps_fewer_activations():
    kept = {}
    for checkpointing in (False, True):
        network = PlainUNet(PlainUNetShape(widths=SMALL.widths, checkpointing=checkpointing), classes=2).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            logits = network(torch.randn(1, 1, 16, 16, 16))
        logits[0].sum().backward()
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


def test_every_weight_learns_and_the_network_is_what_its_shape_builds():
    network = build_network(SMALL, classes=3).train()
    assert isinstance(network, PlainUNet)
    assert (network.stride, network.dimensions) == (4, 3)
    sum(level.square().mean() for level in network(torch.randn(1, 1, 8, 8, 8))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def innermost(layer: nn.Module, given: tuple, found: torch.Tensor) -> torch.Tensor:
    """A hook: torch's convolutions in float64 lay their output out plainly, whatever the weights are."""
    return found.contiguous(memory_format=torch.channels_last_3d)


def trained(*, channels_last: bool) -> tuple[list[float], torch.Tensor]:
    """Losses of three steps of AdamW in float64, and the logits of all that is learnt, in evaluation."""
    torch.manual_seed(0)
    network = PlainUNet(PlainUNetShape(widths=(4, 8, 8), deep_supervision=True), classes=3).double()
    taken: list[bool] = []
    for layer in network.modules():
        if channels_last and isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.register_forward_hook(innermost)
        if isinstance(layer, nn.InstanceNorm3d):
            layer.register_forward_pre_hook(lambda layer, given: taken.append(channels_innermost(given[0])))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    patch, losses = torch.randn(2, 1, 8, 12, 16, dtype=torch.float64), []
    for _ in range(3):
        loss = sum(logits.softmax(1)[:, 1].pow(2).mean() for logits in network(patch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    logits = network.eval()(patch).detach()
    assert taken == [channels_last] * (4 * 10)  # runs x normalisations
    return losses, logits


def test_channels_innermost_change_losses_and_logits_by_rounding_only():
    plain, logits = trained(channels_last=False)
    same, same_logits = trained(channels_last=True)
    assert len(set(plain)) == 3, "nothing was learnt"
    assert same == pytest.approx(plain, rel=1e-9)
    torch.testing.assert_close(same_logits, logits, rtol=1e-7, atol=1e-9)


def test_channels_stay_innermost_from_the_first_convolution_to_the_logits():
    network = PlainUNet(PlainUNetShape(widths=(4, 8, 8), deep_supervision=True), classes=3)
    network.to(memory_format=torch.channels_last_3d)
    seen: list[bool] = []
    for level in (*network.down, *(up.level for up in network.up)):
        for layer in level:
            layer.register_forward_hook(lambda layer, given, found: seen.append(channels_innermost(found)))
    logits = network(torch.randn(2, 1, 8, 12, 16))
    assert len(seen) == 6 * 5
    assert all(seen)
    assert all(level.is_contiguous() for level in logits)
