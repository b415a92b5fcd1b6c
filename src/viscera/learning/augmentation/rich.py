"""The richer augmentation: deform the patient (deformation.py), then change what the scanner makes of it (intensities.py)."""

from dataclasses import dataclass, replace

import torch
from torch import Generator

from viscera.config import RichAugmentation
from viscera.learning.augmentation.deformation import Deformation, deform, draw_deformation
from viscera.learning.augmentation.intensities import IntensityChanges, change_intensities, draw_intensity_changes
from viscera.learning.sampling.batch import Batch


@dataclass(frozen=True)
class RichChanges:
    """What is done to each slice of a batch."""

    deformation: Deformation
    intensities: IntensityChanges

    def part(self, share: slice) -> "RichChanges":
        """Return the changes of one device's share of the batch."""
        return RichChanges(self.deformation.part(share), self.intensities.part(share))


def draw_rich_changes(settings: RichAugmentation, count: int, generator: Generator) -> RichChanges:
    """Draw the changes of a batch of slices."""
    deformation = draw_deformation(settings, count, generator)
    return RichChanges(deformation, draw_intensity_changes(settings, count, generator))


@torch.no_grad()
def change_richly(batch: Batch, changes: RichChanges) -> Batch:
    """Return the batch with its slices deformed, then their intensities changed; in float32 even under autocast."""
    with torch.autocast(batch.image.device.type, enabled=False):
        moved = deform(batch, changes.deformation)
        seen = moved.image.shape[1] - (0 if moved.context is None else moved.context.shape[1])
        changed = change_intensities(moved.image[:, :seen], changes.intensities)
        return replace(moved, image=torch.cat([changed, moved.image[:, seen:]], 1))
