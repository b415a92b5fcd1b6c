"""Which slices are drawn, and as what: Batch, the order of an epoch, reading ahead.

Everything drawn depends only on the seed and on the place in the run, never on what was drawn before: a run that is
resumed at any step sees what an uninterrupted one would have seen.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8
from torch import Generator, Tensor

from viscera.cases import UNSURE, Case
from viscera.config import Distance, Sampling
from viscera.labels import LabelSpace
from viscera.resampling import AIR_HU

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
        pseudo: Class that teachers gave, UNSURE where they differ, 0 elsewhere and where ``labels`` shows an organ.
        pseudo_annotated: Whether teachers filled in the class; never true where ``annotated`` is.
    """

    image: Shaped[Tensor, "batch channel y x"]
    labels: UInt8[Tensor, "batch y x"]
    known: Bool[Tensor, "batch y x"]
    distance: Float[Tensor, "batch y x"]
    annotated: Bool[Tensor, "batch class"]
    pseudo: UInt8[Tensor, "batch y x"]
    pseudo_annotated: Bool[Tensor, "batch class"]

    def to(self, device: torch.device) -> "Batch":
        """Give the batch on a device."""
        arrays = {item.name: getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)}
        return Batch(**arrays)


@dataclass(frozen=True, eq=False)
class SliceIndex:
    """All slices of some cases, numbered through.

    Attributes:
        cases: The cases.
        positions: Slice n is positions[n] = (case, z).
        reach: Neighbours on either side that are seen with a slice.
        window: Rows and columns of what is read; smaller slices are filled up with air.
    """

    cases: tuple[Case, ...]
    positions: Int[np.ndarray, "slices 2"]
    reach: int
    window: tuple[int, int]

    @staticmethod
    def of(cases: Sequence[Case], *, reach: int = 0, window: tuple[int, int] | None = None) -> "SliceIndex":
        """Number the slices of labelled cases.

        Args:
            cases: In the order of their numbers.
            reach: Neighbours seen on either side.
            window: Rows and columns to read; None: those of the largest slice, so that nothing is cut.
        """
        pairs = [(number, z) for number, case in enumerate(cases) for z in range(case.image.shape[0])]
        rows, columns = np.max([(1, 1), *(case.image.shape[1:] for case in cases)], axis=0).tolist()
        positions = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return SliceIndex(tuple(cases), positions, reach, window or (rows, columns))

    def __len__(self) -> int:
        """Count the slices."""
        return len(self.positions)

    @cached_property
    def shown(self) -> Bool[np.ndarray, "slices class"]:
        """Which classes each slice shows, by its labels or pseudo-labels; read from the cases once."""
        present = np.zeros((len(self), 256), bool)
        for number, (place, z) in enumerate(self.positions):
            case = self.cases[place]
            present[number, np.unique(_labels(case)[z])] = True
            if case.pseudo is not None:
                present[number, np.unique(case.pseudo[z])] = True
        present[:, UNSURE] = False
        return present


def step_generator(seed: int, *place: int) -> Generator:
    """Give a generator that depends only on the seed and the place in the run (epoch, step ...)."""
    state = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint64)
    return Generator().manual_seed(int(state[0] >> 1))


def epoch_order(
    index: SliceIndex, sampling: Sampling, *, visits: int, generator: Generator
) -> Int[np.ndarray, " visits"]:
    """Give the numbers of the slices to visit in an epoch.

    By default whole shuffled passes one after the other, cut at ``visits``. With a ``dataset_power`` the slices are drawn,
    those of a data set with n cases with weight n^-power; ``organ_fraction`` of the visits draw an organ first, all that
    are annotated alike, then a slice that shows it, by the same weights.

    Source: Ulrich et al. 2023 (MultiTalent), arXiv:2303.14444: a case's weight is 1 / sqrt(n), our power 0.5.
    """
    slices = len(index)
    if sampling.dataset_power == 0:
        passes = [torch.randperm(slices, generator=generator) for _ in range(-(-visits // max(slices, 1)))]
        order = torch.cat(passes)[:visits].numpy()
    else:
        order = _drawn(np.cumsum(slice_weights(index, sampling.dataset_power)), visits, generator)
    if sampling.organ_fraction > 0:
        weights = slice_weights(index, sampling.dataset_power)
        shown = index.shown[:, 1:]
        sums = [np.cumsum(weights * shown[:, organ]) for organ in np.flatnonzero(shown.any(0))]
        chosen = (torch.rand(visits, generator=generator) < sampling.organ_fraction).numpy().nonzero()[0]
        organs = torch.randint(0, max(len(sums), 1), (len(chosen),), generator=generator).numpy()
        for organ, sum_ in enumerate(sums):
            places = chosen[organs == organ]
            order[places] = _drawn(sum_, len(places), generator)
    return order


def slice_weights(index: SliceIndex, power: float) -> Float[np.ndarray, " slices"]:
    """Give each slice's weight: n^-power, n the cases of its data set."""
    sizes = Counter(case.dataset for case in index.cases)
    each = np.array([sizes[case.dataset] ** -power for case in index.cases])
    return each[index.positions[:, 0]]


def _drawn(sums: Float[np.ndarray, " slices"], count: int, generator: Generator) -> Int[np.ndarray, " count"]:
    """Draw slices by their summed weights, with replacement."""
    places = torch.rand(count, generator=generator, dtype=torch.float64).numpy() * sums[-1]
    return np.searchsorted(sums, places, side="right")


def draw_places(count: int, generator: Generator) -> Float[np.ndarray, "slice 2"]:
    """Draw where windows are cut, from 0 (first row, column that can be) to 1 (last)."""
    return torch.rand((count, 2), generator=generator, dtype=torch.float64).numpy()


def read_batch(
    index: SliceIndex,
    numbers: Int[np.ndarray, " batch"],
    *,
    space: LabelSpace,
    distance: Distance,
    places: Float[np.ndarray, "batch 2"] | None = None,
) -> Batch:
    """Read slices from the store.

    Args:
        index: Where they are, and how much of each to read.
        numbers: Which.
        space: The classes of ``Batch.annotated``.
        distance: To the nearest organ boundary, or to the nearest organ.
        places: Where the windows are cut (``draw_places``); None: in the middle.
    """
    slices = [(index.cases[case], int(z)) for case, z in index.positions[numbers]]
    if places is None:
        places = np.full((len(slices), 2), 0.5)
    read = [
        _read_slice(case, z, index=index, cut=_cut(case.image.shape[1:], index.window, place))
        for (case, z), place in zip(slices, places, strict=True)
    ]
    images, labels, known, pseudo = (np.stack(arrays) for arrays in zip(*read, strict=True))
    seen = np.where((pseudo > 0) & (pseudo != UNSURE), pseudo, labels)
    return Batch(
        image=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        known=torch.from_numpy(known),
        distance=torch.from_numpy(np.stack([boundary_distance(slice_, distance) for slice_ in seen])),
        annotated=torch.tensor([[True, *(organ in case.annotated for organ in space.organs)] for case, _ in slices]),
        pseudo=torch.from_numpy(pseudo),
        pseudo_annotated=torch.tensor(
            [[False, *(organ in case.pseudo_annotated for organ in space.organs)] for case, _ in slices]
        ),
    )


Cut = tuple[tuple[slice, slice], tuple[slice, slice]]
"""From where to where: (rows, columns) of the slice, (rows, columns) of the window."""


def _cut(shape: tuple[int, ...], window: tuple[int, int], place: Float[np.ndarray, "2"]) -> Cut:
    """Say which part of a slice goes to which part of the window; the slice's middle where it is smaller."""
    parts = []
    for old, new, share in zip(shape, window, place, strict=True):
        first = int(share * (old - new + 1)) if old > new else (old - new) // 2  # below 0: air before the slice
        parts.append((slice(max(first, 0), min(first + new, old)), slice(max(-first, 0), min(old - first, new))))
    return (parts[0][0], parts[1][0]), (parts[0][1], parts[1][1])


def _read_slice(case: Case, z: int, *, index: SliceIndex, cut: Cut) -> tuple[Shaped[np.ndarray, "..."], ...]:
    """Give image, labels, known and pseudo-labels of a window; beyond the slice air, nothing of it known."""
    old, new = cut
    image = np.full((2 * index.reach + 1, *index.window), AIR_HU, np.int16)
    labels, pseudo = np.zeros((2, *index.window), np.uint8)
    known = np.zeros(index.window, bool)
    for channel, neighbour in enumerate(range(z - index.reach, z + index.reach + 1)):
        image[channel][new] = case.image[min(max(neighbour, 0), len(case.image) - 1)][old]
    labels[new] = _labels(case)[z][old]
    known[new] = True if case.known is None else case.known[z][old]
    if case.pseudo is not None:
        pseudo[new] = case.pseudo[z][old]
    return image, labels, known, pseudo


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
