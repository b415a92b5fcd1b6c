"""One trained network on torch, OpenVINO or ONNX Runtime, behind one small interface.

A ``Runner`` is called like the network, an array in, the logits out. It is what a ``Model`` holds, and inference/ does not know
which it is. Nothing here imports torch, whose runner is in torch_runner.py.

OpenVINO gets the network as ONNX, in memory: torch writes that in 0.2 s, OpenVINO's own conversion of torch modules takes 1.7 to
2.7 s (width 16). What was written and checked once is kept (graph_cache.py). Compiling takes 0.1 s; a compiled network on disk
would be read in half of that, and be good for this processor only. Batch and sides stay free, which costs nothing that could be
measured (11.0 ms per slice of 256x256 against 11.4 with fixed ones).
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from viscera.config import NetworkShape
from viscera.io.extras import is_installed
from viscera.networks.device import cores
from viscera.networks.doors import onnxruntime_module, openvino_module
from viscera.networks.graph_cache import GraphCache

if TYPE_CHECKING:
    import openvino

Foreign = Literal["openvino", "onnx"]
RuntimeName = Literal["torch"] | Foreign
Logits = Any
"""Float32[np.ndarray, "batch class *space"]; of a network on a GPU torch's tensor there, in the precision that it computes in."""

PACKAGES: dict[RuntimeName, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino", "onnx"),
    "onnx": ("onnxruntime", "onnx"),
}
"""What must be installed for each; the first is the runtime itself."""


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

    def __call__(self, image: Float32[np.ndarray, "batch channel *space"]) -> Logits:
        """Return the logits."""
        ...

    def threads(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Give the threads that may call it at once."""
        ...


class CannotRunError(Exception):
    """A runtime, or the way to it, cannot do what a network computes. The message says why in one line, without a full stop."""


def one_line(error: BaseException) -> str:
    """Return the first line of another library's error, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


@contextmanager
def plain_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give so many threads; what still waits for one is dropped where the block fails."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def missing_packages(name: RuntimeName) -> list[str]:
    """List what must be installed for a runtime and is not."""
    return [package for package in PACKAGES[name] if not is_installed(package)]


def missing_runtime(name: RuntimeName) -> bool:
    """Tell whether a runtime itself is not installed: enough for a graph that is there; writing one takes more."""
    return not is_installed(PACKAGES[name][0])


def shape_of_recipe(shape: NetworkShape) -> tuple[int, int]:
    """Return a network's stride, what its input's sides must be multiples of, and its dimensions: each level but one halves."""
    return shape.stem * 2 ** (len(shape.widths) - 1), shape.dimensions


def runner_facts(runner: Runner) -> dict[str, object]:
    """Return what is to be said of a run: runtime, its version, precision and threads, for JSON."""
    return {
        "name": runner.name,
        "version": version(PACKAGES[runner.name][0]),
        "precision": runner.precision,
        "threads": cores(),
    }


class OpenVinoRunner:
    """A network on OpenVINO, on all cores: slices one thread each, patches all threads together.

    Args:
        graph: The network as ONNX, or a file of ONNX or OpenVINO.
        shape: Its stride and dimensions.
        weights: What holds the numbers of an OpenVINO graph, where it is no .bin beside it.
        exact: fp32 rather than bf16 where the CPU has such instructions.

    Raises:
        CannotRunError: OpenVINO cannot.
    """

    name: RuntimeName = "openvino"

    def __init__(
        self, graph: bytes | Path, shape: tuple[int, int], *, weights: Path | None = None, exact: bool = False
    ) -> None:
        openvino = openvino_module()
        self.stride, self.dimensions = shape
        self.streams = cores() if self.dimensions == 2 else 1
        core = openvino.Core()
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bf16" if capable and not exact else "fp32"
        settings = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[self.precision],
            "INFERENCE_NUM_THREADS": cores(),
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
        }
        try:
            network = core.read_model(graph) if weights is None else core.read_model(graph, weights)
            for result in network.get_results():
                if "labels" in result.input_value(0).get_names():  # an export's, for other programs
                    network.remove_result(result)
            self.compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise CannotRunError(f"OpenVINO cannot: {one_line(error)}") from error
        if any(operation.get_type_name() == "FakeQuantize" for operation in network.get_ops()):
            self.precision = "int8"
        self.classes = self.compiled.output("logits").get_partial_shape()[1].get_length()
        self.tensor = openvino.Tensor
        self.of_thread = threading.local()
        # Before threads do: of two that made their first call at once, both hung in 2 of 8 runs (OpenVINO 2026.4.1).
        self.channels = self.compiled.input("image").get_partial_shape()[1].get_length()
        self(np.zeros((1, self.channels, *[self.stride] * self.dimensions), np.float32))

    @property
    def request(self) -> "openvino.InferRequest":
        """Return the calling thread's own request: one takes no second call while it runs."""
        if not hasattr(self.of_thread, "request"):
            self.of_thread.request = self.compiled.create_infer_request()
        return self.of_thread.request

    def __call__(self, image: Float32[np.ndarray, "batch channel *space"]) -> Float32[np.ndarray, "batch class *space"]:
        """Return the logits."""
        # Written where they are to stay: OpenVINO's own array is overwritten by its next pass, and would have to be copied.
        logits, request = np.empty((len(image), self.classes, *image.shape[2:]), np.float32), self.request
        request.set_tensor("logits", self.tensor(logits, shared_memory=True))
        request.infer([np.ascontiguousarray(image, np.float32)], share_inputs=True, share_outputs=True)
        return logits

    def threads(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Give a thread per stream."""
        return plain_threads(self.streams)


class OnnxRunner:
    """A network on ONNX Runtime in fp32, on all cores.

    Args:
        graph: The network as ONNX, or a file of it.
        shape: Its stride and dimensions.

    Raises:
        CannotRunError: ONNX Runtime cannot.
    """

    name: RuntimeName = "onnx"
    precision = "fp32"

    def __init__(self, graph: bytes | Path, shape: tuple[int, int]) -> None:
        onnxruntime = onnxruntime_module()
        states = onnxruntime.capi.onnxruntime_pybind11_state
        self.stride, self.dimensions = shape
        self.streams = cores() if self.dimensions == 2 else 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores() // self.streams
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented) as error:
            raise CannotRunError(f"ONNX Runtime cannot: {one_line(error)}") from error

    def __call__(self, image: Float32[np.ndarray, "batch channel *space"]) -> Float32[np.ndarray, "batch class *space"]:
        """Return the logits."""
        (logits,) = self.session.run(["logits"], {"image": np.ascontiguousarray(image, np.float32)})
        return logits

    def threads(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Give a thread per stream."""
        return plain_threads(self.streams)


def runner_of(name: Foreign, graph: bytes | Path, shape: tuple[int, int], *, exact: bool = False) -> Runner:
    """Run a graph.

    Args:
        name: What runs it.
        graph: The network as ONNX, or a file that the runtime reads.
        shape: Its stride and dimensions.
        exact: fp32 rather than bf16 where the CPU has such instructions.

    Raises:
        CannotRunError: The runtime cannot.
    """
    return OnnxRunner(graph, shape) if name == "onnx" else OpenVinoRunner(graph, shape, exact=exact)


def kept_runner(wanted: Literal["auto"] | RuntimeName, shape: NetworkShape, cache: GraphCache) -> Runner | None:
    """Run the graph that an earlier start wrote and checked; None where none was kept, or it does not run any more.

    Args:
        wanted: A runtime, or auto.
        shape: The network's.
        cache: Where graphs of these weights are kept.
    """
    name: RuntimeName = "openvino" if wanted == "auto" else wanted
    if name == "torch" or missing_runtime(name):
        return None
    graph = cache.find(name)
    if graph is None:
        return None
    try:
        return runner_of(name, graph, shape_of_recipe(shape))
    except CannotRunError:
        return None  # it is written anew
