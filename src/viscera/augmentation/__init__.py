"""Random changes of training slices: the draw, and apart from it the effect, on a whole batch on the training device.

Settings of two kinds: the paper's sixteen copies of a slice (turned.py), and deformations with changes of intensity
(rich.py: deformation.py, intensities.py). What is drawn depends on the generator only, what is done only on what was
drawn: a device's share of a batch changes as it does within the whole batch.
"""

from torch import Generator

from viscera.augmentation.rich import RichChanges, change_richly, draw_rich_changes
from viscera.augmentation.turned import SliceChanges, draw_slice_changes, turn_slices
from viscera.config import Augmentation, RichAugmentation, SliceAugmentation
from viscera.sampling import Batch

__all__ = ["Changes", "RichChanges", "SliceChanges", "change_batch", "draw_changes"]

Changes = SliceChanges | RichChanges
"""What is done to each slice of a batch."""


def draw_changes(settings: Augmentation, count: int, generator: Generator) -> Changes:
    """Draw the changes of a batch of slices.

    Args:
        settings: Of either kind.
        count: Slices of the whole batch.
        generator: On the CPU. It gives as many numbers whatever is switched off, so two recipes that differ in one
            change draw all others alike.
    """
    match settings:
        case SliceAugmentation():
            return draw_slice_changes(settings, count, generator)
        case RichAugmentation():
            return draw_rich_changes(settings, count, generator)


def change_batch(batch: Batch, changes: Changes) -> Batch:
    """Give the batch with its slices changed.

    Args:
        batch: Its image already scaled to [0, 1]; on any device.
        changes: From ``draw_changes``, as many as the batch has slices.

    Raises:
        SettingError: Slices that are not square cannot be turned by 90 degrees.
    """
    match changes:
        case SliceChanges():
            return turn_slices(batch, changes)
        case RichChanges():
            return change_richly(batch, changes)
