"""What a network has to compute (FLOPs), in what time it does, and how fast this machine computes convolutions at best.

The FLOPs are counted while the network runs on shapes without numbers, which takes milliseconds. Normalisation, activation,
pooling and enlarging are not among them: they cost memory traffic rather than arithmetic.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from viscera.networks.runners import Logits, Runner, RuntimeName
from viscera.networks.torch_runner import choose_runner

SIZES = ((64, 128), (128, 64), (256, 32), (512, 16))
"""Channels and side of typical 3x3 convolutions of U-Nets on slices of 256x256; each takes 1.2 GFLOP."""

LAYERS = 6
"""Convolutions in a row. A single one on OpenVINO seems to reach 140 GFLOP/s instead of 730 (64 channels; 128: 450 instead of
1000; one core, bf16), since converting its input and output takes longer than it does."""

FORWARD = (torch.conv1d, torch.conv2d, torch.conv3d)
TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
"""Of all convolutions, those of modules and those that a network calls itself."""


def flops(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Count the floating-point operations of a network's convolutions, a multiplication and an addition as two.

    A convolution has 2 x its weights for each pixel of its output, a transposed one for each pixel of its input. Biases are not
    counted.

    Args:
        network: On any device; it stays as it is. Not a runner, whose graph cannot be looked into.
        image_shape: Of its input: batch, channels, then sides.

    Example:
        >>> flops(nn.Conv2d(3, 8, 3, padding=1), (1, 3, 16, 16)) == 2 * (3 * 8 * 3 * 3) * 16 * 16
        True
    """
    shapes_only = deepcopy(network).to("meta").eval()
    with torch.inference_mode(), _Counter() as counter:
        shapes_only(torch.empty(tuple(image_shape), device="meta"))
    return counter.flops


class _Counter(TorchFunctionMode):
    """Counts within a block. Torch's own counter takes 1 s to import torch's compiler, and makes a folder for it."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self,
        function: Callable,
        types: object,
        arguments: tuple = (),
        named: Mapping[str, object] | None = None,
    ) -> object:
        """Call a function of torch; count if it is a convolution."""
        found = function(*arguments, **(named or {}))
        if function in FORWARD or function in TRANSPOSED:
            image, weight = arguments[:2]  # as torch's modules call them, and so do ours
            pixels = image if function in TRANSPOSED else found
            self.flops += 2 * weight.numel() * (pixels.numel() // weight.shape[0])
        return found


class Chain(nn.Module):
    """Convolutions in a row, from one channel to two, so that little has to be carried in and out.

    Args:
        channels: Of the 3x3 convolutions.
        layers: How many of them.
    """

    stride, dimensions = 1, 2

    def __init__(self, channels: int, layers: int = LAYERS) -> None:
        super().__init__()
        middle = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(layers)]
        self.layers = nn.Sequential(nn.Conv2d(1, channels, 1), *middle, nn.Conv2d(channels, 2, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return two channels."""
        return self.layers(image)


@dataclass(frozen=True, eq=False)
class Load:
    """A chain of convolutions, ready to run.

    Attributes:
        runner: What runs it.
        image: Its input.
        flops: Of one pass.
    """

    runner: Runner
    image: Float32[np.ndarray, "1 1 y x"]
    flops: int


def convolution_loads(runtime: RuntimeName, device: str, *, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Load]:
    """Make typical convolutions for a runtime, with the precision and threads that networks get from ``choose_runner``.

    Args:
        runtime: What runs them.
        device: Where.
        sizes: Channels and side of each.

    Returns:
        Those that the runtime can run; a warning names the others (``choose_runner``).
    """
    loads = []
    for channels, side in sizes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            chain = Chain(channels).eval()
        runner = choose_runner(chain, device, channels=1, wanted=runtime)
        if runner.name == runtime:
            image = np.random.default_rng(0).random((1, 1, side, side), np.float32)
            loads.append(Load(runner, image, flops(chain, image.shape)))
    return loads


def convolution_peak(loads: Sequence[Load], *, seconds: float = 0.3) -> float:
    """Return the most FLOPs per second that any of the convolutions reaches; 0 where there are none.

    Each runs on all cores as slices do: one pass per core where the runner takes several calls at once, else one on all cores.

    Args:
        loads: From ``convolution_loads``.
        seconds: How long each runs, in three parts of which the quickest counts, after one pass to get ready.
    """
    return max((_rate(load, seconds) for load in loads), default=0.0)


def _rate(load: Load, seconds: float) -> float:
    with load.runner.threads() as pool:
        once = _passes(load, pool, passes=1)
        passes = max(1, round(seconds / 3 / max(min(once, _passes(load, pool, passes=1)), 1e-6)))
        fastest = min(_passes(load, pool, passes=passes) for _ in range(3))
    return load.flops * passes * load.runner.streams / fastest


def _passes(load: Load, pool: ThreadPoolExecutor, *, passes: int) -> float:
    """Run so many passes in each stream at once; return the seconds."""
    start = time.perf_counter()
    for work in [pool.submit(_run, load, passes) for _ in range(load.runner.streams)]:
        work.result()
    return time.perf_counter() - start


def _run(load: Load, passes: int) -> None:
    found = None
    for _ in range(passes):
        found = load.runner(load.image)
    if isinstance(found, Tensor):  # on a GPU, which is told what to do and not waited for
        torch.cuda.synchronize(found.device)


@dataclass
class Calls:
    """Calls of a network.

    Attributes:
        seconds: Of all of them, added up over threads.
        shapes: Of their input -> how often.
    """

    seconds: float = 0.0
    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)


class NotedRunner:
    """A runner whose calls are noted, from any number of threads."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.calls, self._lock = runner, Calls(), threading.Lock()
        self.name, self.precision, self.streams = runner.name, runner.precision, runner.streams
        self.stride, self.dimensions = runner.stride, runner.dimensions

    def threads(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Give the runner's threads."""
        return self.runner.threads()

    def __call__(self, image: Float32[np.ndarray, "batch channel *space"]) -> Logits:
        """Return the runner's logits."""
        started = time.perf_counter()
        logits = self.runner(image)
        passed, shape = time.perf_counter() - started, tuple(image.shape)
        with self._lock:
            self.calls.seconds += passed
            self.calls.shapes[shape] = self.calls.shapes.get(shape, 0) + 1
        return logits
