"""Networks in int8: scales cover what was seen, the first and the last convolution stay, and the result is near."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from viscera.config import (
    PatchSampling,
    PlainUNetShape,
    Recipe,
    ResizedSlices,
    UNetShape,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.deployment.export import Yardstick, export
from viscera.deployment.int8 import drawn_inputs, quantised
from viscera.errors import RunError, SettingError, StoreError
from viscera.inference.model import Model, load_model
from viscera.inference.slices import slice_logits
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import build_network
from viscera.networks.doors import openvino_module
from viscera.networks.onnx import to_onnx
from viscera.networks.runners import CannotRunError
from viscera.networks.torch_runner import TorchRunner
from viscera.preparation.store import open_store

openvino = openvino_module()
nodes = openvino.opset13
RECIPE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    intensity=Window(-400, 400),
    network=UNetShape(widths=(8, 16), slices=3),
)


class Same(nn.Identity):
    """Gives what it sees, as the network would see it."""

    stride, dimensions = 1, 2


@pytest.fixture(scope="module")
def model(small_store) -> Model:
    """Return a network that has learnt to tell liver and spleen of the small store apart."""
    torch.manual_seed(0)
    network = build_network(RECIPE.network, classes=len(ABDOMENCT1K.classes))
    model = Model(TorchRunner(network), RECIPE, ABDOMENCT1K, "cpu", "hash")
    store, seeing = open_store(small_store), replace(model, network=TorchRunner(Same()))
    cases = [store.case(name) for name in store.names() if name.startswith("a")]
    images = torch.from_numpy(np.concatenate([slice_logits(case.image, seeing, range(4)) for case in cases]))
    labels = torch.cat([torch.from_numpy(case.truth.copy()).long() for case in cases])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.eval()
    return model


def outputs(network: openvino.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    """Run a network in fp32."""
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {output.any_name: array for output, array in compiled([image]).items() if output.names}


def of_type(network: openvino.Model, kind: str) -> list:
    return [node for node in network.get_ordered_ops() if node.get_type_name() == kind]


def test_the_labels_of_a_small_network_are_kept(model, small_store):
    graph = to_onnx(model.module, channels=3, labels=True)
    store = open_store(small_store)
    network = quantised(graph, drawn_inputs(model, store, generator=np.random.default_rng(0)))
    for image in drawn_inputs(model, store, generator=np.random.default_rng(1), count=4):
        found, truth = outputs(network, image), model.network(image)
        assert (found["labels"] == truth.argmax(1)).mean() > 0.98
        assert 0 < np.abs(found["logits"] - truth).mean() < 0.1 * truth.std()


def test_all_but_the_first_and_the_last_convolution_have_whole_weights(model):
    graph = to_onnx(model.module, channels=3, labels=True)
    plain = openvino.Core().read_model(graph)
    network = quantised(graph, [np.random.default_rng(0).random((1, 3, 16, 16), np.float32)])
    pairs = []
    for kind, axis in (("Convolution", 0), ("ConvolutionBackpropData", 1)):
        pairs += [(old, new, axis) for old, new in zip(of_type(plain, kind), of_type(network, kind), strict=True)]
    whole = [
        (old, new, axis) for old, new, axis in pairs if new.input_value(1).get_node().get_type_name() == "Multiply"
    ]
    kept = [new for _, new, _ in pairs if new.input_value(1).get_node().get_type_name() == "Constant"]
    # Two levels: two convolutions for each of down, bottom and up, one to raise, and the head.
    assert (len(whole), len(kept)) == (6, 2)
    assert kept[0].input_value(0).get_node().get_type_name() == "Parameter"
    for old, new, axis in whole:
        product = new.input_value(1).get_node()
        weights = product.input_value(0).get_node().input_value(0).get_node().get_data()
        scale = product.input_value(1).get_node().get_data()
        true = old.input_value(1).get_node().get_data()
        assert weights.dtype == np.int8
        others = tuple(other for other in range(4) if other != axis)
        assert (np.abs(weights).max(others) == 127).all()  # every output channel uses its range
        assert np.abs(weights * scale - true).max() <= scale.max() / 2 * 1.001


def test_values_that_are_joined_share_a_scale_and_pooling_is_passed_through(model):
    graph = to_onnx(model.module, channels=3, labels=True)
    network = quantised(graph, [np.random.default_rng(0).random((1, 3, 16, 16), np.float32)])
    [join] = [node for node in of_type(network, "Concat") if len(node.get_output_partial_shape(0)) == 4]
    sides = [join.input_value(number).get_node() for number in (0, 1)]
    assert [side.get_type_name() for side in sides] == ["FakeQuantize"] * 2
    assert len({float(side.input_value(2).get_node().get_data().item()) for side in sides}) == 1
    [pool] = of_type(network, "MaxPool")
    assert pool.input_value(0).get_node().get_name() == sides[0].get_name()  # the skip, rounded once for both


def convolutions() -> openvino.Model:
    """Return a network of three convolutions that pass one channel on as it is."""
    image = nodes.parameter([-1, 1, -1, -1], np.float32, "image")
    value = image
    for _ in range(3):
        value = nodes.convolution(value, np.ones((1, 1, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
    value.output(0).set_names({"logits"})
    return openvino.Model([value], [image])


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.0, 0.5, 2.0], 0.0, 2.0),  # none below 0: 256 steps upwards
        ([-1.0, 3.0], -3 * 128 / 127, 3.0),  # steps on both sides of 0, which stays exactly 0
        ([-4.0, 1.0], -4.0, 4 * 127 / 128),
        ([0.0, 0.0], 0.0, 1e-6),  # a dead channel
    ],
)
def test_the_scale_covers_the_smallest_and_the_largest_value_of_all_images(values, low, high, tmp_path):
    openvino.save_model(convolutions(), tmp_path / "plain.xml", compress_to_fp16=False)
    images = [np.full((1, 1, 2, 2), value, np.float32) for value in values]
    network = quantised(tmp_path / "plain.xml", images)
    [rounded] = of_type(network, "FakeQuantize")
    assert [rounded.input_value(end).get_node().get_data().item() for end in (1, 2)] == pytest.approx([low, high])
    step = (high - low) / 255
    for value, image in zip(values, images, strict=True):
        assert np.abs(outputs(network, image)["logits"] - value).max() <= step / 2 * 1.001
    beyond = outputs(network, np.full((1, 1, 2, 2), 99, np.float32))["logits"]
    assert beyond == pytest.approx(high)


def test_without_inner_convolutions_there_is_nothing_to_convert(tmp_path):
    image = nodes.parameter([-1, 1, -1, -1], np.float32, "image")
    one = nodes.convolution(image, np.ones((1, 1, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
    openvino.save_model(openvino.Model([one], [image]), tmp_path / "one.xml")
    with pytest.raises(CannotRunError, match="no convolution between the first and the last"):
        quantised(tmp_path / "one.xml", [])


def test_slices_are_drawn_once_each_from_training_cases_as_the_network_sees_them(model, small_store):
    store = open_store(small_store)
    names = store.names("training")
    few, same, other = (
        [image.tobytes() for image in drawn_inputs(model, store, generator=np.random.default_rng(seed), count=5)]
        for seed in (0, 0, 1)
    )
    assert few == same != other
    assert len(set(few)) == 5
    every = list(drawn_inputs(model, store, generator=np.random.default_rng(0)))
    assert len(every) == 4 * len(names)  # fewer than were asked for
    hu = store.case(names[0]).image
    expected = (np.clip(hu[[0, 0, 1]], -400, 400) + 400) / 800  # beyond the scan its first slice repeats
    assert np.allclose(every[0][0], expected)


def test_a_store_of_another_recipe_or_without_training_cases_is_refused(model, small_store):
    store = open_store(small_store)
    other = replace(model, recipe=replace(RECIPE, preparation=ResizedSlices(size=(32, 32))))
    with pytest.raises(StoreError, match="was prepared with size 16x16, not size 32x32"):
        next(drawn_inputs(other, store, generator=np.random.default_rng(0)))
    nobody = replace(store, splits=dict.fromkeys(store.splits, "test"))
    with pytest.raises(RunError, match="has no training cases to draw slices from"):
        next(drawn_inputs(model, nobody, generator=np.random.default_rng(0)))


def test_int8_is_exported_smaller_measured_and_described(model, small_store, tmp_path):
    yardstick = Yardstick(open_store(small_store), "training", 2)
    found = export(model, tmp_path / "int8", kind="openvino", int8=True, yardstick=yardstick)
    export(model, tmp_path / "fp32", kind="openvino")
    assert found.dice_torch["liver"] > 0.9
    assert set(found.dice_difference_points) == {"liver", "spleen"}
    facts = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("int8", "fp32")]
    assert [one["precision"] for one in facts] == ["int8", "fp32"]
    assert facts[0]["agreement"]["dice_difference_points"] == found.dice_difference_points
    sizes = [(tmp_path / name / "network.bin").stat().st_size for name in ("int8", "fp32")]
    assert sizes[0] < 0.5 * sizes[1]


def test_int8_is_refused_where_it_makes_no_sense(model, small_store, tmp_path):
    yardstick = Yardstick(open_store(small_store), "training")
    with pytest.raises(SettingError, match="--int8 is for --format openvino"):
        export(model, tmp_path / "out", int8=True, yardstick=yardstick)
    with pytest.raises(SettingError, match="--int8 needs real slices .* Name a prepared store: --data STORE"):
        export(model, tmp_path / "out", kind="openvino", int8=True)
    unmeetable = replace(yardstick, dice_points=-1)
    with pytest.raises(RunError, match="leave --int8 out"):
        export(model, tmp_path / "out", kind="openvino", int8=True, yardstick=unmeetable)
    assert list(tmp_path.iterdir()) == []


def deep(size: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Model:
    """Return an untrained network of windows on the small store's grid."""
    torch.manual_seed(0)
    recipe = replace(
        RECIPE,
        name="deep",
        network=PlainUNetShape(widths=(8, 16)),
        sampling=PatchSampling(size=size, stride=stride),
        augmentation=VolumeAugmentation(),
        inference=WindowInference(overlap=0.5, region="whole"),
    )
    network = build_network(recipe.network, classes=len(ABDOMENCT1K.classes)).eval()
    return Model(TorchRunner(network), recipe, ABDOMENCT1K, "cpu", "hash")


def test_windows_are_drawn_once_each_from_training_cases_as_the_network_sees_them(small_store):
    store, windows = open_store(small_store), deep((4, 8, 8))
    names = store.names("training")
    every = list(drawn_inputs(windows, store, generator=np.random.default_rng(0), count=1000))
    assert len(every) == 9 * len(names)
    assert {image.shape for image in every} == {(1, 1, 4, 8, 8)}
    assert len({image.tobytes() for image in every}) == len(every)
    assert len(list(drawn_inputs(windows, store, generator=np.random.default_rng(0)))) == 16
    hu = store.case(names[0]).image
    assert np.allclose(every[1][0, 0], (np.clip(hu[:, :8, 4:12], -400, 400) + 400) / 800)
    larger, apart = deep((8, 16, 16)), deep((4, 8, 8), (1, 2, 2))
    first = next(drawn_inputs(larger, store, generator=np.random.default_rng(0), count=99))
    assert np.array_equal(first[0, 0, 4:], np.repeat(first[0, 0, 3:4], 4, axis=0))  # the last slice repeats
    second = next(drawn_inputs(apart, store, generator=np.random.default_rng(0), count=99))
    assert np.allclose(second[0, 0], (np.clip(hu[:, ::2, ::2], -400, 400) + 400) / 800)


def test_int8_of_a_3d_network_is_exported_measured_and_predicts(small_store, tmp_path):
    yardstick = Yardstick(open_store(small_store), "training", 100)
    model = deep((4, 8, 8))
    found = export(model, tmp_path / "int8", kind="openvino", int8=True, yardstick=yardstick)
    export(model, tmp_path / "fp32", kind="openvino")
    assert 0 < found.differing_fraction < 0.2
    small, large = (load_model(tmp_path / name, accelerator="cpu", runtime="auto") for name in ("int8", "fp32"))
    assert (small.network.precision, small.network.dimensions) == ("int8", 3)
    assert large.network.precision in ("fp32", "bf16")
    sizes = [(tmp_path / name / "network.bin").stat().st_size for name in ("int8", "fp32")]
    assert sizes[0] < 0.5 * sizes[1]
    image = next(drawn_inputs(model, yardstick.store, generator=np.random.default_rng(3)))
    logits = [one.network(image) for one in (model, large, small)]
    assert np.abs(logits[1] - logits[0]).mean() < 0.02 * logits[0].std()
    assert 0 < np.abs(logits[2] - logits[0]).mean() < 0.1 * logits[0].std()
