"""Context: a small 3D network that sees the whole patient, and tells the network of slices what lies where."""

from dataclasses import dataclass
from typing import ClassVar

from viscera.config.augmentation import VolumeAugmentation
from viscera.config.losses import PartialLoss
from viscera.config.networks import PlainUNetShape
from viscera.config.ranges import STRICT, Fraction
from viscera.config.sampling import PatchSampling
from viscera.config.training import Training

NETWORK = PlainUNetShape(widths=(16, 32, 64, 128), deep_supervision=False, norm="batch")
LOSS = PartialLoss(unannotated="marginal", exclusion=1.0, dice=1.0, alpha=0.0)
WHOLE_SCANS = PatchSampling(size=(64, 64, 96), foreground_fraction=0.5, off_centre=0.9, organs_alike=True)
"""Patches that hold most of a scan."""
UNMIRRORED = VolumeAugmentation(
    flip_x=0,
    flip_y=0,
    noise=0.3,
    noise_mean=(-0.02, 0.02),
    noise_sd=(0.0, 0.05),
    gamma=0.3,
    gamma_power=(0.75, 1.35),
    shift=0.3,
    shift_by=(-0.05, 0.05),
    shorten=0.4,
)
"""For intensities from 0 to 1; never mirrored, since left and right are to be told apart."""
TRAINING = Training(
    epochs=20, visits_per_slice=2, batch_size=2, learning_rate=2e-3, schedule="cosine", warm_up=0.03, average_decay=0.99
)


@dataclass(frozen=True)
class Context:
    """A coarse look at the whole scan, whose probabilities of the organs are further channels of the network of slices.

    A cascade, as nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), whose second network is a 2D one. It is trained
    first and then stays as it is.
    """

    __pydantic_config__ = STRICT

    pixels: ClassVar[int] = 2
    """Prepared pixels per coarse voxel along rows and columns; as many millimetres lie between coarse slices."""
    network: PlainUNetShape = NETWORK
    """Its architecture."""
    loss: PartialLoss = LOSS
    """What it minimises; boundaries are for the network of slices."""
    sampling: PatchSampling = WHOLE_SCANS
    """What it learns from."""
    augmentation: VolumeAugmentation = UNMIRRORED
    """Random changes of each patch."""
    training: Training = TRAINING
    """Its optimizer, schedule and length."""
    dropout: Fraction = 0.1
    """Share of the slices that the network of slices sees without context while it learns, so that it does not rely on it alone:
    on scans that it has learnt from, the context is better than on others."""
