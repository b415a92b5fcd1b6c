"""From network output to label map."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from viscera.config.ranges import STRICT, Count, Positive
from viscera.labels import SPACES, LabelSpace, organ_name


@dataclass(frozen=True)
class SliceInference:
    """How a scan is segmented slice by slice."""

    __pydantic_config__ = STRICT

    whole_slices: ClassVar[bool] = True
    size: ClassVar[None] = None
    margin_mm: ClassVar[float] = 0.0
    kind: Literal["slices"] = "slices"
    batch_size: Count = 2
    """Slices per forward pass."""
    look_mm: Annotated[float, Ge(0)] = 10.0
    """Slices at most so far apart are segmented first; those between two that hold no organ are skipped. 0: none is."""

    step_mm: Annotated[float, Ge(0)] = 0.0
    """Slices at most so far apart go through the network, with their true neighbours; the logits of those between are mixed.
    0: every slice does."""

    def everywhere(self) -> "SliceInference":
        """Return these settings with no slice skipped."""
        return replace(self, look_mm=0.0)


@dataclass(frozen=True)
class WindowInference:
    """How a scan is segmented by a 3D network: in overlapping windows, whose logits are averaged with Gaussian weights."""

    __pydantic_config__ = STRICT

    whole_slices: ClassVar[bool] = False
    batch_size: ClassVar[int] = 4
    """Slices of the logits that are decided at once."""
    kind: Literal["windows"] = "windows"
    size: tuple[Count, Count, Count] | None = None
    """Voxels of a window along z, rows and columns; None: those of a training patch."""
    overlap: Annotated[float, Ge(0), Lt(0.95)] = 0.5
    """Share of a window that the next one covers again."""
    mirror: bool = False
    """Average over the eight mirror images of each window: eight times as slow, often a little better."""
    region: Literal["find", "whole", "middle"] = "find"
    """find: only the windows that hold organs, found by a finder (viscera predict --finder) or, without one, by a first pass
    over windows that do not overlap. whole: every window. middle: only the middle_slices, as gao2step published it."""
    middle_slices: Count = 50
    """Slices of the scanner that "middle" keeps; all others become background."""
    margin_mm: Annotated[float, Ge(0)] = 20.0
    """What a finder found is widened by this."""

    def everywhere(self) -> "WindowInference":
        """Return these settings with no window skipped."""
        return replace(self, region="whole")


Inference = Annotated[SliceInference | WindowInference, "told apart by kind"]


@dataclass(frozen=True)
class Postprocessing:
    """How the label map is tidied: in this order, each for the organs that it names; by default nothing is done."""

    __pydantic_config__ = STRICT

    opening_mm: dict[str, Positive] = field(default_factory=dict)
    """{organ: radius}: break off what is thinner."""
    closing_mm: dict[str, Positive] = field(default_factory=dict)
    """{organ: radius}: close gaps that are narrower, where they are background."""
    fill_holes: tuple[str, ...] = ()
    """Organs whose enclosed background becomes theirs."""
    smallest_ml: dict[str, Positive] = field(default_factory=dict)
    """{organ: volume}: smaller connected components become background; those of a tumour, first of all, what surrounds them."""
    largest_components: dict[str, Count] = field(default_factory=dict)
    """{organ: how many of its largest connected components to keep}."""
    edge_by_hu_mm: dict[str, Positive] = field(default_factory=dict)
    """{organ: how far its edge may move inwards, outwards by half}: to where the HU are halfway between its own and those around
    it. For organs that are alike throughout."""

    def fitted(self, space: LabelSpace) -> "Postprocessing":
        """Leave out organs that another label space has and this one has not: a recipe may be taken for another one.

        Names that no label space knows stay: they are mistakes, which ``postprocessing.tidy`` tells of.
        """
        elsewhere = {organ for other in SPACES.values() for organ in other.organs} - set(space.organs)
        named = {
            "edge_by_hu_mm": self.edge_by_hu_mm,
            "opening_mm": self.opening_mm,
            "closing_mm": self.closing_mm,
            "smallest_ml": self.smallest_ml,
            "largest_components": self.largest_components,
        }
        tables = {
            name: {organ: value for organ, value in table.items() if organ_name(organ) not in elsewhere}
            for name, table in named.items()
        }
        filled = tuple(organ for organ in self.fill_holes if organ_name(organ) not in elsewhere)
        return Postprocessing(fill_holes=filled, **tables)  # type: ignore[arg-type]
