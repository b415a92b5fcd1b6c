"""The chest above a template that stops below the domes of the diaphragm: without it the liver would end in a cut.

Upwards from the highest slice the trunk's wall goes on as it is (its ribs drawn anew), the spine is mirrored, and what
lies beneath the diaphragm narrows to two domes; lungs, mediastinum and heart fill the rest.
"""

from dataclasses import dataclass, replace

import cv2
import edt
import numpy as np
from jaxtyping import Bool, Float, UInt8

from viscera.synthesis.canvas import VALUE, Tissue
from viscera.synthesis.template.template import DEPTH_STEPS_PER_MM, FINE_MM, Template

SKIPPED = 2
"""Highest slices that are left out: label maps are at their worst there."""
LEAST_ML = 3.0
"""Of liver, spleen and stomach in the highest slices (per 10 mm), for a chest to be grown."""
HEIGHT_MM = (85.0, 130.0)
DOMES = ("liver", "spleen", "stomach", "colon", "kidney_left", "kidney_right", "adrenal_gland_left",
         "adrenal_gland_right", "pancreas", "duodenum", "small_bowel", "gallbladder")  # fmt: skip
FILLING = ("liver", "spleen", "stomach")
"""Organs that fill the domes."""
SPREAD = 0.8
"""How steeply they spread: mm upwards per mm sideways."""
MIRRORED_MM = 34.0
"""Of the spine, about a vertebra."""
RIB_MM = (1.5, 9.0)
"""Where ribs lie, from the chest's inner wall outwards."""


@dataclass(frozen=True, eq=False)
class _Base:
    """The slice that the chest stands on, and what is told from it.

    Attributes:
        tissue: Of canvas.Tissue.
        label: Of canvas.VALUE.
        chest: What the wall encloses, without the spine.
        back: The spine and the muscles beside it.
        middle: Column of the spine.
        front_mm: Front edge of the chest.
        behind_mm: Front edge of the spine.
    """

    tissue: UInt8[np.ndarray, "y x"]
    label: UInt8[np.ndarray, "y x"]
    chest: Bool[np.ndarray, "y x"]
    back: Bool[np.ndarray, "y x"]
    middle: float
    front_mm: float
    behind_mm: float


def needs_thorax(template: Template) -> bool:
    """Tell whether a template ends within the organs beneath the diaphragm."""
    top = template.label[-round(10 / FINE_MM) :]
    cut = np.isin(top, (VALUE["liver"], VALUE["spleen"], VALUE["stomach"]))
    return bool(np.count_nonzero(cut) * FINE_MM**3 / 1000 > LEAST_ML)


def grow_thorax(
    template: Template, generator: np.random.Generator, *, pit: np.random.Generator | None = None
) -> Template:
    """Return the template with a random chest above it; the template itself where it needs none.

    Args:
        template: What may end below the domes.
        generator: Source of randomness.
        pit: Source for domes of any height with the heart sunk between them; None for the usual ones.
    """
    if not needs_thorax(template) or len(template.label) < 16:
        return template
    last = len(template.label) - 1 - SKIPPED
    base = _look_at(template, last)
    if base is None:
        return template
    count = round(generator.uniform(*HEIGHT_MM) / FINE_MM)
    height_mm = FINE_MM * np.arange(1, count + 1, dtype=np.float32)[:, None, None]
    tissue = np.repeat(base.tissue[None], count, axis=0)
    label = np.repeat(base.label[None], count, axis=0)
    depth = np.repeat(template.depth[last][None], count, axis=0)
    domes = _draw_domes(generator, base)
    domes = domes if pit is None else _with_pit(pit, base, domes)
    dome_mm = domes.height_mm
    _paint_chest_(tissue, label, base, domes, height_mm=height_mm)
    np.copyto(depth, np.clip((dome_mm - height_mm) * DEPTH_STEPS_PER_MM, 0, depth).astype(np.uint8), where=base.chest)
    _paint_heart_(generator, tissue, label, base, height_mm=height_mm, dome_mm=dome_mm)
    _paint_ribs_(generator, tissue, label, base, height_mm=height_mm)
    span = max(1, min(round(MIRRORED_MM / FINE_MM), last))
    turn = np.arange(1, count + 1) % (2 * span)
    source = last - np.minimum(turn, 2 * span - turn)
    organs = np.isin(template.label[source], [VALUE[organ] for organ in DOMES]) & base.back
    for array, whole in ((tissue, template.tissue), (label, template.label), (depth, template.depth)):
        np.copyto(array, whole[source], where=base.back & ~organs)
    tissue[organs], label[organs], depth[organs] = Tissue.LUNG, VALUE["lung"], 0
    return replace(
        template,
        tissue=np.concatenate([template.tissue[: last + 1], tissue]),
        label=np.concatenate([template.label[: last + 1], label]),
        depth=np.concatenate([template.depth[: last + 1], depth]),
    )


def _look_at(template: Template, last: int) -> _Base | None:
    tissue, label = template.tissue[last].copy(), template.label[last].copy()
    held = np.isin(label, [VALUE[organ] for organ in (*DOMES, "lung", "heart", "esophagus")]) | (tissue == Tissue.LUNG)
    points = cv2.findNonZero(held.astype(np.uint8))
    if points is None:
        return None
    hull = np.zeros(label.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    spine = np.isin(label, (VALUE["vertebrae"], VALUE["spinal_cord"])) | (tissue == Tissue.DISC)
    rows, columns = np.nonzero(spine if spine.any() else hull > 0)
    middle = float(np.median(columns))
    front = float(rows.min()) if spine.any() else float(rows.max())
    y, x = np.indices(label.shape)
    back = (y > front - 2) & (np.abs(x - middle) < 16 / FINE_MM)
    if spine.any():
        back |= (y > front + 8 / FINE_MM) & (np.abs(x - middle) < 52 / FINE_MM) & ~held
    chest = (hull > 0) & ~back & (label != VALUE["vertebrae"]) & (tissue != Tissue.AIR)
    front_rows = np.nonzero(chest.any(axis=1))[0]
    if not len(front_rows):
        return None
    return _Base(tissue, label, chest, back, middle, float(front_rows[0]) * FINE_MM, front * FINE_MM)


@dataclass(frozen=True, eq=False)
class _Domes:
    """What lies beneath the diaphragm.

    Attributes:
        height_mm: How high the diaphragm stands over each place.
        tissue: Of the organ that spreads beneath it.
        label: Of the same.
        reach_mm: How far that organ is in the slice below.
    """

    height_mm: Float[np.ndarray, "y x"]
    tissue: UInt8[np.ndarray, "y x"]
    label: UInt8[np.ndarray, "y x"]
    reach_mm: Float[np.ndarray, "y x"]


def _draw_domes(generator: np.random.Generator, base: _Base) -> _Domes:
    """Draw two domes of the diaphragm, filled by liver, spleen and stomach."""
    from scipy import ndimage  # of the extra train

    below = base.chest & (base.tissue != Tissue.LUNG) & (base.label != VALUE["heart"])
    wall_mm = edt.edt(below, anisotropy=(FINE_MM, FINE_MM), black_border=True, parallel=1)
    x = (np.arange(base.label.shape[1], dtype=np.float32) - base.middle)[None, :] * FINE_MM
    left = 1 / (1 + np.exp(-x / 10))
    right_mm = generator.uniform(34, 66)
    left_mm = right_mm - generator.uniform(2, 22)
    reach = [max(12.0, float((wall_mm * side).max())) for side in (1 - left, left)]
    share = np.clip(wall_mm / (reach[0] * (1 - left) + reach[1] * left), 0, 1)
    dome = (right_mm * (1 - left) + left_mm * left) * np.sqrt(1 - (1 - share) ** 2)
    dome *= 1 - 0.14 * np.exp(-((x / 26) ** 2))
    height = np.where(below, dome, 0).astype(np.float32)
    organs = below & np.isin(base.label, [VALUE[organ] for organ in FILLING])
    if not organs.any():
        return _Domes(height, base.tissue, base.label, np.full(height.shape, np.inf, np.float32))
    nearest = np.asarray(ndimage.distance_transform_edt(~organs, return_distances=False, return_indices=True))
    place = (nearest[0], nearest[1])
    reach_mm = edt.edt(~organs, anisotropy=(FINE_MM, FINE_MM), parallel=1)
    return _Domes(height, base.tissue[place], base.label[place], reach_mm)


def _with_pit(generator: np.random.Generator, base: _Base, domes: _Domes) -> _Domes:
    """Raise or flatten the domes, sink the heart's place between them, and let the organs spread more or less far."""
    grown, dip = np.exp(generator.uniform(np.log(0.75), np.log(1.45))), generator.uniform(0.1, 0.95)
    to_left, deep = generator.uniform(10, 42), generator.uniform(0.25, 0.6)
    wide_x, wide_y = generator.uniform(32, 56), generator.uniform(30, 52)
    spread = generator.uniform(0.4, 1.5)
    y, x = (axis.astype(np.float32) * FINE_MM for axis in np.indices(base.label.shape))
    row = base.front_mm + deep * (base.behind_mm - base.front_mm)
    sunk = np.exp(-(((x - base.middle * FINE_MM - to_left) / wide_x) ** 2) - ((y - row) / wide_y) ** 2)
    height = domes.height_mm * np.float32(grown) * (1 - np.float32(dip) * sunk)
    return replace(domes, height_mm=height.astype(np.float32), reach_mm=domes.reach_mm * np.float32(spread))


def _paint_chest_(
    tissue: np.ndarray, label: np.ndarray, base: _Base, domes: _Domes, *, height_mm: Float[np.ndarray, "z 1 1"]
) -> None:
    """Paint domes, lungs and mediastinum."""
    y, x = (axis.astype(np.float32) * FINE_MM for axis in np.indices(base.label.shape))
    aside = np.abs(x - (base.middle * FINE_MM + 4))
    vessels = np.isin(base.label, [VALUE[o] for o in ("aorta", "esophagus", "inferior_vena_cava")])
    middle = (aside < 24 - 0.06 * np.abs(y - base.front_mm - 60)) & (y > base.front_mm + 8) | vessels
    beneath = base.chest & ~vessels & (height_mm < domes.height_mm)
    # Upwards the organs spread, and what else lay between them comes to an end.
    spread = beneath & (height_mm > SPREAD * domes.reach_mm + 2)
    np.copyto(tissue, domes.tissue, where=spread)
    np.copyto(label, domes.label, where=spread)
    above = base.chest & (height_mm >= domes.height_mm)
    lung, fat = above & ~middle, above & (middle & ~vessels)
    tissue[lung], label[lung] = Tissue.LUNG, VALUE["lung"]
    tissue[fat], label[fat] = Tissue.FAT, VALUE["fat"]


def _paint_heart_(
    generator: np.random.Generator,
    tissue: np.ndarray,
    label: np.ndarray,
    base: _Base,
    *,
    height_mm: Float[np.ndarray, "z 1 1"],
    dome_mm: Float[np.ndarray, "y x"],
) -> None:
    """Paint a heart in its fat, on the diaphragm's middle."""
    y, x = (axis.astype(np.float32) * FINE_MM for axis in np.indices(base.label.shape))
    x = x - base.middle * FINE_MM
    deep = base.behind_mm - base.front_mm
    semi = generator.uniform((34, 0.30, 48), (44, 0.36, 60)) * (1, deep, 1)
    place = np.array((0.0, base.front_mm + 0.46 * deep, generator.uniform(20, 32)))
    floor = dome_mm[np.clip(int(place[1] / FINE_MM), 0, len(dome_mm) - 1), int(base.middle + place[2] / FINE_MM)]
    place[0] = floor + semi[0] * generator.uniform(0.55, 0.8)
    lean = 0.35 * (x - place[2])
    reach = np.sqrt(
        ((height_mm - place[0]) / semi[0]) ** 2
        + ((y - place[1] + lean) / semi[1]) ** 2
        + ((x - place[2]) / semi[2]) ** 2
    )
    free = np.isin(tissue, (Tissue.LUNG, Tissue.FAT)) & base.chest & (height_mm > dome_mm + 1.5)
    around, heart = free & (reach < 1.12), free & (reach < 1)
    tissue[around], label[around] = Tissue.FAT, VALUE["fat"]
    tissue[heart], label[heart] = Tissue.HEART, VALUE["heart"]


def _paint_ribs_(
    generator: np.random.Generator,
    tissue: np.ndarray,
    label: np.ndarray,
    base: _Base,
    *,
    height_mm: Float[np.ndarray, "z 1 1"],
) -> None:
    """Paint slanting ribs in the chest's wall, cartilage in front, muscle between."""
    outside = edt.edt(~base.chest, anisotropy=(FINE_MM, FINE_MM), parallel=1)
    wall = (outside > 0) & (outside < RIB_MM[1]) & (base.tissue != Tissue.AIR) & ~base.back
    old = (base.label == VALUE["ribs"]) & ~base.back
    soft = np.broadcast_to(wall | old, tissue.shape)
    tissue[soft], label[soft] = Tissue.MUSCLE, VALUE["muscle"]
    y = np.arange(base.label.shape[0], dtype=np.float32)[:, None] * FINE_MM
    forwards = base.behind_mm + 40 - y
    phase = (height_mm + 0.62 * forwards + generator.uniform(0, 30)) / generator.uniform(25, 31) % 1
    rib = wall & (outside > RIB_MM[0]) & (phase < 0.36)
    front = np.broadcast_to(y < base.front_mm + 26, tissue.shape)
    edge = (np.abs(phase - 0.18) > 0.12) | (outside < RIB_MM[0] + 1.8) | (outside > RIB_MM[1] - 1.8)
    tissue[rib] = np.where(front[rib], Tissue.CARTILAGE, np.where(edge[rib], Tissue.CORTEX, Tissue.MARROW))
    label[rib] = VALUE["ribs"]
