"""Random changes of what is learnt from: the draw, and apart from it the effect, on a whole batch on the training device.

Settings of three kinds: the paper's sixteen copies of a slice (turned.py), deformations with changes of intensity of
slices (rich.py: deformation.py, intensities.py), flips with changes of intensity of 3D patches (volume.py). What is drawn
depends on the generator only, what is done only on what was drawn: a device's share of a batch changes as it does within
the whole batch.
"""

from torch import Generator

from viscera.config import Augmentation, RichAugmentation, SliceAugmentation, VolumeAugmentation
from viscera.learning.augmentation.rich import RichChanges, change_richly, draw_rich_changes
from viscera.learning.augmentation.turned import SliceChanges, draw_slice_changes, turn_slices
from viscera.learning.augmentation.volume import VolumeChanges, change_volumes, draw_volume_changes
from viscera.learning.sampling.batch import Batch

Changes = SliceChanges | RichChanges | VolumeChanges
"""What is done to each slice or patch of a batch."""


def draw_changes(settings: Augmentation, count: int, generator: Generator) -> Changes:
    """Draw the changes of a batch.

    Args:
        settings: Of any kind.
        count: Slices or patches of the whole batch.
        generator: On the CPU. It gives as many numbers whatever is switched off, so two recipes that differ in one
            change draw all others alike.
    """
    match settings:
        case SliceAugmentation():
            return draw_slice_changes(settings, count, generator)
        case RichAugmentation():
            return draw_rich_changes(settings, count, generator)
        case VolumeAugmentation():
            return draw_volume_changes(settings, count, generator)


def change_batch(batch: Batch, changes: Changes, *, stride: int = 1) -> Batch:
    """Return the batch with its slices or patches changed.

    Args:
        batch: Its image already scaled, for changes of slices to [0, 1]; on any device.
        changes: From ``draw_changes``, as many as the batch has slices or patches.
        stride: What the network needs the sides of its input to be multiples of, for patches that are cut to fewer slices.

    Raises:
        SettingError: Slices that are not square cannot be turned by 90 degrees; changes of 3D patches are not for slices.
    """
    match changes:
        case SliceChanges():
            return turn_slices(batch, changes)
        case RichChanges():
            return change_richly(batch, changes)
        case VolumeChanges():
            return change_volumes(batch, changes, stride=stride)
