"""One trained network on torch, OpenVINO or ONNX Runtime, behind one small interface.

A ``Runner`` is called like the network, a tensor in, the logits out. It is what a ``Model`` holds, and inference/ does not know
which it is.

OpenVINO gets the network as ONNX, in memory: torch writes that in 0.2 s, OpenVINO's own conversion of torch modules takes 1.7 to
2.7 s (width 16). What was written and checked once is kept (graph_cache.py). Compiling takes 0.1 s; a compiled network on disk
would be read in half of that, and be good for this processor only. Batch and sides stay free, which costs nothing that could be
measured (11.0 ms per slice of 256x256 against 11.4 with fixed ones); neither do the labels.
"""

import threading
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from viscera.config import NetworkShape
from viscera.networks.device import autocast_type
from viscera.networks.doors import onnxruntime_module, openvino_module
from viscera.networks.graph_cache import GraphCache
from viscera.networks.onnx import CannotRunError, folded, one_line, shape_of, to_onnx

if TYPE_CHECKING:
    import openvino

Foreign = Literal["openvino", "onnx"]
RuntimeName = Literal["torch"] | Foreign

PACKAGES: dict[RuntimeName, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino", "onnx"),
    "onnx": ("onnxruntime", "onnx"),
}
"""What must be installed for each; the first is the runtime itself."""

LARGEST_DEVIATION = 0.25
"""Mean difference from torch's logits, of their standard deviation, above which a runtime computed something else. bf16 differs
by 0.02 (gao2step); another network's logits would by about 1."""


@runtime_checkable
class Runner(Protocol):
    """A trained network that can be called."""

    @property
    def name(self) -> RuntimeName:
        """The runtime."""
        ...

    @property
    def precision(self) -> str:
        """Of the network's numbers: fp32, bf16, fp16 or, of a network that was quantised, int8."""
        ...

    @property
    def streams(self) -> int:
        """How many threads may call it at once, each on one core; more than 1 for slices on a CPU."""
        ...

    @property
    def stride(self) -> int:
        """What the sides of its input must be multiples of."""
        ...

    @property
    def dimensions(self) -> int:
        """2 for slices, 3 for patches."""
        ...

    def __call__(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Return the logits, in float32 or in the runner's precision."""
        ...


def choose_runner(
    network: nn.Module,
    device: torch.device,
    *,
    channels: int,
    wanted: Literal["auto"] | RuntimeName = "auto",
    exact: bool = False,
    cache: GraphCache | None = None,
) -> Runner:
    """Put a network on the runtime that is wanted, or on the fastest that there is: OpenVINO on a CPU, else torch.

    Before it is used, a runtime other than torch must give torch's logits for random input, but for rounding. Where it cannot,
    or is wanted and not installed, torch takes its place, and one warning says so.

    Args:
        network: Trained, one of networks/; it stays as it is.
        device: Where to run it; runtimes other than torch run on the CPU only.
        channels: Of its input: ``input_channels(recipe.network)``.
        wanted: A runtime, or auto.
        exact: fp32 rather than bf16 or fp16.
        cache: Keeps the graph once it has been checked, so that the next start need not make and check it.
    """
    name = wanted
    if name == "auto":
        name = "openvino" if device.type == "cpu" and not missing_packages("openvino") else "torch"
    if name != "torch":
        try:
            return _checked(name, network, device, channels=channels, exact=exact, cache=cache)
        except CannotRunError as error:
            warnings.warn(f"runtime '{name}' is not used: {error}. Torch is used instead.", stacklevel=2)
    return folded_runner(network, device, exact=exact)


def missing_packages(name: RuntimeName) -> list[str]:
    """List what must be installed for a runtime and is not."""
    return [package for package in PACKAGES[name] if find_spec(package) is None]


def input_channels(shape: NetworkShape) -> int:
    """Return the channels of a network's input: the slices that it sees at once."""
    return shape.slices


def runner_facts(runner: Runner) -> dict[str, object]:
    """Return what is to be said of a run: runtime, its version, precision and threads, for JSON."""
    return {
        "name": runner.name,
        "version": version(PACKAGES[runner.name][0]),
        "precision": runner.precision,
        "threads": torch.get_num_threads(),
    }


class TorchRunner:
    """A torch module as it is: trained or, from ``folded_runner``, made faster.

    Args:
        module: In evaluation mode, on its device.
        autocast: Type of mixed precision; None for fp32.
        streams: How many threads may call it at once.
    """

    name: RuntimeName = "torch"

    def __init__(self, module: nn.Module, autocast: torch.dtype | None = None, *, streams: int = 1) -> None:
        self.module, self.autocast, self.streams = module, autocast, streams
        self.stride, self.dimensions = shape_of(module)
        self.precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[autocast]

    def __call__(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Return the logits."""
        if self.autocast is None:
            return self.module(image)
        with torch.autocast(image.device.type, self.autocast):
            return self.module(image)


def folded_runner(network: nn.Module, device: torch.device, *, exact: bool = False) -> TorchRunner:
    """Make a network fast on torch: batch normalisation folded, channels last in 2D, weights of convolutions converted once.

    Args:
        network: Trained; it stays as it is.
        device: Where to run it.
        exact: fp32 rather than the device's mixed precision (CUDA: fp16; a CPU with such instructions: bf16).
    """
    dimensions = shape_of(network)[1]
    autocast = None if exact else autocast_type("auto", device.type)
    fast = folded(network).to(device).requires_grad_(requires_grad=False)
    if dimensions == 2:
        fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if autocast is not None:
        # Autocast would convert them in every pass: 0.4 of 2.0 ms per slice of 64x64. Biases are small, and not always
        # added by a convolution.
        for module in fast.modules():
            if isinstance(module, _ConvNd):
                module.weight.data = module.weight.data.to(autocast)
    streams = torch.get_num_threads() if device.type == "cpu" and dimensions == 2 else 1
    return TorchRunner(fast, autocast, streams=streams)


class OpenVinoRunner:
    """A network on OpenVINO, with as many threads as torch has: slices one thread each, patches all threads together.

    Args:
        graph: The network as ONNX, or a file of ONNX or OpenVINO.
        shape: Its stride and dimensions; with two dimensions the graph gives labels too.
        exact: fp32 rather than bf16 where the CPU has such instructions.

    Raises:
        CannotRunError: OpenVINO cannot.
    """

    name: RuntimeName = "openvino"

    def __init__(self, graph: bytes | Path, shape: tuple[int, int], *, exact: bool = False) -> None:
        openvino = openvino_module()
        self.stride, self.dimensions = shape
        self.streams = torch.get_num_threads() if self.dimensions == 2 else 1
        core = openvino.Core()
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bf16" if capable and not exact else "fp32"
        settings = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[self.precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
        }
        try:
            network = core.read_model(graph)
            self.compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise CannotRunError(f"OpenVINO cannot: {one_line(error)}") from error
        if any(operation.get_type_name() == "FakeQuantize" for operation in network.get_ops()):
            self.precision = "int8"
        self.classes = self.compiled.output("logits").get_partial_shape()[1].get_length()
        self.tensor = openvino.Tensor
        self.of_thread = threading.local()

    @property
    def request(self) -> "openvino.InferRequest":
        """Return the calling thread's own request: one takes no second call while it runs."""
        if not hasattr(self.of_thread, "request"):
            self.of_thread.request = self.compiled.create_infer_request()
        return self.of_thread.request

    def __call__(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Return the logits."""
        # Written where they are to stay: OpenVINO's own array is overwritten by its next pass, and would have to be copied.
        logits, request = torch.empty((len(image), self.classes, *image.shape[2:])), self.request
        request.set_tensor("logits", self.tensor(logits.numpy(), shared_memory=True))
        request.infer([image.float().contiguous().numpy()], share_inputs=True, share_outputs=True)
        return logits


class OnnxRunner:
    """A network on ONNX Runtime in fp32, with as many threads as torch has.

    Args:
        graph: The network as ONNX, or a file of it.
        shape: Its stride and dimensions; with two dimensions the graph gives labels too.

    Raises:
        CannotRunError: ONNX Runtime cannot.
    """

    name: RuntimeName = "onnx"
    precision = "fp32"

    def __init__(self, graph: bytes | Path, shape: tuple[int, int]) -> None:
        onnxruntime = onnxruntime_module()
        states = onnxruntime.capi.onnxruntime_pybind11_state
        self.stride, self.dimensions = shape
        self.streams = torch.get_num_threads() if self.dimensions == 2 else 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() // self.streams
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented) as error:
            raise CannotRunError(f"ONNX Runtime cannot: {one_line(error)}") from error

    def __call__(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Return the logits."""
        (logits,) = self.session.run(["logits"], {"image": image.float().contiguous().numpy()})
        return torch.from_numpy(logits)


def _checked(
    name: Foreign, network: nn.Module, device: torch.device, *, channels: int, exact: bool, cache: GraphCache | None
) -> Runner:
    """Return a runner that has shown that it computes what torch does.

    Raises:
        CannotRunError: It does not, or it is not there.
    """
    if device.type != "cpu":
        raise CannotRunError(f"it runs on the CPU only, not on '{device.type}'")
    missing = missing_packages(name)
    if missing:
        raise CannotRunError(f"{' and '.join(missing)} not installed (pip install 'viscera[{name}]')")
    shape = shape_of(network)
    how = (name, "exact" if exact else "mixed")
    kept = cache.find(how, packages=PACKAGES[name]) if cache else None
    graph = kept or to_onnx(network, channels=channels, labels=shape[1] == 2)
    runner = OnnxRunner(graph, shape) if name == "onnx" else OpenVinoRunner(graph, shape, exact=exact)
    if kept is None:
        require_agreement(runner, network, channels=channels)
        if cache:
            cache.keep(graph, how, packages=PACKAGES[name])
    return runner


@torch.inference_mode()
def require_agreement(runner: Runner, network: nn.Module, *, channels: int) -> None:
    """Check that a runner gives torch's logits for random input, but for rounding.

    Raises:
        CannotRunError: It does not.
    """
    # Another batch, and other sides than the exporter's example had: what it took for a constant shows.
    sides = [runner.stride] * (runner.dimensions - 1) + [3 * runner.stride]
    image = torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0))
    truth = folded_runner(network, torch.device("cpu"), exact=True)(image)
    try:
        found = runner(image)
    except RuntimeError as error:
        raise CannotRunError(f"it fails: {one_line(error)}") from error
    deviation, spread = float((found - truth).abs().mean()), float(truth.std())
    if not deviation <= LARGEST_DEVIATION * spread + 1e-3:
        raise CannotRunError(
            f"its logits differ from torch's by {deviation:.2g} on average, where they vary by {spread:.2g}"
        )
