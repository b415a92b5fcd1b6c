"""A 2D network's logits, and labels on the scanner's slices from logits of prepared ones."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from viscera.config import UNetShape
from viscera.contrast import spread
from viscera.geometry import Geometry
from viscera.inference.model import Model
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


@torch.inference_mode()
def decide(logits: Float[Tensor, "slice class rows columns"], size: Sequence[int]) -> UInt8[np.ndarray, "slice y x"]:
    """Give the class of the largest logit on slices of another size.

    Args:
        logits: From ``slice_logits``.
        size: Rows and columns wanted; logits are interpolated linearly, pixel centres at half steps.
    """
    return _largest(logits, lambda image: interpolate(image, tuple(size), mode="bilinear", align_corners=False))


@torch.inference_mode()
def on_scanner(logits: Float[Tensor, "slice class rows columns"], geometry: Geometry) -> UInt8[np.ndarray, "slice y x"]:
    """Give the labels of prepared slices on the scanner's axial slices: background where those were cut off."""
    whole = geometry.axial_shape[1:]
    if logits.shape[2:] == whole and geometry.step is None:
        return _largest(logits, lambda image: image)
    if geometry.step is None:
        return decide(logits, whole)
    factors = tuple(float(step) for step in geometry.step)
    rows, columns = geometry.raster.inside(whole)
    top, left = geometry.start

    def enlarge(image: Tensor) -> Tensor:
        large = interpolate(image, scale_factor=factors, mode="bilinear", align_corners=False)  # type: ignore[arg-type]
        return large[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]

    labels = np.zeros((len(logits), *whole), np.uint8)
    labels[:, rows, columns] = _largest(logits, enlarge)
    return labels


def _largest(
    logits: Float[Tensor, "slice class rows columns"], enlarge: Callable[[Tensor], Tensor]
) -> UInt8[np.ndarray, "slice y x"]:
    """Give the class of the largest logit on slices that are enlarged one by one."""
    # One slice at a time keeps memory small. max is ten times as fast as argmax here (5 ms against 54 ms per slice of
    # 12x512x512), and linear interpolation twice as fast on contiguous logits.
    classes = [enlarge(one[None].float().contiguous()).max(1).indices for one in logits]
    return torch.cat(classes).to(torch.uint8).cpu().numpy()
