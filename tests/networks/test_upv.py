"""The thesis's two U-Nets: order and number of layers, parameters, sizes, first weights, checkpointing, learning."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from viscera.config import Recipe, ResizedSlices, SliceSampling, SpacedSlices, UpvShape
from viscera.errors import SettingError
from viscera.networks.build import build_network
from viscera.networks.unet import parameter_count
from viscera.networks.upv import UpvUNet, check_size, check_slices
from viscera.networks.weights import Weights, fill_network, load_weights, save_weights
from viscera.recipes.catalogue import RECIPES

SMALL = UpvShape(depth=4, width=4, most=16)
BOTH = pytest.mark.parametrize("variant", [1, 2])


def layers_run(network: UpvUNet, side: int) -> list[str]:
    """Letters of the layers in the order in which an image meets them: what the thesis describes, as it really runs."""
    letters = {nn.ReLU: "r", nn.BatchNorm2d: "n", nn.ConvTranspose2d: "u"}
    met: list[str] = []

    def meet(layer: nn.Module, _: tuple, output: torch.Tensor) -> None:
        kernel = layer.kernel_size[0] if isinstance(layer, nn.Conv2d) else 0
        letter = {3: "c", 1: "h"}[kernel] if kernel else letters[type(layer)]
        met.append(f"{letter}{output.shape[2]}")

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.ReLU, nn.BatchNorm2d)):
            layer.register_forward_hook(meet)
    network(torch.zeros(1, 1, side, side))
    return met


@BOTH
@pytest.mark.parametrize("depth", [4, 5, 8])
def test_layers_follow_each_other_as_described(variant: int, depth: int):
    shape = UpvShape(variant=variant, depth=depth, width=1, most=2)
    side = 2 ** (depth + 1)  # the bridge is 2x2
    expected = "cc r" if variant == 1 else "ccc cc r"
    described = [f"{letter}{side}" for letter in expected.replace(" ", "")]
    for level in range(1, depth):
        described += [f"{letter}{side >> level}" for letter in "ccr"]
    described += [f"{letter}2" for letter in "ccrccr"]
    for level in reversed(range(depth)):
        described += [f"{letter}{side >> level}" for letter in ("ucrccr")]  # up, skip connection, level
    described += [f"{letter}{side}" for letter in ("ch" if variant == 1 else "crcrh")]
    assert layers_run(UpvUNet(shape, classes=5).eval(), side) == described


@BOTH
def test_normalisation_follows_each_3x3_convolution_and_takes_its_bias(variant: int):
    plain = layers_run(UpvUNet(replace(SMALL, variant=variant), classes=5).eval(), 32)
    network = UpvUNet(replace(SMALL, variant=variant, normalise=True), classes=5).eval()
    expected = [step for layer in plain for step in ([layer, f"n{layer[1:]}"] if layer[0] == "c" else [layer])]
    assert layers_run(network, 32) == expected
    assert all((layer.bias is None) == (layer.kernel_size == (3, 3)) for layer in convolutions(network))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@BOTH
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("depth", "width", "most"), [(4, 8, 1024), (5, 6, 48), (8, 4, 64)])
def test_parameters_are_those_of_the_described_layers(variant: int, normalise: bool, depth: int, width: int, most: int):
    def convolution(into: int, out: int) -> int:
        return 9 * into * out + (2 * out if normalise else out)  # scale and shift, or a bias

    widths = [min(width * 2**level, most) for level in range(depth + 1)]
    total = convolution(1, width) + (convolution(width, width) if variant == 1 else 4 * convolution(width, width))
    for level in range(1, depth):
        total += convolution(widths[level - 1], widths[level]) + convolution(widths[level], widths[level])
    total += convolution(widths[-2], widths[-1]) + 3 * convolution(widths[-1], widths[-1])
    for level in range(depth):
        fine, coarse = widths[level], widths[level + 1]
        total += 4 * coarse * fine + fine  # 2x2 transposed convolution with a bias
        total += convolution(fine, fine) + convolution(2 * fine, fine) + convolution(fine, fine)
    total += variant * convolution(width, width) + width * 5 + 5
    shape = UpvShape(variant=variant, depth=depth, width=width, most=most, normalise=normalise)
    assert parameter_count(UpvUNet(shape, classes=5)) == total


@BOTH
@pytest.mark.parametrize("depth", range(4, 9))
def test_logits_have_the_size_of_the_image_and_a_channel_per_class(variant: int, depth: int):
    network = build_network(UpvShape(variant=variant, depth=depth, width=2, most=4), classes=5)
    assert isinstance(network, UpvUNet)
    assert (network.stride, network.dimensions) == (2**depth, 2)
    assert network(torch.zeros(2, 1, 2**depth, 2 * 2**depth)).shape == (2, 5, 2**depth, 2 * 2**depth)


@pytest.mark.parametrize(
    ("depth", "sides", "message"),
    [
        (8, (128, 128), "multiples of 256, got 128x128. Change preparation.size to 256 by 256, or network.depth to 7."),
        (8, (300, 512), "got 300x512. Change preparation.size to 256 or 512 by 512."),
        (
            5,
            (48, 80),
            "multiples of 32, got 48x80. Change preparation.size to 32 or 64 by 64 or 96, or network.depth to 4.",
        ),
        (4, (8, 1), "multiples of 16, got 8x1. Change preparation.size to 16 by 16."),
        (4, (0, 16), "got 0x16. Change preparation.size to 16 by 16."),
    ],
)
def test_sizes_and_depths_that_would_work_are_named(depth: int, sides: tuple[int, int], message: str):
    with pytest.raises(SettingError, match=message):
        check_size(sides, depth=depth, setting="preparation.size")
    if all(sides):
        with pytest.raises(SettingError, match=message):
            UpvUNet(UpvShape(depth=depth, width=1, most=1), classes=2)(torch.zeros(1, 1, *sides))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            Recipe(preparation=ResizedSlices(size=(512, 400))),
            "got 512x400. Change preparation.size to 512 by 256 or 512",
        ),
        (
            Recipe(sampling=SliceSampling(window=(128, 256))),
            "Change sampling.window to 256 by 256, or network.depth to 7",
        ),
        (
            Recipe(preparation=SpacedSlices()),
            "'spaced' gives multiples of 16 .network.depth 4.*Take preparation 'resized'",
        ),
    ],
)
def test_slices_that_cannot_be_halved_are_refused_before_a_training(recipe: Recipe, message: str):
    with pytest.raises(SettingError, match=message):
        check_slices(replace(recipe, network=UpvShape(depth=8)))
    check_slices(recipe)  # another network's slices are its own affair
    check_slices(replace(recipe, network=UpvShape(depth=4)))


def test_one_pixel_left_to_normalise_is_refused_in_training_only():
    network = UpvUNet(replace(SMALL, normalise=True), classes=2).train()
    with pytest.raises(SettingError, match="one slice of 16x16 is a single pixel after 4 halvings"):
        network(torch.zeros(1, 1, 16, 16))
    network(torch.zeros(2, 1, 16, 16))
    network.eval()(torch.zeros(1, 1, 16, 16))
    UpvUNet(SMALL, classes=2).train()(torch.zeros(1, 1, 16, 16))


@BOTH
@pytest.mark.parametrize("depth", [4, 8])
def test_untrained_logits_tell_pixels_apart_and_every_layer_has_a_gradient(variant: int, depth: int):
    torch.manual_seed(0)
    shape = UpvShape(variant=variant, depth=depth, width=4, most=16)
    side = 2 ** (depth + 1)
    image = nn.functional.interpolate(torch.rand(1, 1, side // 8, side // 8), size=(side, side), mode="bilinear")
    network = UpvUNet(shape, classes=5)
    logits = network(image)
    spread = logits.std((0, 2, 3)).mean()
    assert 0.02 < spread < 2
    nn.functional.cross_entropy(logits, (image[:, 0] > 0.5).long()).backward()
    # Adam's epsilon, 1e-8, is what a gradient has to stand out from, also the mean one of a weight.
    assert min(p.grad.square().mean().sqrt() for p in network.parameters() if p.ndim == 4) > 1e-8
    assert network.down[0][0].weight.grad.norm() > 1e-3
    theirs = UpvUNet(shape, classes=5)
    for layer in theirs.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.reset_parameters()  # torch's own first weights
    assert theirs(image).std((0, 2, 3)).mean() < spread / 10


def test_first_weights_keep_the_signal_through_a_pair_of_convolutions_and_its_relu():
    torch.manual_seed(0)
    level = UpvUNet(UpvShape(depth=4, width=64, most=64), classes=2).down[1]
    signal = torch.randn(1, 64, 64, 64).relu()
    inner = level(signal)[..., 2:-2, 2:-2]  # away from the zeros around the image
    assert inner.square().mean().item() == pytest.approx(signal.square().mean().item(), rel=0.15)


@BOTH
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(variant: int, normalise: bool, autocast: bool):
    torch.manual_seed(0)
    plain = UpvUNet(replace(SMALL, variant=variant, normalise=normalise), classes=3).train()
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    image = torch.randn(2, 1, 32, 32)
    for network in (plain, saving):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(image).float().square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_checkpointing_keeps_fewer_activations():
    kept = {}
    for checkpointing in (False, True):
        network = UpvUNet(replace(SMALL, checkpointing=checkpointing), classes=2).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            network(torch.randn(1, 1, 64, 64)).sum().backward()
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.6 * kept[False]


@BOTH
def test_saved_weights_give_the_same_logits(variant: int, tmp_path):
    recipe = replace(RECIPES["upv1"], network=replace(SMALL, variant=variant, normalise=True))
    network = build_network(recipe.network, classes=5).train()
    network(torch.randn(2, 1, 32, 32))  # moves the running statistics
    save_weights(tmp_path / "best.safetensors", Weights(recipe, recipe.space, network.state_dict(), {}))
    weights = load_weights(tmp_path / "best.safetensors")
    other = build_network(weights.recipe.network, classes=5)
    fill_network(other, weights.tensors, where="x")
    image = torch.randn(1, 1, 32, 32)
    assert torch.equal(network.eval()(image), other.eval()(image))


@BOTH
@pytest.mark.parametrize("normalise", [False, True])
def test_a_square_is_learnt(variant: int, normalise: bool):
    torch.manual_seed(0)
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, 8:20, 10:24] = 1
    image = labels[:, None] * 0.3 + 0.1 * torch.rand(1, 1, 32, 32)
    network = UpvUNet(UpvShape(variant=variant, depth=4, width=8, most=16, normalise=normalise), classes=2).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), labels).backward()
        optimizer.step()
    found = network(image).argmax(1)
    assert 2 * ((found == 1) & (labels == 1)).sum() / ((found == 1).sum() + (labels == 1).sum()) > 0.95


def test_the_recipes_are_the_two_variants_at_the_theses_sizes():
    for variant in (1, 2):
        recipe, small = RECIPES[f"upv{variant}"], RECIPES[f"upv{variant}-small"]
        assert recipe.network.variant == small.network.variant == variant
        assert (recipe.preparation.size, recipe.training.batch_size, recipe.training.epochs) == ((512, 512), 30, 200)
        assert recipe.space.organs == ("liver", "kidney", "spleen", "pancreas")
        check_slices(recipe)
        check_slices(small)
        check_slices(replace(recipe, network=replace(recipe.network, depth=8)))
