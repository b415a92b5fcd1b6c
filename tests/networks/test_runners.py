"""Runtimes: each gives torch's logits; folding changes nothing; what is missing or cannot run gives way to torch, and says so."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from viscera.config import AttentionUNetShape, PlainUNetShape, Recipe, UNetShape, UpvShape
from viscera.inference.model import Model
from viscera.inference.slices import slice_logits
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import build_network
from viscera.networks.onnx import folded, to_onnx
from viscera.networks.runners import (
    PACKAGES,
    CannotRunError,
    OnnxRunner,
    OpenVinoRunner,
    runner_facts,
    shape_of_recipe,
)
from viscera.networks.torch_runner import TorchRunner, choose_runner, folded_runner, require_agreement

CPU = "cpu"
SHAPES = {
    "unet": UNetShape(widths=(4, 8, 8), slices=3),
    "sigmoid": UNetShape(widths=(4, 8), heads="sigmoid"),
    "upv": UpvShape(depth=4, width=2, most=4, normalise=True),
    "plain3d": PlainUNetShape(widths=(4, 8)),
    "attention3d": AttentionUNetShape(widths=(4, 8, 8)),
}


def trained(shape, seed: int = 0) -> nn.Module:
    """Return a network whose batch normalisations have seen something."""
    torch.manual_seed(seed)
    network = build_network(shape, classes=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


def images(network, shape, *, batch: int = 2) -> torch.Tensor:
    sides = [2 * network.stride] * (network.dimensions - 1) + [network.stride]
    return torch.rand(batch, shape.slices, *sides, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_folded_network_gives_the_same_logits_and_leaves_the_first_as_it_was(shape):
    network = trained(shape)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image = images(network, shape)
    fast = folded(network)
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), network(image), atol=1e-4, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    norms = [module for module in fast.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    assert not norms


@pytest.mark.parametrize("wanted", PACKAGES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_runtime_gives_torchs_logits_and_their_labels_for_any_batch_and_size(shape, wanted):
    for package in PACKAGES[wanted]:
        pytest.importorskip(package)
    network = trained(shape)
    runner = choose_runner(network, CPU, channels=shape.slices, wanted=wanted, exact=True)
    assert (runner.name, runner.precision) == (wanted, "fp32")
    assert (runner.stride, runner.dimensions) == (network.stride, network.dimensions) == shape_of_recipe(shape)
    with torch.inference_mode():
        kept = []
        for batch in (1, 3):
            image = images(network, shape, batch=batch)
            truth = network(image)
            logits = runner(image.numpy())
            np.testing.assert_allclose(logits, truth, atol=2e-4, rtol=1e-3)
            kept.append((logits, runner(image.numpy())))
        assert all(np.array_equal(first, again) for first, again in kept)  # none was overwritten by a later pass


@pytest.mark.parametrize("wanted", ["torch", "openvino"])
def test_half_precision_is_near_and_is_said(wanted):
    pytest.importorskip(PACKAGES[wanted][0])
    network = trained(SHAPES["unet"])
    runner = choose_runner(network, CPU, channels=3, wanted=wanted)
    assert runner.precision in ("bf16", "fp32")  # as the machine can
    assert runner_facts(runner)["precision"] == runner.precision
    with torch.inference_mode():
        image = images(network, SHAPES["unet"])
        difference = (torch.from_numpy(runner(image.numpy())) - network(image)).abs().mean() / network(image).std()
    assert difference < 0.03  # bf16 has 8 bits


def test_a_runner_takes_the_networks_place_in_a_model():
    network = trained(SHAPES["unet"])
    model = Model(TorchRunner(network), Recipe(network=SHAPES["unet"]), ABDOMENCT1K, CPU, "hash")
    image = np.random.default_rng(0).integers(-500, 500, (4, 16, 32)).astype(np.int16)
    expected = slice_logits(image, model, range(4))
    for runner in (choose_runner(network, CPU, channels=3, exact=True), folded_runner(network, CPU, exact=True)):
        found = slice_logits(image, replace(model, network=runner), range(4))
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-3)


def test_without_a_wish_openvino_is_taken_where_it_is_and_facts_say_what_ran():
    pytest.importorskip("openvino")
    runner = choose_runner(trained(SHAPES["unet"]), CPU, channels=3)
    facts = runner_facts(runner)
    assert facts["name"] == "openvino"
    assert facts["threads"] == torch.get_num_threads()
    assert runner_facts(TorchRunner(trained(SHAPES["unet"]))) == facts | {
        "name": "torch",
        "version": torch.__version__,
        "precision": "fp32",
    }


class Odd(nn.Module):
    """A network with something that ONNX does not have, or that depends on the size that it was traced with."""

    stride, dimensions = 4, 2

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, image):
        if self.kind == "unknown":
            return torch.special.i1e(image)
        return torch.cat([image, image * (10 if image.shape[-1] == 4 else -10)], 1)


@pytest.mark.parametrize(
    ("kind", "message"), [("unknown", "i1e.*not supported"), ("traced", "logits differ from torch's by")]
)
@pytest.mark.parametrize("wanted", ["openvino", "onnx"])
def test_a_network_that_a_runtime_cannot_run_runs_on_torch_and_one_line_says_so(kind, message, wanted):
    for package in PACKAGES[wanted]:
        pytest.importorskip(package)
    with pytest.warns(
        UserWarning, match=f"runtime '{wanted}' is not used: .*{message}.*Torch is used instead"
    ) as caught:
        runner = choose_runner(Odd(kind), CPU, channels=1, wanted=wanted)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert runner.name == "torch"
    assert runner(np.zeros((1, 1, 8, 8), np.float32)).shape[0] == 1


def test_a_missing_runtime_gives_way_to_torch_with_one_line_only_where_it_was_wanted():
    code = """
import sys, warnings
sys.modules["openvino"] = sys.modules["onnxruntime"] = None  # as if not installed
import torch
from viscera.config import UNetShape
from viscera.networks.build import build_network
import viscera.networks.torch_runner as runtime
network = build_network(UNetShape(widths=(4, 8)), classes=3).eval()
for wanted in ("auto", "openvino", "onnx"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner = runtime.choose_runner(network, "cpu", channels=1, wanted=wanted)
    print(wanted, runner.name, *[warning.message for warning in caught], sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    auto, openvino, onnx = done.stdout.splitlines()
    assert auto == "auto|torch"
    assert "openvino|torch|runtime 'openvino' is not used: openvino" in openvino
    assert "not installed (pip install 'viscera[openvino]'). Torch is used instead." in openvino
    assert "onnx|torch|runtime 'onnx' is not used: onnxruntime" in onnx


def test_other_devices_than_the_cpu_are_torchs():
    pytest.importorskip("openvino")
    with pytest.warns(UserWarning, match="it runs on the CPU only, not on 'meta'"):
        runner = choose_runner(trained(SHAPES["unet"]), "meta", channels=3, wanted="openvino")
    assert runner.name == "torch"


@pytest.mark.parametrize("runner", [OnnxRunner, OpenVinoRunner])
def test_what_is_no_network_is_refused_in_one_line(runner):
    pytest.importorskip({OnnxRunner: "onnxruntime", OpenVinoRunner: "openvino"}[runner])
    with pytest.raises(CannotRunError, match="cannot: ") as caught:
        runner(b"no network at all", (4, 2))
    assert "\n" not in str(caught.value)


def test_a_graph_with_other_weights_is_found_out():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    first, other = (trained(SHAPES["unet"], seed) for seed in (0, 1))
    runner = OnnxRunner(to_onnx(other, channels=3, labels=True), (4, 2))
    require_agreement(runner, other, channels=3)
    with pytest.raises(CannotRunError, match="differ from torch's"):
        require_agreement(runner, first, channels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the exporter's own warnings are not the user's
        to_onnx(first, channels=3, labels=False)
