"""Sliding windows of a 3D network: the logits of the planes that they finish. Where windows lie: plans.py.

Windows go from the feet up. Their logits are averaged with Gaussian weights into a slab as thick as one window; planes that no
later window reaches are given away and forgotten. So no array of classes x scan ever exists. Nothing here imports torch: the
logits are NumPy's, or on a GPU torch's (arrays.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from math import ceil
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16

from viscera.inference.arrays import SURE_BACKGROUND, Array, flipped, in_full, moved, zeros
from viscera.inference.model import Model
from viscera.inference.plans import BLOCK, PLANES_AT_ONCE, Plan, coarse_plan, places, sums_type
from viscera.inference.slices import as_slice
from viscera.networks.runners import Logits
from viscera.preparation.contrast import enhance
from viscera.preparation.intensity import network_input

SIGMA_FRACTION = 0.125
"""Standard deviation of a window's Gaussian weights, of its side (nnU-Net: Isensee et al. 2021)."""

LEAST_WEIGHT = 1e-3
"""Of a window's corners, so that half-precision sums stay well above 0."""

FIRST_PASS_PAYS = 3
"""Windows in all per window of a first pass, from which on the first pass is worth its time."""


@dataclass(frozen=True)
class Planes:
    """Averaged logits of some planes of a prepared scan.

    Attributes:
        start: The first plane.
        stop: After the last.
        logits: Of the box (class, z, rows, columns), in float32; None where no window was looked at, so that all is background.
        box: Rows and columns of the logits; all else is background.
    """

    start: int
    stop: int
    logits: Logits | None = None
    box: tuple[slice, slice] = (slice(0), slice(0))


def gaussian(size: Sequence[int]) -> Float32[np.ndarray, "z y x"]:
    """Return a window's weights: 1 in its middle, LEAST_WEIGHT at least."""
    weights = np.ones((), np.float32)
    for side in size:
        centres = np.arange(side) - (side - 1) / 2
        weights = weights[..., None] * np.exp(-(centres**2) / (2 * (SIGMA_FRACTION * side) ** 2)).astype(np.float32)
    return weights.clip(LEAST_WEIGHT, None)


def window_input(
    image: Int16[np.ndarray, "z y x"], model: Model, plan: Plan, place: tuple[int, int, int]
) -> Float32[np.ndarray, "1 1 pz py px"]:
    """Return what the network sees in one window; beyond the scan its last voxels repeat.

    Args:
        image: HU, prepared, its grey levels enhanced where the recipe says so.
        model: The network.
        plan: How windows are laid.
        place: The window's first voxel.
    """
    seen = np.ascontiguousarray(image[_part(plan, place)])
    missing = [(0, size - found) for size, found in zip(plan.size, seen.shape, strict=True)]
    padded = np.pad(seen, missing, mode="edge") if any(pad for _, pad in missing) else seen
    return network_input(padded.astype(np.float32), model.recipe.intensity)[None, None]


def window_logits(image: Int16[np.ndarray, "z y x"], model: Model, plan: Plan, place: tuple[int, int, int]) -> Logits:
    """Return the network's output for one window, (class, pz, py, px), without what lies beyond the scan; see ``window_input``."""
    stack = window_input(image, model, plan, place)
    logits = model.network(stack)
    if plan.mirror:
        for axes in (axes for count in (1, 2, 3) for axes in combinations((2, 3, 4), count)):
            logits = logits + flipped(model.network(np.ascontiguousarray(np.flip(stack, axes))), axes)
        logits = logits / 8
    z, y, x = image[_part(plan, place)].shape
    return logits[0, :, :z, :y, :x]


def _part(plan: Plan, place: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Return the voxels of a window, as far as the scan has them."""
    z, y, x = (
        slice(first, first + span, step) for first, span, step in zip(place, plan.span, plan.stride, strict=True)
    )
    return z, y, x


def finished_planes(
    image: Int16[np.ndarray, "z y x"],
    model: Model,
    plan: Plan,
    *,
    chosen: Sequence[tuple[int, int, int]],
    watch: Callable[[int, int], None] = lambda done, windows: None,
) -> Iterator[Planes]:
    """Yield the averaged logits of all planes of a prepared scan, in order, as windows finish them.

    Args:
        image: HU, prepared.
        model: The network.
        plan: How windows are laid.
        chosen: The windows to look at, a part of ``places``.
        watch: Called with the windows done and all windows.
    """
    depth = len(image)
    if not chosen:
        yield Planes(0, depth)
        return
    image = enhance(image, model.recipe.contrast)
    box = _box(chosen, plan, image.shape)
    weights = moved(gaussian(plan.size), device=model.device)
    slab = _Slab(len(model.space.classes), min(depth, plan.span[0]), box, model.device)
    done = 0
    for first, row in groupby(chosen, key=lambda place: place[0]):
        yield from slab.give(first, depth)
        for place in row:
            slab.add(window_logits(image, model, plan, place), place, plan=plan, weights=weights)
            done += 1
            watch(done, len(chosen))
    yield from slab.give(depth, depth)


class _Slab:
    """Sums of weighted logits over the planes that windows may still reach."""

    def __init__(self, classes: int, thickness: int, box: tuple[slice, slice], device: Literal["cpu", "cuda"]) -> None:
        rows, columns = (side.stop - side.start for side in box)
        self.box, self.start, self.reached = box, 0, 0
        shape = (classes, thickness, rows, columns)
        self.sums = zeros(shape, sums_type(shape, device=device), device=device)
        self.weights = zeros(shape[1:], "float32" if device == "cpu" else "float16", device=device)

    def add(self, logits: Logits, place: tuple[int, int, int], *, plan: Plan, weights: Array) -> None:
        """Add a window's logits (class, pz, py, px)."""
        firsts = (place[0] - self.start, place[1] - self.box[0].start, place[2] - self.box[1].start)
        part = tuple(
            slice(first, first + (count - 1) * step + 1, step)
            for first, count, step in zip(firsts, logits.shape[1:], plan.stride, strict=True)
        )
        z, y, x = logits.shape[1:]
        here = weights[:z, :y, :x]
        for sums, one in zip(self.sums, logits, strict=True):  # class by class: no copy of all of them
            sums[part] += one * here
        self.weights[part] += here
        self.reached = max(self.reached, place[0] + (z - 1) * plan.stride[0] + 1)

    def give(self, first: int, depth: int) -> Iterator[Planes]:
        """Yield the planes before ``first``, which no later window reaches, and begin the slab there."""
        count = min(self.reached, first) - self.start
        for low in range(0, max(0, count), PLANES_AT_ONCE):
            part = slice(low, min(low + PLANES_AT_ONCE, count))
            weights, logits = in_full(self.weights[part]), in_full(self.sums[:, part])
            logits /= weights.clip(1e-9, None)
            logits[0][weights == 0] = SURE_BACKGROUND
            yield Planes(self.start + part.start, self.start + part.stop, logits, self.box)
        if count > 0:
            self._move_down(count)
        if self.start < first:
            yield Planes(self.start, min(first, depth))
            self.start = first

    def _move_down(self, count: int) -> None:
        """Begin ``count`` planes later; plane by plane, since a copy of the slab would be as large as it."""
        for sums in (self.sums, self.weights[None]):
            kept = sums.shape[1] - count
            for plane in range(kept):
                sums[:, plane] = sums[:, plane + count]
            sums[:, kept:] = 0
        self.start += count


def _box(chosen: Sequence[tuple[int, int, int]], plan: Plan, shape: Sequence[int]) -> tuple[slice, slice]:
    """Return the rows and columns that windows reach."""
    sides = []
    for axis in (1, 2):
        firsts = [place[axis] for place in chosen]
        sides.append(slice(min(firsts), min(max(firsts) + plan.span[axis], shape[axis])))
    return sides[0], sides[1]


def first_look(
    image: Int16[np.ndarray, "z y x"],
    model: Model,
    plan: Plan,
    *,
    organs: Sequence[int] = (),
    watch: Callable[[int, int], None] = lambda done, windows: None,
) -> Bool[np.ndarray, "bz by bx"] | None:
    """Return the blocks in which a network finds any organ (of those given) in windows that do not overlap, in one phase.

    Returns:
        The blocks; None where a first pass would not pay, because the scan has few windows.
    """
    coarse = coarse_plan(plan)
    chosen = places(image.shape, coarse, one_phase=True)
    if len(places(image.shape, plan)) < FIRST_PASS_PAYS * len(chosen):
        return None
    return found_blocks(image, model, coarse, chosen, organs=organs, watch=watch)


def found_blocks(
    image: Int16[np.ndarray, "z y x"],
    model: Model,
    plan: Plan,
    chosen: Sequence[tuple[int, int, int]],
    *,
    organs: Sequence[int] = (),
    watch: Callable[[int, int], None] = lambda done, windows: None,
) -> Bool[np.ndarray, "bz by bx"]:
    """Return the blocks in which a network finds any organ (of those given), looking through some windows."""
    counts = np.zeros(256, bool)
    counts[list(organs) or slice(1, None)] = True
    wanted = np.zeros([ceil(side / BLOCK) for side in image.shape], bool)
    for planes in finished_planes(image, model, plan, chosen=chosen, watch=watch):
        if planes.logits is None:
            continue
        for z in range(planes.start, planes.stop):
            y, x = np.nonzero(counts[as_slice(planes.logits[:, z - planes.start]).labels])
            wanted[z // BLOCK, (y + planes.box[0].start) // BLOCK, (x + planes.box[1].start) // BLOCK] = True
    return wanted
