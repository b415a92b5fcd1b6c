"""Lungs that are not full of air: effusions wherever they have room, consolidated and airless lung, ground glass.

All of it keeps the lung's label; needs nothing but the canvas, so that patients of templates have it too. Beside liver, stomach
and colon it is what a network takes for them: of their HU, or mottled with gas as stool is.
"""

import numpy as np
from jaxtyping import Bool, Float

from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import draw_noise

EFFUSION_FRACTION = 0.22
SOLID_FRACTION = 0.22
HAZE_FRACTION = 0.2
DEPENDENT_FRACTION = 0.5
"""Share of lungs (right and left apart) with each; the last is a thin airless layer at the back of those who lie."""
LEAST_VOXELS = 200


def sicken_lungs_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Paint fluid, airless lung and haze into the lungs of a painted patient, in some patients."""
    spine = np.nonzero((canvas.label == VALUE["vertebrae"]).any(axis=(0, 1)))[0]
    middle = float(canvas.grid.x[spine].mean()) if len(spine) else 0.0
    lungs = canvas.tissue == Tissue.LUNG
    for side, source in zip((-1, 1), generator.spawn(2), strict=True):
        _sicken_(source, canvas, lungs & (side * (canvas.grid.x - middle) > 0), side)


def _sicken_(generator: np.random.Generator, canvas: Canvas, lung: Bool[np.ndarray, "z y x"], side: int) -> None:
    has_fluid, has_solid, has_haze, is_dependent = generator.random(4) < (
        EFFUSION_FRACTION,
        SOLID_FRACTION,
        HAZE_FRACTION,
        DEPENDENT_FRACTION,
    )
    fluid, solid, haze = generator.uniform((0.04, 0.04, 0.1), (0.75, 0.6, 0.8))
    rough, mottled = generator.uniform(2.0, 9.0), generator.uniform(-0.6, 1.6)
    directions = [_direction(generator, side) for _ in range(3)]
    broad, fine, thin_mm = draw_noise(generator, 45.0), draw_noise(generator, rough), generator.uniform(2, 14)
    places = np.nonzero(lung)
    if len(places[0]) < LEAST_VOXELS:
        return
    grid = canvas.grid
    z, y, x = (axis[place].astype(np.float32) for axis, place in zip((grid.z, grid.y, grid.x), places, strict=True))
    box_z, box_y, box_x = (slice(int(place.min()), int(place.max()) + 1) for place in places)
    inner = tuple(place - part.start for place, part in zip(places, (box_z, box_y, box_x), strict=True))
    axes = grid.axes((box_z, box_y, box_x))
    uneven = 8 * broad(*axes)[inner]
    found = np.full(len(z), Tissue.LUNG, np.uint8)
    if has_haze:
        found[_outermost(directions[0], (z, y, x), uneven, haze)] = Tissue.HAZE
    if is_dependent:
        found[y > y.max() - thin_mm - np.abs(uneven)] = Tissue.COLLAPSED_LUNG
    if has_solid:
        within = _outermost(directions[1], (z, y, x), uneven, solid)
        gas = fine(*axes)[inner] > mottled
        found[within] = np.where(gas, Tissue.LUNG, Tissue.COLLAPSED_LUNG)[within]
    if has_fluid:
        rim = _outermost(directions[2], (z, y, x), 0.4 * uneven, min(1.15 * fluid, 0.95))
        found[rim & (found == Tissue.HAZE)] = Tissue.COLLAPSED_LUNG
        found[_outermost(directions[2], (z, y, x), 0.4 * uneven, fluid)] = Tissue.EFFUSION
    canvas.tissue[places] = found


def _direction(generator: np.random.Generator, side: int) -> Float[np.ndarray, "3"]:
    """Return a direction (z, y, x): mostly to the back, else outwards, downwards, or any."""
    kinds = ((-0.35, 1.0, 0.2 * side), (-0.3, 0.0, 1.0 * side), (-1.0, 0.1, 0.0), (0.0, 0.0, 0.0))
    drawn = np.array(kinds[int(generator.choice(4, p=(0.5, 0.2, 0.2, 0.1)))]) + generator.normal(0, 0.3, 3)
    return drawn / max(1e-6, float(np.linalg.norm(drawn)))


def _outermost(
    direction: Float[np.ndarray, "3"],
    places: tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]],
    uneven: Float[np.ndarray, "n"],
    share: float,
) -> Bool[np.ndarray, "n"]:
    """Tell which share of voxels lies farthest in a direction, up to an uneven face."""
    far = sum(part * axis for part, axis in zip(direction.astype(np.float32), places, strict=True)) + uneven
    return np.asarray(far >= np.quantile(far, 1 - share))
