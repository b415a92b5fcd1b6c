"""Is a 2D network surer of a scan, or of the scan's mirror image? Organs that it knows lie on one side each.

A network labels by place as much as by looks: in a scan whose header has left and right the wrong way round it finds a liver where
there is none, and what it finds gives the fault away less than how unsure it is.
"""

import numpy as np
from jaxtyping import Int16
from torch import Tensor

from viscera.inference.model import Model
from viscera.inference.slices import slice_logits
from viscera.quality.certainty import Handedness

LOOKS = 16
"""Slices, evenly spaced."""
AT_ONCE = 4
LEAST_PIXELS = 2000
"""Of organs, as it is and mirrored, below which neither can be said to be the right way round."""


def handedness_of(image: Int16[np.ndarray, "z y x"], model: Model) -> Handedness | None:
    """Look at some slices of a scan as they are and mirrored.

    Args:
        image: HU, prepared as the model's recipe says.
        model: The network.

    Returns:
        None where the network's output is no softmax over slices, or the slices show too little of any organ.
    """
    if not model.gives_slice_probabilities:
        return None
    slices = np.unique(np.linspace(0, len(image) - 1, LOOKS + 2).round().astype(int)[1:-1])
    found = [_certainty(ways, model, slices) for ways in (image, np.ascontiguousarray(image[:, :, ::-1]))]
    if min(pixels for pixels, _ in found) < LEAST_PIXELS:
        return None
    as_is, mirrored = (total / pixels for pixels, total in found)
    return Handedness(as_is, mirrored)


def _certainty(image: Int16[np.ndarray, "z y x"], model: Model, slices: np.ndarray) -> tuple[int, float]:
    """Give the pixels that got an organ, and the sum of their largest probabilities."""
    pixels, total = 0, 0.0
    for start in range(0, len(slices), AT_ONCE):
        logits: Tensor = slice_logits(image, model, slices[start : start + AT_ONCE].tolist()).float()
        largest, labels = logits.softmax(1).max(1)
        organs = labels > 0
        pixels += int(organs.sum())
        total += float(largest[organs].double().sum())
    return pixels, total
