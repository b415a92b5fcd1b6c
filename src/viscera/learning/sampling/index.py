"""Which slices or 3D patches are drawn, and as what: Batch, the order of an epoch, reading ahead.

Everything drawn depends only on the seed and on the place in the run, never on what was drawn before: a run that is
resumed at any step sees what an uninterrupted one would have seen. Slices are in slices.py, patches in patches.py.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Generator

from viscera.config import Contrast, Distance, PatchSampling, Sampling, SliceSampling
from viscera.labels import LabelSpace
from viscera.learning.context import ContextMaps
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.patches import PatchIndex, draw_patch_places, fixed_patch_places, read_patches
from viscera.learning.sampling.slices import (
    SliceIndex,
    draw_slice_places,
    read_slices,
)
from viscera.preparation.contrast import UNCHANGED
from viscera.preparation.store import Case

Index = SliceIndex | PatchIndex
"""All items, slices or patches, of some cases, numbered through."""

VALIDATION_PATCHES = 4
"""Of each validation case, the same in every epoch."""


def open_training(
    cases: Sequence[Case],
    sampling: Sampling,
    *,
    reach: int = 0,
    contrast: Contrast = UNCHANGED,
    maps: ContextMaps | None = None,
    space: LabelSpace | None = None,
) -> Index:
    """Number what an epoch draws from.

    Args:
        cases: To learn from.
        sampling: Slices or patches.
        reach: Neighbouring slices seen on either side.
        contrast: How the grey levels of each slice are enhanced.
        maps: Give slices their context; None: they have none.
        space: Says which labels are lesions, which may be drawn more often.
    """
    match sampling:
        case SliceSampling():
            return SliceIndex.of(cases, reach=reach, window=sampling.window, contrast=contrast, maps=maps, space=space)
        case PatchSampling():
            return PatchIndex.of(cases, sampling, contrast=contrast, space=space)


def open_validation(
    cases: Sequence[Case],
    sampling: Sampling,
    *,
    reach: int = 0,
    contrast: Contrast = UNCHANGED,
    space: LabelSpace | None = None,
) -> Index:
    """Number what is validated: every slice, whole; or some patches of every case."""
    match sampling:
        case SliceSampling():
            return SliceIndex.of(cases, reach=reach, contrast=contrast)
        case PatchSampling():
            return PatchIndex.of(cases, sampling, per_case=VALIDATION_PATCHES, contrast=contrast, space=space)


def draw_places(index: Index, count: int, generator: Generator) -> Float[np.ndarray, "item numbers"]:
    """Draw where windows or patches are cut, as numbers from 0 to 1."""
    match index:
        case SliceIndex():
            return draw_slice_places(count, generator)
        case PatchIndex():
            return draw_patch_places(count, generator)


def read_batch(
    index: Index,
    numbers: Int[np.ndarray, " batch"],
    *,
    space: LabelSpace,
    distance: Distance | None,
    places: Float[np.ndarray, "batch numbers"] | None = None,
) -> Batch:
    """Read items from the store.

    Args:
        index: Where they are, and how much of each to read.
        numbers: Which.
        space: The classes of ``Batch.annotated``.
        distance: To the nearest organ boundary, or to the nearest organ; None: not needed.
        places: Where they are cut (``draw_places``); None: the middle of slices, fixed places of patches.
    """
    match index:
        case SliceIndex():
            return read_slices(index, numbers, space=space, distance=distance, places=places)
        case PatchIndex():
            places = fixed_patch_places(index, numbers) if places is None else places
            return read_patches(index, numbers, space=space, places=places, distance=distance)
