"""Stomach, duodenum, colon, rectum and small bowel: tubes with a wall and contents.

Gas rises: within one stretch of bowel everything in front of a level is gas. The small bowel is a walk through what
space is left, found once on the coarse canvas of synthesis/canvas.py.
"""

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Float

from viscera.synthesis.anatomy.organs import Body
from viscera.synthesis.canvas import VALUE, Box, Canvas, Detail, Field, Organ, Tissue
from viscera.synthesis.shapes import Tube, ball_boxes, jitter, spline

FULL_OF_GAS, NO_GAS = 1e3, -1e3
ANTRUM = 0.62
"""Of the stomach's length, where its lower part begins."""


@dataclass(frozen=True)
class Filling:
    """What a stretch of bowel holds.

    Attributes:
        content: The tissue of what is not gas.
        gas: Height of the gas level in front of (positive: behind) the tube's middle, in radii; NO_GAS for none.
    """

    content: Tissue
    gas: float


def _fill(tube: Tube, wall_mm: float, fillings: list[Filling], name: str) -> Detail:
    """Return what paints the contents of a tube: one filling per ball."""

    def _paint(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        if not field.size:
            return
        limits = ball_boxes(tube, canvas.grid, 0.0)
        tissue, label, own = canvas.tissue, canvas.label, VALUE[name]
        z, y, x = canvas.grid.z, canvas.grid.y, canvas.grid.x
        for (z0, z1, y0, y1, x0, x1), point, radius, filling in zip(
            limits.tolist(), tube.points.tolist(), tube.radii_mm.tolist(), fillings, strict=True
        ):
            lumen = radius - wall_mm
            if lumen <= 0.5 or z0 >= z1 or y0 >= y1 or x0 >= x1:
                continue
            place = (slice(z0, z1), slice(y0, y1), slice(x0, x1))
            plane = ((y[y0:y1] - point[1]) ** 2)[:, None] + (x[x0:x1] - point[2]) ** 2
            within = ((z[z0:z1] - point[0]) ** 2)[:, None, None] + plane < lumen * lumen
            within &= label[place] == own
            content = np.where(y[y0:y1] - point[1] < filling.gas * radius, Tissue.GAS, filling.content)
            np.copyto(tissue[place], content.astype(np.uint8)[None, :, None], where=within)

    return _paint


def _tube_organ(name: str, tissue: Tissue, tube: Tube, detail: Detail, volume_ml: float | None = None) -> Organ:
    return Organ(name, tissue, tube, volume_ml, 0.6, detail)


def draw_stomach(generator: np.random.Generator, body: Body) -> list[Organ]:
    """Draw stomach and duodenum."""
    lift = body.lift_mm + generator.normal(0, 4)
    sag = generator.uniform(0, 28)
    full = generator.uniform(0.78, 1.15)
    plan, meals, confluence = body.plan.stomach, body.plan.meals, body.plan.confluence
    course = np.array([
        (360, 22, 66), (345, 12, 68), (322, -8, 70), (298, -34, 64), (278 - sag, -52, 44), (268 - sag, -58, 16),
        (268 - 0.6 * sag, -50, -12), (272, -40, -30),
    ])  # fmt: skip
    course = jitter(generator, course + np.array((lift, 0, 0)), (2, 3, 3))
    # A shift of the stomach fades towards the duodenum, which stays where it is.
    course = course + np.array(plan.shift_mm) * np.linspace(1, 0, len(course))[:, None]
    course = _in_belly(course, body)
    radii = np.array((30.0, 37, 36, 31, 27, 22, 15, 9)) * full * plan.volume**0.4
    tube = spline(course, radii, step_mm=6)
    kind = generator.choice(5, p=(0.3, 0.25, 0.2, 0.15, 0.1))
    content = (Tissue.FOOD, Tissue.FLUID, Tissue.FOOD, Tissue.ORAL_CONTRAST, Tissue.FLUID)[kind]
    content = meals.stomach or content
    level = generator.uniform(-60, -30)
    level = level if meals.stomach_gas_mm is None else meals.stomach_gas_mm
    fillings = [
        Filling(content, (level - point[1]) / radius)
        for point, radius in zip(tube.points.tolist(), tube.radii_mm.tolist(), strict=True)
    ]
    if confluence.antrum is not None:
        start = round(ANTRUM * len(fillings))
        fillings[start:] = [Filling(confluence.antrum, NO_GAS)] * (len(fillings) - start)
    stomach = _tube_organ(
        "stomach", Tissue.STOMACH_WALL, tube, _fill(tube, generator.uniform(4, 6), fillings, "stomach"),
        (180 + 320 * (full - 0.78) / 0.37 * generator.uniform(0.8, 1.1)) * plan.volume,
    )  # fmt: skip
    loop = np.array([
        course[-1] + np.array((0, 4, -8)),
        (266 + lift, -28, -50), (248 + lift, -6, -57), (222 + lift, 2, -54), (208 + lift, 4, -36),
        (206 + lift, -4, -8), (214 + lift, -10, 18), (232 + lift, -18, 32),
    ])  # fmt: skip
    loop = jitter(generator, loop, (2, 2, 2))
    radii = np.array((10.0, 12.5, 13, 12.5, 11.5, 10.5, 10.5, 10)) * confluence.duodenum
    tube = spline(loop, radii, step_mm=4)
    contents = meals.small_bowel or (Tissue.CHYME, Tissue.CHYME, Tissue.FLUID)
    contents = contents if confluence.duodenal is None else (confluence.duodenal,) * len(contents)
    gas = _stretches(generator, len(tube.points), 14, contents, gas_fraction=0.25)
    fill, volume = _fill(tube, 3.0, gas, "duodenum"), generator.uniform(50, 85) * confluence.duodenum**2
    return [_tube_organ("duodenum", Tissue.BOWEL_WALL, tube, fill, volume), stomach]


def _in_belly(course: np.ndarray, body: Body) -> np.ndarray:
    """Move a course to the front with a belly that is rounder than usual."""
    return course * np.where((np.arange(3) == 1) & (course < 0), body.frame.belly, 1.0)


def _stretches(
    generator: np.random.Generator, count: int, length: int, contents: tuple[Tissue, ...], *, gas_fraction: float
) -> list[Filling]:
    """Draw fillings for ``count`` balls, alike over stretches of about ``length``."""
    fillings: list[Filling] = []
    while len(fillings) < count:
        content = contents[generator.integers(len(contents))]
        draw = generator.random()
        level = float(generator.uniform(-0.6, 0.3)) if draw < gas_fraction else NO_GAS
        level = FULL_OF_GAS if draw < 0.4 * gas_fraction else level
        fillings += [Filling(content, level)] * max(2, round(length * generator.uniform(0.5, 1.5)))
    return fillings[:count]


def draw_colon(generator: np.random.Generator, body: Body) -> list[Organ]:
    """Draw rectum and colon, from the anus to the caecum."""
    waist, depth, meals = body.frame.waist, body.frame.depth, body.plan.meals
    lift = body.lift_mm + generator.normal(0, 5)
    rectum = np.array([(-32, 40, 0), (-12, 48, 0), (12, 56, 3), (40, 58, -4), (66, 50, 4), (88, 36, 0)])
    rectum = jitter(generator, rectum, (1, 2, 2.5))
    radii = np.array((10.0, 15, 18, 18, 16, 14)) * generator.uniform(0.9, 1.25)
    tube = spline(rectum, radii, step_mm=4)
    contents = meals.colon or (Tissue.STOOL, Tissue.STOOL, Tissue.FLUID)
    filling = _stretches(generator, len(tube.points), 18, contents, gas_fraction=0.45)
    organs = [_tube_organ("rectum", Tissue.COLON_WALL, tube, _fill(tube, 4.0, filling, "rectum"))]
    bend = generator.uniform(-30, 30)
    sag = generator.uniform(0, 45)
    course = np.array([
        (92, 30, 2), (108, 10, -10 + bend), (98, -18, -22 + bend), (88, -30, 10 + bend), (102, -12, 40), (118, 8, 68),
        (140, 12, 94), (170, 24, 102), (205, 32, 106), (240, 32, 108), (272, 24, 108), (292, 0, 104), (288, -30, 92),
        (266 - 0.5 * sag, -58, 66), (246 - sag, -68, 30), (238 - sag, -70, -5), (236 - 0.8 * sag, -64, -42),
        (238 - 0.3 * sag, -44, -74), (236, -16, -96), (224, 12, -104), (200, 24, -104), (170, 20, -102), (140, 10, -94),
        (112, 0, -82),
    ])  # fmt: skip
    course[11:18, 0] += 0.6 * lift
    course[9:14, 0] += meals.flexure_mm * np.array((0.3, 0.8, 1.0, 1.0, 0.5))
    course[13:18, 0] -= meals.transverse_mm * np.array((0.5, 1.0, 1.0, 1.0, 0.5))
    course = _in_belly(jitter(generator, course, (4, 4, 4)) * (1, depth, waist), body)
    width = generator.uniform(0.85, 1.15)
    radii = (
        np.array((13, 13, 14, 14, 13, 13, 13, 14, 15, 15, 16, 18, 18, 19, 19, 20, 20, 21, 22, 24, 26, 27, 28, 24.0))
        * width
        * meals.colon_width
    )
    tube = spline(course, radii * generator.uniform(0.88, 1.12, len(radii)), step_mm=4)
    tube = Tube(tube.points, tube.radii_mm * _haustra(generator, len(tube.points)))
    kinds = (Tissue.STOOL, Tissue.STOOL, Tissue.STOOL, Tissue.FLUID if generator.random() < 0.3 else Tissue.STOOL)
    gas_fraction = generator.uniform(0.4, 0.85)
    gas_fraction = gas_fraction if meals.colon_gas is None else meals.colon_gas
    filling = _stretches(generator, len(tube.points), 16, meals.colon or kinds, gas_fraction=gas_fraction)
    organs.append(
        _tube_organ("colon", Tissue.COLON_WALL, tube, _fill(tube, generator.uniform(2.2, 3.2), filling, "colon"))
    )
    return organs


def _haustra(generator: np.random.Generator, count: int) -> Float[np.ndarray, "count"]:
    """Return the factor on the radius that makes pouches every 25 mm or so (balls are 4 mm apart)."""
    phase = np.cumsum(generator.uniform(0.6, 1.4, count)) * 2 * np.pi * 4 / 27
    return 1.02 - 0.16 * np.clip(np.cos(phase), 0, 1) ** 2


def draw_small_bowel(generator: np.random.Generator, body: Body, canvas: Canvas) -> list[Organ]:
    """Walk through the free space of the coarse canvas.

    Args:
        generator: Source of randomness.
        body: The patient.
        canvas: Coarse, with all other organs painted.
    """
    grid = canvas.grid
    free = canvas.tissue == Tissue.FREE
    spacing = tuple(float(axis[1] - axis[0]) for axis in (grid.z, grid.y, grid.x))
    z, y, x = grid.axes(grid.everything)
    meals, confluence = body.plan.meals, body.plan.confluence
    higher = np.where(x > 0, meals.small_bowel_top_mm, confluence.right_mm)
    top = 232 + body.lift_mm + generator.uniform(-10, 10) + higher
    region = free & (z > 48) & (z < top) & (y < 26) & (np.abs(x) < 112)
    clearance = edt.edt(region, anisotropy=spacing, black_border=True)
    radius = generator.uniform(10.5, 13.0) * meals.small_bowel_width
    points = _walk(generator, clearance, (grid.z, grid.y, grid.x), radius, longest=meals.small_bowel_steps)
    if len(points) < 4:
        return []
    radii = radius * np.clip(1 + 0.16 * _smooth(generator.standard_normal(len(points)), 4), 0.65, 1.35)
    tube = spline(points, radii, step_mm=4)
    contrast = generator.random() < 0.25
    contents = (Tissue.CHYME, Tissue.CHYME, Tissue.FLUID, Tissue.ORAL_CONTRAST if contrast else Tissue.CHYME)
    contents, gas_fraction = confluence.serve(meals.small_bowel or contents), generator.uniform(0.03, 0.16)
    gas_fraction = gas_fraction if meals.small_bowel_gas is None else meals.small_bowel_gas
    filling = _stretches(generator, len(tube.points), 22, contents, gas_fraction=gas_fraction)
    detail = _fill(tube, generator.uniform(2.4, 3.2), filling, "small_bowel")
    return [_tube_organ("small_bowel", Tissue.BOWEL_WALL, tube, detail)]


def draw_loop(
    generator: np.random.Generator,
    clearance: Float[np.ndarray, "z y x"],
    axes: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    name: str,
    radius_mm: float,
) -> list[Organ]:
    """Walk through room that an operation left: one stretch of bowel, or none where there is no room for it.

    Args:
        generator: Source of randomness.
        clearance: Distance to where the room ends, in mm.
        axes: Places of its voxels.
        name: "colon" or "small_bowel".
        radius_mm: Of the bowel.
    """
    points = _walk(generator, clearance, axes, radius_mm, longest=24)
    wall = Tissue.COLON_WALL if name == "colon" else Tissue.BOWEL_WALL
    contents = (Tissue.STOOL, Tissue.STOOL, Tissue.FLUID) if name == "colon" else (Tissue.CHYME, Tissue.FLUID)
    if len(points) < 3:
        return []
    tube = spline(points, radius_mm * generator.uniform(0.8, 1.15, len(points)), step_mm=4)
    filling = _stretches(generator, len(tube.points), 14, contents, gas_fraction=0.3)
    return [_tube_organ(name, wall, tube, _fill(tube, 2.6, filling, name))]


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    kernel = np.hanning(2 * width + 1)
    return np.convolve(values, kernel / np.sqrt((kernel**2).sum()), mode="same")


def _walk(
    generator: np.random.Generator,
    clearance: np.ndarray,
    axes: tuple[np.ndarray, np.ndarray, np.ndarray],
    radius: float,
    *,
    longest: int,
) -> Float[np.ndarray, "n 3"]:
    """Walk in steps of a radius, turning away from walls and from where the walk has been."""
    roomy = np.argwhere(clearance > radius * 0.9)
    if len(roomy) == 0:
        return np.zeros((0, 3))
    starts = np.array([axis[0] for axis in axes])
    steps = np.array([axis[1] - axis[0] for axis in axes])
    highest = np.array(clearance.shape) - 1
    here = starts + steps * roomy[generator.integers(len(roomy))]
    heading = np.array((0.0, 0.0, 1.0))
    path = [here]
    stride = 1.1 * radius
    for _ in range(longest):
        turns = heading + 0.95 * generator.standard_normal((20, 3))
        turns /= np.linalg.norm(turns, axis=1, keepdims=True)
        ahead = here + stride * turns
        index = np.clip(np.rint((ahead - starts) / steps).astype(int), 0, highest)
        room = clearance[index[:, 0], index[:, 1], index[:, 2]]
        old = np.array(path[:-2]) if len(path) > 2 else np.full((1, 3), 1e4)
        nearest = np.sqrt(((ahead[:, None] - old[None]) ** 2).sum(axis=2).min(axis=1))
        score = np.minimum(room, radius) * 1.5 + np.minimum(nearest, 2.05 * radius) + 1.0 * generator.random(20)
        best = int(score.argmax())
        if room[best] < 0.35 * radius or nearest[best] < 1.0 * radius:
            # Boxed in: go on elsewhere; the way there is bowel too only if it is short.
            jumps = starts + steps * roomy[generator.integers(len(roomy), size=40)]
            gap = np.sqrt(((jumps[:, None] - np.array(path)[None]) ** 2).sum(axis=2).min(axis=1))
            away = np.linalg.norm(jumps - here, axis=1)
            best = int((np.minimum(gap, 2 * radius) - 0.06 * away).argmax())
            if gap[best] < 1.2 * radius:
                break
            here = jumps[best]
        else:
            heading, here = turns[best], ahead[best]
        path.append(here)
    return np.array(path)
