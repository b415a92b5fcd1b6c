"""Labelled organs of one data set's scans, pasted into another's.

Where every data set annotates other organs, a network can learn from the look of a scanner which of them are asked for, and
finds only these in its scans. An organ that was pasted is known whatever its new slice annotates, and has the other scanner's look.

Source: the idea is CutMix's (Yun et al. 2019, arXiv:1905.04899), along labels instead of boxes, between data sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from viscera.config import Distance
from viscera.labels import LabelSpace
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import Index, read_batch
from viscera.learning.sampling.slices import boundary_distance


@dataclass(frozen=True, eq=False)
class Pasting:
    """What is pasted into the slices of a batch.

    Attributes:
        into: Which slices get an organ.
        donors: For each slice the number of another one, whose organ it gets.
        organs: For each slice the class of that organ.
    """

    into: Bool[np.ndarray, " batch"]
    donors: Int[np.ndarray, " batch"]
    organs: Int[np.ndarray, " batch"]

    def part(self, share: slice) -> "Pasting":
        """Return a device's share."""
        return Pasting(self.into[share], self.donors[share], self.organs[share])


def draw_pasting(
    shown: Mapping[int, Float[np.ndarray, " slices"]], fraction: float, count: int, generator: Generator
) -> Pasting:
    """Draw what is pasted: an organ first, all alike, then a slice that shows it.

    Args:
        shown: For each class the summed weights of the slices that show it (``order.organ_slices``); at least one class.
        fraction: Share of the slices that get an organ.
        count: Slices of the whole batch.
        generator: On the CPU.
    """
    share, which, where = torch.rand((3, count), generator=generator, dtype=torch.float64).numpy()
    classes = np.array([*shown])[(which * len(shown)).astype(int)]
    sums = [shown[one] for one in classes]
    donors = [np.searchsorted(one, place * one[-1], side="right") for one, place in zip(sums, where, strict=True)]
    return Pasting(share < fraction, np.array(donors, np.int64), classes)


def with_pasted(
    batch: Batch,
    index: Index,
    pasting: Pasting,
    *,
    places: Float[np.ndarray, "batch numbers"],
    space: LabelSpace,
    distance: Distance | None,
) -> Batch:
    """Return a batch with the organs that were drawn for it, whose donors are read and cut where its slices were.

    Args:
        batch: From the store, not scaled yet.
        index: Of all slices.
        pasting: As drawn, of this batch.
        places: Where its windows were cut.
        space: Its classes.
        distance: What the loss needs: it is computed anew.
    """
    into = pasting.into
    if not into.any():
        return batch
    donors = read_batch(index, pasting.donors[into], space=space, distance=None, places=places[into])
    return paste(batch, donors, pasting, distance)


def paste(batch: Batch, donors: Batch, pasting: Pasting, distance: Distance | None) -> Batch:
    """Return a batch with an organ of each donor pasted into those slices that get one.

    Args:
        batch: From the store, not scaled yet.
        donors: The donors of the slices that get an organ, in their order.
        pasting: As drawn, of this batch.
        distance: What the loss needs: it is computed anew.
    """
    into = torch.from_numpy(pasting.into)
    organ = torch.from_numpy(pasting.organs[pasting.into]).view(-1, 1, 1)
    here = (donors.labels == organ) & donors.known
    changed = {
        name: _put(getattr(batch, name), into, here, getattr(donors, name)) for name in ("image", "labels", "known")
    }
    pseudo = _put(batch.pseudo, into, here, torch.zeros_like(donors.pseudo))
    mixed = replace(batch, **changed, pseudo=pseudo)
    if distance is not None:
        far = mixed.distance.clone()
        for place in pasting.into.nonzero()[0]:
            far[place] = torch.from_numpy(boundary_distance(mixed.labels[place].numpy(), distance))
        mixed = replace(mixed, distance=far)
    return mixed


def _put(old: Tensor, into: Bool[Tensor, " batch"], here: Bool[Tensor, "donor y x"], new: Tensor) -> Tensor:
    """Return an array with the donors' values at some pixels of the slices that get an organ."""
    mixed = old.clone()
    mixed[into] = torch.where(here if old.ndim == here.ndim else here[:, None], new, old[into])
    return mixed
