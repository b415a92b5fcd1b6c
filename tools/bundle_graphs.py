"""Bundled weights -> the graphs that come with them, for OpenVINO; networks/bundled_graphs.py reads them again.

    PYTHONPATH=src python tools/bundle_graphs.py [--name starter] [--folder src/viscera/networks/bundled]

fp32: the network as ONNX with its batch normalisations as they are; its constants then become places in the weights file: kernels
in half precision, as they are stored there, so that nothing is rounded once more.

int8: deployment/int8.py, with scales from slices of synthetic patients, made here from seeds. No real scan takes part. The first
convolution of the decoder's last level stays in fp32 beside the network's first and last one (KEPT). Last, the biases of the logits
are changed so that their means stay.

Both are compared with torch before anything is written, and written again they have the same bytes.
"""

import argparse
import io
import json
import struct
import sys
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from viscera.datasets.synthetic import Cohort, make_patient
from viscera.deployment.int8 import quantised
from viscera.errors import WeightsError
from viscera.inference.model import Model, load_model
from viscera.inference.slices import context_of, slice_inputs
from viscera.io.atomic import replacing, sha256, write_json
from viscera.networks.bundled_graphs import FOLDER_NAME, FORMAT, find_graph
from viscera.networks.cards import FOLDER, STARTER, Shipped, find_shipped
from viscera.networks.doors import openvino_module
from viscera.networks.onnx import OPSET, shape_of, to_onnx
from viscera.networks.weights import CONTEXT, COUNT, NUMBERS
from viscera.preparation.case import prepare_image
from viscera.synthesis.variety import VARIETIES

if TYPE_CHECKING:
    import openvino

KEPT = "/up.{last}.0/"
"""In fp32, of a U-Net whose decoder's last level is so numbered. Rounded alone, this one changes the logits most (by 0.029 on
average; the two of the level before, together, by 0.022).
With it in int8 a right adrenal gland lost 0.007 to 0.011 Dice (three draws of slices), without 0.001 and 0.003 (two). The likely
reason: one scale serves the skip connection, which is never negative, and the enlarged features, which are. All figures:
benchmarks/results/int8_bundled.json."""
LARGEST_DIFFERENCE = 1e-3
"""Of a logit in fp32 from torch's: rounding. The logits' standard deviation is 4."""
MOST_DIFFERING = 0.003
"""Share of pixels whose label in int8 may differ from torch's."""
TENSORS = (".weight", ".bias", ".running_mean", ".running_var")
"""Ends of the names that constants have from torch."""
PIXELS, CONTEXT_EXAMPLE = (144, 176), (1, 1, 48, 56, 72)
"""Of random numbers that the graphs are compared on, beside slices."""


@dataclass(frozen=True)
class Slices:
    """Slices of synthetic patients of a rich variety.

    Attributes:
        patients: How many.
        seed: Of the patients, as in `viscera synth`, and of the draw of their slices.
        shape: Of their scans.
        each: Slices drawn of each.
    """

    patients: int
    seed: int
    shape: tuple[int, int, int] = (64, 192, 192)
    each: int = 10


CALIBRATION = Slices(patients=20, seed=7001)
CHECK = Slices(patients=4, seed=7002)
Inputs = list[Float32[np.ndarray, "1 channel y x"]]


def write_graphs(
    shipped: Shipped,
    *,
    calibration: Slices = CALIBRATION,
    check: Slices = CHECK,
    kept: Sequence[str] | None = None,
    most_differing: float = MOST_DIFFERING,
) -> dict[str, object]:
    """Write the graphs of bundled weights, and their description.

    Until the last file stands the weights have no graphs.

    Args:
        shipped: A 2D network's.
        calibration: What the scales of the int8 graph are taken from.
        check: What both graphs are compared with torch on.
        kept: As in ``quantised``.
        most_differing: Share of pixels whose label in int8 may differ from torch's.

    Returns:
        The description.

    Raises:
        WeightsError: The graphs do not agree with torch, or the fp32 one needs numbers that the weights file does not hold.
    """
    model = load_model(shipped, accelerator="cpu", runtime=None)
    if kept is None:
        kept = (KEPT.format(last=len(model.recipe.network.widths) - 2),)
    folder, name = shipped.file.parent / FOLDER_NAME, shipped.card.name
    with tempfile.TemporaryDirectory() as made:
        fp32, int8 = Path(made) / f"{name}.fp32.xml", Path(made) / f"{name}.int8.xml"
        write_fp32(model.module, shipped.file, fp32, channels=model.recipe.channels)
        drawn, phases = drawn_slices(model, calibration)
        seen, _ = drawn_slices(model, check)
        write_int8(model, drawn, int8, kept=kept)
        agreement = {
            "fp32": compared(model, compiled(fp32, shipped.file), seen),
            "int8": compared(model, compiled(int8, int8.with_suffix(".bin")), seen),
        }
        files = {"fp32": [fp32], "int8": [int8, int8.with_suffix(".bin")]}
        stride, dimensions = shape_of(model.module)
        own: dict[str, dict[str, object]] = {}
        if model.context is not None:
            context, network = Path(made) / f"{name}.context.xml", model.context.module  # type: ignore[attr-defined]
            write_fp32(network, shipped.file, context, channels=1, within=CONTEXT)
            agreement["context"] = compared_context(network, compiled(context, shipped.file))
            files["context"] = [context]
            own["context"] = dict(zip(("stride", "dimensions"), shape_of(network), strict=True))
        _require_near(agreement, most_differing)
        facts = {
            "format": FORMAT,
            "name": name,
            "weights_sha256": shipped.card.sha256,
            "graphs": {
                key: {"files": {one.name: sha256(one) for one in many}} | own.get(key, {})
                for key, many in files.items()
            },
            "stride": stride,
            "dimensions": dimensions,
            "classes": len(model.space.classes),
            "calibration": _described(calibration) | {"phases": phases, "kept_in_fp32": list(kept)},
            "precision_check": {"measured_on": _described(check)} | agreement,
            "openvino": version("openvino"),
        }
        description = folder / f"{name}.json"
        description.unlink(missing_ok=True)
        for one in (file for many in files.values() for file in many):
            with replacing(folder / one.name) as part:
                part.write_bytes(one.read_bytes())
        write_json(description, facts)
    return facts


def drawn_slices(model: Model, what: Slices) -> tuple[Inputs, dict[str, int]]:
    """Make synthetic patients and draw slices as the network sees them.

    Returns:
        The slices, and {contrast phase: patients}.
    """
    cohort = Cohort("nnunet", cases=what.patients, seed=what.seed, shape=what.shape, variety=VARIETIES["rich"])
    generator, phases = np.random.default_rng(what.seed), Counter[str]()
    drawn: Inputs = []
    for number in range(1, what.patients + 1):
        patient = make_patient(cohort, number)
        phases[patient.phase] += 1
        image, geometry = prepare_image(patient.ct, model.recipe.preparation)
        context = context_of(image, geometry, model)
        for z in sorted(generator.choice(len(image), what.each, replace=False).tolist()):
            drawn.append(np.ascontiguousarray(slice_inputs(image, model, range(z, z + 1), context=context), np.float32))
    return drawn, dict(sorted(phases.items()))


def write_fp32(module: nn.Module, weights: Path, file: Path, *, channels: int, within: str = "") -> None:
    """Write a graph whose constants are places in a weights file.

    Args:
        module: The network.
        weights: Holds its tensors.
        file: To be written.
        channels: Of its input.
        within: What the names of its tensors begin with in the weights file.

    Raises:
        WeightsError: The graph needs a number that the file does not hold.
    """
    openvino = openvino_module()
    every = tensor_places(weights)
    places = {name.removeprefix(within): place for name, place in every.items() if name.startswith(within)}
    network = openvino.Core().read_model(_plain_onnx(module, channels=channels))
    _use_stored_(network, places)
    _name_(network)
    with tempfile.TemporaryDirectory() as made:
        first = Path(made) / "graph.xml"
        openvino.serialize(network, first, first.with_suffix(".bin"))
        tree = ElementTree.parse(first)
    whole = {
        node.get_friendly_name(): node.get_data() for node in network.get_ops() if node.get_type_name() == "Constant"
    }
    for layer in tree.iter("layer"):
        if layer.get("type") != "Const":
            continue
        numbers, name = layer.find("data"), str(layer.get("name"))
        if name not in places and numbers is not None and (place := _whole_numbers(whole[name], every)) is not None:
            numbers.set("offset", str(place))
            continue
        if name not in places or numbers is None or int(numbers.get("size", 0)) != places[name].size:
            raise WeightsError(f"the graph has a constant '{name}' that {weights.name} does not hold")
        numbers.set("offset", str(places[name].offset))
    tree.write(file, encoding="utf-8", xml_declaration=True)


def _whole_numbers(values: np.ndarray, places: "dict[str, Place]") -> int | None:
    """Return where consecutive whole numbers lie in a weights file; None where they are none, or not there."""
    flat = values.ravel()
    if NUMBERS not in places or values.dtype != np.int64 or not np.array_equal(flat, flat[0] + np.arange(flat.size)):
        return None
    inside = flat[0] >= 0 and flat[-1] < COUNT
    return places[NUMBERS].offset + 8 * int(flat[0]) if inside else None


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a safetensors file: its type there, and bytes from the file's beginning."""

    kind: str
    offset: int
    size: int


def tensor_places(weights: Path) -> dict[str, Place]:
    """Return where the tensors of a safetensors file lie (https://github.com/huggingface/safetensors, "Format")."""
    with weights.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return {
        name: Place(entry["dtype"], 8 + length + entry["data_offsets"][0], int(np.diff(entry["data_offsets"])[0]))
        for name, entry in header.items()
    }


def _plain_onnx(module: nn.Module, *, channels: int) -> bytes:
    """Return a network as ONNX whose constants are the module's own tensors: nothing folded, "image" in, "logits" out."""
    written, (stride, dimensions) = io.BytesIO(), shape_of(module)
    example = torch.zeros(1, channels, 2 * stride, *[stride] * (dimensions - 1))
    network = module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    sides = dict(enumerate(("z", "y", "x")[-dimensions:], start=2))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # as in networks/onnx.py
        torch.onnx.export(
            network,
            (example,),
            written,  # pyright: ignore[reportArgumentType]
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"} | sides for name in ("image", "logits")},
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # else batch normalisation is folded; the module is in evaluation mode
        )
    return written.getvalue()


def _use_stored_(network: "openvino.Model", places: dict[str, Place]) -> None:
    """Make kernels constants in half precision where they are stored so, and biases constants of the shape that is added."""
    nodes = openvino_module().opset13
    for node in network.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind == "Reshape" and node.input_value(0).get_node().get_friendly_name() in places:
            source = node.input_value(0).get_node()
            name, value = source.get_friendly_name(), source.get_data().reshape(list(node.get_output_shape(0)))
        elif kind == "Constant" and name in places and places[name].kind == "F16":
            value = node.get_data().astype(np.float16)
            if not np.array_equal(value.astype(np.float32), node.get_data()):
                raise WeightsError(f"{name} is not what the weights file holds")
        else:
            continue
        users = node.output(0).get_target_inputs()
        constant = nodes.constant(value)
        constant.set_friendly_name(name)
        result = constant if value.dtype == np.float32 else nodes.convert(constant, "f32")
        for user in users:
            user.replace_source_output(result.output(0))
    network.validate_nodes_and_infer_types()


def _name_(network: "openvino.Model") -> None:
    """Number the nodes that have no tensor's name: OpenVINO's own numbers depend on what else the process has done."""
    for number, node in enumerate(network.get_ordered_ops()):
        kind = node.get_type_name()
        if kind not in ("Parameter", "Result") and not node.get_friendly_name().endswith(TENSORS):
            node.set_friendly_name(f"{kind}_{number}")


def write_int8(model: Model, images: Inputs, file: Path, *, kept: Sequence[str]) -> None:
    """Write a graph in int8, and its numbers beside it."""
    openvino = openvino_module()
    graph = to_onnx(model.module, channels=model.recipe.channels, labels=False)
    network = quantised(graph, images, kept=kept)
    _keep_mean_(network, openvino.Core().read_model(graph), images)
    _name_(network)
    openvino.save_model(network, file, compress_to_fp16=False)


def _keep_mean_(network: "openvino.Model", exact: "openvino.Model", images: Inputs) -> None:
    """Change the last biases so that each class's mean logit is what it is in fp32.

    The mean Dice with the truth was .0010 below fp32's on 20 slices of a real patient, and is .0003 below so; on ten synthetic
    patients it was and is .0004 below.
    """
    nodes = openvino_module().opset13
    last = network.get_results()[0].input_value(0).get_node()
    shaped = last.input_value(1).get_node()  # one per class, brought to the logits' dimensions
    biases = shaped.input_value(0).get_node().get_data().reshape(list(shaped.get_output_shape(0)))
    pair = [ready(one) for one in (exact, network)]
    means = np.mean([[one([image])["logits"].mean((0, 2, 3)) for one in pair] for image in images], axis=0)
    corrected = biases + (means[0] - means[1]).reshape(biases.shape)
    last.input(1).replace_source_output(nodes.constant(corrected.astype(np.float32)).output(0))


def compiled(file: Path, weights: Path) -> "openvino.CompiledModel":
    """Return a written graph ready to run."""
    return ready(openvino_module().Core().read_model(file, weights))


def ready(network: "openvino.Model") -> "openvino.CompiledModel":
    """Return a graph ready to run, in fp32 where it is not int8."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino_module().Core().compile_model(network, "CPU", settings)


@torch.inference_mode()
def compared_context(network: nn.Module, graph: "openvino.CompiledModel") -> dict[str, float]:
    """Return how far a context graph's logits are from torch's on random numbers."""
    image = np.random.default_rng(0).random(CONTEXT_EXAMPLE, np.float32)
    truth, found = network(torch.from_numpy(image)).numpy(), graph([image])["logits"]
    return {
        "largest_logit_difference_random": float(np.abs(found - truth).max()),
        "mean_logit_spread": float(truth.std()),
    }


@torch.inference_mode()
def compared(model: Model, graph: "openvino.CompiledModel", images: Inputs) -> dict[str, float]:
    """Return how far a graph's logits and labels are from torch's, on random numbers and on slices."""
    random = np.random.default_rng(0).random((1, model.recipe.channels, *PIXELS), np.float32)
    network, largest, total, spread, differing, pixels = model.module.float(), [], 0.0, 0.0, 0, 0
    for image in (np.concatenate([random, random[..., ::-1]]), *images):
        truth = network(torch.from_numpy(np.ascontiguousarray(image))).numpy()
        found = graph([np.ascontiguousarray(image)])["logits"]
        largest.append(float(np.abs(found - truth).max()))
        if image.shape[0] == 1:
            total, spread = total + float(np.abs(found - truth).mean()), spread + float(truth.std())
            differing += int(np.count_nonzero(found.argmax(1) != truth.argmax(1)))
            pixels += truth[0, 0].size
    return {
        "largest_logit_difference_random": largest[0],
        "largest_logit_difference": max(largest[1:]),
        "mean_logit_difference": total / len(images),
        "mean_logit_spread": spread / len(images),
        "differing_labels_fraction": differing / pixels,
    }


def _require_near(agreement: dict[str, dict[str, float]], most_differing: float) -> None:
    """Raise unless both graphs say what torch says."""
    fp32, int8 = agreement["fp32"], agreement["int8"]
    every = [fp32["largest_logit_difference"], fp32["largest_logit_difference_random"]]
    if "context" in agreement:
        every.append(agreement["context"]["largest_logit_difference_random"])
    far = max(every)
    if not far <= LARGEST_DIFFERENCE:
        raise WeightsError(
            f"a logit of an fp32 graph differs by {far:.2g} from torch's, allowed are {LARGEST_DIFFERENCE:g}"
        )
    if not int8["differing_labels_fraction"] <= most_differing:
        raise WeightsError(
            f"{int8['differing_labels_fraction']:.2%} of the int8 graph's labels differ from torch's, allowed are "
            f"{most_differing:.2%}"
        )


def _described(what: Slices) -> dict[str, object]:
    """Say for JSON what slices are."""
    shape = " ".join(map(str, what.shape))
    return {
        "what": f"viscera synth --variety rich --cases {what.patients} --seed {what.seed} --shape {shape}",
        "slices": what.patients * what.each,
        "draw_seed": what.seed,
    }


def main() -> None:
    """Write the graphs of bundled weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=STARTER)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shipped = find_shipped(options.name, options.folder)
    facts = write_graphs(shipped)
    for precision in ("fp32", "int8"):
        sys.stdout.write(f"{find_graph(shipped, precision)} {facts['precision_check'][precision]}\n")  # type: ignore[index]


if __name__ == "__main__":
    main()
