"""Kidneys of a synthetic patient: cortex, medulla, sinus, renal pelvis, cysts."""

import numpy as np

from viscera.synthesis.anatomy.frame import Frame
from viscera.synthesis.anatomy.plans import KidneyPlan
from viscera.synthesis.canvas import Box, Canvas, Detail, Field, Organ, Tissue
from viscera.synthesis.shapes import Noise, ellipsoid, rotation_about


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
    organs = []
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
        margin_mm = generator.uniform(3, 9)
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
        for cyst in plan.cysts:
            place = centre + turn.T @ (np.array(cyst.direction) * semi)
            ball = ellipsoid(
                tuple(place), (cyst.radius_mm, cyst.radius_mm, cyst.radius_mm), noise=frame.fine, noise_mm=0.4
            )
            organs.append(Organ(name, Tissue.CYST, ball))
        organs.append(Organ("fat", Tissue.FAT, sinus, detail=_renal_pelvis(frame.fine, hilum)))
        organs.append(Organ(name, Tissue.KIDNEY_CORTEX, shape, volume, margin_mm, _medulla(frame.fine)))
    return organs


def _renal_pelvis(noise: Noise, hilum: np.ndarray) -> Detail:
    def _paint(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        z, y, x = canvas.grid.axes(box)
        canvas.tissue[box][inside & (field > 3.0) & (noise(z * 1.0, y, x) > 0.35)] = Tissue.KIDNEY_PELVIS
        vessel = np.abs(z - hilum[0]) + 1.2 * np.abs(y - hilum[1]) < 7
        canvas.tissue[box][inside & vessel & (np.abs(x) < abs(hilum[2]))] = Tissue.VEIN

    return _paint


def _medulla(noise: Noise) -> Detail:
    def _paint(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        rim = field[inside].min() if inside.any() else 0.0
        z, y, x = canvas.grid.axes(box)
        deep = inside & (field > rim + 6.0 + 2.5 * noise(1.7 * z, 1.7 * y, 1.7 * x))
        canvas.tissue[box][deep] = Tissue.KIDNEY_MEDULLA

    return _paint
