"""Which slices are drawn, and as what: Batch, the order of an epoch, reading ahead.

Everything drawn depends only on the seed and on the place in the run, never on what was drawn before: a run that is
resumed at any step sees what an uninterrupted one would have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8
from torch import Generator, Tensor

from viscera.cases import Case
from viscera.config import Distance
from viscera.labels import LabelSpace

Item = TypeVar("Item")

NO_ORGAN_DISTANCE_PIXELS = 256.0
"""d on a slice without organs, and the largest d (zhang2d's code)."""


@dataclass(frozen=True)
class Batch:
    """Slices to learn from.

    Attributes:
        image: int16 HU from the store; scaled to float by intensity.py on the training device.
        labels: Class per pixel; 0 is background or an organ that the case does not annotate.
        known: False where the label may be anything.
        distance: Pixels to the nearest organ boundary, for boundary-weighted losses.
        annotated: Whether the slice's case annotates the class; always true for background.
    """

    image: Shaped[Tensor, "batch channel y x"]
    labels: UInt8[Tensor, "batch y x"]
    known: Bool[Tensor, "batch y x"]
    distance: Float[Tensor, "batch y x"]
    annotated: Bool[Tensor, "batch class"]

    def to(self, device: torch.device) -> "Batch":
        """Give the batch on a device."""
        arrays = {item.name: getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)}
        return Batch(**arrays)


@dataclass(frozen=True)
class SliceIndex:
    """All slices of some cases, numbered through: slice n is ``positions[n]`` = (case, z)."""

    cases: tuple[Case, ...]
    positions: Int[np.ndarray, "slices 2"]

    @staticmethod
    def of(cases: Sequence[Case]) -> "SliceIndex":
        """Number the slices of labelled cases."""
        pairs = [(number, z) for number, case in enumerate(cases) for z in range(case.image.shape[0])]
        return SliceIndex(tuple(cases), np.array(pairs, dtype=np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        """Count the slices."""
        return len(self.positions)


def step_generator(seed: int, *place: int) -> Generator:
    """Give a generator that depends only on the seed and the place in the run (epoch, step ...)."""
    state = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint64)
    return Generator().manual_seed(int(state[0] >> 1))


def epoch_order(slices: int, *, visits: int, generator: Generator) -> Int[np.ndarray, " visits"]:
    """Give the numbers of the slices to visit: whole shuffled passes one after the other, cut at ``visits``."""
    passes = [torch.randperm(slices, generator=generator) for _ in range(-(-visits // max(slices, 1)))]
    return torch.cat(passes)[:visits].numpy()


def read_batch(
    index: SliceIndex, numbers: Int[np.ndarray, " batch"], *, space: LabelSpace, distance: Distance
) -> Batch:
    """Read slices from the store.

    Args:
        index: Where they are.
        numbers: Which.
        space: The classes of ``Batch.annotated``.
        distance: To the nearest organ boundary, or to the nearest organ.
    """
    places = [(index.cases[case], int(z)) for case, z in index.positions[numbers]]
    labels = np.stack([_labels(case)[z] for case, z in places])
    known = [np.ones(labels.shape[1:], bool) if case.known is None else case.known[z] for case, z in places]
    return Batch(
        image=torch.from_numpy(np.stack([case.image[z] for case, z in places])[:, None]),
        labels=torch.from_numpy(labels),
        known=torch.from_numpy(np.stack(known)),
        distance=torch.from_numpy(np.stack([boundary_distance(slice_, distance) for slice_ in labels])),
        annotated=torch.tensor([[True, *(organ in case.annotated for organ in space.organs)] for case, _ in places]),
    )


def _labels(case: Case) -> UInt8[np.ndarray, "z y x"]:
    if case.labels is None:
        raise ValueError(f"case {case.name} has no labels to learn from")
    return case.labels


def boundary_distance(labels: UInt8[np.ndarray, "y x"], distance: Distance) -> Float32[np.ndarray, "y x"]:
    """Give each pixel's distance d in pixels, at most NO_ORGAN_DISTANCE_PIXELS.

    Args:
        labels: One axial slice.
        distance: "boundary": outside an organ to its nearest pixel, inside to the nearest pixel that is none, so 1 on
            either side of a boundary (zhang2d's code: outer plus inner Euclidean distance transform). "organ": to the
            nearest organ pixel, 0 inside (zhang2d's paper).

    Source: Zhang 2025, section II.C; the transform is exact (Felzenszwalb and Huttenlocher 2012, in OpenCV).
    """
    organ = (labels > 0).astype(np.uint8)
    if not organ.any():
        return np.full(labels.shape, NO_ORGAN_DISTANCE_PIXELS, np.float32)
    found = cv2.distanceTransform(1 - organ, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if distance == "boundary":
        found = found + cv2.distanceTransform(organ, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(found, np.float32(NO_ORGAN_DISTANCE_PIXELS))


def read_ahead(read: Callable[[int], Item], count: int, *, first: int = 0, threads: int = 2) -> Iterator[Item]:
    """Give read(first) ... read(count - 1) in order while threads read the next ones.

    Threads, not processes: reading, distance transforms and copies release the interpreter lock, and no worker can die.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[Item]] = []
        for number in range(first, count):
            waiting.append(pool.submit(read, number))
            if len(waiting) > 2 * threads:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
