"""How windows of a 3D network are laid over a prepared scan. Nothing here imports torch; windows.py runs the network in them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Literal

import numpy as np
from jaxtyping import Bool

from viscera.config import PatchSampling, WindowInference
from viscera.errors import SettingError
from viscera.inference.model import Model

BLOCK = 8
"""Voxels along each side of a block of ``wanted`` maps: what is to be looked at is known to so many voxels."""

PLANES_AT_ONCE = 4
"""Finished planes that are given away together, in full precision."""

FULL_SUMS_BYTES = 2**28
"""Sums of windows are float32 on the CPU up to this, and float16 above, where memory matters more: NumPy adds a window of 64x64x64
and 14 classes in 6 ms to the former, in 37 ms to the latter (one core of an EPYC with AVX2; torch in half precision: 11 ms)."""


@dataclass(frozen=True)
class Plan:
    """How windows are laid over a prepared scan.

    Attributes:
        size: Voxels of a window along z, rows and columns.
        stride: Every so-manyth voxel is seen by a window; all phases are taken in turn.
        overlap: Share of a window that the next one covers again.
        mirror: Average over the eight mirror images.
    """

    size: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    overlap: float = 0.5
    mirror: bool = False

    @property
    def span(self) -> tuple[int, int, int]:
        """Prepared voxels from a window's first to its last."""
        z, y, x = ((size - 1) * step + 1 for size, step in zip(self.size, self.stride, strict=True))
        return z, y, x


def plan_of(model: Model) -> Plan:
    """Return the plan that a model's recipe describes.

    Raises:
        SettingError: The recipe is one of slices.
    """
    sampling, settings = model.recipe.sampling, model.recipe.inference
    if not isinstance(sampling, PatchSampling) or not isinstance(settings, WindowInference):
        raise SettingError(f"recipe '{model.recipe.name}' has no windows: its network is a 2D one.")
    return Plan(settings.size or sampling.size, sampling.stride, settings.overlap, settings.mirror)


def coarse_plan(plan: Plan) -> Plan:
    """Return the plan of a first look: no overlap, no mirror images."""
    return replace(plan, overlap=0.0, mirror=False)


def places(shape: Sequence[int], plan: Plan, *, one_phase: bool = False) -> list[tuple[int, int, int]]:
    """Return the first voxel of every window, from the feet up.

    Along each axis, and for each phase, windows lie evenly so that neighbours share at least ``plan.overlap``.

    Args:
        shape: Of the prepared scan.
        plan: How windows are laid.
        one_phase: Only the middle phase of each axis.
    """
    starts = []
    for length, size, stride in zip(shape, plan.size, plan.stride, strict=True):
        phases = [min(stride // 2, length - 1)] if one_phase else range(min(stride, length))
        found = []
        for phase in phases:
            seen = -(-(length - phase) // stride)
            steps = int(np.ceil(max(0, seen - size) / max(1.0, size * (1 - plan.overlap))))
            firsts = np.round(np.linspace(0, max(0, seen - size), steps + 1)).astype(int)
            found += [phase + stride * int(first) for first in firsts]
        starts.append(sorted(set(found)))
    return list(product(*starts))


def holds(place: tuple[int, int, int], plan: Plan, wanted: Bool[np.ndarray, "bz by bx"]) -> bool:
    """Tell whether a window holds a wanted block."""
    part = tuple(
        slice(first // BLOCK, (first + span - 1) // BLOCK + 1) for first, span in zip(place, plan.span, strict=True)
    )
    return bool(wanted[part].any())


def sums_type(shape: Sequence[int], *, device: Literal["cpu", "cuda"]) -> Literal["float16", "float32"]:
    """Return the type of a slab's sums of logits: float16 on a GPU, and where there are many."""
    return "float32" if device == "cpu" and 4 * prod(shape) <= FULL_SUMS_BYTES else "float16"


def smaller(plan: Plan, stride: int) -> Plan | None:
    """Return the plan with windows of half the longest side; None where the network cannot halve smaller ones."""
    longest = max(plan.size)
    half = longest // 2 // stride * stride
    if half < stride:
        return None
    z, y, x = (half if size == longest else size for size in plan.size)
    return replace(plan, size=(z, y, x))


def warn_of_memory(plan: Plan) -> None:
    """Say that windows became smaller, since the device's memory did not suffice."""
    size = "x".join(map(str, plan.size))
    warnings.warn(
        f"the GPU's memory did not suffice, so windows of {size} voxels are used from here on; organs may be a little worse. "
        "Free the GPU, or set --device cpu.",
        stacklevel=2,
    )
