"""A 3D network's labels on the scanner's slices: windows, averaged, interpolated, decided plane by plane."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil, floor

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, UInt8
from torch import Tensor

from viscera.config import WindowInference
from viscera.errors import SettingError
from viscera.inference.model import Model
from viscera.inference.plans import Plan, places, plan_of, smaller, warn_of_memory
from viscera.inference.region import widened, windows_of
from viscera.inference.slices import as_slice, on_scanner, slice_logits
from viscera.inference.windows import SURE_BACKGROUND, Planes, finished_planes, first_look, found_blocks
from viscera.preparation.geometry import Geometry

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
        except torch.OutOfMemoryError as error:
            plan = _after_running_out(plan, model, error)


def _after_running_out(plan: Plan, model: Model, error: torch.OutOfMemoryError) -> Plan:
    """Return smaller windows, with a warning."""
    less = smaller(plan, model.network.stride)
    if less is None:
        raise SettingError(
            f"the GPU's memory does not suffice for windows of {'x'.join(map(str, plan.size))} voxels, the smallest that the "
            "network can halve",
            "Free the GPU, or set --device cpu.",
        ) from error
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


def find_blocks(image: Int16[np.ndarray, "z y x"], model: Model, *, watch: Watch) -> Bool[np.ndarray, "bz by bx"]:
    """Return the blocks in which a finder finds anything on a scan prepared for it: one phase of its stride.

    Raises:
        SettingError: The device's memory does not suffice even for the smallest windows.
    """
    plan = plan_of(model)
    while True:
        try:
            return found_blocks(image, model, plan, places(image.shape, plan, one_phase=True), watch=watch)
        except torch.OutOfMemoryError as error:
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
    before: Planes | None = None
    z = 0
    for planes in found:
        while z < depth and (at[z] <= planes.stop - 1):
            low = floor(at[z])
            mixed = _mixed(before, planes, low, share=float(at[z] - low))
            if mixed is not None:
                whole = _widen(mixed, planes if planes.logits is not None else before, geometry.size)
                labels[z] = on_scanner(as_slice(whole), geometry)
            z += 1
        before = _last_plane(planes)
    return labels


def _mixed(
    before: Planes | None, planes: Planes, low: int, *, share: float
) -> Float[Tensor, "class rows columns"] | None:
    """Return the logits between plane ``low`` and the next, None where both are background."""
    one = _plane(before if before is not None and low < planes.start else planes, low)
    two = _plane(planes, low + 1) if share > 0 else None
    if share == 0 or (one is None and two is None):
        return one
    nothing = _background(one if one is not None else two)
    one, two = (nothing if plane is None else plane for plane in (one, two))
    return torch.lerp(one, two, share)


def _plane(planes: Planes, place: int) -> Float[Tensor, "class rows columns"] | None:
    return None if planes.logits is None else planes.logits[:, place - planes.start]


def _background(like: Tensor | None) -> Tensor:
    """Return logits of a plane that is all background."""
    if like is None:
        raise ValueError("no plane to be like")
    nothing = torch.zeros_like(like)
    nothing[0] = SURE_BACKGROUND
    return nothing


def _last_plane(planes: Planes) -> Planes:
    """Keep what the next planes' first slices may need."""
    logits = None if planes.logits is None else planes.logits[:, -1:].clone()
    return Planes(planes.stop - 1, planes.stop, logits, planes.box)


def _widen(
    logits: Float[Tensor, "class rows columns"], planes: Planes | None, size: tuple[int, int]
) -> Float[Tensor, "class y x"]:
    """Return the logits of a whole prepared slice: background beyond the box."""
    if planes is None or logits.shape[1:] == size:
        return logits
    whole = torch.zeros((len(logits), *size), dtype=logits.dtype, device=logits.device)
    whole[0] = SURE_BACKGROUND
    whole[:, *planes.box] = logits
    return whole


LogitReader = Callable[[range], Float[Tensor, "slice class rows columns"]]
"""Gives the logits of some prepared slices; asked for from the first slice on, each once."""


def read_logits(image: Int16[np.ndarray, "z y x"], model: Model) -> LogitReader:
    """Return what reads a network's logits of a prepared scan slice by slice, of a 3D network as its windows finish them."""
    if model.recipe.inference.whole_slices:
        return lambda slices: torch.as_tensor(slice_logits(image, model, slices))
    plan = plan_of(model)
    found = finished_planes(image, model, plan, chosen=places(image.shape, plan))
    waiting: list[Tensor] = []

    def read(slices: range) -> Float[Tensor, "slice class rows columns"]:
        """Return the next slices."""
        while len(waiting) < len(slices):
            planes = next(found)
            if planes.logits is None:  # cannot be: all windows are looked at
                raise ValueError(f"no window covers planes {planes.start} to {planes.stop}")
            waiting.extend(planes.logits.unbind(1))
        taken = torch.stack(waiting[: len(slices)])
        del waiting[: len(slices)]
        return taken

    return read
