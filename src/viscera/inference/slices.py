"""A 2D network's logits, and labels on the scanner's slices: in chunks of a few slices, several chunks at once.

Each chunk goes the whole way on one core, from HU to labels, so that no core waits for another and no array of all slices' logits
ever exists.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from math import floor

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor

from viscera.config import SliceInference
from viscera.errors import SettingError
from viscera.inference.model import Model
from viscera.inference.upsampling import Enlargement, enlarged_labels
from viscera.preparation.contrast import enhance
from viscera.preparation.geometry import Geometry
from viscera.preparation.intensity import network_input


def label_slices(
    image: Int16[np.ndarray, "z y x"],
    geometry: Geometry,
    model: Model,
    *,
    organs: Sequence[int] = (),
    look: Callable[[Tensor], None] | None = None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> UInt8[np.ndarray, "depth rows columns"]:
    """Return labels on the scanner's axial slices.

    First every slice that lies ``look_mm`` (of the recipe) from the last one is segmented; then, of those between two, the ones
    with an organ at either end. The others stay background.

    Args:
        image: HU, prepared.
        geometry: Where it lies.
        model: A 2D network.
        organs: Indices of those that are wanted: slices are skipped that seem to hold none of these; all organs where empty.
        look: Called with every chunk's logits, from several threads; None where nobody asks.
        watch: Called with the slices done or skipped, and all of them.
    """
    settings = model.recipe.inference
    if not isinstance(settings, SliceInference):
        raise SettingError(f"recipe '{model.recipe.name}' segments windows, not slices.")
    axial = np.zeros(geometry.axial_shape, np.uint8)
    streams, threads = model.network.streams, torch.get_num_threads()
    each = 1 if streams > 1 else threads
    pool = ThreadPoolExecutor(streams, initializer=torch.set_num_threads, initargs=(each,))
    depth, size, done = len(image), settings.batch_size, 0

    def segmented(chunk: Sequence[int]) -> int:
        """Segment some slices; return their number."""
        logits = slice_logits(image, model, chunk)
        if look is not None:
            look(logits)
        axial[chunk] = on_scanner(logits, geometry)
        return len(chunk)

    def segment_all(chosen: Sequence[int]) -> None:
        """Segment slices, chunk by chunk."""
        nonlocal done
        chunks = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        for work in as_completed([pool.submit(segmented, chunk) for chunk in chunks]):
            done += work.result()
            watch(done, depth)

    first = _seen_first(depth, step_mm=geometry.spacing_mm[0], look_mm=settings.look_mm)
    try:
        segment_all(first)
        segment_all(_between(first, axial, organs))
        if done < depth:
            watch(depth, depth)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a worker's number would hold for all threads that begin later
    return axial


def _seen_first(depth: int, *, step_mm: float, look_mm: float) -> list[int]:
    """Return the slices that are segmented in any case, the first and the last among them."""
    step = max(1, floor(look_mm / step_mm + 1e-3))
    return sorted({*range(0, depth, step), depth - 1})


def _between(first: Sequence[int], axial: UInt8[np.ndarray, "z y x"], organs: Sequence[int]) -> list[int]:
    """Return the slices between those seen first that may hold organs."""
    holds = np.zeros(256, bool)
    holds[list(organs) or slice(1, None)] = True
    held = {place: bool(holds[axial[place]].any()) for place in first}
    return [place for low, high in pairwise(first) if held[low] or held[high] for place in range(low + 1, high)]


def slice_inputs(
    image: Int16[np.ndarray, "z y x"], model: Model, slices: Sequence[int]
) -> Float[Tensor, "slice channel y x"]:
    """Return what the network sees of some slices of a prepared scan.

    Args:
        image: HU, prepared as the recipe says; all slices, since neighbours are looked at too.
        model: The network.
        slices: Which.
    """
    reach = model.recipe.reach
    seen = np.asarray(slices)[:, None] + np.arange(-reach, reach + 1)
    places, stacked = np.unique(seen.clip(0, len(image) - 1), return_inverse=True)
    part = enhance(image[places], model.recipe.contrast)
    stack = torch.from_numpy(part[stacked.reshape(seen.shape)]).to(model.device)
    return network_input(stack, model.recipe.intensity).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def slice_logits(
    image: Int16[np.ndarray, "z y x"], model: Model, slices: Sequence[int]
) -> Float[Tensor, "slice class rows columns"]:
    """Return the network's output for some slices of a prepared scan; see ``slice_inputs``."""
    return model.network(slice_inputs(image, model, slices))


def decide(logits: Float[Tensor, "slice class rows columns"], size: Sequence[int]) -> UInt8[np.ndarray, "slice y x"]:
    """Return the class of the largest logit on slices of another size.

    Args:
        logits: From ``slice_logits``.
        size: Rows and columns wanted; logits are interpolated linearly, pixel centres at half steps.
    """
    rows, columns = size
    return enlarged_labels(logits, Enlargement((rows, columns)))


def on_scanner(logits: Float[Tensor, "slice class rows columns"], geometry: Geometry) -> UInt8[np.ndarray, "slice y x"]:
    """Return the labels of prepared slices on the scanner's axial slices: background where those were cut off."""
    inside = enlarged_labels(logits, enlargement_of(geometry))
    whole = geometry.axial_shape[1:]
    if inside.shape[1:] == whole:
        return inside
    labels = np.zeros((len(logits), *whole), np.uint8)
    labels[:, *geometry.pixel_grid.inside(whole)] = inside
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
