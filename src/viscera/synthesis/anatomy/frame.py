"""The frame of a synthetic patient: body outline, fat, muscle wall, body cavity, diaphragm and lungs.

Drawn first and over the whole grid; bones follow in skeleton.py, organs in organs.py and bowel.py.
"""

from dataclasses import dataclass

import numpy as np

from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import Blob, Noise, draw_noise, ellipsoid, evaluate, profile

LEVELS = (-120.0, -60.0, -20.0, 0.0, 40.0, 90.0, 130.0, 170.0, 220.0, 280.0, 340.0, 400.0, 450.0)
WALL_X = (158, 166, 166, 165, 163, 155, 148, 139, 135, 141, 148, 152, 154)
WALL_Y = (92, 95, 100, 101, 103, 102, 98, 95, 95, 101, 106, 108, 108)
CAVITY_X = (1, 16, 44, 52, 60, 88, 110, 121, 121, 127, 134, 137, 138)
CAVITY_FRONT = (1, 30, 66, 76, 84, 88, 86, 83, 81, 87, 92, 94, 94)
WALL_FRONT = (84, 88, 92, 94, 97, 98, 96, 95, 95, 101, 106, 108, 108)
CAVITY_Y = (1, 25, 52, 60, 70, 80, 83, 81, 81, 87, 92, 94, 94)
FAT_X = (1.2, 1.3, 1.3, 1.25, 1.2, 1.2, 1.3, 1.15, 0.95, 0.75, 0.6, 0.55, 0.5)
FAT_FRONT = (0.5, 0.6, 0.8, 0.9, 1.2, 1.4, 1.4, 1.3, 1.15, 0.9, 0.6, 0.5, 0.5)
FAT_BACK = (0.9, 1.2, 1.5, 1.6, 1.6, 1.5, 1.3, 1.1, 0.85, 0.7, 0.6, 0.6, 0.6)
"""Half-widths in standard mm (_Y: at the back), and fat in units of the patient's fat, at LEVELS."""
POWER = 2.35
"""Of the superellipses."""
SKIN_MM = 2.0


@dataclass(frozen=True)
class Outline:
    """Half-widths of wall and cavity, and fat about them, along the body: the tables above unless a patient differs.

    Attributes:
        levels: Heights at which all others are given.
        wall_x: Of the muscle wall to the sides.
        wall_y: Of the muscle wall to the back.
        wall_front: Of the muscle wall to the front.
        cavity_x: Of the cavity to the sides.
        cavity_y: Of the cavity to the back.
        cavity_front: Of the cavity to the front.
        fat_x: Fat at the sides, in units of the patient's fat.
        fat_front: In front.
        fat_back: At the back.
    """

    levels: tuple[float, ...] = LEVELS
    wall_x: tuple[float, ...] = WALL_X
    wall_y: tuple[float, ...] = WALL_Y
    wall_front: tuple[float, ...] = WALL_FRONT
    cavity_x: tuple[float, ...] = CAVITY_X
    cavity_y: tuple[float, ...] = CAVITY_Y
    cavity_front: tuple[float, ...] = CAVITY_FRONT
    fat_x: tuple[float, ...] = FAT_X
    fat_front: tuple[float, ...] = FAT_FRONT
    fat_back: tuple[float, ...] = FAT_BACK


@dataclass(frozen=True)
class Pit:
    """Where the heart lies in the diaphragm.

    Attributes:
        x: Its middle, to the left.
        y: Its middle, to the back.
        wide_x: How far it reaches to the sides.
        wide_y: To the front and the back.
    """

    x: float = 22.0
    y: float = -30.0
    wide_x: float = 48.0
    wide_y: float = 45.0


@dataclass(frozen=True, eq=False)
class Frame:
    """What shapes the trunk.

    Attributes:
        fat_mm: Subcutaneous fat at the waist.
        waist: Factor on the wall's width.
        depth: Factor on the wall's depth.
        dome_right_mm: Height of the right half of the diaphragm.
        dome_left_mm: Height of the left half.
        coarse: Unevenness over decimetres.
        fine: Unevenness over centimetres.
        heart: The heart.
        outline: Its half-widths along the body.
        chambers: What is blood in the heart; none for a heart of one tissue.
        dome: Height of the diaphragm's rim beyond the usual, its fall to the back, how steeply it rises at the rim, and
            how deep the heart lies in it.
        belly: Factor on how far bowel and stomach lie in front.
        arch_mm: Height of the aortic arch; None for an aorta that runs straight up.
        pit: Where the heart lies in the diaphragm.
        diaphragm_mm: Thickness of the diaphragm, measured upwards.
    """

    fat_mm: float
    waist: float
    depth: float
    dome_right_mm: float
    dome_left_mm: float
    coarse: Noise
    fine: Noise
    heart: Blob
    outline: Outline = Outline()
    chambers: tuple[tuple[Blob, Tissue], ...] = ()
    dome: tuple[float, float, float, float] = (0.0, 0.30, 1.0, 0.0)
    belly: float = 1.0
    arch_mm: float | None = None
    pit: Pit = Pit()
    diaphragm_mm: float = 3.0

    def half_width_mm(self) -> float:
        """Return the body's greatest half-width."""
        return (
            max(w * self.waist + f * self.fat_mm for w, f in zip(self.outline.wall_x, self.outline.fat_x, strict=True))
            + 6
        )

    def depth_mm(self) -> tuple[float, float]:
        """Return how far the body reaches to the front and back (both positive)."""
        front = max(
            w * self.depth + f * self.fat_mm for w, f in zip(self._front(), self.outline.fat_front, strict=True)
        )
        back = max(
            w * self.depth + f * self.fat_mm for w, f in zip(self.outline.wall_y, self.outline.fat_back, strict=True)
        )
        return front + 4, back + 4

    def _front(self) -> tuple[float, ...]:
        # The usual field of view is drawn about the tables' depth at the back, in front too.
        return self.outline.wall_y if self.outline == Outline() else self.outline.wall_front


def draw_frame(generator: np.random.Generator) -> Frame:
    """Draw a trunk, from lean to obese."""
    right = generator.uniform(382, 408)
    coarse, fine = draw_noise(generator, 70.0), draw_noise(generator, 24.0)
    heart = ellipsoid(
        (right + generator.uniform(22, 34), -32.0, 28.0),
        (generator.uniform(36, 44), generator.uniform(42, 48), generator.uniform(50, 60)),
        noise=coarse,
        noise_mm=3.0,
    )
    return Frame(
        fat_mm=float(
            generator.choice((7.0, 13.0, 20.0, 28.0), p=(0.2, 0.35, 0.3, 0.15)) * generator.uniform(0.85, 1.15)
        ),
        waist=generator.uniform(0.96, 1.05),
        depth=generator.uniform(0.96, 1.08),
        dome_right_mm=right,
        dome_left_mm=right - generator.uniform(4, 20),
        coarse=coarse,
        fine=fine,
        heart=heart,
    )


def _squares(
    z: np.ndarray, y: np.ndarray, x: np.ndarray, half_x: np.ndarray, half_front: np.ndarray, half_back: np.ndarray
) -> np.ndarray:
    """Return |x/a|^p + |y/b|^p, 1 on the outline, where b differs between front and back."""
    along_x = (np.abs(x) / half_x[:, None, None]) ** POWER
    front = (np.abs(y) / half_front[:, None, None]) ** POWER
    back = (np.abs(y) / half_back[:, None, None]) ** POWER
    return along_x + np.where(y < 0, front, back)


def paint_trunk_(frame: Frame, canvas: Canvas) -> None:
    """Paint skin, fat, muscle wall and the empty cavity on a canvas of air."""
    grid = canvas.grid
    z, y, x = (axis.astype(np.float32) for axis in grid.axes(grid.everything))
    level = z.ravel()
    shape = frame.outline

    def _along(values: tuple[float, ...], factor: float) -> np.ndarray:
        return profile(shape.levels, values, level) * factor

    wall_x, cavity_x = _along(shape.wall_x, frame.waist), _along(shape.cavity_x, frame.waist)
    wall_y, cavity_y = _along(shape.wall_y, frame.depth), _along(shape.cavity_y, frame.depth)
    wall_front, cavity_front = _along(shape.wall_front, frame.depth), _along(shape.cavity_front, frame.depth)
    fat = [_along(values, frame.fat_mm) + 2 for values in (shape.fat_x, shape.fat_front, shape.fat_back)]
    uneven = frame.coarse(z, y, x)
    body = _squares(z, y, x, wall_x + fat[0], wall_front + fat[1], wall_y + fat[2]) + 0.03 * uneven
    natal = 0.25 * np.exp(-((x / 9) ** 2)) * np.clip((y - 70) / 40, 0, 1) * np.clip((70 - z) / 60, 0, 1)
    body += natal.astype(np.float32)
    skin = 1 - SKIN_MM * POWER / (wall_x + fat[0]).mean()
    inside = body < 1
    uneven += 0.8 * frame.fine(z, y, x)
    wall = _squares(z, y, x, wall_x, wall_front, wall_y) + 0.035 * uneven
    cavity = _squares(z, y, x, cavity_x, cavity_front, cavity_y) - 0.03 * uneven
    tissue, label = canvas.tissue, canvas.label
    tissue[inside] = Tissue.SUBCUTANEOUS_FAT
    label[inside] = VALUE["fat"]
    rim = inside & (body > skin)
    tissue[rim] = Tissue.SKIN
    label[rim] = VALUE["skin"]
    muscle = inside & (wall < 1) & (body < skin) & (cavity >= 1)
    # Seams of fat part the layers of the abdominal wall; about the hips they run between muscles in any direction.
    layers = (np.abs((wall + 0.04 * uneven) % 0.24 - 0.12) < 0.012) & (wall > 0.5) & (cavity > 1.15)
    between = (np.abs(np.abs(uneven - 0.1) - 0.5) < 0.045) & (cavity > 1.1)
    muscle &= ~np.where(z > 135, layers, between)
    tissue[muscle] = Tissue.MUSCLE
    label[muscle] = VALUE["muscle"]
    free = inside & (cavity < 1)
    tissue[free] = Tissue.FREE
    label[free] = VALUE["fat"]


def _diaphragm(frame: Frame, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the height of the diaphragm at each y, x."""
    here = frame.outline.levels.index(400.0)
    half_x, half_y = frame.outline.cavity_x[here] * frame.waist, frame.outline.cavity_y[here] * frame.depth
    radius = np.clip((x / half_x) ** 2 + (y / half_y) ** 2, 0, 1)
    side = 1 / (1 + np.exp(-x / 12))
    top = frame.dome_right_mm * (1 - side) + frame.dome_left_mm * side - 9 * np.exp(-((x / 28) ** 2))
    lift, fall, steep, dip = frame.dome
    rim = 300 + lift - fall * y
    height = rim + (top - rim) * np.sqrt(1 - (radius if steep == 1 else radius**steep))
    pit = frame.pit
    deep = np.exp(-(((x - pit.x) / pit.wide_x) ** 2) - ((y - pit.y) / pit.wide_y) ** 2)
    return height - dip * deep if dip else height


def paint_chest_(frame: Frame, canvas: Canvas) -> None:
    """Paint diaphragm, lungs, mediastinum and heart into the upper cavity."""
    grid = canvas.grid
    box = grid.box(np.array((240.0, -400, -400)), np.array((1e4, 400, 400)))
    if box[0].start == box[0].stop:
        return
    z, y, x = (axis.astype(np.float32) for axis in grid.axes(box))
    above = z - (_diaphragm(frame, y, x) + 3 * frame.coarse(z, y, x))
    free = canvas.tissue[box] == Tissue.FREE
    canvas.paint_(box, free & (above > -frame.diaphragm_mm), Tissue.MUSCLE, "muscle")
    chest = free & (above > 0)
    middle = (np.abs(x - 4) < 26 - 0.10 * np.abs(y)) & (y > -85)
    canvas.paint_(box, chest & ~middle, Tissue.LUNG, "lung")
    canvas.tissue[box][chest & middle] = Tissue.FAT
    canvas.label[box][chest & middle] = VALUE["fat"]
    heart_box, field = evaluate(frame.heart, grid, reach_mm=6.0)
    heights = np.broadcast_to(_diaphragm(frame, *grid.axes(heart_box)[1:]), field.shape)
    within = np.isin(canvas.tissue[heart_box], (Tissue.LUNG, Tissue.FAT)) & (grid.axes(heart_box)[0] > heights + 1)
    canvas.paint_(heart_box, within & (field > -4), Tissue.FAT, "fat")
    canvas.paint_(heart_box, within & (field > 0), Tissue.HEART, "heart")
    for chamber, tissue in frame.chambers:
        box, depth = evaluate(chamber, grid, reach_mm=0.0)
        canvas.tissue[box][(depth > 0) & (canvas.label[box] == VALUE["heart"])] = tissue
