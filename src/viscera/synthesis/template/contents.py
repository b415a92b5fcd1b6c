"""What fills the organs of a template's patient: bowel contents under gas, the kidney's layers, bladder wall, chambers.

Label maps give an organ as one; layers are painted by the depth beneath its surface (reshaping.Sample.depth).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool

from viscera.synthesis.anatomy.kidney_plans import draw_mass
from viscera.synthesis.anatomy.plans import ConfluencePlan, Meals
from viscera.synthesis.canvas import VALUE, Box, Tissue
from viscera.synthesis.shapes import Field, draw_noise, ellipsoid, evaluate
from viscera.synthesis.template.reshaping import YIELDING, Sample
from viscera.synthesis.template.template import DEPTH_STEPS_PER_MM

BLADDER_WALL_MM = 2.2
KIDNEY_CORTEX_MM = 6.0
SINUS_MM = 24.0
KIDNEYS = ("kidney_left", "kidney_right")
FOLD_MM = 21.0
"""Distance over which folds and the walls between loops of bowel are alike."""
ANTRUM = 0.35
"""Of the stomach's width, how much of it on the right is its antrum."""
FINE_PIXEL_MM = 3.5
"""Coarser pixels are not spared for the wall where an organ was cut off by another."""


@dataclass(frozen=True)
class Wall:
    """The wall of one kind of bowel.

    Attributes:
        thickness_mm: Its thickness.
        folds: Half-width of folds and of walls between loops, on the scale of smooth noise of unit variance.
        collapsed: Share of the bowel that has no lumen.
    """

    thickness_mm: float
    folds: float
    collapsed: float


def extent(sample: Sample, organs: tuple[str, ...]) -> Box | None:
    """Return the box of the voxels that are labelled with any of some organs; None without any."""
    table = np.zeros(256, bool)
    table[[VALUE[organ] for organ in organs]] = True
    own = table[sample.canvas.label]
    slices = np.flatnonzero(own.any(axis=(1, 2)))
    if not len(slices):
        return None
    plane = own.any(axis=0)
    rows, columns = (np.unique(places) for places in np.nonzero(plane))
    z, y, x = (slice(int(places[0]), int(places[-1]) + 1) for places in (slices, rows, columns))
    return z, y, x


def fill_bladder_(sample: Sample) -> None:
    """Return the bladder a wall."""
    wall = (sample.canvas.label == VALUE["urinary_bladder"]) & (sample.depth < BLADDER_WALL_MM * DEPTH_STEPS_PER_MM)
    sample.canvas.tissue[wall] = Tissue.BLADDER_WALL


def fill_kidneys_(generator: np.random.Generator, sample: Sample) -> None:
    """Paint medulla into the kidneys, and renal pelvis, vein and fat into their sinuses."""
    fine, other = draw_noise(generator, 8.0), draw_noise(generator, 11.0)
    wide = generator.uniform(0.3, 1.1)
    box = extent(sample, KIDNEYS)
    if box is None:
        return
    z, y, x = box
    box = (slice(max(0, z.start - 4), z.stop + 4), slice(max(0, y.start - 4), y.stop + 4), slice(x.start, x.stop))
    axes = sample.canvas.grid.axes(box)
    lumps = fine(*axes)
    tissue, depth = sample.canvas.tissue[box], sample.depth[box]
    cortex = (tissue == Tissue.KIDNEY_CORTEX) & (depth > 0)
    deep = cortex & (depth > (KIDNEY_CORTEX_MM + 2.5 * lumps) * DEPTH_STEPS_PER_MM)
    tissue[deep] = Tissue.KIDNEY_MEDULLA
    sinus = tissue == Tissue.KIDNEY_PELVIS
    if np.count_nonzero(sinus) < 0.03 * np.count_nonzero(cortex):
        # The label covers the sinus: it lies where the kidney is thickest.
        sinus = deep & (depth > 13.5 * DEPTH_STEPS_PER_MM)
    vein = other(*axes)
    tissue[sinus] = Tissue.FAT
    tissue[sinus & (lumps > wide)] = Tissue.KIDNEY_PELVIS
    tissue[sinus & (vein > 0.9)] = Tissue.VEIN


def empty_sinuses_(sample: Sample) -> None:
    """Leave nothing but fat in the renal sinuses."""
    sample.canvas.tissue[sample.canvas.tissue == Tissue.KIDNEY_PELVIS] = Tissue.FAT


def label_sinuses_(sample: Sample) -> None:
    """Give the renal sinuses their kidney's label; call it before anything is painted into them.

    The sinus is what the template told for it, and what fills the kidney's hollow in a slice up to SINUS_MM across.
    """
    canvas = sample.canvas
    size = 2 * max(1, round(0.5 * SINUS_MM / float(canvas.grid.x[1] - canvas.grid.x[0]))) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    for organ in KIDNEYS:
        box = extent(sample, (organ,))
        if box is None:
            continue
        tissue, label = canvas.tissue[box], canvas.label[box]
        own = np.pad((label == VALUE[organ]).astype(np.uint8), ((0, 0), (size, size), (size, size)))
        closed = np.stack([cv2.morphologyEx(plane, cv2.MORPH_CLOSE, kernel) for plane in own])[
            :, size:-size, size:-size
        ]
        fat = (tissue == Tissue.FREE) | (tissue == Tissue.FAT)
        held = ((tissue == Tissue.KIDNEY_PELVIS) | fat & (closed > 0)) & (label == VALUE["fat"])
        tissue[held], label[held] = Tissue.KIDNEY_PELVIS, VALUE[organ]


def paint_masses_(generator: np.random.Generator, sample: Sample) -> None:
    """Paint large cysts and tumours into and about the kidneys, labelled as kidney; bowel and fat make way."""
    uneven = draw_noise(generator, 24.0)
    table = np.zeros(256, bool)
    table[[VALUE[organ] for organ in (*YIELDING, "fat")]] = True
    canvas = sample.canvas
    for organ in KIDNEYS:
        mass, box = draw_mass(generator), extent(sample, (organ,))
        if mass is None or box is None:
            continue
        places = [axis.ravel() for axis in canvas.grid.axes(box)]
        own = np.argwhere(canvas.label[box] == VALUE[organ])
        points = np.stack([axis[column] for axis, column in zip(places, own.T, strict=True)], axis=1)
        middle, direction = points.mean(axis=0), np.array(mass.direction)
        out = float(np.linalg.norm(direction))
        reach = float(np.quantile((points - middle) @ direction, 0.995)) / out
        centre = middle + direction * reach
        radius = mass.radius_mm
        shape = ellipsoid(tuple(centre), (radius, radius, radius), noise=uneven, noise_mm=0.05 * radius)
        about, depth = evaluate(shape, canvas.grid, reach_mm=0.0)
        within = (depth > 0) & (table[canvas.label[about]] | (canvas.label[about] == VALUE[organ]))
        within &= (canvas.tissue[about] != Tissue.SUBCUTANEOUS_FAT) & (canvas.tissue[about] != Tissue.AIR)
        canvas.paint_(about, within, mass.tissue, organ)


def fill_heart_(generator: np.random.Generator, sample: Sample) -> None:
    """Part the heart into chambers with blood and walls of muscle."""
    tilt, septum = generator.uniform(0.5, 1.0), generator.uniform(-0.15, 0.2)
    noise = draw_noise(generator, 24.0)
    box = extent(sample, ("heart",))
    if box is None:
        return
    tissue = sample.canvas.tissue[box]
    heart = tissue == Tissue.HEART
    if np.count_nonzero(heart) < 50:
        return
    z, y, x = sample.canvas.grid.axes(box)
    weight = 1.0 / np.count_nonzero(heart)
    middle = [float((heart * axis).sum() * weight) for axis in (y, x)]
    half = max(5.0, float(np.sqrt((heart * (x - middle[1]) ** 2).sum() * weight)) * 2)
    # Positive to the left and the back: the left chambers.
    across = (np.cos(tilt) * (x - middle[1]) + np.sin(tilt) * (y - middle[0])) / half + septum + 0.06 * noise(z, y, x)
    pixel = float(sample.canvas.grid.x[1] - sample.canvas.grid.x[0])
    inside = np.stack([cv2.distanceTransform(plane, cv2.DIST_L2, 3) for plane in heart.astype(np.uint8)]) * pixel
    wall = np.where(across > 0, 10.0, 4.0) * (1 + 0.25 * noise(z, y, x))
    tissue[heart] = np.where(across > 0, Tissue.BLOOD_LEFT, Tissue.BLOOD_RIGHT)[heart]
    tissue[heart & ((inside < wall) | (np.abs(across) < 0.09))] = Tissue.MYOCARDIUM


def fill_bowel_(generator: np.random.Generator, sample: Sample, meals: Meals, confluence: ConfluencePlan) -> None:
    """Fill stomach, duodenum, small bowel, colon and rectum: walls, contents, and gas in front of a level.

    Args:
        generator: Source of randomness.
        sample: The patient; its tissues change.
        meals: What is held; plans.Meals() for the usual choice.
        confluence: What is held near the liver, and where bowel has the liver's HU; of its shapes nothing is used.
    """
    stomach, small, colon = generator.spawn(3)
    _fill_stomach_(stomach, sample, meals, confluence.antrum)
    contrast = small.random() < 0.25
    usual = (Tissue.CHYME, Tissue.CHYME, Tissue.FLUID, Tissue.ORAL_CONTRAST if contrast else Tissue.CHYME)
    gas = meals.small_bowel_gas if meals.small_bowel_gas is not None else float(small.uniform(0.03, 0.16))
    wall = Wall(float(small.uniform(2.2, 3.0)), 0.10, 0.16 / meals.small_bowel_width)
    contents = meals.small_bowel or usual
    duodenal = contents if confluence.duodenal is None else (confluence.duodenal,) * len(contents)
    _fill_tube_(small, sample, "small_bowel", contents=confluence.serve(contents), gas=gas, wall=wall)
    _fill_tube_(small, sample, "duodenum", contents=duodenal, gas=0.25, wall=wall)
    liquid = Tissue.FLUID if colon.random() < 0.3 else Tissue.STOOL
    usual = (Tissue.STOOL, Tissue.STOOL, Tissue.STOOL, liquid)
    gas = meals.colon_gas if meals.colon_gas is not None else float(colon.uniform(0.4, 0.85))
    wall = Wall(float(colon.uniform(2.0, 3.0)), 0.035, 0.08 / meals.colon_width)
    for organ in ("colon", "rectum"):
        _fill_tube_(colon, sample, organ, contents=meals.colon or usual, gas=gas, wall=wall)


def _lumen(sample: Sample, box: Box, organ: str, wall: Field | float) -> Bool[np.ndarray, "z y x"]:
    """Return what lies deeper than a wall (mm); where an organ was cut off, one pixel remains for it."""
    own = sample.canvas.label[box] == VALUE[organ]
    lumen = own & (sample.depth[box] > wall * DEPTH_STEPS_PER_MM)
    grid = sample.canvas.grid
    if float(grid.x[1] - grid.x[0]) < FINE_PIXEL_MM:
        kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        lumen &= np.stack([cv2.erode(plane, kernel) for plane in own.astype(np.uint8)]) > 0
    return lumen


def _fill_stomach_(generator: np.random.Generator, sample: Sample, meals: Meals, antrum: Tissue | None) -> None:
    """Fill the stomach with one thing beneath one level; its part on the right, the antrum, with another if there is one."""
    kinds = (Tissue.FOOD, Tissue.FLUID, Tissue.FOOD, Tissue.ORAL_CONTRAST, Tissue.FLUID)
    content = kinds[generator.choice(5, p=(0.3, 0.25, 0.2, 0.15, 0.1))] if meals.stomach is None else meals.stomach
    wall_mm, level = float(generator.uniform(3.2, 5.5)), float(generator.uniform(-0.1, 0.55))
    rugae = draw_noise(generator, 13.0)
    box = extent(sample, ("stomach",))
    if box is None:
        return
    z, y, x = sample.canvas.grid.axes(box)
    lumen = _lumen(sample, box, "stomach", wall_mm * (1 + 0.35 * rugae(z, y, x)))
    front, back = float(y.ravel()[0]), float(y.ravel()[-1])
    gas = y < front + level * (back - front)
    tissue = sample.canvas.tissue[box]
    np.copyto(tissue, np.where(gas, Tissue.GAS, content).astype(np.uint8), where=lumen)
    if antrum is not None:
        right = x < float(x.ravel()[0]) + ANTRUM * float(np.ptp(x))
        np.copyto(tissue, np.uint8(antrum), where=lumen & right)


def _fill_tube_(
    generator: np.random.Generator,
    sample: Sample,
    organ: str,
    *,
    contents: tuple[Tissue, ...],
    gas: float,
    wall: Wall,
) -> None:
    """Fill a stretch of bowel, another content every few centimetres; folds and collapsed parts stay wall."""
    from scipy.special import ndtri  # of the extra train

    folds, kinds, levels = draw_noise(generator, FOLD_MM), draw_noise(generator, 62.0), draw_noise(generator, 48.0)
    order = [contents[number] for number in generator.permutation(len(contents)).tolist()]
    box = extent(sample, (organ,))
    if box is None:
        return
    axes = sample.canvas.grid.axes(box)
    crease, kind = folds(*axes), kinds(*axes)
    lumen = _lumen(sample, box, organ, wall.thickness_mm) & (np.abs(crease) > wall.folds)
    lumen &= kind < float(ndtri(1 - np.clip(wall.collapsed, 1e-6, 0.6)))
    # Each content has an equal share of the noise's values.
    limits = ndtri(np.arange(1, len(order)) / len(order))
    content = np.array(order, np.uint8)[np.digitize(kind, limits)]
    gassy = gas_in_front(lumen, levels(*axes), share=gas)
    np.copyto(sample.canvas.tissue[box], np.where(gassy, np.uint8(Tissue.GAS), content), where=lumen)


def gas_in_front(lumen: Bool[np.ndarray, "z y x"], levels: Field, *, share: float) -> Bool[np.ndarray, "z y x"]:
    """Return what of a lumen is gas: in each slice and piece all that lies in front of a level.

    Args:
        lumen: Of one organ.
        levels: Smooth noise: where it is high, there is gas.
        share: About how much of the organ holds gas.
    """
    from scipy.special import ndtri  # of the extra train

    gassy = np.zeros(lumen.shape, bool)
    limit = float(ndtri(1 - np.clip(share, 1e-6, 1 - 1e-6)))
    rows = np.arange(lumen.shape[1])[:, None]
    for number, plane in enumerate(lumen):
        count, pieces, boxes, centres = cv2.connectedComponentsWithStats(plane.astype(np.uint8), connectivity=4)
        if count < 2:
            continue
        column, row = np.rint(centres.T).astype(int)
        excess = levels[number, row, column] - limit
        # No gas below the limit, a lumen full of it well above.
        level = boxes[:, cv2.CC_STAT_TOP] + np.clip(0.25 + 0.9 * excess, 0, 1.2) * boxes[:, cv2.CC_STAT_HEIGHT]
        level[excess < 0] = -1
        gassy[number] = plane & (rows < level[pieces])
    return gassy
