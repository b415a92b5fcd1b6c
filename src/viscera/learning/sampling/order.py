"""The order of an epoch: which slices, or whose patches, are visited."""

from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator

from viscera.config import Sampling
from viscera.learning.sampling.lesions import lesion_voxel
from viscera.learning.sampling.patches import PatchIndex
from viscera.learning.sampling.slices import SliceIndex


def epoch_order(
    index: SliceIndex | PatchIndex, sampling: Sampling, *, visits: int, generator: Generator
) -> Int[np.ndarray, " visits"]:
    """Return the numbers of the slices, or of the cases for patches, to visit in an epoch.

    By default whole shuffled passes one after the other, cut at ``visits``. With a ``dataset_power`` they are drawn,
    those of a data set with n cases with weight n^-power; ``organ_fraction`` of the visits draw an organ first, all that
    are annotated alike, then a slice that shows it, by the same weights. ``lesion_fraction`` of these draw a lesion instead.

    Source: Ulrich et al. 2023 (MultiTalent), arXiv:2303.14444: a case's weight is 1 / sqrt(n), our power 0.5.
    """
    items = len(index)
    if sampling.dataset_power == 0:
        passes = [torch.randperm(items, generator=generator) for _ in range(-(-visits // max(items, 1)))]
        order = torch.cat(passes)[:visits].numpy()
    else:
        order = _drawn(np.cumsum(item_weights(index, sampling.dataset_power)), visits, generator)
    if isinstance(index, SliceIndex) and sampling.organ_fraction > 0:
        sums = [*organ_slices(index, sampling.dataset_power).values()]
        chosen = (torch.rand(visits, generator=generator) < sampling.organ_fraction).numpy().nonzero()[0]
        organs = torch.randint(0, max(len(sums), 1), (len(chosen),), generator=generator).numpy()
        for organ, sum_ in enumerate(sums):
            places = chosen[organs == organ]
            order[places] = _drawn(sum_, len(places), generator)
        if sampling.lesion_fraction and (sizes := index.lesion_slices):
            about, first, second = torch.rand((3, len(chosen)), generator=generator, dtype=torch.float64).numpy()
            for place in np.flatnonzero(about < sampling.lesion_fraction):
                order[chosen[place]] = lesion_voxel(sizes, float(first[place]), float(second[place]))
    return order


def item_weights(index: SliceIndex | PatchIndex, power: float) -> Float[np.ndarray, " items"]:
    """Return each item's weight: n^-power, n the cases of its data set."""
    sizes = Counter(case.dataset for case in index.cases)
    each = np.array([sizes[case.dataset] ** -power for case in index.cases])
    return each[index.positions[:, 0]]


def organ_slices(index: SliceIndex, power: float) -> dict[int, Float[np.ndarray, " slices"]]:
    """Return for each class but background that any slice shows the summed weights of the slices that show it."""
    weights = item_weights(index, power)
    return {
        int(organ): np.cumsum(weights * index.shown[:, organ]) for organ in np.flatnonzero(index.shown.any(0)) if organ
    }


def _drawn(sums: Float[np.ndarray, " items"], count: int, generator: Generator) -> Int[np.ndarray, " count"]:
    """Draw items by their summed weights, with replacement."""
    places = torch.rand(count, generator=generator, dtype=torch.float64).numpy() * sums[-1]
    return np.searchsorted(sums, places, side="right")
