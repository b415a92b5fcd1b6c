"""From where on a number is a sign, and how such limits are fitted to good results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

from viscera.errors import SettingError
from viscera.quality.certainty import Edge
from viscera.quality.measuring import Organ


@dataclass(frozen=True)
class Limits:
    """From where on a number is a sign. Those of the edges were measured: benchmarks/studies/trust.py.

    Attributes:
        largest_fraction: Least share of an organ that its largest piece (of paired ones, the two largest) must have.
        dropped_fraction: Most of what the network called an organ that post-processing may have dropped.
        edge_probability: Least mean probability at an organ's edge.
        kidney_edge_probability: The same for kidneys, whose edges lie in fat: good ones' are surer than other organs'.
        edge_entropy_bits: Most mean entropy there.
        slices: Least number.
        slice_mm: Least and most between slices.
        pixel_mm: Least and most between pixels.
        view_mm: Least width and height of the field of view.
        body_mm: Least width of the body.
        lung_slices_fraction: Most slices that may show lung: of chest, abdomen and pelvis two fifths do, of the upper abdomen too.
        soft_fraction: Least share of the body without lung that has the HU of fat and organs.
        at_lowest_fraction: Most voxels that may have exactly the lowest value.
        at_highest_fraction: Most of the body's voxels that may have exactly the highest value, where this is not metal's.
        mirror_gain: How much surer, in mean probability, the network may be of the scan's mirror image than of the scan.
        found_fraction: Least share of the organs looked for, where these are four or more.
        doubtful_fraction: Most of the organs found, where these are three or more, that may have signs other than the border.
    """

    largest_fraction: float = 0.85
    dropped_fraction: float = 0.15
    edge_probability: float = 0.65
    kidney_edge_probability: float = 0.75
    edge_entropy_bits: float = 1.2
    slices: int = 20
    slice_mm: tuple[float, float] = (0.5, 10.0)
    pixel_mm: tuple[float, float] = (0.3, 3.5)
    view_mm: float = 200.0
    body_mm: float = 220.0
    lung_slices_fraction: float = 0.6
    soft_fraction: float = 0.7
    at_lowest_fraction: float = 0.75
    at_highest_fraction: float = 0.003
    mirror_gain: float = 0.01
    found_fraction: float = 0.25
    doubtful_fraction: float = 0.5


def fitted_limits(
    organs: Sequence[Organ], edges: Sequence[Edge], *, share: float = 0.05, limits: Limits = Limits()
) -> Limits:
    """Return limits that at most a share of some good organs cross: of pieces, of what was dropped, and of the edges.

    Args:
        organs: In one piece each (not kidneys as one organ), segmented well.
        edges: Of organs that were segmented well.
        share: In [0, 1).
        limits: Gives all the others, and those for which there is no organ.

    Raises:
        SettingError: The share is none.
    """
    if not 0 <= share < 1:
        raise SettingError(f"the share of good organs that may raise a sign must be in [0, 1), got {share}.")
    least = {
        "largest_fraction": [organ.shares[0] for organ in organs if organ.shares],
        "edge_probability": [edge.probability for edge in edges if edge.probability is not None],
    }
    most = {
        "dropped_fraction": [edge.dropped_fraction for edge in edges],
        "edge_entropy_bits": [edge.entropy_bits for edge in edges if edge.entropy_bits is not None],
    }
    chosen = {name: sorted(values)[floor(share * len(values))] for name, values in least.items() if values}
    chosen |= {name: sorted(values)[-1 - floor(share * len(values))] for name, values in most.items() if values}
    return replace(limits, **chosen)
