"""The bundled weights as graphs: whose they are, that they say what torch says, and what is refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bundle_graphs import Slices, tensor_places, write_graphs
from bundle_weights import Facts, ship
from viscera.config import Context, PlainUNetShape, ResizedSlices, UNetShape
from viscera.errors import WeightsError
from viscera.inference.model import Model, load_model
from viscera.inference.slices import context_of, slice_inputs
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import context_network, network_of
from viscera.networks.bundled_graphs import BundledGraph, find_graph
from viscera.networks.cards import FOLDER, Shipped, TrainingRange, find_shipped
from viscera.networks.doors import openvino_module
from viscera.networks.weights import Weights, as_context, save_weights
from viscera.preparation.case import prepare_image
from viscera.recipes.viscera2d import VISCERA2D
from viscera.synthesis.patient import synthesize

openvino = openvino_module()
MOST_MIB = 8
"""Of all that comes with the package for one network."""
FACTS = Facts("tiny", "1", "abc", "2026-11-27", (), (), (), (), TrainingRange((1.0, 8.0), (-1024.0, 3071.0), "abdomen"))
FEW = Slices(patients=1, seed=1, shape=(16, 32, 32), each=3)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(Path("starter"), accelerator="cpu", runtime=None)


@pytest.fixture(scope="module")
def slices(model) -> np.ndarray:
    """Return three slices of a synthetic patient as the network sees them."""
    patient = synthesize(np.random.default_rng(3), shape=(12, 96, 96))
    image, geometry = prepare_image(patient.ct, model.recipe.preparation)
    context = context_of(image, geometry, model)
    return np.ascontiguousarray(slice_inputs(image, model, [2, 6, 9], context=context), np.float32)


@pytest.fixture
def copied(tmp_path) -> Shipped:
    """Return the bundled weights in a folder of their own, which a test may spoil."""
    shutil.copytree(FOLDER, tmp_path / "bundled")
    return find_shipped(folder=tmp_path / "bundled")


def network(graph: BundledGraph):
    core = openvino.Core()
    return core.compile_model(core.read_model(graph.file, graph.weights), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def of_torch(model: Model, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.module.float()(torch.from_numpy(images)).numpy()


def describe_anew(shipped: Shipped, **changes: object) -> None:
    file = shipped.file.parent / "graphs" / "starter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_graphs_are_those_of_the_bundled_weights():
    shipped = find_shipped()
    facts = json.loads((FOLDER / "graphs" / "starter.json").read_text())
    assert facts["weights_sha256"] == shipped.card.sha256
    for precision in ("fp32", "int8"):
        graph = find_graph(shipped, precision)
        assert graph is not None
        assert (graph.precision, graph.stride, graph.dimensions, graph.classes) == (precision, 16, 2, 20)
    context = find_graph(shipped, "context")
    assert context is not None
    assert (context.precision, context.stride, context.dimensions, context.classes) == ("context", 8, 3, 20)


def test_weights_are_small_and_their_graphs_too():
    shipped = find_shipped()
    assert shipped.file.stat().st_size + shipped.file.with_suffix(".json").stat().st_size < MOST_MIB * 2**20
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 9 * 2**20


def test_the_numbers_of_the_fp32_graph_are_the_tensors_of_the_weights_file(model):
    graph, tensors = find_graph(find_shipped(), "fp32"), model.module.state_dict()
    assert graph.weights == find_shipped().file
    found = openvino.Core().read_model(graph.file, graph.weights)
    constants = {n.get_friendly_name(): n.get_data() for n in found.get_ops() if n.get_type_name() == "Constant"}
    assert constants.keys() == {name for name in tensors if not name.endswith("num_batches_tracked")}
    for name, value in constants.items():
        np.testing.assert_array_equal(value.astype(np.float32).ravel(), tensors[name].numpy().ravel(), err_msg=name)


def test_the_fp32_graph_gives_the_logits_of_torch_whatever_the_sides_and_the_batch(model, slices):
    compiled = network(find_graph(find_shipped(), "fp32"))
    random = np.random.default_rng(1)
    for images in (
        slices,
        *(random.random((batch, slices.shape[1], *sides), np.float32) for batch, *sides in ((1, 16, 48), (2, 64, 32))),
    ):
        np.testing.assert_allclose(compiled([images])["logits"], of_torch(model, images), atol=1e-3, rtol=0)


def test_the_int8_graph_is_int8_and_near_to_torch(model, slices):
    graph = find_graph(find_shipped(), "int8")
    read = openvino.Core().read_model(graph.file, graph.weights)
    whole = [n for n in read.get_ops() if n.get_type_name() == "Constant" and n.get_element_type() == openvino.Type.i8]
    assert len(whole) == 20  # of 23 convolutions; the first, the last and up.3.0 stay in fp32
    found, truth = network(graph)([slices])["logits"], of_torch(model, slices)
    assert 0 < np.abs(found - truth).mean() < 0.03 * truth.std()
    assert (found.argmax(1) != truth.argmax(1)).mean() < 0.01


@pytest.mark.parametrize(("precision", "file"), [("fp32", "starter.fp32.xml"), ("int8", "starter.int8.bin")])
def test_a_damaged_or_missing_file_of_a_graph_is_told(copied, precision, file):
    path = copied.file.parent / "graphs" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=f"{file} is not the file that .* damaged or was changed.*Install viscera again"
    ):
        find_graph(copied, precision)
    path.unlink()
    with pytest.raises(WeightsError, match=f"{file} is missing.*Install viscera again"):
        find_graph(copied, precision)


def test_graphs_of_other_weights_are_not_used(copied):
    describe_anew(copied, weights_sha256="0" * 64)
    assert find_graph(copied, "fp32") is None


def test_a_precision_that_is_not_there_is_not_found(copied):
    describe_anew(copied, graphs={})
    assert find_graph(copied, "int8") is None


def test_weights_without_graphs_have_none(copied):
    shutil.rmtree(copied.file.parent / "graphs")
    assert find_graph(copied, "fp32") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is later than 1"),
        ({"stride": "wide"}, "is damaged"),
        ({"graphs": {"fp32": {}}}, "is damaged"),
        ({"graphs": {"fp32": {"files": {}}}}, "does not name starter.fp32.xml"),
        ({"graphs": {"fp32": {"files": {"../starter.json": "0"}}}}, "does not name starter.fp32.xml"),
    ],
)
def test_a_damaged_description_is_told(copied, changes, message):
    describe_anew(copied, **changes)
    with pytest.raises(WeightsError, match=message):
        find_graph(copied, "fp32")


def test_finding_a_graph_imports_neither_torch_nor_openvino():
    code = (
        "import sys; from viscera.networks.bundled_graphs import find_graph; from viscera.networks.cards import find_shipped; "
        "assert find_graph(find_shipped(), 'int8'); print([name for name in ('torch', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def tiny(folder: Path, heads: str = "softmax", context: bool = False) -> Shipped:
    """Bundle the weights of a small network that has learnt nothing, but does not call everything the same."""
    recipe = replace(
        VISCERA2D,
        name="tiny",
        label_space="abdomenct1k",
        preparation=VISCERA2D.preparation if context else ResizedSlices(size=(32, 32)),
        network=UNetShape(widths=(4, 8), slices=3, heads=heads, stem=2 if context else 1),
        context=Context(network=PlainUNetShape(widths=(4, 8), norm="batch")) if context else None,
        sampling=replace(VISCERA2D.sampling, window=None),
    )
    torch.manual_seed(0)
    network = network_of(recipe)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.weight, 1, 3)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    nn.init.normal_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    tensors = network.state_dict() | (as_context(context_network(recipe).state_dict()) if context else {})
    save_weights(folder / "run.safetensors", Weights(recipe, ABDOMENCT1K, tensors, {}))
    (folder / "bundled").mkdir()
    return ship(folder / "run.safetensors", folder / "bundled", facts=FACTS, evaluations={}, name="tiny")


@pytest.mark.slow
def test_graphs_written_again_are_the_same_and_agree_with_torch(tmp_path):
    shipped = tiny(tmp_path)
    folder, written = tmp_path / "bundled" / "graphs", []
    for _ in range(2):
        facts = write_graphs(shipped, calibration=FEW, check=FEW, kept=(), most_differing=0.5)
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert written[0] == written[1]
    assert written[0].keys() == {"tiny.json", "tiny.fp32.xml", "tiny.int8.xml", "tiny.int8.bin"}
    assert facts["precision_check"]["fp32"]["largest_logit_difference"] < 1e-4
    assert 0 < facts["precision_check"]["int8"]["differing_labels_fraction"] < 0.1
    assert find_graph(shipped, "fp32") == BundledGraph(
        "fp32", folder / "tiny.fp32.xml", shipped.file, stride=2, dimensions=2, classes=5
    )
    places = tensor_places(shipped.file)
    whole = shipped.file.read_bytes()
    bias = places["head.bias"]
    np.testing.assert_array_equal(
        np.frombuffer(whole[bias.offset : bias.offset + bias.size], "<f4"),
        load_model(shipped, accelerator="cpu", runtime=None).module.state_dict()["head.bias"].numpy(),
    )


def test_context_has_a_graph_of_its_own_and_none_needs_other_numbers(tmp_path):
    shipped = tiny(tmp_path, context=True)
    facts = write_graphs(shipped, calibration=FEW, check=FEW, kept=(), most_differing=0.5)
    agreement = facts["precision_check"]
    assert (
        max(agreement["fp32"]["largest_logit_difference"], agreement["context"]["largest_logit_difference_random"])
        < 1e-3
    )
    for precision, dimensions, stride in (("fp32", 2, 4), ("context", 3, 2)):
        graph = find_graph(shipped, precision)
        assert graph is not None
        assert (graph.weights, graph.dimensions, graph.stride) == (shipped.file, dimensions, stride)
    loaded = load_model(shipped, accelerator="cpu", runtime="openvino")
    assert loaded.context is not None
    assert (loaded.context.name, loaded.context.dimensions) == ("openvino", 3)


def test_graphs_that_are_too_far_from_torch_are_not_written(tmp_path):
    shipped = tiny(tmp_path)
    with pytest.raises(WeightsError, match="int8 graph's labels differ from torch's, allowed are 0.00%"):
        write_graphs(shipped, calibration=FEW, check=FEW, kept=(), most_differing=0.0)
    assert find_graph(shipped, "fp32") is None
    assert not (tmp_path / "bundled" / "graphs").exists()


def test_a_graph_that_needs_other_numbers_than_the_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="has a constant .* that tiny.safetensors does not hold"):
        write_graphs(tiny(tmp_path, heads="sigmoid"), calibration=FEW, check=FEW)
