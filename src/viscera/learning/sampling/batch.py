"""Batch: what is learnt from in one step."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Slices or 3D patches to learn from; space is (y, x) or (z, y, x).

    Attributes:
        image: int16 HU from the store; scaled to float by preparation/intensity.py on the training device.
        labels: Class per pixel or voxel; 0 is background or an organ that the case does not annotate.
        known: False where the label may be anything.
        distance: Pixels to the nearest organ boundary, for boundary-weighted losses.
        annotated: Whether the item's case annotates the class; always true for background.
        pseudo: Class that teachers gave, UNSURE where they differ, 0 elsewhere and where ``labels`` shows an organ.
        pseudo_annotated: Whether teachers filled in the class; never true where ``annotated`` is.
        context: What another network says of each slice, 0 to 255, in coarse pixels; None: nothing. Once the HU are scaled, the
            image's last channels hold it, too.
    """

    image: Shaped[Tensor, "batch channel *space"]
    labels: UInt8[Tensor, "batch *space"]
    known: Bool[Tensor, "batch *space"]
    distance: Float[Tensor, "batch *#space"]
    annotated: Bool[Tensor, "batch class"]
    pseudo: UInt8[Tensor, "batch *space"]
    pseudo_annotated: Bool[Tensor, "batch class"]
    context: UInt8[Tensor, "batch organ _ _"] | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        arrays = ((item.name, getattr(self, item.name)) for item in fields(self))
        moved = {name: array.to(device, non_blocking=True) for name, array in arrays if array is not None}
        return Batch(**moved)
