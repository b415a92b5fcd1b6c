"""Random changes of what is learnt from."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from viscera.config.ranges import STRICT, Fraction, Positive


@dataclass(frozen=True)
class SliceAugmentation:
    """zhang2d's sixteen copies of a slice, drawn on the fly on the batch."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[2]] = 2
    kind: Literal["slice"] = "slice"
    quarter_turns: bool = True
    """Turn each slice by 0, 90, 180 or 270 degrees."""
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.04
    """Half-width c of the factor U(1 - c, 1 + c) on the scaled image."""
    brightness: Annotated[float, Ge(0), Lt(1)] = 0.03
    """Half-width b of the shift U(-b, b) that follows; the image is then clipped to [0, 1]."""


@dataclass(frozen=True)
class RichAugmentation:
    """Random deformations and changes of intensity, drawn on the fly on the batch; 0 switches each of them off.

    The geometric ones are drawn for every slice; those of the intensity for each slice with ``probability``, one by one.
    Intensities are those of the scaled image, [0, 1]: with a window of 800 HU, 0.03 is 24 HU.
    """

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[2]] = 2
    kind: Literal["rich"] = "rich"
    rotation_degrees: Annotated[float, Ge(0), Le(180)] = 12.0
    """Half-width of the angle's uniform distribution."""
    scale: Annotated[float, Ge(0), Lt(1)] = 0.15
    """Size times exp(U(-s, s)), rows and columns alike."""
    stretch: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Rows times exp(U(-s, s)), columns divided by it."""
    shift: Fraction = 0.05
    """Half-width of the shift along rows and along columns, as a fraction of them."""
    elastic_pixels: Annotated[float, Ge(0)] = 2.0
    """Standard deviation of a smooth random displacement."""
    elastic_cell_pixels: Positive = 24.0
    """Distance of the points between which that displacement is interpolated."""
    crop: Fraction = 0.15
    """The largest share of rows or columns that one side of the field of view loses: air there, its labels unknown."""
    gamma: Annotated[float, Ge(0), Lt(2)] = 0.2
    """Image to the power exp(U(-g, g))."""
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Half-width c of the factor U(1 - c, 1 + c) about mid-grey."""
    brightness: Annotated[float, Ge(0), Lt(1)] = 0.03
    """Half-width of the shift: of all HU."""
    noise: Annotated[float, Ge(0)] = 0.04
    """Largest standard deviation of white noise."""
    blur_pixels: Annotated[float, Ge(0), Le(5)] = 1.0
    """Largest standard deviation of a Gaussian blur."""
    probability: Fraction = 0.3
    """Of crop, gamma, contrast, brightness, noise, blur: of each for itself."""


@dataclass(frozen=True)
class VolumeAugmentation:
    """gao2step's random changes of 3D patches, drawn on the fly on the batch; probability 0 switches each of them off.

    Intensities are those of the network's input: standard deviations of the organs' HU under ``ForegroundScore``.
    """

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[3]] = 3
    kind: Literal["volume"] = "volume"
    flip_x: Fraction = 0.2
    """Probability of mirroring left and right. Labels of sides (kidney_left) stay, as published."""
    flip_y: Fraction = 0.2
    """Probability of mirroring front and back."""
    smooth: Fraction = 0.1
    """Probability of a Gaussian blur."""
    smooth_voxels: tuple[Positive, Positive] = (0.5, 1.15)
    """Range of its standard deviation, drawn for each axis."""
    noise: Fraction = 0.2
    """Probability of white noise."""
    noise_mean: tuple[float, float] = (0.0, 0.5)
    """Range of its mean."""
    noise_sd: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] = (0.0, 1.0)
    """Range of its standard deviation."""
    gamma: Fraction = 0.1
    """Probability of a change of gamma: the patch scaled to [0, 1], to that power, and back."""
    gamma_power: tuple[Positive, Positive] = (0.5, 2.5)
    """Range of the power."""
    shift: Fraction = 0.1
    """Probability of a shift of all intensities."""
    shift_by: tuple[float, float] = (0.0, 0.3)
    """Range of the shift."""
    shorten: Fraction = 0.0
    """Probability of cutting a batch to fewer slices, as scans of a part of the body are; not of gao2step."""
    shorten_to: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] = (0.125, 0.75)
    """Range of the share that is left, rounded up to what the network can halve."""


Augmentation = Annotated[SliceAugmentation | RichAugmentation | VolumeAugmentation, "told apart by kind"]
