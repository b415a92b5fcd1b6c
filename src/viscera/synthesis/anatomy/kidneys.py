"""Kidneys of a synthetic patient: cortex, medulla, sinus, renal pelvis, cysts, tumours, vessels at the hilum."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from viscera.synthesis.anatomy.frame import Frame
from viscera.synthesis.anatomy.kidney_plans import Hilum, KidneyPlan
from viscera.synthesis.canvas import VALUE, Box, Canvas, Detail, Field, Organ, Tissue
from viscera.synthesis.shapes import Blob, Noise, Tube, ellipsoid, rotation_about, smooth_minimum, spline

CAVA_Y_X, AORTA_Y_X = (11.0, -17.0), (11.0, 7.0)
"""Where the great vessels run at the height of the kidneys (organs.py)."""


@dataclass(frozen=True, eq=False)
class _Placed:
    """Where a kidney came to lie: its middle, rotation into its own axes, and half-lengths."""

    centre: Float[np.ndarray, "3"]
    turn: Float[np.ndarray, "3 3"]
    semi: Float[np.ndarray, "3"]


def draw_kidneys(
    generator: np.random.Generator, frame: Frame, *, lift_mm: float, left: KidneyPlan, right: KidneyPlan
) -> list[Organ]:
    """Draw both kidneys with what lies in them.

    Args:
        generator: Source of randomness.
        frame: The trunk.
        lift_mm: How much higher than on average they lie.
        left: How the left one departs from the average.
        right: How the right one does.
    """
    organs, placed = [], []
    for side, name, plan in ((1, "kidney_left", left), (-1, "kidney_right", right)):
        volume = generator.uniform(125, 205)
        size = (volume / 155) ** (1 / 3)
        centre = np.array((258 + (10 if side > 0 else -4) + generator.normal(0, 9) + lift_mm, 44, side * 68))
        centre[1:] += generator.normal(0, (2.5, 3.5))
        # The upper pole leans to the middle and the back; the hilum looks to the middle and the front.
        turn = rotation_about(1, side * generator.uniform(0.1, 0.28)) @ rotation_about(
            2, -generator.uniform(0.05, 0.25)
        )
        turn = rotation_about(0, -side * generator.uniform(0.4, 0.8)) @ turn
        semi = np.array((56.0, 23.0, 29.0)) * size * generator.uniform(0.94, 1.06, 3)
        margin_mm = generator.uniform(3, 9) * plan.fat
        if plan.missing:
            continue
        centre += np.array(plan.shift_mm) * (1, 1, side)
        about_z, about_y, about_x = plan.turn
        turn = rotation_about(0, side * about_z) @ rotation_about(1, side * about_y) @ rotation_about(2, about_x) @ turn
        size, semi, volume = size * plan.size, semi * plan.size, volume * plan.size**3
        hilum = centre + turn.T @ np.array((0.0, 0.0, -side * 24.0 * size))
        wide = size * plan.sinus
        sinus = ellipsoid(
            tuple(hilum), (24 * wide, 8.5 * wide, 19 * wide), rotation=turn, noise=frame.fine, noise_mm=2.0
        )
        shape = ellipsoid(tuple(centre), tuple(semi), rotation=turn, noise=frame.fine, noise_mm=1.1 * plan.lobes)
        place = _Placed(centre, turn, semi)
        if plan.lips:
            shape = _with_lips(shape, place, plan, side=side)
        placed.append((name, plan, place))
        organs += _masses(name, plan, place, frame.fine)
        organs.append(Organ("fat", Tissue.FAT, sinus, detail=_renal_pelvis(frame.fine, hilum, plan.stasis)))
        if plan.hilum is not None:
            organs += _vessels(plan.hilum, hilum, centre)
        inside = _inside(frame.fine, plan, sinus if plan.hilum is not None else None, name)
        organs.append(Organ(name, Tissue.KIDNEY_CORTEX, shape, volume, margin_mm, inside))
    return _isthmus(placed, frame.fine) + organs


def _masses(name: str, plan: KidneyPlan, place: _Placed, noise: Noise) -> list[Organ]:
    """Return cysts and tumours, which claim their place before the kidney."""
    organs = []
    for mass in plan.masses:
        middle = place.centre + place.turn.T @ (np.array(mass.direction) * place.semi)
        uneven = 0.4 if mass.tissue == Tissue.CYST else 0.06 * mass.radius_mm
        radius = mass.radius_mm
        ball = ellipsoid(tuple(middle), (radius, radius, radius), noise=noise, noise_mm=uneven)
        organs.append(Organ(name, mass.tissue, ball))
    return organs


def _with_lips(shape: Blob, place: _Placed, plan: KidneyPlan, *, side: float) -> Blob:
    """Return a kidney with lips of parenchyma in front of and behind its sinus, which then lies in a cleft between them."""
    lips = []
    for lip, back in zip(plan.lips, (-1.0, 1.0), strict=True):
        deep, thick = 15.0 * plan.size, lip.thick_mm * plan.size
        own = (lip.up_mm, back * (place.semi[1] - thick), -side * (place.semi[2] + lip.reach_mm - deep))
        middle = place.centre + place.turn.T @ np.array(own)
        semi = (lip.long_mm * plan.size, thick, deep)
        lips.append(ellipsoid(tuple(middle.tolist()), semi, rotation=place.turn))

    def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        field = -shape.function(z, y, x)
        for lip in lips:
            field = smooth_minimum(field, -lip.function(z, y, x), 3.0)
        return -field

    every = (shape, *lips)
    return Blob(np.min([one.low for one in every], axis=0), np.max([one.high for one in every], axis=0), _field)


def _vessels(plan: Hilum, hilum: np.ndarray, centre: np.ndarray) -> list[Organ]:
    """Return the renal vein and the artery behind it, from the hilum to the great vessels; they have no name."""
    away = (hilum - centre) / max(float(np.linalg.norm(hilum - centre)), 1.0)
    start, organs = hilum + 6 * away, []
    # The left vein crosses before the aorta, the right artery behind the vena cava.
    left = centre[2] > 0
    vein = [(-3.0, 20.0), (-4.0, 4.0), CAVA_Y_X] if left else [CAVA_Y_X]
    artery = [AORTA_Y_X] if left else [(26.0, -18.0), AORTA_Y_X]
    for tissue, radius, course, back in (
        (Tissue.VEIN, plan.vein_mm, vein, -2.0),
        (Tissue.ARTERY, plan.artery_mm, artery, 5.0),
    ):
        begin = start + np.array((0.0, back, 0.0))
        first = begin + 14 * away
        level = hilum[0] + plan.rise_mm
        points = np.array([begin, first, *((level, y, x) for y, x in course)])
        tube = spline(points, np.full(len(points), radius), step_mm=0.7 * radius)
        organs.append(Organ("fat", tissue, tube, margin_mm=0.5))
    return organs


def _isthmus(placed: list[tuple[str, KidneyPlan, _Placed]], noise: Noise) -> list[Organ]:
    """Return the bridge of a horseshoe kidney: each half, up to the middle, belongs to its side's kidney."""
    if len(placed) < 2 or not all(plan.isthmus_mm for _, plan, _ in placed):
        return []
    poles = [place.centre + place.turn.T @ (np.array((-0.72, 0.0, 0.0)) * place.semi) for _, _, place in placed]
    middle = np.array((0.5 * (poles[0][0] + poles[1][0]) - 6, -12.0, 0.0))
    organs = []
    for (name, plan, _), pole in zip(placed, poles, strict=True):
        side = 1.0 if pole[2] > 0 else -1.0
        between = 0.5 * (pole + middle) + np.array((-3.0, -4.0, 0.0))
        points = np.array([pole, between, middle, middle - (0.0, 0.0, side * 8)])
        tube = spline(points, plan.isthmus_mm * np.array((1.5, 1.15, 1.0, 1.0)), step_mm=3)
        organs.append(Organ(name, Tissue.KIDNEY_CORTEX, _up_to_the_middle(tube, side, noise)))
    return organs


def _up_to_the_middle(tube: Tube, side: float, noise: Noise) -> Blob:
    """Return the part of an uneven tube that lies on one side (1: left, -1: right)."""

    def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        field = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), -1e3, np.float32)
        for point, radius in zip(tube.points.tolist(), tube.radii_mm.tolist(), strict=True):
            distance = np.sqrt((z - point[0]) ** 2 + (y - point[1]) ** 2 + (x - point[2]) ** 2)
            np.maximum(field, radius - distance, out=field)
        return np.minimum(field + 0.8 * noise(z, y, x), side * x)

    reach = float(tube.radii_mm.max()) + 3
    return Blob(tube.points.min(axis=0) - reach, tube.points.max(axis=0) + reach, _field)


def _renal_pelvis(noise: Noise, hilum: np.ndarray, least: float) -> Detail:
    def _paint(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        z, y, x = canvas.grid.axes(box)
        canvas.tissue[box][inside & (field > 3.0) & (noise(z * 1.0, y, x) > least)] = Tissue.KIDNEY_PELVIS
        vessel = np.abs(z - hilum[0]) + 1.2 * np.abs(y - hilum[1]) < 7
        canvas.tissue[box][inside & vessel & (np.abs(x) < abs(hilum[2]))] = Tissue.VEIN

    return _paint


def _inside(noise: Noise, plan: KidneyPlan, sinus: Blob | None, name: str) -> Detail:
    """Return what paints the medulla, and gives the sinus its label where the label holds it."""

    def _paint(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        rim = field[inside].min() if inside.any() else 0.0
        z, y, x = canvas.grid.axes(box)
        deep = inside & (field > rim + 6.0 + 2.5 * noise(1.7 * z, 1.7 * y, 1.7 * x))
        if plan.columns is not None:
            deep &= noise(2.2 * z - 300, 2.2 * y, 2.2 * x) < plan.columns
        canvas.tissue[box][deep] = Tissue.KIDNEY_MEDULLA
        if sinus is not None and plan.hilum is not None and field.size:
            held = (canvas.label[box] == VALUE["fat"]) & (field > plan.hilum.lip_mm) & (sinus.function(z, y, x) > 0)
            held &= canvas.tissue[box] != Tissue.FREE
            canvas.label[box][held] = VALUE[name]

    return _paint
