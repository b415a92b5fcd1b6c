"""A 2D network's labels on the scanner's slices: as many slices go through the network as the anatomy needs.

Organs change little within 3 mm, so of thin slices every k-th goes through the network, with its true neighbours, and the logits
of those between are mixed (upsampling.py). Each stretch of slices goes the whole way on one core, from HU to labels, so that no
core waits for another and no array of all slices' logits ever exists.

A recipe with context looks at the whole scan in coarse voxels first (context.py): slices, rows and columns in which that sees
nothing are not looked at again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from math import floor
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int16, UInt8

from viscera.config import SliceInference
from viscera.errors import SettingError
from viscera.inference.arrays import SURE_BACKGROUND, zeros, zeros_beside
from viscera.inference.context import WHOLE, Box, ScanContext, box_of, see_scan, together
from viscera.inference.model import Model
from viscera.inference.upsampling import Enlargement, SliceLogits
from viscera.networks.runners import Logits
from viscera.preparation.contrast import enhance
from viscera.preparation.geometry import Geometry
from viscera.preparation.intensity import network_input

if TYPE_CHECKING:
    from viscera.inference.on_gpu import SliceLogitsOnGpu

    AnySlice = SliceLogits | SliceLogitsOnGpu

LOOKS_ON_GPU, SLICES_ON_GPU = 16, 16
"""Stretches at once on a GPU, and slices per pass, which a CPU's caches would not hold."""


def label_slices(
    image: Int16[np.ndarray, "z y x"],
    geometry: Geometry,
    model: Model,
    *,
    organs: Sequence[int] = (),
    look: "Callable[[AnySlice], None] | None" = None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> UInt8[np.ndarray, "depth rows columns"]:
    """Return labels on the scanner's axial slices.

    First slices that lie ``look_mm`` (of the recipe) from each other are segmented; then, of those between two, the ones
    with an organ at either end: every slice that lies ``step_mm`` from the last, and what is between is mixed. The others stay
    background.

    Args:
        image: HU, prepared.
        geometry: Where it lies.
        model: A 2D network.
        organs: Indices of those that are wanted: slices are skipped that seem to hold none of these; all organs where empty.
        look: Called with every slice that went through the network, from several threads; None where nobody asks.
        watch: Called with the slices done or skipped, and all of them.
    """
    settings = model.recipe.inference
    if not isinstance(settings, SliceInference):
        raise SettingError(f"recipe '{model.recipe.name}' segments windows, not slices.")
    depth, done = len(image), 0
    looks = looked_at(depth, slice_mm=geometry.spacing_mm[0], settings=settings)
    at_once = LOOKS_ON_GPU if model.device == "cuda" else 1
    stretches = [looks[first : first + at_once + 1] for first in range(0, max(1, len(looks) - 1), at_once)]
    context = context_of(image, geometry, model)
    walk = _Walk(
        image, geometry, model, settings=settings, organs=organs, look=look, stretches=stretches, context=context
    )
    with model.network.threads() as pool:
        for work in as_completed([pool.submit(walk.take, stretch) for stretch in stretches]):
            done += work.result()
            watch(done, depth)
    return walk.axial


def kept_step(slice_mm: float, settings: SliceInference) -> int:
    """Return k: every k-th slice goes through the network."""
    return max(1, floor(settings.step_mm / slice_mm + 1e-3))


def looked_at(depth: int, *, slice_mm: float, settings: SliceInference) -> list[int]:
    """Return the slices that are segmented in any case, the first and the last among them.

    Args:
        depth: How many slices there are.
        slice_mm: From one to the next.
        settings: The recipe's.
    """
    step = kept_step(slice_mm, settings)
    apart = step * max(1, floor(settings.look_mm / (step * slice_mm) + 1e-3))
    return sorted({*range(0, depth, apart), depth - 1})


class _Walk:
    """A scan on its way to labels, stretch by stretch, from several threads."""

    def __init__(
        self,
        image: Int16[np.ndarray, "z y x"],
        geometry: Geometry,
        model: Model,
        *,
        settings: SliceInference,
        organs: Sequence[int],
        look: "Callable[[AnySlice], None] | None",
        stretches: Sequence[Sequence[int]],
        context: ScanContext | None = None,
    ) -> None:
        """Begin; see ``label_slices``.

        Args:
            image: HU, prepared.
            geometry: Where it lies.
            model: A 2D network.
            settings: Its recipe's.
            organs: Indices of those that are wanted.
            look: Called with every slice that went through the network.
            stretches: Slices that are segmented in any case; the last of each stretch is the first of the next.
            context: Of a recipe that has one: what is far from all that it shows is background.
        """
        self.context = context
        self.box = Box(WHOLE, [True] * len(image)) if context is None else box_of(context, geometry, organs)
        self.image, self.geometry, self.model, self.look = image, geometry, model, look
        self.axial = np.zeros(geometry.axial_shape, np.uint8)
        self.step = kept_step(geometry.spacing_mm[0], settings)
        self.size = settings.batch_size if model.device == "cpu" else max(SLICES_ON_GPU, settings.batch_size)
        self._holds = np.zeros(256, bool)
        self._holds[list(organs) or slice(1, None)] = True
        self._uses = Counter(place for stretch in stretches for place in stretch)
        self._kept: dict[int, AnySlice] = {}
        self._locks: defaultdict[int, Lock] = defaultdict(Lock)

    def take(self, looks: Sequence[int]) -> int:
        """Label the slices of a stretch but the last, which is the next stretch's; return their number."""
        ends = dict(zip(looks, self._shared(looks), strict=True))
        held = {place: bool(self._holds[logits.labels].any()) for place, logits in ends.items()}
        wanted = [(low, high) for low, high in pairwise(looks) if held[low] or held[high]]
        between = self._seen([place for low, high in wanted for place in range(low + self.step, high, self.step)])
        for low, high in pairwise(looks):
            self._write(low, ends[low])
            if (low, high) not in wanted:
                continue
            before = low, ends[low]
            for place in range(low + self.step, high, self.step):
                after = place, next(between)
                self._fill(before, after)
                self._write(*after)
                before = after
            self._fill(before, (high, ends[high]))
        if looks[-1] < len(self.image) - 1:
            return looks[-1] - looks[0]
        self._write(looks[-1], ends[looks[-1]])
        return looks[-1] - looks[0] + 1

    def _shared(self, places: Sequence[int]) -> "list[AnySlice]":
        """Return slices that neighbouring stretches share: whoever needs one first segments it."""
        with ExitStack() as mine:
            for place in places:  # in the order of all, so that no two threads wait for each other
                mine.enter_context(self._locks[place])
            missing = [place for place in places if place not in self._kept]
            self._kept.update(zip(missing, self._seen(missing), strict=True))
            found = [self._kept[place] for place in places]
            for place in places:
                self._uses[place] -= 1
                if not self._uses[place]:
                    del self._kept[place]
        return found

    def _seen(self, places: Sequence[int]) -> "Iterator[AnySlice]":
        """Put slices through the network, a few at a time."""
        for first in range(0, len(places), self.size):
            part = places[first : first + self.size]
            near = [place for place in part if self.box.holds[place]]
            seen: Iterator[Logits] = iter(())
            if near:
                inputs = slice_inputs(self.image, self.model, near, context=self.context, box=self.box.inside)
                seen = iter(self.model.network(inputs))
            for place in part:
                if not self.box.holds[place]:
                    yield self._nothing
                    continue
                found = as_slice(self._whole(next(seen)))
                if self.look is not None:
                    self.look(found)
                yield found

    def _whole(self, logits: Logits) -> Logits:
        """Return a slice's logits with sure background beside the box."""
        size = self.image.shape[1:]
        if logits.shape[1:] == size:
            return logits
        whole = zeros_beside(logits, (len(logits), *size))
        whole[0] = SURE_BACKGROUND
        whole[:, *self.box.inside] = logits
        return whole

    @cached_property
    def _nothing(self) -> "AnySlice":
        """A slice at which the network need not look."""
        shape = (len(self.model.space.classes), *self.image.shape[1:])
        logits = zeros(shape, "float32", device=self.model.device)
        logits[0] = SURE_BACKGROUND
        return as_slice(logits)

    def _fill(self, before: "tuple[int, AnySlice]", after: "tuple[int, AnySlice]") -> None:
        """Label the slices between two that the network has seen."""
        (low, one), (high, other) = before, after
        for place in range(low + 1, high):
            self._write(place, one.between(other, (place - low) / (high - low)))  # type: ignore[arg-type]

    def _write(self, place: int, logits: "AnySlice") -> None:
        """Label one slice."""
        self.axial[place] = on_scanner(logits, self.geometry)


def context_of(image: Int16[np.ndarray, "z y x"], geometry: Geometry | None, model: Model) -> ScanContext | None:
    """Look at a whole prepared scan, where the model's recipe has context; else there is none.

    Raises:
        SettingError: It has, and it is not known where the scan lies.
    """
    if model.context is None:
        return None
    if geometry is None:
        raise SettingError(f"recipe '{model.recipe.name}' has context, which needs the scan's geometry.")
    runners = (model.context, *model.more_contexts)
    return together([see_scan(image, geometry, runner=runner, recipe=model.recipe) for runner in runners])


def slice_inputs(
    image: Int16[np.ndarray, "z y x"],
    model: Model,
    slices: Sequence[int],
    *,
    context: ScanContext | None = None,
    box: tuple[slice, slice] = WHOLE,
) -> Float32[np.ndarray, "slice channel rows columns"]:
    """Return what the network sees of some slices of a prepared scan.

    Args:
        image: HU, prepared as the recipe says; all slices, since neighbours are looked at too.
        model: The network.
        slices: Which.
        context: From ``context_of``; None where the recipe has none.
        box: Rows and columns to look at.
    """
    reach = model.recipe.reach
    seen = np.asarray(slices, int)[:, None] + np.arange(-reach, reach + 1)
    places, stacked = np.unique(seen.clip(0, len(image) - 1), return_inverse=True)
    part = enhance(image[places], model.recipe.contrast)[:, *box].astype(np.float32)
    shown = network_input(part, model.recipe.intensity)[stacked.reshape(seen.shape)]
    if context is None:
        return shown
    inputs = np.empty((len(shown), shown.shape[1] + len(context.organs), *shown.shape[2:]), np.float32)
    inputs[:, : shown.shape[1]] = shown
    context.fill_(inputs[:, shown.shape[1] :], slices, box)
    return inputs


def slice_logits(
    image: Int16[np.ndarray, "z y x"], model: Model, slices: Sequence[int], *, context: ScanContext | None = None
) -> Logits:
    """Return the network's output for some slices of a prepared scan: (slice, class, rows, columns); see ``slice_inputs``."""
    return model.network(slice_inputs(image, model, slices, context=context))


def as_slice(logits: Logits) -> "AnySlice":
    """Return a slice's logits (class, rows, columns) with what is done with them, where they are."""
    if isinstance(logits, np.ndarray):
        return SliceLogits.of(logits)
    from viscera.inference.on_gpu import SliceLogitsOnGpu  # where torch is loaded already

    return SliceLogitsOnGpu(logits) if logits.is_cuda else SliceLogits.of(logits.detach().float().numpy())


def decide(logits: Logits, size: Sequence[int]) -> UInt8[np.ndarray, "slice y x"]:
    """Return the class of the largest logit on slices of another size.

    Args:
        logits: From ``slice_logits``.
        size: Rows and columns wanted; logits are interpolated linearly, pixel centres at half steps.
    """
    rows, columns = size
    return np.stack([as_slice(one).on_slice(Enlargement((rows, columns))) for one in logits])


def on_scanner(logits: "AnySlice", geometry: Geometry) -> UInt8[np.ndarray, "y x"]:
    """Return the labels of a prepared slice on the scanner's: background where that was cut off."""
    inside = logits.on_slice(enlargement_of(geometry))
    whole = geometry.axial_shape[1:]
    if inside.shape == whole:
        return inside
    labels = np.zeros(whole, np.uint8)
    labels[geometry.pixel_grid.inside(whole)] = inside
    return labels


def enlargement_of(geometry: Geometry) -> Enlargement:
    """Return how prepared slices become the part of the scanner's that they cover."""
    whole = geometry.axial_shape[1:]
    if geometry.step is None:
        return Enlargement(whole)
    rows, columns = geometry.pixel_grid.inside(whole)
    top, left = geometry.start
    return Enlargement(
        size=(rows.stop - rows.start, columns.stop - columns.start),
        factors=(float(geometry.step[0]), float(geometry.step[1])),
        start=(rows.start - top, columns.start - left),
    )
