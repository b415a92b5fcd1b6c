"""An int8 copy of a network for OpenVINO: its convolutions but the first and the last, and what flows between them.

Weights get one scale per output channel. What flows into a convolution gets one scale, from the smallest to the largest value
seen on slices (or windows) of training cases; where a concatenation joins several, they share it, so that nothing is converted on
the way. OpenVINO finds the FakeQuantize nodes that are put there, and computes in int8 between them.

One core with AMX, 12 classes: 1.4 times as fast as bf16 at width 16, 1.7 at 32, 2.0 at 64. On seven synthetic patients the organs'
Dice (0.81 to 0.95) differed by at most 0.05 and 0.12 points (two draws of slices) from fp32's, that of bf16 by 0.05. NNCF 3.4
(nncf.quantize, 300 slices) makes a graph as fast in five times the time, with at most 0.39 points: its scales come from the mean of
each slice's largest value. The first and the last convolution in int8 double the difference and save no time that could be
measured; correcting biases for the weights' rounding gains nothing. ONNX Runtime's quantised graphs take OpenVINO longer than bf16,
since it converts back at every step, and are only 1.3 times as fast as fp32 on ONNX Runtime.

3D networks, one window on a core of an EPYC (AVX2, no VNNI), in CPU time: 1.7 to 1.9 times as fast as fp32 (volumes_cpu.json).
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from viscera.errors import RunError
from viscera.inference.context import ScanContext
from viscera.inference.model import Model
from viscera.inference.plans import places, plan_of
from viscera.inference.slices import context_of, slice_inputs
from viscera.inference.windows import window_input
from viscera.networks.device import cores
from viscera.networks.doors import openvino_module
from viscera.networks.runners import CannotRunError
from viscera.preparation.contrast import enhance
from viscera.preparation.store import Store

if TYPE_CHECKING:
    import openvino

CONVOLUTIONS = {"Convolution": 0, "ConvolutionBackpropData": 1}
"""OpenVINO's nodes, and the axis of their weights that is the output channel."""
PASSING = ("MaxPool", "Concat")
"""Nodes that give on values as they are, so that the scale is found before them."""
SLICES = 100
"""On 300 the Dice was the same."""
WINDOWS = 16
"""Of a 3D network: of 64x64x64 they have the voxels of 64 slices of 256x256; those of 128x128x128 take a minute or more."""
LEAST_RANGE = 1e-6
"""Of a channel or tensor that is always 0."""


def drawn_inputs(
    model: Model, store: Store, *, generator: np.random.Generator, count: int | None = None
) -> Iterator[Float32[np.ndarray, "1 channel *space"]]:
    """Draw slices of a store's training cases, each at most once, as the network sees them; for a 3D network windows.

    Args:
        model: The network's.
        store: Prepared as its recipe says.
        generator: Draws.
        count: How many, fewer where there are no more; None: SLICES or WINDOWS.

    Raises:
        RunError: The store has no training cases.
        StoreError: The store is another recipe's.
    """
    store.require(space=model.space, preparation=model.recipe.preparation)
    cases = [store.case(name) for name in store.names("training")]
    images = [case.image for case in cases]
    if not images:
        raise RunError(
            f"{store.path} has no training cases to draw slices from", "Prepare it with more patients.", file=store.path
        )
    plan = None if model.recipe.inference.whole_slices else plan_of(model)
    if plan is None:
        shown = [(number, (z, 0, 0)) for number, image in enumerate(images) for z in range(len(image))]
    else:
        shown = [(number, place) for number, image in enumerate(images) for place in places(image.shape, plan)]
    contexts: dict[int, ScanContext | None] = {}  # of one case at a time
    most = count or (SLICES if plan is None else WINDOWS)
    for chosen in sorted(generator.choice(len(shown), min(most, len(shown)), replace=False).tolist()):
        number, place = shown[chosen]
        if plan is None:
            if number not in contexts:
                contexts = {number: context_of(images[number], cases[number].geometry, model)}
            yield slice_inputs(images[number], model, range(place[0], place[0] + 1), context=contexts[number])
        else:
            yield window_input(enhance(images[number], model.recipe.contrast), model, plan, place)


def quantised(
    graph: bytes | Path, images: Iterable[Float32[np.ndarray, "1 channel *space"]], *, kept: Sequence[str] = ()
) -> "openvino.Model":
    """Return a network in int8.

    Args:
        graph: In fp32, as ONNX, or a file of ONNX or OpenVINO.
        images: What the network is shown, from which the scales are taken.
        kept: Convolutions stay in fp32, beside the first and the last, whose names contain one of these.

    Raises:
        CannotRunError: There is nothing to convert.
    """
    openvino = openvino_module()
    network = openvino.Core().read_model(graph)
    between = [node for node in network.get_ordered_ops() if _has_weights(node)][1:-1]
    inner = [node for node in between if not any(part in node.get_friendly_name() for part in kept)]
    if not inner:
        raise CannotRunError("it has no convolution between the first and the last, so nothing would be int8")
    groups = _groups(inner)
    for group, (low, high) in zip(groups, _ranges(network, groups, images), strict=True):
        for value in group.values():
            _round_values(value, low, high)
    for node in inner:
        _round_weights(node)
    network.validate_nodes_and_infer_types()
    return network


def _has_weights(node: "openvino.Node") -> bool:
    """Say whether a node is a convolution with constant weights."""
    return node.get_type_name() in CONVOLUTIONS and node.input_value(1).get_node().get_type_name() == "Constant"


def _groups(convolutions: Sequence["openvino.Node"]) -> list[dict[str, "openvino.Output"]]:
    """Return the values, by name, that flow into convolutions; those that must share a scale together."""
    groups: list[dict[str, openvino.Output]] = []
    for node in convolutions:
        found = {f"{value.get_node().get_name()}:{value.get_index()}": value for value in _sources(node.input_value(0))}
        joined = [group for group in groups if not found.keys().isdisjoint(group)]
        groups = [group for group in groups if found.keys().isdisjoint(group)]
        for group in joined:
            found |= group
        groups.append(found)
    return groups


def _sources(value: "openvino.Output") -> list["openvino.Output"]:
    """Return what was computed last on the way to a value: the inputs of concatenations, what pooling chooses from."""
    node = value.get_node()
    kind = node.get_type_name()
    if kind not in PASSING:
        return [value]
    inputs = range(node.get_input_size() if kind == "Concat" else 1)
    return [source for number in inputs for source in _sources(node.input_value(number))]


def _ranges(
    network: "openvino.Model",
    groups: Sequence[dict[str, "openvino.Output"]],
    images: Iterable[Float32[np.ndarray, "1 channel *space"]],
) -> list[tuple[float, float]]:
    """Return the smallest and the largest value of each group over all images, in fp32."""
    openvino = openvino_module()
    nodes = openvino.opset13
    members = [(number, value) for number, group in enumerate(groups) for value in group.values()]
    ends = []
    for _, value in members:
        axes = nodes.constant(np.arange(value.get_partial_shape().rank.get_length()))
        ends += [nodes.reduce_min(value, axes), nodes.reduce_max(value, axes)]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
    watching = openvino.Model(ends, network.get_parameters())
    compiled = openvino.Core().compile_model(watching, "CPU", settings)
    ranges = [(np.inf, -np.inf)] * len(groups)
    for image in images:
        found = [float(end) for end in compiled([image]).to_tuple()]
        for (number, _), low, high in zip(members, found[::2], found[1::2], strict=True):
            ranges[number] = (min(ranges[number][0], low), max(ranges[number][1], high))
    return ranges


def _round_values(value: "openvino.Output", low: float, high: float) -> None:
    """Round a value to 256 steps wherever it is used: from 0 on where none is negative, else on both sides of 0."""
    nodes = openvino_module().opset13
    if low < 0:
        high = max(high, -low * 127 / 128, LEAST_RANGE)
        low = -high * 128 / 127
    else:
        low, high = 0.0, max(high, LEAST_RANGE)
    users = value.get_target_inputs()
    ends = [nodes.constant(np.float32(end)) for end in (low, high)]
    rounded = nodes.fake_quantize(value, *ends, *ends, levels=256)
    for user in users:
        user.replace_source_output(rounded.output(0))


def _round_weights(convolution: "openvino.Node") -> None:
    """Replace a convolution's weights by int8 ones times a scale per output channel."""
    nodes = openvino_module().opset13
    weights = convolution.input_value(1).get_node().get_data()
    axis = CONVOLUTIONS[convolution.get_type_name()]
    others = tuple(other for other in range(weights.ndim) if other != axis)
    scale = np.maximum(np.abs(weights).max(others, keepdims=True), LEAST_RANGE).astype(np.float32) / np.float32(127)
    whole = np.rint(weights / scale).astype(np.int8)
    product = nodes.multiply(nodes.convert(nodes.constant(whole), "f32"), nodes.constant(scale))
    convolution.input(1).replace_source_output(product.output(0))
