"""One trained network on torch, OpenVINO or ONNX Runtime, behind one small interface.

A runner is called like the network, a tensor in, the logits out; ``labels`` gives the class of the largest logit, decided
within the graph. So a runner takes the network's place in a ``Model``, and inference/ does not know which it is.

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
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from viscera.config import NetworkShape
from viscera.networks.device import autocast_type
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


class Runner(Protocol):
    """A trained network that can be called.

    Attributes:
        name: The runtime.
        precision: fp32, bf16, fp16 or, of a network that was quantised, int8.
        streams: How many threads may call it at once, each on one core; more than 1 for slices on a CPU.
        stride: What the sides of its input must be multiples of.
        dimensions: 2 for slices, 3 for patches.
    """

    name: RuntimeName
    precision: str
    streams: int
    stride: int
    dimensions: int

    def __call__(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Give the logits, in float32 or in the runner's precision."""
        ...

    def both(
        self, image: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch class *space"], UInt8[Tensor, "batch *space"]]:
        """Give the logits and the class of the largest, from one pass."""
        ...

    def labels(self, image: Float[Tensor, "batch channel *space"]) -> UInt8[Tensor, "batch *space"]:
        """Give the class of the largest logit."""
        ...


def choose_runner(
    network: nn.Module,
    device: torch.device,
    *,
    channels: int,
    wanted: Literal["auto"] | RuntimeName = "auto",
    exact: bool = False,
    cache: GraphCache | None = None,
) -> "TorchRunner | OpenVinoRunner | OnnxRunner":
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
            return _tried(name, network, device, channels=channels, exact=exact, cache=cache)
        except CannotRunError as error:
            warnings.warn(f"runtime '{name}' is not used: {error}. Torch is used instead.", stacklevel=2)
    return TorchRunner(network, device, exact=exact)


def missing_packages(name: RuntimeName) -> list[str]:
    """List what must be installed for a runtime and is not."""
    return [package for package in PACKAGES[name] if find_spec(package) is None]


def input_channels(shape: NetworkShape) -> int:
    """Give the channels of a network's input: the slices that it sees at once."""
    return shape.slices


def runner_facts(network: nn.Module) -> dict[str, object]:
    """Give what is to be said of a run: runtime, its version, precision and threads, for JSON.

    Args:
        network: A runner, or a plain torch module in fp32.
    """
    name = network.name if isinstance(network, TorchRunner | OpenVinoRunner | OnnxRunner) else "torch"
    return {
        "name": name,
        "version": version(PACKAGES[name][0]),
        "precision": getattr(network, "precision", "fp32"),
        "threads": torch.get_num_threads(),
    }


class TorchRunner(nn.Module):
    """A network on torch: batch normalisation folded, channels last in 2D, weights of convolutions converted once.

    Args:
        network: Trained; it stays as it is.
        device: Where to run it.
        exact: fp32 rather than the device's mixed precision (CUDA: fp16; a CPU with such instructions: bf16).
    """

    name: RuntimeName = "torch"

    def __init__(self, network: nn.Module, device: torch.device, *, exact: bool = False) -> None:
        super().__init__()
        self.stride, self.dimensions = shape_of(network)
        self.mixed = None if exact else autocast_type("auto", device.type)
        self.precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.mixed]
        self.streams = torch.get_num_threads() if device.type == "cpu" and self.dimensions == 2 else 1
        fast = folded(network).to(device).requires_grad_(requires_grad=False)
        if self.dimensions == 2:
            fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.mixed is not None:
            # Autocast would convert them in every pass: 0.4 of 2.0 ms per slice of 64x64. Biases are small, and not always
            # added by a convolution.
            for module in fast.modules():
                if isinstance(module, _ConvNd):
                    module.weight.data = module.weight.data.to(self.mixed)
        self.network = fast

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Give the logits."""
        if self.mixed is None:
            return self.network(image)
        with torch.autocast(image.device.type, self.mixed):
            return self.network(image)

    def both(
        self, image: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch class *space"], UInt8[Tensor, "batch *space"]]:
        """Give the logits and the class of the largest, from one pass."""
        logits = self(image)
        return logits, _largest(logits)

    def labels(self, image: Float[Tensor, "batch channel *space"]) -> UInt8[Tensor, "batch *space"]:
        """Give the class of the largest logit."""
        return _largest(self(image))


class OpenVinoRunner(nn.Module):
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
        import openvino

        super().__init__()
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
        """Give the calling thread's own request: one takes no second call while it runs."""
        if not hasattr(self.of_thread, "request"):
            self.of_thread.request = self.compiled.create_infer_request()
        return self.of_thread.request

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Give the logits."""
        # Written where they are to stay: OpenVINO's own array is overwritten by its next pass, and would have to be copied.
        logits, request = torch.empty((len(image), self.classes, *image.shape[2:])), self.request
        request.set_tensor("logits", self.tensor(logits.numpy(), shared_memory=True))
        request.infer([image.float().contiguous().numpy()], share_inputs=True, share_outputs=True)
        return logits

    def both(
        self, image: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch class *space"], UInt8[Tensor, "batch *space"]]:
        """Give the logits and the class of the largest, from one pass."""
        logits = self(image)
        if self.dimensions == 3:
            return logits, _largest(logits)
        return logits, torch.from_numpy(self.request.get_tensor("labels").data.copy())

    def labels(self, image: Float[Tensor, "batch channel *space"]) -> UInt8[Tensor, "batch *space"]:
        """Give the class of the largest logit."""
        return self.both(image)[1]


class OnnxRunner(nn.Module):
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
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states  # pyright: ignore[reportAttributeAccessIssue]

        super().__init__()
        self.stride, self.dimensions = shape
        self.streams = torch.get_num_threads() if self.dimensions == 2 else 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() // self.streams
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented) as error:
            raise CannotRunError(f"ONNX Runtime cannot: {one_line(error)}") from error

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Give the logits."""
        return self._run(image, "logits")[0]

    def both(
        self, image: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch class *space"], UInt8[Tensor, "batch *space"]]:
        """Give the logits and the class of the largest, from one pass."""
        found = self._run(image, *["logits", "labels"][: 4 - self.dimensions])
        return found[0], found[1] if len(found) == 2 else _largest(found[0])

    def labels(self, image: Float[Tensor, "batch channel *space"]) -> UInt8[Tensor, "batch *space"]:
        """Give the class of the largest logit."""
        return self.both(image)[1]

    def _run(self, image: Tensor, *outputs: str) -> list[Tensor]:
        found = self.session.run(list(outputs), {"image": image.float().contiguous().numpy()})
        return [torch.from_numpy(array) for array in found]


def _tried(
    name: Foreign, network: nn.Module, device: torch.device, *, channels: int, exact: bool, cache: GraphCache | None
) -> OpenVinoRunner | OnnxRunner:
    """Give a runner that has shown that it computes what torch does.

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
def require_agreement(runner: OpenVinoRunner | OnnxRunner, network: nn.Module, *, channels: int) -> None:
    """Check that a runner gives torch's logits for random input, but for rounding.

    Raises:
        CannotRunError: It does not.
    """
    # Another batch, and other sides than the exporter's example had: what it took for a constant shows.
    sides = [runner.stride] * (runner.dimensions - 1) + [3 * runner.stride]
    image = torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0))
    truth = TorchRunner(network, torch.device("cpu"), exact=True)(image)
    try:
        found = runner(image)
    except RuntimeError as error:
        raise CannotRunError(f"it fails: {one_line(error)}") from error
    deviation, spread = float((found - truth).abs().mean()), float(truth.std())
    if not deviation <= LARGEST_DEVIATION * spread + 1e-3:
        raise CannotRunError(
            f"its logits differ from torch's by {deviation:.2g} on average, where they vary by {spread:.2g}"
        )


def _largest(logits: Float[Tensor, "batch class *space"]) -> UInt8[Tensor, "batch *space"]:
    # max is ten times as fast as argmax on a CPU.
    return logits.float().max(1).indices.to(torch.uint8)
