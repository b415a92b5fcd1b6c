"""Several trained networks as one: what it gives are the logits of their mean probabilities.

They are asked one after the other, about the same slices or the same window, so that no more than one such part is ever held of
each of them. All that comes after a network (mixing slices, averaging windows, certainty, labels) then sees averaged
probabilities, and need not know how many networks there are. Which networks go together is said in inference/ensemble.py.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
from jaxtyping import Float32

from viscera.errors import WeightsError
from viscera.networks.runners import Logits, Runner, RuntimeName

AT_ONCE = 8192
"""Pixels of a slice, or voxels of a window, of which the probabilities are computed together: they stay in the processor's cache
(5 networks, 15 classes, one core: 14 ns per value, against 23 of whole slices)."""
LEAST = 1e-30
"""Mean probability below which its logarithm is taken from the largest of the networks', less that of their number: float32 ends
at 1e-38, and logits of 0 would put edges elsewhere where they are interpolated. One network alone keeps its own values."""


class MeanRunner:
    """Networks behind the interface of one (runners.py).

    Args:
        runners: At least one; each takes the same slices or windows.
        heads: What their outputs are: of a softmax over the classes, or each class's own sigmoid.
        own_channels: How many of the input's last channels are each network's own (its context's organs), in the order of the
            networks; all other channels are for all of them.

    Raises:
        WeightsError: One takes slices and another windows, or they run on different runtimes.
    """

    def __init__(
        self, runners: Sequence[Runner], *, heads: Literal["softmax", "sigmoid"] = "softmax", own_channels: int = 0
    ) -> None:
        first = runners[0]
        if len({(one.name, one.dimensions) for one in runners}) > 1:
            raise WeightsError("networks of slices and of windows, or on different runtimes, have no common output")
        self.runners, self.own_channels = tuple(runners), own_channels
        self.heads: Literal["softmax", "sigmoid"] = heads
        self.name: RuntimeName = first.name
        self.precision = "+".join(dict.fromkeys(one.precision for one in runners))
        self.streams = min(one.streams for one in runners)
        self.stride, self.dimensions = math.lcm(*(one.stride for one in runners)), first.dimensions

    def __call__(self, image: Float32[np.ndarray, "batch channel *space"]) -> Logits:
        """Return the logits of the mean probabilities."""
        return mean_logits((run(self._seen(image, place)) for place, run in enumerate(self.runners)), heads=self.heads)

    def _seen(
        self, image: Float32[np.ndarray, "batch channel *space"], place: int
    ) -> Float32[np.ndarray, "batch own_channel *space"]:
        """Return what one of the networks sees."""
        own = self.own_channels
        if not own or len(self.runners) == 1:
            return image
        shared = image.shape[1] - own * len(self.runners)
        first = shared + own * place
        return np.concatenate([image[:, :shared], image[:, first : first + own]], axis=1)

    def threads(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Give the threads that may call it at once."""
        return self.runners[0].threads()


def mean_logits(outputs: Iterable[Logits], *, heads: Literal["softmax", "sigmoid"] = "softmax") -> Logits:
    """Return the logits of the mean of probabilities.

    Args:
        outputs: Logits (batch, class, space ...) of the same input, one network after the other; each may be overwritten by the
            next.
        heads: softmax: probabilities over the classes, of which the logarithm is returned (its softmax gives them again).
            sigmoid: each class's own probability, of which the log-odds are returned.

    Returns:
        Finite float32 of the outputs' kind and place.

    Example:
        >>> certain, open_ = np.log([[[0.9], [0.1]]]), np.log([[[0.5], [0.5]]])
        >>> np.exp(mean_logits([certain.astype("f4"), open_.astype("f4")])).astype(float).round(3).ravel().tolist()
        [0.7, 0.3]
    """
    mean: _MeanOnCpu | _MeanOnGpu | None = None
    for logits in outputs:
        if mean is None:
            mean = _MeanOnCpu(logits.shape, heads) if isinstance(logits, np.ndarray) else _MeanOnGpu(heads)
        mean.add(logits)
    if mean is None:
        raise ValueError("there is no output to average")
    return mean.logits()


class _MeanOnCpu:
    """Sums of probabilities, and the largest of their logarithms, in NumPy's arrays."""

    def __init__(self, shape: tuple[int, ...], heads: str) -> None:
        self.heads, self.shape, self.count = heads, shape, 0
        batch, classes = shape[:2]
        self.sides = 1 if heads == "softmax" else 2  # the probability itself; of sigmoids also that of the contrary
        self.sums = np.zeros((self.sides, batch, classes, math.prod(shape[2:])), np.float32)
        self.largest = np.full(self.sums.shape, -np.inf, np.float32)

    def add(self, logits: Float32[np.ndarray, "batch class *space"]) -> None:
        """Take in one network's output."""
        self.count += 1
        flat = logits.reshape(*logits.shape[:2], -1)
        for number, one in enumerate(flat):
            for first in range(0, one.shape[1], AT_ONCE):
                part = slice(first, first + AT_ONCE)
                for side, logs in enumerate(self._logarithms(one[:, part])):
                    largest = self.largest[side, number, :, part]
                    np.maximum(largest, logs, out=largest)
                    self.sums[side, number, :, part] += np.exp(logs, out=logs)

    def _logarithms(self, logits: Float32[np.ndarray, "class n"]) -> list[Float32[np.ndarray, "class n"]]:
        """Return the logarithms of probabilities, and with sigmoids of their contraries."""
        if self.heads == "softmax":
            below = logits - logits.max(axis=0)
            below -= np.log(np.exp(below).sum(axis=0))
            return [below]
        rest = np.log1p(np.exp(-np.abs(logits)))
        return [np.minimum(logits, 0) - rest, np.minimum(-logits, 0) - rest]

    def logits(self) -> Float32[np.ndarray, "batch class *space"]:
        """Return the logits of the mean."""
        self.sums /= self.count
        self.largest -= np.float32(math.log(self.count))
        np.log(self.sums, out=self.largest, where=self.sums > LEAST)
        found = self.largest[0]
        if self.sides == 2:
            found -= self.largest[1]
        return found.reshape(self.shape)


class _MeanOnGpu:
    """The logarithm of the sum of probabilities, in torch's tensors."""

    def __init__(self, heads: str) -> None:
        self.heads, self.count = heads, 0
        self.sums: list[Logits] = []

    def add(self, logits: Logits) -> None:
        """Take in one network's output."""
        import torch  # it is loaded: the logits are its

        self.count += 1
        full = logits.float()
        if self.heads == "softmax":
            logs = [full.log_softmax(1)]
        else:
            logs = [torch.nn.functional.logsigmoid(side) for side in (full, -full)]
        self.sums = [torch.logaddexp(*pair) for pair in zip(self.sums, logs, strict=True)] if self.sums else logs

    def logits(self) -> Logits:
        """Return the logits of the mean."""
        if self.heads == "softmax":
            return self.sums[0] - math.log(self.count)
        return self.sums[0] - self.sums[1]
