"""What a small 3D network, which sees the whole scan in coarse voxels, says of it: the context of a network of slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from viscera.config import Recipe
from viscera.networks.runners import Logits, Runner
from viscera.preparation.coarse import coarse_image
from viscera.preparation.geometry import Geometry
from viscera.preparation.intensity import network_input
from viscera.preparation.resampling import HALVINGS, SliceGrid

DEPTH, OVERLAP = 128, 32
"""Coarse slices that are seen at once, 640 mm of 5 mm; of longer scans the stretches overlap by so many."""
CERTAIN = 255
"""A probability of 1."""
LEAST, MARGIN_MM = 0.05, 20.0
"""Where the context gives no organ such a probability, nor within so many millimetres, there is none."""
WHOLE = (slice(None), slice(None))
"""All rows and columns."""


@dataclass(frozen=True, eq=False)
class ScanContext:
    """Probabilities of the organs in coarse voxels.

    Attributes:
        organs: 0 to CERTAIN; background, the first class, is left out.
        slice_grid: Where the coarse slices lie among the scanner's.
        pixels: Prepared pixels per coarse voxel, along rows and columns.
        networks: How many context networks' organs these are, one network's after the other's: an ensemble's.
    """

    organs: UInt8[np.ndarray, "organ z y x"]
    slice_grid: SliceGrid
    pixels: int
    networks: int = 1

    def of(self, slices: Sequence[int]) -> Float32[np.ndarray, "slice organ y x"]:
        """Return the probabilities, 0 to 1, on some of the scanner's slices, linear between coarse ones; in coarse pixels."""
        last = self.organs.shape[1] - 1
        at = self.slice_grid.back(np.asarray(slices, int)).clip(0, last)
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32)[:, None, None, None]
        below, above = (
            self.organs[:, part].astype(np.float32).swapaxes(0, 1) for part in (low, np.minimum(low + 1, last))
        )
        return (below * (1 - share) + above * share) / np.float32(CERTAIN)

    def fill_(
        self,
        channels: Float32[np.ndarray, "slice organ y x"],
        slices: Sequence[int],
        box: tuple[slice, slice] = WHOLE,
    ) -> None:
        """Write the probabilities on some slices into channels of a network's input.

        Args:
            channels: In prepared pixels.
            slices: Which.
            box: Prepared rows and columns that the channels are of, multiples of ``pixels``.
        """
        step = self.pixels
        rows, columns = (slice(part.start and part.start // step, part.stop and part.stop // step) for part in box)
        coarse = self.of(slices)[:, :, rows, columns]
        for row in range(step):
            for column in range(step):
                channels[:, :, row::step, column::step] = coarse

    def shown(self, wanted: Sequence[int], least: float) -> Bool[np.ndarray, "z y x"]:
        """Return the coarse voxels in which one of the wanted organs has at least some probability, by any of the networks.

        Args:
            wanted: Indices in the label space, from 1; all where empty.
            least: From 0 to 1.
        """
        each = len(self.organs) // self.networks
        chosen = [first + index - 1 for first in range(0, len(self.organs), each) for index in wanted]
        organs = self.organs[chosen] if wanted else self.organs
        return organs.max(axis=0) >= ceil(least * CERTAIN)


def see_scan(
    image: Int16[np.ndarray, "z y x"], geometry: Geometry, *, runner: Runner, recipe: Recipe, depth: int = DEPTH
) -> ScanContext:
    """Look at a whole scan.

    Args:
        image: HU, prepared for the recipe.
        geometry: Its.
        runner: The recipe's context network.
        recipe: Every setting.
        depth: The most coarse slices to look at at once.

    Raises:
        SettingError: The recipe has no context, or the scan was prepared in a way that gives none.
    """
    pixels = recipe.required_context.pixels
    coarse, where = coarse_image(image, geometry, pixels)
    seen = network_input(coarse.astype(np.float32), recipe.intensity)
    organs = np.empty((len(recipe.space.organs), *coarse.shape), np.uint8)
    for first, last, start, stop in stretches(len(coarse), depth):
        organs[:, first:last] = _probabilities(runner, seen[start:stop])[:, first - start : last - start]
    return ScanContext(organs, where.slice_grid, pixels)  # type: ignore[arg-type]


def together(seen: Sequence[ScanContext]) -> ScanContext:
    """Return what several context networks see of one scan, one's organs after the other's."""
    if len(seen) == 1:
        return seen[0]
    organs = np.concatenate([one.organs for one in seen])
    return ScanContext(organs, seen[0].slice_grid, seen[0].pixels, networks=len(seen))


@dataclass(frozen=True, eq=False)
class Box:
    """Where the network of slices has to look.

    Attributes:
        inside: Prepared rows and columns.
        holds: Of each slice, whether it must be looked at.
    """

    inside: tuple[slice, slice]
    holds: Sequence[bool]


def box_of(context: ScanContext, geometry: Geometry, organs: Sequence[int]) -> Box:
    """Return where a context shows some of the wanted organs (all where empty), and around it.

    Rows and columns are widened to multiples of HALVINGS, at which prepared slices begin and end.
    """
    shown = context.shown(organs, LEAST)
    depth, *size = geometry.prepared_shape
    at = np.rint(context.slice_grid.back(np.arange(depth))).astype(int).clip(0, len(shown) - 1)
    margin = ceil(MARGIN_MM / (geometry.spacing_mm[1] * context.pixels))
    slices = np.atleast_1d(shown.any(axis=(1, 2)))
    held = (np.convolve(slices, np.ones(2 * margin + 1))[margin:-margin] > 0)[at]
    sides = []
    for axis, count in ((1, size[0]), (2, size[1])):
        found = np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(found):
            return Box(WHOLE, [False] * depth)
        low, high = (found[0] - margin) * context.pixels, (found[-1] + 1 + margin) * context.pixels
        sides.append(slice(max(0, low // HALVINGS * HALVINGS), min(count, -(-high // HALVINGS) * HALVINGS)))
    return Box((sides[0], sides[1]), held.tolist())


def stretches(depth: int, most: int = DEPTH) -> list[tuple[int, int, int, int]]:
    """Part a scan into stretches that fit into memory; those of DEPTH overlap.

    Returns:
        Of each the slices that it is good for, first and last + 1, and the slices that are looked at for it.

    Example:
        >>> stretches(100), stretches(200)
        ([(0, 100, 0, 100)], [(0, 112, 0, 128), (112, 200, 72, 200)])
    """
    if depth <= most:
        return [(0, depth, 0, depth)]
    overlap = OVERLAP if most == DEPTH else 0
    starts = [*range(0, depth - most, most - overlap), depth - most]
    ends = [start + most - overlap // 2 for start in starts[:-1]]
    return [
        (first, last, start, start + most)
        for first, last, start in zip([0, *ends], [*ends, depth], starts, strict=True)
    ]


def _probabilities(runner: Runner, seen: Float32[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "organ z y x"]:
    """Run the network once; sides that it cannot halve are filled up with the last voxels, as in training.

    No further: of a short scan, slices that repeat would look like a body that goes on.
    """
    wanted = [ceil(side / runner.stride) * runner.stride for side in seen.shape]
    if all(side == runner.stride for side in wanted):  # a single voxel on the coarsest level has no variation
        wanted[-1] *= 2
    padding = [(0, new - old) for new, old in zip(wanted, seen.shape, strict=True)]
    logits = _on_cpu(runner(np.pad(seen, padding, mode="edge")[None, None]))[0]
    z, y, x = seen.shape
    logits = np.ascontiguousarray(logits[:, :z, :y, :x])
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits *= np.float32(CERTAIN) / logits.sum(axis=0)
    return np.rint(logits[1:], out=logits[1:]).astype(np.uint8)


def _on_cpu(logits: Logits) -> Float32[np.ndarray, "batch class z y x"]:
    return logits if isinstance(logits, np.ndarray) else logits.detach().float().cpu().numpy()
