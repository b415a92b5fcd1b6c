"""FLOPs: those derived by hand, those of torch's counter; the peak of convolutions on each runtime."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from viscera.deployment.flops import LAYERS, Chain, Load, convolution_loads, convolution_peak, flops
from viscera.networks.build import build_network
from viscera.networks.runners import PACKAGES
from viscera.networks.torch_runner import TorchRunner
from viscera.recipes.catalogue import RECIPES

CPU = "cpu"


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 20), 2 * 3 * 8 * 9 * 10 * 20),
        (nn.Conv2d(3, 8, 3), (5, 3, 10, 20), 2 * 3 * 8 * 9 * 8 * 18 * 5),  # no padding: two rows and columns fewer
        (nn.Conv2d(4, 8, (1, 3), stride=2, padding=(0, 1)), (1, 4, 10, 20), 2 * 4 * 8 * 3 * 5 * 10),
        (
            nn.Conv2d(4, 8, 3, padding=1, groups=2),
            (1, 4, 6, 6),
            2 * 2 * 8 * 9 * 36,
        ),  # each output sees half of the input
        (nn.Conv2d(4, 8, 3, padding=2, dilation=2), (1, 4, 6, 6), 2 * 4 * 8 * 9 * 36),
        (nn.Conv3d(2, 5, 3, padding=1), (1, 2, 4, 5, 6), 2 * 2 * 5 * 27 * 120),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), (1, 8, 5, 7), 2 * 8 * 4 * 4 * 35),  # per pixel of the input
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 8, 8), 0),
    ],
)
def test_a_layer_has_the_flops_that_are_derived_by_hand(layer, shape, expected):
    assert flops(layer, shape) == expected


def test_a_unet_has_the_flops_that_are_derived_by_hand():
    # Widths 64 to 1024 at 256x256, 12 classes: 96.3 GFLOP.
    widths, pixels = RECIPES["zhang2d"].network.widths, 256 * 256
    macs, before = 0, 1
    for level, width in enumerate(widths):
        macs += (before * width + width * width) * 9 * pixels // 4**level
        before = width
    for level, width in enumerate(
        widths[:-1]
    ):  # upwards: transposed 2x2, then two convolutions of which one sees the skip too
        macs += (2 * width * width + 2 * width * width * 9 + width * width * 9) * pixels // 4**level
    macs += widths[0] * 12 * pixels
    with torch.device("meta"):
        network = build_network(RECIPES["zhang2d"].network, classes=12)
    assert flops(network, (1, 1, 256, 256)) == 2 * macs
    assert 2 * macs == pytest.approx(96.3e9, rel=1e-3)


@pytest.mark.parametrize(
    "name", ["zhang2d-small", "viscera2d-16", "gao2step-small", "runet-small", "upv1-small", "upv2-small"]
)
def test_every_convolution_of_a_recipe_is_counted(name):
    recipe = RECIPES[name]
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax).eval()
    sides = [network.stride * (2 if network.dimensions == 3 else 1)] * network.dimensions
    image = torch.zeros(2, recipe.channels, *sides)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    assert flops(network, image.shape) == counter.get_total_flops()
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert next(network.parameters()).device.type == "cpu"


@pytest.mark.parametrize("wanted", PACKAGES)
def test_convolutions_run_on_each_runtime_on_as_many_cores_as_slices(wanted):
    for package in PACKAGES[wanted]:
        pytest.importorskip(package)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    loads = convolution_loads(wanted, CPU, sizes=[(8, 16), (4, 8)])
    assert [load.runner.name for load in loads] == [wanted, wanted]
    # In from one channel, six layers, out to two.
    assert loads[0].flops == 2 * (8 + LAYERS * 8 * 8 * 9 + 8 * 2) * 16 * 16
    both = convolution_peak(loads, seconds=0.01)
    assert both > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_peak_is_the_work_of_all_streams_over_the_time():
    passes = []

    class Counting(nn.Module):
        stride, dimensions = 1, 2

        def forward(self, image):
            passes.append(torch.get_num_threads())
            return image

    load = Load(TorchRunner(Counting(), streams=2), np.zeros((1, 1, 2, 2), np.float32), 10)
    before = torch.get_num_threads()
    assert convolution_peak([load], seconds=0.001) > 0
    assert set(passes) == {1}  # each stream has one core
    assert len(passes) % 2 == 0
    assert torch.get_num_threads() == before
    assert convolution_peak([]) == 0


def test_a_runtime_that_falls_back_on_torch_has_no_convolutions():
    with pytest.warns(UserWarning, match="is not used"):
        assert convolution_loads("openvino", "meta", sizes=[(4, 8)]) == []


def test_a_chain_gives_two_channels_of_the_images_size():
    assert Chain(4, layers=2)(torch.zeros(1, 1, 8, 12)).shape == (1, 2, 8, 12)
