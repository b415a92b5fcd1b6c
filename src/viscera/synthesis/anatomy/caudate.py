"""The caudate lobe: the part of the liver behind the fissure of the ligamentum venosum, in front of the vena cava and left of it.

In a slice it is a piece of liver between fat, vena cava and aorta, of the vein's size and often of its HU: what a network takes for
the vena cava unless it has seen both side by side. Shapes are simplified from anatomy as textbooks describe it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

PRESENT_FRACTION, BARE_FRACTION = 0.85, 0.8
"""Share of patients with a fissure, and of those whose vena cava has no liver behind it."""
DEEP = 100.0
"""What fissure and groove take from the liver's field: more than it has anywhere."""
CAVA = np.array([(210.0, 13, -20), (260, 12, -22), (310, 8, -24), (350, 0, -26), (395, -6, -25)])
"""The course of the vena cava, about (height, depth, place to the left): organs.py draws it."""


@dataclass(frozen=True)
class CaudatePlan:
    """The caudate lobe and the fissure before it, in standard mm.

    Attributes:
        tip_mm: Where the fissure ends on the right, near the left portal vein.
        front_mm: Depth (y) of that end.
        slope: How much further to the back the fissure lies per mm to the left.
        half_mm: Half its width.
        left_mm: How far to the left the lobe reaches.
        low_mm: Lowest slice, before the liver moves with the domes.
        high_mm: Highest.
        groove_mm: How far to the right of the vena cava's middle no liver lies behind it; None where liver surrounds it.
    """

    tip_mm: float
    front_mm: float
    slope: float
    half_mm: float
    left_mm: float
    low_mm: float
    high_mm: float
    groove_mm: float | None


def draw_caudate(generator: np.random.Generator) -> CaudatePlan | None:
    """Draw a caudate lobe: small to large, with a fissure from a line to a wide cleft; None in some patients."""
    is_there, is_large = generator.random() < PRESENT_FRACTION, generator.random() < 0.2
    small, large = generator.uniform(0, 26), generator.uniform(22, 42)
    low = 302 + generator.normal(0, 6)
    is_bare, groove = generator.random() < BARE_FRACTION, generator.uniform(0, 22)
    plan = CaudatePlan(
        tip_mm=float(generator.uniform(-34, -4)),
        front_mm=float(generator.uniform(-34, -18)),
        slope=float(generator.uniform(0.2, 0.75)),
        half_mm=float(np.exp(generator.uniform(np.log(0.7), np.log(3.5)))),
        left_mm=float(large if is_large else small),
        low_mm=float(low),
        high_mm=float(low + generator.uniform(40, 78)),
        groove_mm=float(groove) if is_bare else None,
    )
    return plan if is_there else None


def part_caudate(
    field: Float[np.ndarray, "z y x"],
    z: Float[np.ndarray, "z 1 1"],
    y: Float[np.ndarray, "1 y 1"],
    x: Float[np.ndarray, "1 1 x"],
    *,
    plan: CaudatePlan,
    lift_mm: float,
) -> Float[np.ndarray, "z y x"]:
    """Return the field of a liver, less the fissure and what would lie to the left of the caudate lobe.

    Args:
        field: Positive within the liver, in mm or about.
        z: Heights in standard mm; likewise ``y`` (to the back) and ``x`` (to the left).
        y: See ``z``.
        x: See ``z``.
        plan: The lobe.
        lift_mm: How much higher the liver lies than on average.
    """
    level = z - lift_mm
    held = np.clip((level - plan.low_mm) / 6, 0, 1) * np.clip((plan.high_mm - level) / 8, 0, 1)
    behind = y - (plan.front_mm + plan.slope * (x - plan.tip_mm))
    fissure = np.exp(-((behind / plan.half_mm) ** 2)) * np.clip((x - plan.tip_mm) / 5, 0, 1)
    beyond = np.clip(behind / 3, 0, 1) * np.clip((x - plan.left_mm + 0.02 * np.maximum(behind - 8, 0) ** 2) / 12, 0, 1)
    field = field - (DEEP * held) * np.maximum(fissure, beyond)
    if plan.groove_mm is None:
        return field
    depth, place = (np.interp(z, CAVA[:, 0], CAVA[:, axis]).astype(np.float32) for axis in (1, 2))
    bare = np.clip((y - depth - 3) / 8, 0, 1) * np.clip((x - place + plan.groove_mm + 0.6 * (y - depth)) / 8, 0, 1)
    return field - DEEP * bare
