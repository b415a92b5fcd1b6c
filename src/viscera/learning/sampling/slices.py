"""Axial slices to learn from: their numbers, the windows cut from them, the distance to organ boundaries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import edt
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8
from torch import Generator, Tensor

from viscera.config import Contrast, Distance
from viscera.inference.context import CERTAIN
from viscera.labels import LabelSpace
from viscera.learning.context import ContextMaps
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.lesions import SIZES_MM, lesion_labels, lesions_of
from viscera.learning.sampling.shown import with_pseudo
from viscera.preparation.contrast import UNCHANGED, air_hu, enhance
from viscera.preparation.store import UNSURE, Case

NO_ORGAN_DISTANCE_PIXELS = 256.0
"""d on a slice without organs, and the largest d (zhang2d's code)."""


@dataclass(frozen=True, eq=False)
class SliceIndex:
    """All slices of some cases, numbered through.

    Attributes:
        cases: The cases.
        positions: Slice n is positions[n] = (case, z).
        reach: Neighbours on either side that are seen with a slice.
        window: Rows and columns of what is read; smaller slices are filled up with air.
        contrast: How the grey levels of each slice are enhanced before a window is cut.
        maps: Give slices their context; None: they have none.
        lesions: Labels whose voxels are lesions.
    """

    cases: tuple[Case, ...]
    positions: Int[np.ndarray, "slices 2"]
    reach: int
    window: tuple[int, int]
    contrast: Contrast = UNCHANGED
    maps: ContextMaps | None = None
    lesions: tuple[int, ...] = ()

    @staticmethod
    def of(
        cases: Sequence[Case],
        *,
        reach: int = 0,
        window: tuple[int, int] | None = None,
        contrast: Contrast = UNCHANGED,
        maps: ContextMaps | None = None,
        space: LabelSpace | None = None,
    ) -> "SliceIndex":
        """Number the slices of some cases.

        Args:
            cases: In the order of their numbers.
            reach: Neighbours seen on either side.
            window: Rows and columns to read; None: those of the largest slice, so that nothing is cut.
            contrast: How grey levels are enhanced.
            maps: Give slices their context.
            space: Says which labels are lesions; None: none are.
        """
        pairs = [(number, z) for number, case in enumerate(cases) for z in range(case.image.shape[0])]
        rows, columns = np.max([(1, 1), *(case.image.shape[1:] for case in cases)], axis=0).tolist()
        positions = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return SliceIndex(
            tuple(cases), positions, reach, window or (rows, columns), contrast, maps, lesion_labels(space)
        )

    def __len__(self) -> int:
        """Count the slices."""
        return len(self.positions)

    @cached_property
    def shown(self) -> Bool[np.ndarray, "slices class"]:
        """Which classes each slice shows, by its labels or pseudo-labels; read from the cases once."""
        present = np.zeros((len(self), 256), bool)
        for number, (place, z) in enumerate(self.positions):
            case = self.cases[place]
            present[number, np.unique(case.truth[z])] = True
            if case.pseudo is not None:
                present[number, np.unique(case.pseudo[z])] = True
        present[:, UNSURE] = False
        return present

    @cached_property
    def lesion_slices(self) -> list[list[Int[np.ndarray, " _"]]]:
        """Of each size of lesions that the cases show, small ones first: of each lesion the slices of some of its voxels.

        Read from the cases once.
        """
        of_sizes: list[list[Int[np.ndarray, " _"]]] = [[] for _ in range(len(SIZES_MM) + 1)]
        for place, case in enumerate(self.cases):
            first, plane = int(np.searchsorted(self.positions[:, 0], place)), math.prod(case.truth.shape[1:])
            for of_size, lesions in zip(of_sizes, lesions_of(case, self.lesions), strict=True):
                of_size += [first + lesion // plane for lesion in lesions]
        return [lesions for lesions in of_sizes if lesions]


def draw_slice_places(count: int, generator: Generator) -> Float[np.ndarray, "slice 2"]:
    """Draw where windows are cut, from 0 (first row, column that can be) to 1 (last)."""
    return torch.rand((count, 2), generator=generator, dtype=torch.float64).numpy()


def read_slices(
    index: SliceIndex,
    numbers: Int[np.ndarray, " batch"],
    *,
    space: LabelSpace,
    distance: Distance | None,
    places: Float[np.ndarray, "batch 2"] | None = None,
) -> Batch:
    """Read slices from the store.

    Args:
        index: Where they are, and how much of each to read.
        numbers: Which.
        space: The classes of ``Batch.annotated``.
        distance: To the nearest organ boundary, or to the nearest organ; None: not needed.
        places: Where the windows are cut (``draw_slice_places``); None: in the middle.
    """
    slices = [(index.cases[case], int(z)) for case, z in index.positions[numbers]]
    if places is None:
        places = np.full((len(slices), 2), 0.5)
    whole = 1 if index.maps is None else index.maps.pixels
    cuts = [
        _cut(case.image.shape[1:], index.window, place, whole=whole)
        for (case, _), place in zip(slices, places, strict=True)
    ]
    read = [_read_slice(case, z, index=index, cut=cut) for (case, z), cut in zip(slices, cuts, strict=True)]
    images, labels, known, pseudo = (np.stack(arrays) for arrays in zip(*read, strict=True))
    seen = with_pseudo(labels, pseudo)
    return Batch(
        image=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        known=torch.from_numpy(known),
        distance=torch.from_numpy(_distances(seen, distance)),
        annotated=torch.tensor([[True, *(organ in case.annotated for organ in space.organs)] for case, _ in slices]),
        pseudo=torch.from_numpy(pseudo),
        pseudo_annotated=torch.tensor(
            [[False, *(organ in case.pseudo_annotated for organ in space.organs)] for case, _ in slices]
        ),
        context=None if index.maps is None else _contexts(index.maps, slices, cuts, window=index.window),
    )


Cut = tuple[tuple[slice, slice], tuple[slice, slice]]
"""From where to where: (rows, columns) of the slice, (rows, columns) of the window."""


def _contexts(
    maps: ContextMaps, slices: Sequence[tuple[Case, int]], cuts: Sequence[Cut], *, window: tuple[int, int]
) -> UInt8[Tensor, "batch organ _ _"]:
    """Return the context of each window, in coarse pixels; nothing beyond the slice."""
    step = maps.pixels
    found = []
    for (case, z), (old, new) in zip(slices, cuts, strict=True):
        seen = maps.of(case)
        there, here = ([slice(part.start // step, part.stop // step) for part in parts] for parts in (old, new))
        part = np.zeros((len(seen.organs), window[0] // step, window[1] // step), np.uint8)
        part[:, here[0], here[1]] = np.rint(seen.of([z])[0][:, there[0], there[1]] * CERTAIN)
        found.append(part)
    return torch.from_numpy(np.stack(found))


def _cut(shape: tuple[int, ...], window: tuple[int, int], place: Float[np.ndarray, "2"], *, whole: int = 1) -> Cut:
    """Say which part of a slice goes to which part of the window; the slice's middle where it is smaller.

    It begins at a multiple of ``whole`` pixels.
    """
    parts = []
    for old, new, share in zip(shape, window, place, strict=True):
        first = int(share * (old - new + 1)) if old > new else (old - new) // 2  # below 0: air before the slice
        first = first // whole * whole
        parts.append((slice(max(first, 0), min(first + new, old)), slice(max(-first, 0), min(old - first, new))))
    return (parts[0][0], parts[1][0]), (parts[0][1], parts[1][1])


def _read_slice(case: Case, z: int, *, index: SliceIndex, cut: Cut) -> tuple[Shaped[np.ndarray, "..."], ...]:
    """Return image, labels, known and pseudo-labels of a window; beyond the slice air, nothing of it known."""
    old, new = cut
    image = np.full((2 * index.reach + 1, *index.window), air_hu(index.contrast), np.int16)
    labels, pseudo = np.zeros((2, *index.window), np.uint8)
    known = np.zeros(index.window, bool)
    for channel, neighbour in enumerate(range(z - index.reach, z + index.reach + 1)):
        whole = case.image[min(max(neighbour, 0), len(case.image) - 1)]
        image[channel][new] = enhance(whole, index.contrast)[old]
    labels[new] = case.truth[z][old]
    known[new] = True if case.known is None else case.known[z][old]
    if case.pseudo is not None:
        pseudo[new] = case.pseudo[z][old]
    return image, labels, known, pseudo


def _distances(labels: UInt8[np.ndarray, "batch y x"], distance: Distance | None) -> Float32[np.ndarray, "batch #y #x"]:
    """Return the distances of a batch's slices, one number for each where they are not needed."""
    if distance is None:
        return np.full((len(labels), 1, 1), NO_ORGAN_DISTANCE_PIXELS, np.float32)
    return np.stack([boundary_distance(slice_, distance) for slice_ in labels])


def boundary_distance(labels: UInt8[np.ndarray, "y x"], distance: Distance) -> Float32[np.ndarray, "y x"]:
    """Return each pixel's distance d in pixels, at most NO_ORGAN_DISTANCE_PIXELS.

    Args:
        labels: One axial slice.
        distance: "boundary": outside an organ to its nearest pixel, inside to the nearest pixel that is none, so 1 on
            either side of a boundary (zhang2d's code: outer plus inner Euclidean distance transform). "organ": to the
            nearest organ pixel, 0 inside (zhang2d's paper).

    Source: Zhang 2025, section II.C; the transform is exact (Felzenszwalb and Huttenlocher 2012, in the library edt;
        OpenCV's differs by a millionth of a pixel, from one run to the next).
    """
    organ = labels > 0
    if not organ.any():
        return np.full(labels.shape, NO_ORGAN_DISTANCE_PIXELS, np.float32)
    found = edt.edt(~organ, parallel=1)
    if distance == "boundary":
        found = found + edt.edt(organ, parallel=1)
    return np.minimum(found, np.float32(NO_ORGAN_DISTANCE_PIXELS))
