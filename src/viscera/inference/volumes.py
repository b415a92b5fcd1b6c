"""A 3D network's labels on the scanner's slices: windows, averaged, interpolated, decided plane by plane."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from viscera.config import WindowInference
from viscera.errors import SettingError
from viscera.inference.arrays import SURE_BACKGROUND, gpu_out_of_memory, stacked, zeros_beside
from viscera.inference.model import Model
from viscera.inference.plans import Plan, places, plan_of, smaller, warn_of_memory
from viscera.inference.region import widened, windows_of
from viscera.inference.slices import as_slice, context_of, on_scanner, slice_logits
from viscera.inference.windows import Planes, finished_planes, first_look, found_blocks
from viscera.networks.runners import Logits
from viscera.preparation.geometry import Geometry

if TYPE_CHECKING:
    from viscera.inference.slices import AnySlice

Watch = Callable[[int, int], None]


def segment_volume(
    image: Int16[np.ndarray, "z y x"],
    geometry: Geometry,
    model: Model,
    *,
    wanted: Bool[np.ndarray, "bz by bx"] | None = None,
    organs: Sequence[int] = (),
    watch: Watch = lambda done, windows: None,
) -> UInt8[np.ndarray, "depth rows columns"]:
    """Return labels on the scanner's axial slices.

    Args:
        image: HU, prepared.
        geometry: Where it lies.
        model: A 3D network.
        wanted: Blocks to look at; None: as the recipe's ``inference.region`` says.
        organs: Indices of those that a first look is to find; all where empty.
        watch: Called with the windows done and all windows.

    Raises:
        SettingError: The device's memory does not suffice even for the smallest windows.
    """
    settings, plan = model.recipe.inference, plan_of(model)
    if not isinstance(settings, WindowInference):
        raise SettingError(f"recipe '{model.recipe.name}' segments slices, not windows.")
    while True:
        try:
            blocks = wanted
            if blocks is None and settings.region == "find":
                blocks = first_look(image, model, plan, organs=organs, watch=watch)
                if blocks is not None:
                    blocks = widened(blocks, margin_mm=settings.margin_mm, spacing_mm=geometry.spacing_mm)
            if settings.region == "middle":
                return _middle(image, geometry, model, plan=plan, count=settings.middle_slices, watch=watch)
            chosen = windows_of(image.shape, plan, blocks)
            return on_axial(finished_planes(image, model, plan, chosen=chosen, watch=watch), geometry)
        except gpu_out_of_memory() as error:
            plan = _after_running_out(plan, model, error)


def _after_running_out(plan: Plan, model: Model, error: Exception) -> Plan:
    """Return smaller windows, with a warning."""
    less = smaller(plan, model.network.stride)
    if less is None:
        raise SettingError(
            f"the GPU's memory does not suffice for windows of {'x'.join(map(str, plan.size))} voxels, the smallest that the "
            "network can halve",
            "Free the GPU, or set --device cpu.",
        ) from error
    import torch  # it is loaded: its error brought us here

    torch.cuda.empty_cache()
    warn_of_memory(less)
    return less


def _middle(
    image: Int16[np.ndarray, "z y x"],
    geometry: Geometry,
    model: Model,
    *,
    plan: Plan,
    count: int,
    watch: Watch,
) -> UInt8[np.ndarray, "depth rows columns"]:
    """Yield labels of the middle slices of the scanner only, as if the scan held no others; background elsewhere.

    Source: Gao et al. 2023, section 2.2. That the scanner's own slices are meant, not resampled ones, follows from its table
    5, where scans with more and thinner slices take less time.
    """
    depth = geometry.axial_shape[0]
    low = max(0, (depth - count) // 2)
    high = min(depth, low + count)
    first, last = low, high - 1
    if geometry.slice_grid is not None:
        ends = geometry.slice_grid.back(np.array([low, high - 1])).clip(0, len(image) - 1)
        first, last = floor(ends[0]), ceil(ends[1])
    part = image[first : last + 1]
    found = finished_planes(part, model, plan, chosen=places(part.shape, plan), watch=watch)

    def moved() -> Iterator[Planes]:
        """Yield the planes at their place in the whole scan."""
        if first:
            yield Planes(0, first)
        for planes in found:
            yield Planes(planes.start + first, planes.stop + first, planes.logits, planes.box)
        if last + 1 < len(image):
            yield Planes(last + 1, len(image))

    labels = on_axial(moved(), geometry)
    labels[:low], labels[high:] = 0, 0
    return labels


def find_blocks(
    image: Int16[np.ndarray, "z y x"], model: Model, *, organs: Sequence[int] = (), watch: Watch
) -> Bool[np.ndarray, "bz by bx"]:
    """Return the blocks in which a finder finds any organ (of those given) on a scan prepared for it: one phase of its stride.

    Raises:
        SettingError: The device's memory does not suffice even for the smallest windows.
    """
    plan = plan_of(model)
    while True:
        try:
            chosen = places(image.shape, plan, one_phase=True)
            return found_blocks(image, model, plan, chosen, organs=organs, watch=watch)
        except gpu_out_of_memory() as error:
            plan = _after_running_out(plan, model, error)


def on_axial(found: Iterable[Planes], geometry: Geometry) -> UInt8[np.ndarray, "depth rows columns"]:
    """Return labels on the scanner's axial slices from the logits of prepared planes, which come in order.

    A slice between two planes gets their logits mixed linearly; slices before the first and after the last plane get its.
    """
    depth, rows, columns = geometry.axial_shape
    labels = np.zeros((depth, rows, columns), np.uint8)
    last = geometry.prepared_shape[0] - 1
    every = np.arange(depth)
    at = every.astype(float) if geometry.slice_grid is None else geometry.slice_grid.back(every).clip(0, last)
    before: _Plane | None = None
    z = 0
    for place, plane in enumerate(_each(found, geometry.size)):
        while z < depth and at[z] <= place:  # and beyond the plane before
            slice_ = _between(before or plane, plane, share=float(at[z] - place + 1))
            if slice_ is not None:
                labels[z] = on_scanner(slice_, geometry)
            z += 1
        before = plane
    return labels


@dataclass(frozen=True, eq=False)
class _Plane:
    """One prepared slice: its logits in a box, and what is done with them once they are needed."""

    logits: Logits | None
    box: tuple[slice, slice]
    size: tuple[int, int]

    @cached_property
    def whole(self) -> "AnySlice | None":
        """The whole slice, background beyond the box; None where no window was looked at."""
        if self.logits is None:
            return None
        if self.logits.shape[1:] == self.size:
            return as_slice(self.logits)
        whole = _background(self.logits, self.size)
        whole[:, *self.box] = self.logits
        return as_slice(whole)


def _each(found: Iterable[Planes], size: tuple[int, int]) -> Iterator[_Plane]:
    """Yield planes one by one."""
    for planes in found:
        for place in range(planes.stop - planes.start):
            yield _Plane(None if planes.logits is None else planes.logits[:, place], planes.box, size)


def _between(before: _Plane, plane: _Plane, *, share: float) -> "AnySlice | None":
    """Return the slice at a share of the way from one plane to the next, None where both are background."""
    if share == 1 or (before.logits is None and plane.logits is None):
        return plane.whole
    one, two = before.whole, plane.whole
    if one is None or two is None:
        logits = before.logits if plane.logits is None else plane.logits
        nothing = as_slice(_background(logits, plane.size))
        one, two = one or nothing, two or nothing
    return one.between(two, share)  # type: ignore[arg-type]


def _background(like: Logits, size: tuple[int, int]) -> Logits:
    """Return logits of a slice that is all background."""
    nothing = zeros_beside(like, (len(like), *size))
    nothing[0] = SURE_BACKGROUND
    return nothing


LogitReader = Callable[[range], Logits]
"""Gives the logits of some prepared slices (slice, class, rows, columns); asked for from the first slice on, each once."""


def read_logits(image: Int16[np.ndarray, "z y x"], model: Model, geometry: Geometry | None = None) -> LogitReader:
    """Return what reads a network's logits of a prepared scan slice by slice, of a 3D network as its windows finish them.

    Args:
        image: HU, prepared.
        model: The network.
        geometry: Where the scan lies; a network with context needs it.
    """
    if model.recipe.inference.whole_slices:
        context = context_of(image, geometry, model)
        return lambda slices: slice_logits(image, model, slices, context=context)
    plan = plan_of(model)
    found = finished_planes(image, model, plan, chosen=places(image.shape, plan))
    waiting: list[Logits] = []

    def read(slices: range) -> Logits:
        """Return the next slices."""
        while len(waiting) < len(slices):
            planes = next(found)
            if planes.logits is None:  # cannot be: all windows are looked at
                raise ValueError(f"no window covers planes {planes.start} to {planes.stop}")
            waiting.extend(planes.logits.swapaxes(0, 1))
        taken = stacked(waiting[: len(slices)])
        del waiting[: len(slices)]
        return taken

    return read
