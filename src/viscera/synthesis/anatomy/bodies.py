"""Bodies beyond those of usual adults: children, whose organs are large for them, and the very obese.

How fat and muscles differ among the others is in habitus.py.
"""

from dataclasses import dataclass, replace

import numpy as np

from viscera.synthesis.anatomy.frame import Frame

CHILD_FRACTION, OBESE_FRACTION = 0.1, 0.13


@dataclass(frozen=True)
class Build:
    """One patient's body, besides what an adult's may vary.

    Attributes:
        size: Factor on all lengths.
        organs: Factor on the volume of all organs, once the body has its size.
        fat: Factor on the fat beneath the skin.
        belly: From 0 to 1: how much fat lies in the cavity beyond the usual.
        limit_mm: Fat beneath the skin, at most (standard mm).
        least_mm: The same, at least.
    """

    size: float = 1.0
    organs: float = 1.0
    fat: float = 1.0
    belly: float = 0.0
    limit_mm: float = 1e3
    least_mm: float = 0.0


ADULT = Build()


def draw_build(generator: np.random.Generator) -> Build:
    """Draw whether a patient is a child, very obese, or neither."""
    kind, size, organs = generator.random(), generator.uniform(0.42, 0.85), generator.uniform(1.05, 1.35)
    thin, thick, round_ = generator.uniform(0.25, 0.8), generator.uniform(1.6, 3.2), generator.uniform(0, 1)
    if kind < CHILD_FRACTION:
        return Build(size=float(size), organs=float(organs), fat=float(thin), limit_mm=16.0)
    if kind < CHILD_FRACTION + OBESE_FRACTION:
        # Thick beneath the skin or round within, seldom both.
        return Build(fat=float(thick), belly=float(round_), least_mm=26 + 40 * float(1 - round_))
    return ADULT


def shape_trunk(frame: Frame, build: Build) -> Frame:
    """Return a trunk as the build has it; its lengths stay standard ones."""
    if build == ADULT:
        return frame
    fat_mm = float(np.clip(frame.fat_mm * build.fat, build.least_mm, min(build.limit_mm, 85.0)))
    if not build.belly:
        return replace(frame, fat_mm=fat_mm)
    shape, levels = frame.outline, np.array(frame.outline.levels)
    waist = np.exp(-(((levels - 215) / 125) ** 2))

    def _grow(values: tuple[float, ...], most: float, base: tuple[float, ...]) -> tuple[float, ...]:
        added = (most - 1) * build.belly * waist * np.array(base)
        return tuple((np.array(values) + added).tolist())

    outline = replace(
        shape,
        cavity_x=_grow(shape.cavity_x, 1.22, shape.cavity_x),
        wall_x=_grow(shape.wall_x, 1.22, shape.cavity_x),
        cavity_front=_grow(shape.cavity_front, 1.75, shape.cavity_front),
        wall_front=_grow(shape.wall_front, 1.75, shape.cavity_front),
    )
    return replace(frame, fat_mm=fat_mm, outline=outline, belly=frame.belly * (1 + 0.35 * build.belly))
