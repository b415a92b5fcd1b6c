"""A 2D network's logits, and labels on the scanner's slices from logits of prepared ones."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor

from viscera.config import UNetShape
from viscera.contrast import spread
from viscera.geometry import Geometry
from viscera.inference.model import Model
from viscera.inference.upsampling import Enlargement, enlarged_labels
from viscera.intensity import network_input


@torch.inference_mode()
def slice_logits(
    image: Int16[np.ndarray, "z y x"], model: Model, slices: range
) -> Float[Tensor, "slice class rows columns"]:
    """Give the network's output for some slices of a prepared scan.

    Args:
        image: HU, prepared as the recipe says; all slices, since neighbours are looked at too.
        model: The network.
        slices: Which.
    """
    shape = model.recipe.network
    reach = shape.slices // 2 if isinstance(shape, UNetShape) else 0
    first, last = max(0, slices.start - reach), min(len(image), slices.stop + reach) - 1
    seen = np.arange(slices.start, slices.stop)[:, None] + np.arange(-reach, reach + 1)
    part = spread(image[first : last + 1], model.recipe.contrast)
    stack = torch.from_numpy(part[seen.clip(first, last) - first]).to(model.device)
    scaled = network_input(stack, model.recipe.intensity).contiguous(memory_format=torch.channels_last)
    with torch.autocast(model.device.type, model.autocast, enabled=model.autocast is not None):
        return model.network(scaled)


def decide(logits: Float[Tensor, "slice class rows columns"], size: Sequence[int]) -> UInt8[np.ndarray, "slice y x"]:
    """Give the class of the largest logit on slices of another size.

    Args:
        logits: From ``slice_logits``.
        size: Rows and columns wanted; logits are interpolated linearly, pixel centres at half steps.
    """
    rows, columns = size
    return enlarged_labels(logits, Enlargement((rows, columns)))


def on_scanner(logits: Float[Tensor, "slice class rows columns"], geometry: Geometry) -> UInt8[np.ndarray, "slice y x"]:
    """Give the labels of prepared slices on the scanner's axial slices: background where those were cut off."""
    inside = enlarged_labels(logits, enlargement_of(geometry))
    whole = geometry.axial_shape[1:]
    if inside.shape[1:] == whole:
        return inside
    labels = np.zeros((len(logits), *whole), np.uint8)
    labels[:, *geometry.raster.inside(whole)] = inside
    return labels


def enlargement_of(geometry: Geometry) -> Enlargement:
    """Give how prepared slices become the part of the scanner's that they cover."""
    whole = geometry.axial_shape[1:]
    if geometry.step is None:
        return Enlargement(whole)
    rows, columns = geometry.raster.inside(whole)
    top, left = geometry.start
    return Enlargement(
        size=(rows.stop - rows.start, columns.stop - columns.start),
        factors=(float(geometry.step[0]), float(geometry.step[1])),
        start=(rows.start - top, columns.start - left),
    )
