"""Solid organs, vessels and bladder of a synthetic patient, in the order in which they claim space.

Positions are control points in standard mm, drawn around an average patient; volumes are drawn in adults' range and
settled by synthesis/canvas.py. The stomach and the bowel are in bowel.py.
"""

from dataclasses import dataclass

import numpy as np

from viscera.synthesis.anatomy.caudate import part_caudate
from viscera.synthesis.anatomy.frame import POWER, Frame
from viscera.synthesis.anatomy.kidneys import draw_kidneys
from viscera.synthesis.anatomy.plans import AVERAGE, Plan
from viscera.synthesis.anatomy.veins import draw_mesenteric, flat_tube
from viscera.synthesis.canvas import Canvas, Organ, Tissue
from viscera.synthesis.shapes import (
    Blob,
    Box,
    Field,
    ellipsoid,
    evaluate,
    jitter,
    profile,
    rotation_about,
    smooth_minimum,
    spline,
)


@dataclass(frozen=True, eq=False)
class Body:
    """What the organs of one patient have in common.

    Attributes:
        frame: The trunk.
        female: Uterus rather than prostate.
        lift_mm: How much higher or lower the upper organs lie than on average.
        plan: How its organs depart from the average.
    """

    frame: Frame
    female: bool
    lift_mm: float
    plan: Plan = AVERAGE


def draw_retroperitoneum(generator: np.random.Generator, body: Body) -> list[Organ]:
    """Draw vessels, kidneys, adrenals, esophagus: what claims its place first."""
    return [
        *_vessels(generator, body),
        *_adrenals(generator, body),
        *draw_kidneys(
            generator,
            body.frame,
            lift_mm=body.lift_mm,
            left=body.plan.kidney_left,
            right=body.plan.kidney_right,
        ),
    ]


def draw_upper_organs(generator: np.random.Generator, body: Body) -> list[Organ]:
    """Draw portal vein, pancreas, gallbladder, spleen and liver."""
    portal, pancreas = _pancreas(generator, body)
    mesenteric = draw_mesenteric(portal, body.frame) if body.plan.confluence.mesenteric else []
    gallbladder = _gallbladder(generator, body)
    spleen, liver = _spleen(generator, body), _liver(generator, body)
    return [portal, *mesenteric, *([] if body.plan.gallbladder.missing else [gallbladder]), pancreas, spleen, liver]


def draw_pelvic_organs(generator: np.random.Generator, body: Body) -> list[Organ]:
    """Draw bladder and prostate or uterus."""
    volume = float(generator.choice((110.0, 190.0, 320.0)) * generator.uniform(0.85, 1.25))
    shift = generator.normal(0, 4)
    noise = body.frame.coarse
    grown = body.plan.bladder.volume ** (1 / 3)
    middle = 14 + 18 * grown  # an empty one lies low

    def _bladder(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        height = np.where(z < middle, 30, 30 + 0.08 * volume) * grown
        square = ((x - shift) / (42 * grown)) ** 2 + ((y + 28) / (32 * grown)) ** 2 + ((z - middle) / height) ** 2
        return (1 - np.sqrt(square)) * 32 + 1.6 * noise(z, y, x)

    def _wall(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        thin = 2.2 + field[inside].min() if inside.any() else 0.0
        canvas.tissue[box][inside & (field < thin)] = Tissue.BLADDER_WALL

    wide = max(1.0, grown)
    low, high = np.array((-15.0, -85.0, -75.0)) * wide, np.array((130.0, 30.0, 75.0)) * wide
    organs = [
        Organ("urinary_bladder", Tissue.URINE, Blob(low, high, _bladder), volume * body.plan.bladder.volume, 1.5, _wall)
    ]
    if body.female:
        turn = rotation_about(2, generator.uniform(-0.6, 0.6))
        place = (generator.uniform(45, 62), 22.0, generator.normal(0, 5))
        shape = ellipsoid(place, (30, 20, 26), rotation=turn, noise=body.frame.fine, noise_mm=1.5)
        return [Organ("uterus", Tissue.GENITAL, shape, generator.uniform(50, 100), 2.0), *organs]
    shape = ellipsoid((-8.0, 4.0, 0.0), (16, 16, 23), noise=body.frame.fine, noise_mm=1.0)
    return [Organ("prostate", Tissue.GENITAL, shape, generator.uniform(22, 45), 1.5), *organs]


def _vessels(generator: np.random.Generator, body: Body) -> list[Organ]:
    artery = generator.uniform(8.2, 10.8) * body.plan.vessels.artery
    vein = generator.uniform(9.5, 12.5) * body.plan.vessels.vein * body.plan.cava.width
    fork = generator.uniform(165, 180)
    aorta = np.array(
        [(fork, 13, 2), (210, 11, 7), (260, 13, 8), (320, 20, 7), (370, 27, 10), (430, 34, 18), (560, 38, 22)]
    )
    cava = np.array(
        [(fork - 12, 16, -14), (210, 13, -20), (260, 12, -22), (310, 8, -24), (350, 0, -26), (395, -6, -25)]
    )
    if body.frame.arch_mm is not None:
        aorta[-1] = (body.frame.arch_mm - 10, 38, 20)
    aorta, cava = jitter(generator, aorta, (0, 1.2, 2.0)), jitter(generator, cava, (0, 1.2, 2.0))
    organs = [
        Organ("aorta", Tissue.ARTERY, spline(aorta, artery * np.linspace(0.85, 1.15, 7), step_mm=3), margin_mm=1.5),
        Organ("inferior_vena_cava", Tissue.VEIN, flat_tube(cava, vein * np.linspace(0.9, 1.05, 6), body.plan.cava)),
    ]
    gullet = np.array([(330, 2, 20), (352, 12, 10), (385, 22, 3), (430, 28, 2), (560, 30, 0)]) + np.array(
        (body.lift_mm, 0, 0)
    )
    radius = generator.uniform(7, 9)
    for side in (-1, 1):
        for name, tissue, start, back in (
            ("iliac_artery", Tissue.ARTERY, aorta[0], 0.0),
            ("iliac_vena", Tissue.VEIN, cava[0], 10.0),
        ):
            course = np.array(
                [(130, 16, 26), (95, 18, 46), (55, -10, 62), (15, -58, 62), (-40, -68, 62), (-150, -56, 60)]
            )
            course = jitter(generator, course, 2.0) + np.array((0, back, -0.5 * back))
            course = np.concatenate([start[None], course * (1, 1, side)])
            organs.append(Organ(name, tissue, spline(course, np.full(7, artery * 0.58), step_mm=3), margin_mm=1.0))
    organs.append(Organ("esophagus", Tissue.ESOPHAGUS, spline(gullet, np.full(5, radius), step_mm=3), margin_mm=1.0))
    return organs


def paint_through_walls_(organs: list[Organ], canvas: Canvas) -> None:
    """Paint vessels and esophagus also where they run outside the cavity: mediastinum, diaphragm, groin."""
    passable = (Tissue.FREE, Tissue.FAT, Tissue.MUSCLE, Tissue.SUBCUTANEOUS_FAT)
    for organ in organs:
        if organ.name not in ("aorta", "esophagus", "iliac_artery", "iliac_vena", "inferior_vena_cava"):
            continue
        box, field = evaluate(organ.shape, canvas.grid, reach_mm=3.0)
        usable = np.isin(canvas.tissue[box], passable)
        canvas.paint_(box, usable & (field > -1.5), Tissue.FAT, "fat")
        canvas.paint_(box, usable & (field > 0), organ.tissue, organ.name)


def _adrenals(generator: np.random.Generator, body: Body) -> list[Organ]:
    organs = []
    for side, name in ((1, "adrenal_gland_left"), (-1, "adrenal_gland_right")):
        top = 316 + body.lift_mm + (4 if side < 0 else -4) + generator.normal(0, 4)
        middle = np.array((top, 30, side * (36 if side > 0 else 34)))
        limbs = []
        for spread in (-1, 1):
            limb = middle + np.array([(17, -5, 0), (2, 3, side * (4 + 5 * spread)), (-15, 14, side * (7 + 8 * spread))])
            limbs.append(spline(jitter(generator, limb, 1.0), np.array((3.4, 4.2, 3.4)), step_mm=1.5))
        organs += [Organ(name, Tissue.ADRENAL, limb, margin_mm=2.0 * number) for number, limb in enumerate(limbs)]
    return organs


def _pancreas(generator: np.random.Generator, body: Body) -> tuple[Organ, Organ]:
    lift = body.lift_mm + generator.normal(0, 5)
    steep = generator.uniform(0.5, 1.2)
    course = np.array([
        (240, 2, -32), (258, -8, -30), (272, -18, -8), (280, -19, 18), (280 + 12 * steep, -10, 48),
        (280 + 20 * steep, 3, 64), (280 + 26 * steep, 11, 75),
    ])  # fmt: skip
    course = jitter(generator, course + np.array((lift, 0, 0)), (2, 2.0, 3.0))
    radii = np.array((10.0, 13.5, 8.5, 9.5, 9.0, 8.5, 6.5))
    radii[:2] *= body.plan.confluence.head
    tube = spline(course, radii, step_mm=3)
    noise = body.frame.fine

    def _lobulated(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        points = tube.points[::2]
        field = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), -1e3, np.float32)
        for point, radius in zip(points.tolist(), tube.radii_mm[::2].tolist(), strict=True):
            distance = np.sqrt((0.85 * (z - point[0])) ** 2 + (y - point[1]) ** 2 + (x - point[2]) ** 2)
            np.maximum(field, radius - distance, out=field)
        return field + 1.3 * noise(z, y, x) + 1.2 * noise(2.3 * z - 300, 2.3 * y, 2.3 * x)

    reach = radii.max() + 3
    shape = Blob(tube.points.min(axis=0) - reach, tube.points.max(axis=0) + reach, _lobulated)
    pancreas = Organ("pancreas", Tissue.PANCREAS, shape, generator.uniform(65, 110) * body.plan.pancreas.volume, 2.0)
    splenic = course[2:] + np.array((3, 9, 0))
    trunk = np.array([(lift + 300, -12, -34), (lift + 316, -16, -48), (lift + 325, -14, -70)])
    vein = np.concatenate([splenic[::-1], course[1:2] + np.array((12, 10, 8)), trunk])
    radius = np.concatenate([np.full(5, 4.2), (6.0, 6.5, 6.0, 4.5)]) * body.plan.confluence.portal
    return Organ(
        "portal_vein_and_splenic_vein", Tissue.PORTAL_VEIN, spline(vein, radius, step_mm=2), margin_mm=0.5
    ), pancreas


def _gallbladder(generator: np.random.Generator, body: Body) -> Organ:
    turn = rotation_about(2, generator.uniform(0.5, 1.0)) @ rotation_about(1, generator.uniform(-0.3, 0.3))
    place = (266 + body.lift_mm + generator.normal(0, 5), -38 + generator.normal(0, 4), -52 + generator.normal(0, 6))
    plan = body.plan.gallbladder
    up, back, left = plan.shift_mm
    moved = (place[0] + up, place[1] + back, place[2] + left)
    shape = ellipsoid(moved, (32, 14, 14), rotation=turn, noise=body.frame.fine, noise_mm=1.0)
    return Organ("gallbladder", Tissue.BILE, shape, generator.uniform(14, 48) * plan.volume, 1.0)


def _depth(frame: Frame, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the distance from the wall of the cavity, roughly, in mm."""
    outline = frame.outline
    half_x = profile(outline.levels, outline.cavity_x, z.ravel())[:, None, None] * frame.waist
    half_y = profile(outline.levels, outline.cavity_y, z.ravel())[:, None, None] * frame.depth
    square = (np.abs(x) / half_x) ** POWER + (np.abs(y) / half_y) ** POWER
    return (1 - square ** (1 / POWER)) * 100


def _spleen(generator: np.random.Generator, body: Body) -> Organ:
    thickness = generator.uniform(34, 46)
    centre = np.array((326 + body.lift_mm + generator.normal(0, 6), 40 + generator.normal(0, 6), 112))
    plan, frame = body.plan.spleen, body.frame
    grown = plan.volume ** (1 / 3)
    centre = centre + np.array(plan.shift_mm)
    long, thickness = generator.uniform(52, 64) * grown, thickness * grown

    def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        along = 0.35 * (z - centre[0]) + (y - centre[1])
        square = ((z - centre[0]) / long) ** 2 + (along / (56 * grown)) ** 2 + ((x - centre[2]) / (52 * grown)) ** 2
        shell = thickness - _depth(frame, z, y, x) + 2.0 * frame.fine(z, y, x)
        return smooth_minimum((1 - np.sqrt(square)) * (50 * grown), shell, 9.0) + 2.0 * frame.coarse(z, y, x)

    return Organ(
        "spleen",
        Tissue.SPLEEN,
        Blob(centre - 70 * grown, centre + 75 * grown, _field),
        generator.uniform(130, 320) * plan.volume,
        1.0,
    )


def _liver(generator: np.random.Generator, body: Body) -> Organ:
    tip = 232 + body.lift_mm + generator.normal(0, 8)
    rise, left = generator.uniform(0.42, 0.62), generator.uniform(52, 88)
    fissure, tilt = generator.uniform(4, 20), generator.uniform(0.5, 0.9)
    frame, plan, caudate = body.frame, body.plan.liver, body.plan.caudate
    tip, rise, left = tip + plan.tip_mm, max(rise + plan.rise, 0.2), left + plan.left_mm

    def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        # Under the dome, above a lower surface that rises to the left, short of the spine and the stomach.
        tongue = plan.riedel_mm / (1 + np.exp((x + 84) / 7)) if plan.riedel_mm else 0.0
        under = z - (tip - tongue + rise * np.maximum(x + 105, -10) + 0.18 * y) + 3.0 * frame.fine(z, y, x)
        if plan.uneven_mm:
            under = under + plan.uneven_mm * frame.fine(1.4 * z - 120, 1.4 * y, 1.4 * x)
        border = (left - x - tilt * np.maximum(y + 45, 0)) * 0.8
        whole = smooth_minimum(under * 0.85, border, 26.0) + 4.0 * frame.coarse(z, y, x)
        cleft = 16 * np.exp(-(((x - fissure - 0.25 * y) / 3.2) ** 2)) * np.clip((335 + body.lift_mm - z) / 14, 0, 1)
        if caudate is not None:
            whole = part_caudate(whole, z, y, x, plan=caudate, lift_mm=body.lift_mm)
        depth = _depth(frame, z, y, x)
        return smooth_minimum(whole - cleft, depth * 1.2 + (12 + plan.wall_mm), 3.0)

    low, high = np.array((190.0 - 1.2 * plan.riedel_mm, -120, -150)), np.array((450.0, 110, 130))
    if body.plan != AVERAGE:
        low, high = low - np.array((20, 40, 20)), high + np.array((0, 20, 30))
        high[0] = max(high[0], frame.dome_right_mm + 15, frame.dome_left_mm + 15)
        high[2] = max(high[2], min(left + 60, 170))
    return Organ("liver", Tissue.LIVER, Blob(low, high, _field), generator.uniform(1150, 1850) * plan.volume, 0.8)
