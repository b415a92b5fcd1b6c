"""zhang2d's sixteen copies of a slice: quarter turns, contrast, brightness."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor

from viscera.config import SliceAugmentation
from viscera.errors import SettingError
from viscera.learning.sampling.batch import Batch


@dataclass(frozen=True)
class SliceChanges:
    """What is done to each slice of a batch.

    Attributes:
        turns: Quarter turns, 0 to 3, counter-clockwise.
        contrast: Factor on the scaled image.
        brightness: Shift that follows.
    """

    turns: Int[Tensor, " batch"]
    contrast: Float[Tensor, " batch"]
    brightness: Float[Tensor, " batch"]

    def part(self, share: slice) -> "SliceChanges":
        """Return the changes of one device's share of the batch."""
        return SliceChanges(self.turns[share], self.contrast[share], self.brightness[share])


def draw_slice_changes(settings: SliceAugmentation, count: int, generator: Generator) -> SliceChanges:
    """Draw the changes of a batch of slices."""
    turns = torch.randint(0, 4, (count,), generator=generator)
    contrast, brightness = 2 * torch.rand((2, count), generator=generator) - 1
    return SliceChanges(
        turns=turns if settings.quarter_turns else torch.zeros_like(turns),
        contrast=1 + settings.contrast * contrast,
        brightness=settings.brightness * brightness,
    )


def turn_slices(batch: Batch, changes: SliceChanges) -> Batch:
    """Return the batch with each slice turned, its contrast scaled, its brightness shifted, clipped to [0, 1].

    Raises:
        SettingError: Slices that are not square cannot be turned by 90 degrees.
    """
    contrast, brightness = (
        v.to(batch.image.device)[:, None, None, None] for v in (changes.contrast, changes.brightness)
    )
    arrays = (batch.image, batch.labels, batch.known, batch.distance, batch.pseudo)
    image, labels, known, distance, pseudo = (_turned(array, changes.turns) for array in arrays)
    image = (image * contrast + brightness).clamp(0, 1)
    return replace(batch, image=image, labels=labels, known=known, distance=distance, pseudo=pseudo)


def _turned(slices: Shaped[Tensor, "batch *rest"], turns: Int[Tensor, " batch"]) -> Shaped[Tensor, "batch *rest"]:
    """Turn each slice in its own last two dimensions."""
    if not turns.any():
        return slices
    if slices.shape[-1] != slices.shape[-2]:
        raise SettingError(
            f"augmentation.quarter_turns needs square slices, got {slices.shape[-2]}x{slices.shape[-1]}",
            "Turn it off or change preparation.size.",
        )
    out = slices.clone()
    for turn in (1, 2, 3):
        chosen = (turns == turn).nonzero()[:, 0].to(slices.device)
        out[chosen] = torch.rot90(slices[chosen], turn, dims=(-2, -1))
    return out
