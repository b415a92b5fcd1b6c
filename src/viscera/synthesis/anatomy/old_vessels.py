"""Arteries of the elderly: a winding and wide aorta, an aneurysm with thrombus, a stent graft, wide iliac arteries.

All of it reshapes the arteries of a painted patient, procedural or from a template; the label goes with the vessel, thrombus
and graft included. Chalk in the walls is image only and is in appearance/confusers.py.
"""

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Bool, Float

from viscera.synthesis.canvas import VALUE, Box, Canvas, Tissue
from viscera.synthesis.shapes import Noise, draw_noise, ellipsoid, evaluate

YIELDING = (Tissue.FREE, Tissue.FAT, Tissue.MUSCLE, Tissue.BOWEL_WALL, Tissue.CHYME, Tissue.FLUID, Tissue.LIVERLIKE,
            Tissue.COLLAPSED, Tissue.SMALL_BOWEL_CONTRAST, Tissue.ORAL_CONTRAST, Tissue.GAS, Tissue.LUNG)  # fmt: skip
"""What an artery that grows or moves takes the place of."""
BOWEL = ("duodenum", "small_bowel", "colon")


@dataclass(frozen=True)
class OldAorta:
    """How one patient's arteries have aged.

    Attributes:
        sway_mm: How far the aorta swings to the front and to the left (negative: right) at most.
        middle_mm: Height at which it does.
        widen_mm: By how much the aorta's radius has grown all along.
        iliac_mm: By how much the iliac arteries' radius has.
        aneurysm_mm: Radius of an aneurysm; 0 for none.
        height_mm: Its middle above the lower end of the aorta.
        length: Its half-length in its radius.
        lumen: Radius of its lumen, as a share of its own; 1 without thrombus.
        off: Where the lumen lies in it, to the back and left, as a share of the room that there is (-1 to 1).
        grafted: Whether a stent graft is in it.
    """

    sway_mm: tuple[float, float]
    middle_mm: float
    widen_mm: float
    iliac_mm: float
    aneurysm_mm: float
    height_mm: float
    length: float
    lumen: float
    off: tuple[float, float]
    grafted: bool


OLD_FRACTION = 0.5
ANEURYSM_FRACTION = 0.3
GRAFT_FRACTION = 0.3
"""Share of patients with old arteries, of these with an aneurysm, and of these with a graft."""
ANEURYSM_MM = (14.0, 36.0)
"""Its radius."""


def draw_old_aorta(generator: np.random.Generator) -> OldAorta | None:
    """Draw how arteries have aged; None in those patients in whom they have not."""
    is_old, has_aneurysm, is_grafted = generator.random(3) < (OLD_FRACTION, ANEURYSM_FRACTION, GRAFT_FRACTION)
    front, left = generator.uniform(0, 16), generator.uniform(-8, 22)
    widen, iliac = generator.exponential(1.6), generator.exponential(2.2)
    radius, middle = generator.uniform(*ANEURYSM_MM), generator.uniform(185, 260)
    height, length, lumen = generator.uniform(0.95, 1.3), generator.uniform(1.0, 1.9), generator.uniform(0.35, 1.0)
    angle, away = generator.uniform(0, 2 * np.pi), np.sqrt(generator.random())
    if not is_old:
        return None
    return OldAorta(
        sway_mm=(float(-front), float(left)),
        middle_mm=float(middle),
        widen_mm=float(min(widen, 6.0)),
        iliac_mm=float(min(iliac, 8.0)),
        aneurysm_mm=float(radius) if has_aneurysm else 0.0,
        height_mm=float(height * length * radius),
        length=float(length),
        lumen=float(lumen) if lumen < 0.9 else 1.0,
        off=(float(away * np.sin(angle)), float(away * np.cos(angle))),
        grafted=bool(is_grafted and has_aneurysm),
    )


def age_arteries_(generator: np.random.Generator, canvas: Canvas) -> OldAorta | None:
    """Reshape the arteries of a painted patient, and return how (None: not at all)."""
    plan, uneven = draw_old_aorta(generator), draw_noise(generator, 30.0)
    if plan is None:
        return None
    _sway_(canvas, plan)
    _widen_(canvas, "aorta", plan.widen_mm)
    _widen_(canvas, "iliac_artery", plan.iliac_mm)
    if plan.aneurysm_mm:
        _swell_(canvas, plan, uneven)
    return plan


def _spacing(canvas: Canvas) -> tuple[float, float, float]:
    z, y, x = (float(axis[1] - axis[0]) for axis in (canvas.grid.z, canvas.grid.y, canvas.grid.x))
    return z, y, x


def _room(canvas: Canvas, box: Box) -> Bool[np.ndarray, "z y x"]:
    """Return where arteries may grow: fat, muscle, lung and bowel, not into what they would only push away."""
    organs = np.ones(256, bool)
    organs[[VALUE[name] for name in ("stomach", "heart", "rectum")]] = False
    return np.isin(canvas.tissue[box], YIELDING) & organs[canvas.label[box]]


def _sway_(canvas: Canvas, plan: OldAorta) -> None:
    """Move the abdominal aorta sideways, slice by slice; less where something that does not yield is in the way."""
    grid, (_, step_y, step_x) = canvas.grid, _spacing(canvas)
    own = canvas.label == VALUE["aorta"]
    levels = np.flatnonzero(own.any(axis=(1, 2)) & (grid.z < 365))
    if not len(levels):
        return
    swing = np.exp(-(((grid.z[levels] - plan.middle_mm) / 42) ** 2))
    for strength in (1.0, 0.7, 0.45, 0.25):
        moves = [
            (number, round(plan.sway_mm[0] * rise / step_y), round(plan.sway_mm[1] * rise / step_x))
            for number, rise in zip(levels.tolist(), (swing * strength).tolist(), strict=True)
        ]
        blocked = False
        shifted = {}
        for number, down, left in moves:
            moved = np.roll(own[number], (down, left), axis=(0, 1))
            plane = (slice(number, number + 1), slice(None), slice(None))
            free = moved & (_room(canvas, plane)[0] | own[number])
            shifted[number] = free
            blocked |= np.count_nonzero(free) < 0.75 * np.count_nonzero(moved)
        if not blocked:
            for number, down, left in moves:
                if down or left:
                    _move_slice_(canvas, number, own[number], shifted[number])
            return


def _move_slice_(canvas: Canvas, number: int, before: Bool[np.ndarray, "y x"], after: Bool[np.ndarray, "y x"]) -> None:
    canvas.tissue[number][before], canvas.label[number][before] = Tissue.FAT, VALUE["fat"]
    canvas.tissue[number][after], canvas.label[number][after] = Tissue.ARTERY, VALUE["aorta"]


def _widen_(canvas: Canvas, organ: str, by_mm: float) -> None:
    """Let an artery grow into what yields."""
    own = canvas.label == VALUE[organ]
    places = [np.flatnonzero(own.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if by_mm <= 0.2 or not all(len(place) for place in places):
        return
    margins = [int(np.ceil(by_mm / step)) + 1 for step in _spacing(canvas)]
    z, y, x = (
        slice(max(0, int(place[0]) - margin), int(place[-1]) + margin + 1)
        for place, margin in zip(places, margins, strict=True)
    )
    box = (z, y, x)
    away = edt.edt(~own[box], anisotropy=_spacing(canvas), parallel=1)
    # The surface lies half a voxel beyond the last voxel's centre.
    grown = (away > 0) & (away <= by_mm + 0.5 * _spacing(canvas)[1]) & _room(canvas, box)
    grown &= ~np.isin(canvas.label[box], [VALUE[name] for name in BOWEL]) & (canvas.tissue[box] != Tissue.LUNG)
    canvas.paint_(box, grown, Tissue.ARTERY, organ)


def _swell_(canvas: Canvas, plan: OldAorta, uneven: Noise) -> None:
    """Paint an aneurysm of the lower aorta: wall, thrombus, lumen, and a graft in it."""
    grid, own = canvas.grid, canvas.label == VALUE["aorta"]
    levels = np.flatnonzero(own.any(axis=(1, 2)) & (grid.z < 330))
    if not len(levels) or grid.z[levels[0]] > 235:  # the lower aorta is not in the scan
        return
    middle_mm = max(float(grid.z[levels[0]]), 165.0) + plan.height_mm
    number = int(levels[np.argmin(np.abs(grid.z[levels] - middle_mm))])
    rows, columns = np.nonzero(own[number])
    size = plan.aneurysm_mm
    radius = float(np.sqrt(len(rows) * _spacing(canvas)[1] * _spacing(canvas)[2] / np.pi))
    # The spine is in its back: it grows to the front, and rather to the left.
    centre = (
        middle_mm,
        float(grid.y[rows].mean()) - 0.9 * max(0.0, size - radius),
        float(grid.x[columns].mean()) + 0.25 * max(0.0, size - radius),
    )
    sac = ellipsoid(centre, (plan.length * size, size, size), noise=uneven, noise_mm=1.5)
    box, depth = evaluate(sac, grid, reach_mm=0.0)
    if not depth.size:
        return
    inside = (depth > 0) & (_room(canvas, box) | own[box])
    canvas.paint_(box, inside, Tissue.THROMBUS, "aorta")
    z, y, x = grid.axes(box)
    bulge = np.sqrt(np.clip(1 - ((z - middle_mm) / (plan.length * size)) ** 2, 0, 1))
    lumen_mm = np.maximum(plan.lumen * (size - 1.5) * bulge, min(radius, 0.9 * size))
    room_mm = np.maximum(size * bulge - lumen_mm - 1.5, 0)
    along = np.sqrt((y - centre[1] - plan.off[0] * room_mm) ** 2 + (x - centre[2] - plan.off[1] * room_mm) ** 2)
    blood = inside & ((along < lumen_mm) if plan.lumen < 1 else (depth > 1.5))
    canvas.tissue[box][blood] = Tissue.ARTERY
    if plan.grafted:
        _paint_graft_(canvas, box, inside, centre=centre, plan=plan)


def _paint_graft_(
    canvas: Canvas,
    box: Box,
    inside: Bool[np.ndarray, "z y x"],
    *,
    centre: tuple[float, float, float],
    plan: OldAorta,
) -> None:
    """Paint two limbs of wire with blood in them, and let what lies around them be thrombus."""
    z, y, x = canvas.grid.axes(box)
    blood, wire = np.zeros(inside.shape, bool), np.zeros(inside.shape, bool)
    step = max(_spacing(canvas)[1:])
    for side in (-1, 1):
        away = np.sqrt((y - centre[1]) ** 2 + (x - centre[2] - 7.5 * side) ** 2)
        blood |= away < 6.5
        angle = np.arctan2(y - centre[1], x - centre[2] - 7.5 * side)
        zigzag: Float[np.ndarray, "z y x"] = np.cos(2 * np.pi * z / 14 + 4 * angle)
        wire |= (np.abs(away - 6.5) < max(0.9, 0.6 * step)) & (zigzag > 0.1)
    canvas.tissue[box][inside] = Tissue.THROMBUS
    canvas.tissue[box][inside & blood] = Tissue.ARTERY
    canvas.tissue[box][inside & wire] = Tissue.STENT
