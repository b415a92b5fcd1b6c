"""Which slices or patches an epoch visits."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt, MultipleOf

from viscera.config.ranges import STRICT, Count, Fraction


@dataclass(frozen=True)
class SliceSampling:
    """Which slices an epoch visits, and how much of each."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[2]] = 2
    size: ClassVar[None] = None
    cases: ClassVar[Literal["any"]] = "any"
    kind: Literal["slices"] = "slices"
    dataset_power: Fraction = 0.0
    """A case of a data set with n cases counts n^-power times: 0, every slice alike; 0.5 lifts small data sets (MultiTalent);
    1, every data set alike."""
    organ_fraction: Fraction = 0.0
    """Share of the visits that go to slices showing an organ, drawn first among all annotated organs: rare ones are seen."""
    lesion_fraction: Fraction = 0.0
    """Of these visits, the share that go to a slice of a lesion (a connected piece of a tumour) instead: a size is drawn first
    (below 15 mm, up to 30 mm, above), then a lesion of that size, of any case, then one of its voxels."""
    fold: tuple[Count, Count] | None = None
    """(k, n): leave out the k-th of n parts of the training patients, k from 1; None trains on all."""
    paste: Fraction = 0.0
    """Share of the slices into which a labelled organ of another slice, of any data set, is pasted, so that no network can tell
    by the scanner which organs it is asked for."""
    window: tuple[Annotated[int, Ge(16), MultipleOf(16)], Annotated[int, Ge(16), MultipleOf(16)]] | None = None
    """Rows and columns that are cut from each slice at a random place; None: those of the largest slice, so that none is
    cut. Smaller slices are filled up with air."""


@dataclass(frozen=True)
class PatchSampling:
    """Which 3D patches an epoch visits; ``training.visits_per_slice`` counts those of a case."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[3]] = 3
    window: ClassVar[None] = None
    organ_fraction: ClassVar[float] = 0.0
    paste: ClassVar[float] = 0.0
    kind: Literal["patches"] = "patches"
    size: tuple[Count, Count, Count] = (128, 128, 128)
    """Voxels of a patch along z, rows and columns. Where the scan is smaller its last voxels repeat, and count for nothing."""
    stride: tuple[Count, Count, Count] = (1, 1, 1)
    """Only every so-manyth voxel is taken, beginning at a random one (runet's phases: 1, 4, 4)."""
    foreground_fraction: Fraction = 0.5
    """Probability that a patch is laid about a voxel of an organ; else it lies anywhere."""
    off_centre: Annotated[float, Ge(0), Lt(1)] = 0.0
    """How far from the patch's middle, as a share of half a side, that voxel may lie, along each axis anywhere alike. 0: in the
    middle, as published; but then a network can learn that tumours are in the middle of patches."""
    organs_alike: bool = False
    """Draw the organ first, then one of its voxels, so that small organs are seen as often as large ones; False: any organ
    voxel of the case alike."""
    lesion_fraction: Fraction = 0.0
    """Of the patches about an organ's voxel, the share that is laid about a lesion (a connected piece of a tumour) where the case
    shows one: a size is drawn first (below 15 mm, up to 30 mm, above), then a lesion of that size, then one of its voxels."""
    cases: Literal["any", "complete"] = "any"
    """complete: only cases of which every organ is annotated, or filled in by teachers where the loss learns from
    pseudo-labels. any: also partly annotated ones."""
    dataset_power: Fraction = 0.0
    """A case of a data set with n cases counts n^-power times: 0, every case alike; 1, every data set alike."""
    fold: tuple[Count, Count] | None = None
    """(k, n): leave out the k-th of n parts of the training patients, k from 1; None trains on all."""


Sampling = Annotated[SliceSampling | PatchSampling, "told apart by kind"]
