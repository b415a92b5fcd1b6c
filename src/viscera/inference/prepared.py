"""Labels of a scan that is prepared already, on its own grid: what a network says, before anything is undone or tidied."""

import numpy as np
from jaxtyping import Int16, UInt8

from viscera.inference.model import Model
from viscera.inference.slices import decide
from viscera.inference.volumes import read_logits
from viscera.preparation.geometry import Geometry


def prepared_labels(
    image: Int16[np.ndarray, "z y x"], model: Model, geometry: Geometry | None = None
) -> UInt8[np.ndarray, "z y x"]:
    """Return a network's labels of a prepared scan, on its own grid and not tidied."""
    size = model.recipe.inference.batch_size
    read = read_logits(image, model, geometry)
    parts = [range(first, min(first + size, len(image))) for first in range(0, len(image), size)]
    return np.concatenate([decide(read(part), image.shape[1:]) for part in parts])
