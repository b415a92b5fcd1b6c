"""What is done once to every scan, and how its HU become the network's input."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MultipleOf

from viscera.config.ranges import STRICT
from viscera.errors import SettingError


@dataclass(frozen=True)
class Window:
    """Clip to a HU window and scale it to [0, 1]."""

    __pydantic_config__ = STRICT

    low_hu: float = -400.0
    """Becomes 0."""
    high_hu: float = 400.0
    """Becomes 1."""
    kind: Literal["window"] = "window"
    measured: ClassVar[None] = None

    @property
    def window_hu(self) -> tuple[float, float]:
        """What the network sees as lowest and highest."""
        return self.low_hu, self.high_hu

    @property
    def described(self) -> str:
        """What is done, in a sentence."""
        return f"Clip to {self.low_hu:g} to {self.high_hu:g} HU and scale to 0 to 1."

    def __post_init__(self) -> None:
        """Refuse empty windows."""
        if not self.low_hu < self.high_hu:
            raise SettingError(f"window: low_hu {self.low_hu:g} must be below high_hu {self.high_hu:g}.")


@dataclass(frozen=True)
class ForegroundScore:
    """Clip to percentiles of the organs' HU, subtract their mean, divide by their standard deviation (nnU-Net's for CT)."""

    __pydantic_config__ = STRICT

    kind: Literal["foreground"] = "foreground"
    low_percentile: Annotated[float, Ge(0), Lt(100)] = 0.5
    """Of the HU of all organ voxels of the training cases."""
    high_percentile: Annotated[float, Gt(0), Le(100)] = 99.5
    """Likewise."""
    measured: tuple[float, float, float, float] | None = None
    """Both percentiles, mean and standard deviation, in HU. None: measured when training begins, and kept with the weights."""

    @property
    def window_hu(self) -> tuple[float, float] | None:
        """What the network sees as lowest and highest; None where it is not known yet."""
        return self.measured[:2] if self.measured else None

    @property
    def described(self) -> str:
        """What is done, in a sentence."""
        if self.measured is None:
            return "HU go in as they are."
        low, high, mean, deviation = self.measured
        return f"Clip to {low:g} to {high:g} HU, subtract {mean:g}, divide by {deviation:g}."

    def __post_init__(self) -> None:
        """Refuse percentiles in the wrong order and a spread of nothing."""
        if not self.low_percentile < self.high_percentile:
            raise SettingError(
                f"intensity: low_percentile {self.low_percentile:g} must be below high_percentile {self.high_percentile:g}."
            )
        if self.measured is not None and not (self.measured[0] < self.measured[1] and self.measured[3] > 0):
            raise SettingError(
                f"intensity.measured {self.measured}: say low < high, mean, standard deviation > 0, in HU."
            )


@dataclass(frozen=True)
class RawHU:
    """HU as they are."""

    __pydantic_config__ = STRICT

    measured: ClassVar[None] = None
    window_hu: ClassVar[None] = None
    described: ClassVar[str] = "HU go in as they are."
    kind: Literal["raw"] = "raw"


Intensity = Annotated[Window | ForegroundScore | RawHU, "told apart by kind"]
"""How HU become the network's input."""


@dataclass(frozen=True)
class Contrast:
    """The grey levels of each axial slice are enhanced before the network's input is made of them (upv's three preprocessings).

    HU from ``low_hu`` to ``high_hu`` become grey levels 0 to 255 (rounded, clipped beyond). Changed, they are given back as HU of
    the same window, so that any ``intensity`` can follow. Volumes are treated slice by slice.
    """

    __pydantic_config__ = STRICT

    method: Literal["none", "equalisation", "clahe"] = "none"
    """none: HU stay as they are. equalisation: dark grey levels become 0, then the slice's histogram is made even. clahe: the
    histogram of each tile is made even, with a limit to how much contrast grows."""
    low_hu: float = -160.0
    """Grey level 0."""
    high_hu: float = 240.0
    """Grey level 255."""
    dark: Annotated[int, Ge(0), Le(255)] = 25
    """equalisation: grey levels up to this one become 0 first."""
    tiles: tuple[Annotated[int, Ge(1), Le(64)], Annotated[int, Ge(1), Le(64)]] = (8, 8)
    """clahe: tiles along rows and columns."""
    clip_limit: Annotated[float, Gt(0)] = 2.0
    """clahe: no grey level counts for more than this many times the tile's mean count."""

    def __post_init__(self) -> None:
        """Refuse empty windows."""
        if not self.low_hu < self.high_hu:
            raise SettingError(f"contrast: low_hu {self.low_hu:g} must be below high_hu {self.high_hu:g}.")


@dataclass(frozen=True)
class ResizedSlices:
    """zhang2d's preparation: every axial slice is resized to the same size, whatever its field of view."""

    __pydantic_config__ = STRICT

    pixel_mm: ClassVar[None] = None
    slice_mm: ClassVar[None] = None
    kind: Literal["resized"] = "resized"
    size: tuple[Annotated[int, Ge(16), MultipleOf(16)], Annotated[int, Ge(16), MultipleOf(16)]] = (256, 256)
    """Rows and columns of a resized axial slice, in pixels; multiples of 16 (four halvings)."""

    @property
    def described(self) -> str:
        """The settings, for messages."""
        return "size {}x{}".format(*self.size)

    @property
    def grid(self) -> str:
        """What pixels it leads to, for people."""
        return "slices of {}x{} pixels".format(*self.size)


@dataclass(frozen=True)
class SpacedSlices:
    """Axial slices are resampled to one pixel spacing and cut to the body, so that a pixel is as large in every patient."""

    __pydantic_config__ = STRICT

    size: ClassVar[None] = None
    slice_mm: ClassVar[None] = None
    kind: Literal["spaced"] = "spaced"
    spacing_mm: Annotated[float, Ge(0.3), Le(20)] = 2.5
    """Between the centres of neighbouring pixels, along rows and columns."""
    margin_mm: Annotated[float, Ge(0)] = 10.0
    """Kept around the body's box; rows and columns are then widened to multiples of 16 (four halvings)."""

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Between the centres of neighbouring rows and columns."""
        return self.spacing_mm, self.spacing_mm

    @property
    def described(self) -> str:
        """The settings, for messages."""
        return f"spacing_mm {self.spacing_mm:g}, margin_mm {self.margin_mm:g}"

    @property
    def grid(self) -> str:
        """What pixels it leads to, for people."""
        return f"pixels of {self.spacing_mm:g} mm, slices cut to the body and {self.margin_mm:g} mm around it"


Spacing = Annotated[float, Ge(0.3), Le(20)]


@dataclass(frozen=True)
class SpacedVolumes:
    """The whole scan is resampled to one voxel spacing and cut to the body: for 3D networks."""

    __pydantic_config__ = STRICT

    size: ClassVar[None] = None
    kind: Literal["volumes"] = "volumes"
    spacing_mm: tuple[Spacing, Spacing, Spacing] = (1.0, 1.0, 1.0)
    """Between the centres of neighbouring voxels along z, rows and columns."""
    margin_mm: Annotated[float, Ge(0)] = 10.0
    """Kept around the body's rows and columns; no slice is cut off."""

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Between the centres of neighbouring rows and columns."""
        return self.spacing_mm[1:]

    @property
    def slice_mm(self) -> float:
        """Between the centres of neighbouring slices."""
        return self.spacing_mm[0]

    @property
    def described(self) -> str:
        """The settings, for messages."""
        return "spacing_mm {:g} {:g} {:g}, margin_mm {:g}".format(*self.spacing_mm, self.margin_mm)

    @property
    def grid(self) -> str:
        """What voxels it leads to, for people."""
        size = "{:g}x{:g}x{:g}".format(*self.spacing_mm)
        return f"voxels of {size} mm, slices cut to the body and {self.margin_mm:g} mm around it"


@dataclass(frozen=True)
class ScannerGrid:
    """The scan stays as it is, but for its orientation: runet's "no preprocessing"."""

    __pydantic_config__ = STRICT

    size: ClassVar[None] = None
    pixel_mm: ClassVar[None] = None
    slice_mm: ClassVar[None] = None
    described: ClassVar[str] = "the scanner's grid"
    grid: ClassVar[str] = "on the scanner's grid"
    kind: Literal["scanner"] = "scanner"


Preparation = Annotated[ResizedSlices | SpacedSlices | SpacedVolumes | ScannerGrid, "told apart by kind"]
"""What is done once to every scan, before training and before prediction.

Each knows its ``size`` (rows and columns, where they are the same for every scan), ``pixel_mm`` and ``slice_mm`` (to which it
resamples; None where it does not), and how it is ``described``.
"""
