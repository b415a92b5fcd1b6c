"""A trained network on torch, or on the fastest runtime that computes what torch does."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn
from torch.nn.modules.conv import _ConvNd

from viscera.networks.device import cores
from viscera.networks.graph_cache import GraphCache
from viscera.networks.onnx import folded, shape_of, to_onnx
from viscera.networks.precision import autocast_type
from viscera.networks.runners import (
    CannotRunError,
    Foreign,
    Logits,
    Runner,
    RuntimeName,
    missing_packages,
    one_line,
    runner_of,
)

LARGEST_DEVIATION = 0.25
"""Mean difference from torch's logits, of their standard deviation, above which a runtime computed something else. bf16 differs
by 0.02 (gao2step); another network's logits would by about 1."""


def choose_runner(
    network: nn.Module,
    device: str,
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
        channels: Of its input: ``recipe.channels``.
        wanted: A runtime, or auto.
        exact: fp32 rather than bf16 or fp16.
        cache: Keeps the graph once it has been checked, so that the next start need not make and check it.
    """
    name = wanted
    if name == "auto":
        name = "openvino" if device == "cpu" and not missing_packages("openvino") else "torch"
    if name != "torch":
        try:
            return _checked(name, network, device, channels=channels, exact=exact, cache=cache)
        except CannotRunError as error:
            warnings.warn(f"runtime '{name}' is not used: {error}. Torch is used instead.", stacklevel=2)
    return folded_runner(network, device, exact=exact)


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
        self.device = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0)).device

    @torch.inference_mode()
    def __call__(self, image: Float32[np.ndarray, "batch channel *space"]) -> Logits:
        """Return the logits."""
        given = torch.from_numpy(image).to(self.device)
        if given.ndim == 4:
            given = given.contiguous(memory_format=torch.channels_last)
        if self.autocast is None:
            logits = self.module(given)
        else:
            with torch.autocast(self.device.type, self.autocast):
                logits = self.module(given)
        return logits if logits.is_cuda else logits.float().contiguous().numpy()

    @contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """Give the threads that may call this at once, each with its share of torch's own."""
        before = torch.get_num_threads()
        each = 1 if self.streams > 1 else before
        pool = ThreadPoolExecutor(self.streams, initializer=torch.set_num_threads, initargs=(each,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # a worker's number would hold for all threads that begin later


def folded_runner(network: nn.Module, device: str, *, exact: bool = False) -> TorchRunner:
    """Make a network fast on torch: batch normalisation folded, channels last in 2D, weights of convolutions converted once.

    Args:
        network: Trained; it stays as it is.
        device: Where to run it.
        exact: fp32 rather than the device's mixed precision (CUDA: fp16; a CPU with such instructions: bf16).
    """
    dimensions = shape_of(network)[1]
    autocast = None if exact else autocast_type("auto", device)
    fast = folded(network).to(device).requires_grad_(requires_grad=False)
    if dimensions == 2:
        fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if autocast is not None:
        # Autocast would convert them in every pass: 0.4 of 2.0 ms per slice of 64x64. Biases are small, and not always
        # added by a convolution.
        for module in fast.modules():
            if isinstance(module, _ConvNd):
                module.weight.data = module.weight.data.to(autocast)
    streams = cores() if device == "cpu" and dimensions == 2 else 1
    return TorchRunner(fast, autocast, streams=streams)


def _checked(
    name: Foreign, network: nn.Module, device: str, *, channels: int, exact: bool, cache: GraphCache | None
) -> Runner:
    """Return a runner that has shown that it computes what torch does.

    Raises:
        CannotRunError: It does not, or it is not there.
    """
    if device != "cpu":
        raise CannotRunError(f"it runs on the CPU only, not on '{device}'")
    missing = missing_packages(name)
    if missing:
        raise CannotRunError(f"{' and '.join(missing)} not installed (pip install 'viscera[{name}]')")
    graph = to_onnx(network, channels=channels, labels=False)
    runner = runner_of(name, graph, shape_of(network), exact=exact)
    require_agreement(runner, network, channels=channels)
    if cache:
        cache.keep(graph, name, exact=exact)
    return runner


def require_agreement(runner: Runner, network: nn.Module, *, channels: int) -> None:
    """Check that a runner gives torch's logits for random input, but for rounding.

    Raises:
        CannotRunError: It does not.
    """
    # Another batch, and other sides than the exporter's example had: what it took for a constant shows.
    sides = [runner.stride] * (runner.dimensions - 1) + [3 * runner.stride]
    image = torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0)).numpy()
    truth = folded_runner(network, "cpu", exact=True)(image)
    try:
        found = runner(image)
    except RuntimeError as error:
        raise CannotRunError(f"it fails: {one_line(error)}") from error
    deviation, spread = float(np.abs(found - truth).mean()), float(truth.std())
    if not deviation <= LARGEST_DEVIATION * spread + 1e-3:
        raise CannotRunError(
            f"its logits differ from torch's by {deviation:.2g} on average, where they vary by {spread:.2g}"
        )
