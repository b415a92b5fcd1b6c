"""How one patient's trunk departs from the average: fat, muscles, breathing, heart, arms, posture.

The trunk itself is in frame.py; what lies above the domes, and fluid where none should be, is in chest.py.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from viscera.synthesis.anatomy.frame import Frame
from viscera.synthesis.canvas import Canvas, Tissue
from viscera.synthesis.shapes import Blob, Grid, draw_noise, ellipsoid, evaluate, rotation_about, spline

ARMS_FRACTION = 0.2
TURNED_FRACTION = 0.15
"""Share of scans with the arms beside the body, and of patients who lie clearly turned."""


def draw_fatness(generator: np.random.Generator, frame: Frame) -> Frame:
    """Draw fat beneath the skin, fat in the cavity, and muscles, each on its own."""
    fat_mm = float(np.exp(generator.normal(np.log(15), 0.65)).clip(2.5, 60))
    # From -1 (organs on the spine, belly hollow) to 1 (belly round with fat); skin and cavity go together a little.
    visceral = float(np.clip(0.45 * np.log(fat_mm / 15) - 0.25 + generator.normal(0, 0.5), -1, 1))
    front = 1 + (0.38 * visceral if visceral > 0 else 0.22 * visceral)
    side = 1 + (0.10 * visceral if visceral > 0 else 0.06 * visceral)
    muscle = generator.uniform(0.65, 1.25)
    low_fat = generator.uniform(0.7, 1.5)
    shape = frame.outline
    # The belly changes most, the rib cage and the pelvis less.
    belly = [float(np.exp(-(((level - 220) / 120) ** 2))) for level in shape.levels]

    def _grow(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
        return tuple(
            value * (1 + (factor - 1) * (0.25 + 0.75 * here)) for value, here in zip(values, belly, strict=True)
        )

    def _wall(wall: tuple[float, ...], old: tuple[float, ...], new: tuple[float, ...]) -> tuple[float, ...]:
        # Beside the pelvis the wall is bone and gluteal muscle: only the belly's gets thinner.
        return tuple(
            here + (out - before) * (1 + (muscle - 1) * (0.3 + 0.7 * at))
            for out, before, here, at in zip(wall, old, new, belly, strict=True)
        )

    cavity_x, cavity_y = _grow(shape.cavity_x, side), _grow(shape.cavity_y, 1 + 0.3 * (side - 1))
    cavity_front = _grow(shape.cavity_front, front)
    outline = replace(
        shape,
        cavity_x=cavity_x,
        cavity_y=cavity_y,
        cavity_front=cavity_front,
        wall_x=_wall(shape.wall_x, shape.cavity_x, cavity_x),
        wall_y=_wall(shape.wall_y, shape.cavity_y, cavity_y),
        wall_front=_wall(shape.wall_front, shape.cavity_front, cavity_front),
        fat_front=tuple(f * (1 + (low_fat - 1) * here) for f, here in zip(shape.fat_front, belly, strict=True)),
    )
    return replace(frame, fat_mm=fat_mm, outline=outline, belly=max(0.85, 1 + 0.9 * (front - 1)))


def draw_breathing(generator: np.random.Generator, frame: Frame) -> tuple[Frame, float]:
    """Draw how high the domes stand, and give by how many mm the upper organs follow."""
    shift = float(generator.normal(0, 16))
    flat = generator.uniform(-14, 10)
    rim, fall, steep = generator.uniform(-15, 25), generator.uniform(0.35, 0.75), generator.uniform(1.0, 2.2)
    lifted = replace(
        frame,
        dome_right_mm=frame.dome_right_mm + shift,
        dome_left_mm=frame.dome_left_mm + shift + flat,
        dome=(rim + 0.3 * shift, fall, steep, frame.dome[3]),
        heart=moved(frame.heart, 0.8 * shift),
        chambers=tuple((moved(blob, 0.8 * shift), tissue) for blob, tissue in frame.chambers),
    )
    return lifted, 0.7 * shift


def moved(blob: Blob, up_mm: float) -> Blob:
    """Return a shape moved upwards."""
    lift = np.array((up_mm, 0.0, 0.0))
    return Blob(blob.low + lift, blob.high + lift, lambda z, y, x: blob.function(z - up_mm, y, x))


def draw_heart(generator: np.random.Generator, frame: Frame) -> Frame:
    """Draw a heart with four chambers whose lower surface lies on the domes.

    Two ventricles and two atria of blood lie within a wall of muscle; the fat about it is frame.py's.
    """
    size = generator.uniform(0.85, 1.25)
    centre = np.array(
        (
            frame.dome_right_mm + generator.uniform(-8, 28),
            -30 + generator.normal(0, 5),
            22 + generator.normal(0, 7),
        )
    )
    turn = rotation_about(0, generator.uniform(0.25, 0.8)) @ rotation_about(1, generator.uniform(-0.35, 0.25))
    semi = np.array((generator.uniform(38, 46), generator.uniform(40, 47), generator.uniform(52, 64))) * size
    wall = generator.uniform(0.8, 1.3)

    def _chamber(
        place: tuple[float, float, float], axes: tuple[float, float, float], tissue: Tissue
    ) -> tuple[Blob, Tissue]:
        at = centre + turn.T @ (np.array(place) * size)
        shape = ellipsoid(tuple(at), tuple(np.array(axes) * size), rotation=turn, noise=frame.fine, noise_mm=1.5)
        return shape, tissue

    thick = 9 * wall
    chambers = (
        _chamber((-4, -22, -2), (27, 13, 34), Tissue.BLOOD_RIGHT),
        _chamber((-2, 8, 24), (32 - thick, 29 - thick, 40 - thick), Tissue.BLOOD_LEFT),
        _chamber((8, 2, -36), (27, 22, 18), Tissue.BLOOD_RIGHT),
        _chamber((20, 30, -6), (19, 15, 28), Tissue.BLOOD_LEFT),
    )
    heart = ellipsoid(tuple(centre), tuple(semi), rotation=turn, noise=frame.coarse, noise_mm=3.0)
    return replace(frame, heart=heart, chambers=chambers, dome=(*frame.dome[:3], generator.uniform(6, 28)))


@dataclass(frozen=True)
class Arms:
    """Arms beside the body, in standard mm.

    Attributes:
        radius_mm: Of the upper arm.
        bend_mm: Height of the elbow.
        depth_mm: How far to the back they lie.
        gap_mm: Between them and the body.
        shown: Share of their breadth that a field of view fitted to the patient takes in.
    """

    radius_mm: float
    bend_mm: float
    depth_mm: float
    gap_mm: float
    shown: float

    @property
    def breadth_mm(self) -> float:
        """How much wider on each side a field of view is for them."""
        return self.shown * (self.gap_mm + 1.75 * self.radius_mm)


def draw_arms(generator: np.random.Generator) -> Arms | None:
    """Draw arms, in ARMS_FRACTION of patients."""
    has_arms, radius = generator.random() < ARMS_FRACTION, generator.uniform(34, 48)
    bend, depth, gap = generator.uniform(250, 330), generator.uniform(5, 50), generator.uniform(0, 22)
    shown = float(np.clip(generator.uniform(-0.2, 1.5), 0, 1))
    return Arms(radius, bend, depth, gap, shown) if has_arms else None


def paint_arms_(canvas: Canvas, arms: Arms, *, half_width_mm: float, fat_mm: float) -> None:
    """Paint arms beside the body; their bones have no label.

    Args:
        canvas: A painted patient; what is air may become arm.
        arms: What they are like.
        half_width_mm: Of the body, in standard mm.
        fat_mm: Its fat beneath the skin.
    """
    radius, bend, depth = arms.radius_mm, arms.bend_mm, arms.depth_mm
    out, thick_mm = half_width_mm + arms.gap_mm + 0.75 * radius, min(0.4 * fat_mm, 0.4 * radius)
    for side in (-1, 1):
        upper = np.array([(620, 30, 150), (540, depth, out), (bend + 20, depth, out + 10), (bend - 30, depth, out + 6)])
        lower = np.array([(bend, depth, out + 8), (bend - 110, depth - 14, out), (bend - 230, depth - 20, out - 6)])
        limb = spline(
            np.concatenate([upper, lower[1:]]) * (1, 1, side),
            radius * np.array((1.2, 1.05, 0.95, 0.9, 0.75, 0.6)),
            step_mm=6,
        )
        box, field = evaluate(limb, canvas.grid, reach_mm=0.0)
        if not field.size:
            continue
        free = canvas.tissue[box] == Tissue.AIR
        canvas.paint_(box, free & (field > 0), Tissue.SKIN, "skin")
        canvas.paint_(box, free & (field > 2), Tissue.SUBCUTANEOUS_FAT, "fat")
        canvas.paint_(box, free & (field > 2 + thick_mm), Tissue.MUSCLE, "muscle")
        bone = replace(limb, radii_mm=np.full(len(limb.radii_mm), 11.0))
        box, field = evaluate(bone, canvas.grid, reach_mm=0.0)
        within = canvas.tissue[box] == Tissue.MUSCLE
        for least, tissue in ((0.0, Tissue.CORTEX), (4.0, Tissue.MARROW)):
            canvas.tissue[box][within & (field > least)] = tissue
            canvas.label[box][within & (field > least)] = 0


def change_posture_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Turn and bend the painted patient, and deform it smoothly, by moving voxels to the nearest place.

    Nothing moves by more than about 12 mm beyond the turn, and volumes stay within some per cent.
    """
    grid = canvas.grid
    turned = generator.random() < TURNED_FRACTION
    angle = np.radians(generator.normal(0, 9 if turned else 2.5))
    twist = np.radians(generator.normal(0, 2.0)) / 200
    bends = generator.normal(0, (7, 4)), generator.uniform(0.6, 1.4, 2), generator.uniform(0, 2 * np.pi, 2)
    wide, narrow = [draw_noise(generator, 95.0) for _ in range(3)], [draw_noise(generator, 38.0) for _ in range(3)]
    amounts_mm = generator.uniform(1, 5), generator.uniform(0.4, 1.6)
    axes = tuple(axis.astype(np.float32) for axis in grid.axes(grid.everything))
    z, y, x = axes
    about = (angle + twist * (z - 250)).astype(np.float32)
    cos, sin = np.cos(about), np.sin(about)
    sway, nod = (
        np.float32(amount) * np.sin(np.float32(2 * np.pi / 420) * np.float32(rate) * z + np.float32(start))
        for amount, rate, start in zip(*bends, strict=True)
    )
    middle = np.float32(20)  # the turn is about the spine, more or less
    moves = [
        np.float32(amounts_mm[0]) * first(*axes) + np.float32(amounts_mm[1]) * second(*axes)
        for first, second in zip(wide, narrow, strict=True)
    ]
    moves[0] += z
    moves[1] += cos * (y - middle) - sin * x + middle + nod
    moves[2] += sin * (y - middle) + cos * x + sway
    flat = _flat_index(grid, moves)
    canvas.tissue[...] = canvas.tissue.ravel()[flat]
    canvas.label[...] = canvas.label.ravel()[flat]


def _flat_index(grid: Grid, places: list[Float[np.ndarray, "z y x"]]) -> np.ndarray:
    """Return the nearest voxel of each place, as an index into the flat canvas."""
    flat = np.zeros(grid.shape, np.int32)
    for axis, place in zip((grid.z, grid.y, grid.x), places, strict=True):
        place -= axis[0]
        place *= np.float32(1 / (axis[1] - axis[0]))
        np.rint(place, out=place)
        np.clip(place, 0, len(axis) - 1, out=place)
        flat *= len(axis)
        flat += place.astype(np.int32)
    return flat
