"""Bones and the muscles beside them: spine, ribs, pelvis, femora, psoas, back muscles. Painted over the frame."""

from dataclasses import dataclass, replace

import numpy as np

from viscera.synthesis.anatomy.frame import Frame
from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import Blob, Noise, Tube, ellipsoid, evaluate, profile, spline

SPINE_LEVELS = (-40.0, 0.0, 40.0, 80.0, 115.0, 150.0, 200.0, 260.0, 330.0, 420.0, 520.0)
SPINE_Y = (74.0, 80.0, 82.0, 70.0, 48.0, 38.0, 34.0, 38.0, 46.0, 56.0, 62.0)
"""Depth of the middle of the vertebral bodies (sacrum below 115)."""
VERTEBRA_MM = 36.5
"""Height of a lumbar vertebra with its disc; L5's lower edge is at SACRUM_MM."""
SACRUM_MM = 116.0


@dataclass(frozen=True, eq=False)
class Skeleton:
    """What shapes the bones.

    Attributes:
        head_mm: Radius of the femoral heads.
        canal_mm: Half-width of the dural sac.
        phase_mm: Shift of the vertebrae along the spine.
        sway: Sideways bend of the spine, in mm, and where it is greatest.
        fine: Unevenness.
    """

    head_mm: float
    canal_mm: float
    phase_mm: float
    sway: tuple[float, float]
    fine: Noise

    def axis(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return y and x of the middle of the vertebral bodies."""
        return profile(SPINE_LEVELS, SPINE_Y, z), (self.sway[0] * np.exp(-(((z - self.sway[1]) / 110) ** 2))).astype(
            np.float32
        )


def draw_skeleton(generator: np.random.Generator, frame: Frame) -> Skeleton:
    """Draw bones."""
    return Skeleton(
        head_mm=generator.uniform(22.5, 26.5),
        canal_mm=generator.uniform(7.5, 9.0),
        phase_mm=generator.uniform(-4, 4),
        sway=(generator.normal(0, 3), generator.uniform(180, 340)),
        fine=frame.fine,
    )


def paint_skeleton_(skeleton: Skeleton, frame: Frame, canvas: Canvas) -> None:
    """Paint muscles along the spine, then all bones, then the dural sac."""
    _paint_muscles_(skeleton, canvas)
    _paint_ribs_(skeleton, frame, canvas)
    _paint_spine_(skeleton, canvas)
    for side in (-1, 1):
        _paint_pelvis_(skeleton, canvas, side)
        _paint_femur_(skeleton, canvas, side)
    _paint_sacrum_(skeleton, canvas)


def _paint_bone_(canvas: Canvas, shape: Blob | Tube, organ: str, cortex_mm: float) -> None:
    """Paint a bone with a shell of ``cortex_mm``, over all tissues but air."""
    box, field = evaluate(shape, canvas.grid, reach_mm=1.0)
    within = canvas.tissue[box] != Tissue.AIR
    canvas.paint_(box, within & (field > 0), Tissue.CORTEX, organ)
    canvas.tissue[box][within & (field > cortex_mm)] = Tissue.MARROW


def _paint_muscles_(skeleton: Skeleton, canvas: Canvas) -> None:
    soft = (Tissue.FREE, Tissue.SUBCUTANEOUS_FAT, Tissue.LUNG)
    shapes: list[Blob | Tube] = []
    for side in (-1, 1):
        back = np.array(
            [(40, 90, 16), (110, 84, 30), (180, 78, 36), (260, 78, 36), (340, 86, 30), (430, 92, 24), (560, 94, 22)]
        )
        width = np.array((6.0, 18, 24, 24, 20, 15, 12))
        shapes.append(spline(back * (1, 1, side), width, step_mm=6))
        psoas = np.array(
            [(305, 36, 24), (250, 36, 36), (200, 34, 46), (150, 30, 55), (100, 12, 66), (50, -22, 76), (5, -40, 84)]
        )
        shapes.append(spline(psoas * (1, 1, side), np.array((5.0, 12, 17, 20, 20, 17, 12)), step_mm=5))
        quadratus = np.array([(165, 56, 78), (220, 58, 66), (290, 58, 50)])
        shapes.append(spline(quadratus * (1, 1, side), np.array((13.0, 12, 7)), step_mm=5))
        iliacus = np.array([(150, 30, 108), (110, 28, 90), (60, 0, 78)])
        shapes.append(spline(iliacus * (1, 1, side), np.array((10.0, 15, 14)), step_mm=5))
    for shape in shapes:
        box, field = evaluate(shape, canvas.grid, reach_mm=4.0)
        field = field + 1.2 * skeleton.fine(*canvas.grid.axes(box))
        canvas.paint_(box, (field > 0) & np.isin(canvas.tissue[box], soft), Tissue.MUSCLE, "muscle")


def _paint_spine_(skeleton: Skeleton, canvas: Canvas) -> None:
    grid = canvas.grid
    box = grid.box(np.array((SACRUM_MM, -30.0, -60.0)), np.array((1e4, 130.0, 60.0)))
    if box[0].start == box[0].stop:
        return
    z, y, x = (axis.astype(np.float32) for axis in grid.axes(box))
    middle_y, middle_x = (a[:, None, None] for a in skeleton.axis(z.ravel()))
    dy, dx = y - middle_y, np.abs(x - middle_x)
    place = ((z - SACRUM_MM + skeleton.phase_mm) / VERTEBRA_MM) % 1  # 0 below a body, 0.76-1 the disc above it
    waist = 1 - 0.10 * np.exp(-(((place - 0.38) / 0.2) ** 2))
    body = (1 - np.sqrt((dx / (24 * waist)) ** 2 + (np.where(dy < 0, dy / 17.5, dy / (15.5 * waist))) ** 2)) * 17
    body = body + 0.5 * skeleton.fine(z, y, x)
    disc = (place > 0.77) & (body > 0)
    bone = (place <= 0.77) & (body > 0)
    endplate = (place < 0.05) | ((place > 0.72) & (place <= 0.77))
    canal = (
        1 - np.sqrt((dx / (skeleton.canal_mm + 3)) ** 2 + ((dy - 24) / (skeleton.canal_mm + 1)) ** 2)
    ) * skeleton.canal_mm
    arch_on = (place > 0.15) & (place < 0.66)
    arch = arch_on & (canal < 0) & (canal > -5) & (dy > 10)
    spinous = ((place > 0.05) & (place < 0.6)) & (dx < 3.8) & (dy > 30) & (dy < 58)
    transverse = ((place > 0.38) & (place < 0.55)) & (dx > 10) & (dx < 37) & (np.abs(dy - 18 - 0.10 * dx) < 3.2)
    facet = (np.hypot(dx - 17, dy - 29) < 7.5) & (canal < 0)
    posterior = arch | spinous | transverse | facet
    within = canvas.tissue[box] != Tissue.AIR
    canvas.paint_(box, within & posterior, Tissue.CORTEX, "vertebrae")
    canvas.tissue[box][facet & (np.abs(dx - 17) < 4) & (np.abs(dy - 29) < 4)] = Tissue.MARROW
    canvas.paint_(box, bone, Tissue.MARROW, "vertebrae")
    canvas.tissue[box][bone & (endplate | (body < 1.8))] = Tissue.CORTEX
    canvas.paint_(box, disc, Tissue.DISC, "vertebrae")
    canvas.paint_(box, (canal > 0) & (body < 0), Tissue.FAT, "fat")
    sac = (1 - np.sqrt((dx / skeleton.canal_mm) ** 2 + ((dy - 23.5) / (skeleton.canal_mm - 1.5)) ** 2)) > 0
    canvas.paint_(box, sac & (body < 0), Tissue.CORD, "spinal_cord")


def _paint_sacrum_(skeleton: Skeleton, canvas: Canvas) -> None:
    levels = (-12.0, 5.0, 40.0, 80.0, 105.0, 118.0)
    width, thickness = (5.0, 9, 32, 50, 54, 40), (4.0, 6, 11, 17, 20, 16)

    def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        half_x = profile(levels, width, z.ravel())[:, None, None]
        half_y = profile(levels, thickness, z.ravel())[:, None, None]
        middle_y = skeleton.axis(z.ravel())[0][:, None, None] + 4 + 0.10 * np.abs(x)
        field = (1 - np.sqrt((x / half_x) ** 2 + ((y - middle_y) / half_y) ** 2)) * half_y
        return np.minimum(np.minimum(field, z + 12), 118 - z) + 0.7 * skeleton.fine(z, y, x)

    _paint_bone_(canvas, Blob(np.array((-12.0, 20, -60)), np.array((118.0, 120, 60)), _field), "pelvis", 1.8)
    foramina = []
    for z, x in ((95.0, 22.0), (70.0, 20.0), (48.0, 17.0)):
        y = float(profile(SPINE_LEVELS, SPINE_Y, np.array([z]))[0])
        foramina += [ellipsoid((z, y + 2, side * x), (5, 9, 4)) for side in (-1, 1)]
    for shape in foramina:
        box, field = evaluate(shape, canvas.grid, reach_mm=0.0)
        canvas.paint_(box, field > 0, Tissue.FAT, "fat")
    z = np.linspace(80, 118, 12)
    y = profile(SPINE_LEVELS, SPINE_Y, z) + 20
    sac = Tube(np.stack([z, y, 0 * z], axis=1), np.linspace(4.5, skeleton.canal_mm - 1, 12))
    box, field = evaluate(sac, canvas.grid, reach_mm=1.0)
    canvas.paint_(box, field > 0, Tissue.CORD, "spinal_cord")


def _paint_ribs_(skeleton: Skeleton, frame: Frame, canvas: Canvas) -> None:
    """Paint ribs 12 to 5 (numbered 0 to 7 from below) and the cartilages in front."""
    shape, levels = frame.outline, frame.outline.levels
    for side in (-1, 1):
        for number in range(9):
            height = SACRUM_MM + (5.55 + number * 0.86) * VERTEBRA_MM
            length = (0.42, 0.62, 0.84, 0.90, 0.93, 0.96, 0.98, 1.0, 1.0)[number]
            t = np.linspace(0, length, 44)
            z = height - 105 * np.sin(np.pi * 0.5 * np.clip(t * 1.15, 0, 1)) ** 1.3 + 40 * np.clip(t - 0.75, 0, 1)
            half_x = 0.5 * (profile(levels, shape.wall_x, z) + profile(levels, shape.cavity_x, z)) * frame.waist
            half_y = 0.5 * (profile(levels, shape.wall_y, z) + profile(levels, shape.cavity_y, z)) * frame.depth
            angle = np.pi * (0.93 * t + 0.07)
            x, y = (
                half_x * np.abs(np.sin(angle)) ** 0.86,
                half_y * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.86,
            )
            y = np.where(t < 0.12, np.minimum(y, 78), y)
            tube = Tube(np.stack([z, y, side * x], axis=1), np.full(len(t), 5.2))
            bone = t < 0.74
            _paint_bone_(canvas, replace(tube, points=tube.points[bone], radii_mm=tube.radii_mm[bone]), "ribs", 2.0)
            if length > 0.8:
                box, field = evaluate(
                    replace(tube, points=tube.points[~bone], radii_mm=tube.radii_mm[~bone]), canvas.grid, reach_mm=0.0
                )
                canvas.paint_(box, field > 0, Tissue.CARTILAGE, "ribs")


def _paint_pelvis_(skeleton: Skeleton, canvas: Canvas, side: int) -> None:
    """Paint one hip bone: iliac wing, acetabulum, pubis, ischium."""
    v, u = np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 1, 24), indexing="ij")
    back_y, back_x = 40 + 32 * np.clip(v * 2.5, 0, 1), 66 - 14 * np.clip(v * 2.5, 0, 1) + 14 * v**2
    front_y, front_x = 0 - 26 * v, 72 + 44 * v
    side_y, side_x = 26 - 4 * v, 80 + 48 * v
    y = (1 - u) ** 2 * back_y + 2 * u * (1 - u) * side_y + u**2 * front_y
    x = (1 - u) ** 2 * back_x + 2 * u * (1 - u) * side_x + u**2 * front_x
    z = 24 + v * (112 + 30 * np.sin(np.pi * np.clip(u, 0, 0.9)))
    radius = 8.5 - 9 * v + 6.5 * v**2 + 3.5 * (1 - u) ** 3
    wing = Tube(np.stack([z, y, side * x], axis=-1).reshape(-1, 3), radius.ravel())
    _paint_bone_(canvas, wing, "pelvis", 2.2)
    pubis = np.array([(8, -24, 66), (-2, -52, 40), (-14, -64, 12), (-30, -58, 9)])
    ischium = np.array([(10, 30, 72), (-15, 38, 66), (-42, 36, 56), (-48, 4, 44), (-36, -46, 16)])
    _paint_bone_(canvas, spline(pubis * (1, 1, side), np.array((12.0, 8, 9, 7)), step_mm=4), "pelvis", 2.2)
    _paint_bone_(canvas, spline(ischium * (1, 1, side), np.array((16.0, 14, 13, 7, 6)), step_mm=4), "pelvis", 2.2)
    cup = skeleton.head_mm + 3

    def _socket(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        distance = np.sqrt(z**2 + (y - 4) ** 2 + (side * x - 90) ** 2)
        shell = np.minimum(distance - cup, cup + 8.5 - distance)
        opening = -0.8 * (side * x - 90) + 0.75 * z + 12
        return np.minimum(shell, opening)

    centre = np.array((0.0, 4.0, side * 90.0))
    _paint_bone_(canvas, Blob(centre - cup - 10, centre + cup + 10, _socket), "pelvis", 2.2)


def _paint_femur_(skeleton: Skeleton, canvas: Canvas, side: int) -> None:
    shaft = np.array([(-2, 8, 100), (-18, 12, 122), (-45, 14, 138), (-100, 10, 136), (-180, 4, 130)])
    _paint_bone_(canvas, spline(shaft * (1, 1, side), np.array((17.0, 17, 19, 15, 14)), step_mm=4), "femur", 3.5)
    trochanter = ellipsoid((-18.0, 20.0, side * 143.0), (24, 17, 14), noise=skeleton.fine, noise_mm=1)
    _paint_bone_(canvas, trochanter, "femur", 1.8)
    joint = evaluate(
        ellipsoid((0.0, 4.0, side * 90.0), (skeleton.head_mm + 2.2, skeleton.head_mm + 2.2, skeleton.head_mm + 2.2)),
        canvas.grid,
        reach_mm=0.0,
    )
    canvas.tissue[joint[0]][joint[1] > 0] = Tissue.CARTILAGE
    canvas.label[joint[0]][joint[1] > 0] = VALUE["muscle"]
    head = ellipsoid((0.0, 4.0, side * 90.0), (skeleton.head_mm, skeleton.head_mm, skeleton.head_mm))
    _paint_bone_(canvas, head, "femoral_head_left" if side > 0 else "femoral_head_right", 1.6)
