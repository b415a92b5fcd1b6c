"""What a label map leaves out, made up: body and skin, fat, muscle wall, discs, spinal canal, renal sinus.

All of it on a coarse grid (template.py brings it onto the fine one). With the scan that was labelled, what has no label
is told by its HU; without it, by hulls of the labels.
"""

from dataclasses import dataclass

import cc3d
import cv2
import edt
import numpy as np
from jaxtyping import Bool, Float, UInt8

from viscera.boxes import pieces_of
from viscera.synthesis.canvas import VALUE, Tissue

FULL_DEPTH = 64
"""Of Surroundings.ratio: where the skin lies."""

VISCERA = (
    "urinary_bladder", "colon", "kidney_left", "kidney_right", "liver", "rectum", "small_bowel", "stomach", "spleen",
    "pancreas", "gallbladder", "duodenum", "adrenal_gland_left", "adrenal_gland_right", "aorta", "inferior_vena_cava",
    "portal_vein_and_splenic_vein", "prostate", "uterus", "lung", "heart", "esophagus",
)  # fmt: skip
"""Organs about which the cavity is drawn."""

FAT_HU, SOFT_HU, BONE_HU, CORTEX_HU, BODY_HU = -190.0, -30.0, 130.0, 280.0, -300.0
WALL_MM = 13.0
"""Muscle wall about the labels, without a scan."""
FAT_MM = 16.0
"""Fat beneath the skin, without a scan."""
LUNG_ML = 100.0
"""Air in the body that has no label is bowel gas, unless there is more of it than this, or it reaches the map's top."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known.

    Attributes:
        label: Values of canvas.VALUE.
        tissue: Values of canvas.Tissue; 0 for what has no label.
        hu: The scan that was labelled.
        step_mm: Of the even grid.
    """

    label: UInt8[np.ndarray, "z y x"]
    tissue: UInt8[np.ndarray, "z y x"]
    hu: Float[np.ndarray, "z y x"] | None
    step_mm: float


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is made up; where there are labels it goes on beneath them.

    Attributes:
        tissue: Values of canvas.Tissue; AIR outside the muscles, where ``ratio`` says what is fat.
        label: Values of canvas.VALUE.
        ratio: 0 at the muscles, FULL_DEPTH at the skin, more beyond.
    """

    tissue: UInt8[np.ndarray, "z y x"]
    label: UInt8[np.ndarray, "z y x"]
    ratio: Float[np.ndarray, "z y x"]


def make_up(scene: Scene) -> Surroundings:
    """Make up what a label map leaves out."""
    outlined = np.isin(scene.label, (VALUE["fat"], VALUE["skin"]))
    labelled = (scene.tissue > 0) & ~outlined
    cavity = _dilate(_hulls(np.isin(scene.label, [VALUE[organ] for organ in VISCERA])), 5.0 / scene.step_mm)
    if scene.hu is not None:
        body = _body(scene.hu) | labelled
        deep = cavity | labelled | _muscle(scene.hu, body, scene.step_mm)
        inner = _hulls(deep) & (_erode(body, 2.0 / scene.step_mm) | labelled)
    elif outlined.any():
        body = _filled(labelled | outlined)
        inner = _hulls(labelled) & (_erode(body, 2.0 / scene.step_mm) | labelled)
    else:
        inner = _dilate(_hulls(labelled), WALL_MM / scene.step_mm)
        body = _dilate(inner, FAT_MM / scene.step_mm)
    body = body | _dilate(inner, 5.0 / scene.step_mm)
    tissue = np.where(inner, Tissue.FREE if scene.hu is None else Tissue.FAT, Tissue.AIR).astype(np.uint8)
    if scene.hu is None:
        tissue[inner & ~cavity] = Tissue.MUSCLE
    else:
        _paint_scan_(tissue, scene.hu, inner & ~labelled, scene.step_mm)
        tissue[cavity & (tissue == Tissue.FAT)] = Tissue.FREE
    tissue = _beneath(tissue, labelled & inner)
    label = np.zeros(tissue.shape, np.uint8)
    label[np.isin(tissue, (Tissue.FREE, Tissue.FAT))] = VALUE["fat"]
    label[tissue == Tissue.MUSCLE] = VALUE["muscle"]
    _paint_spine_(scene, tissue, label)
    _paint_sinuses_(scene, tissue, label)
    return Surroundings(tissue, label, _ratio(inner, body, scene.step_mm))


def _hulls(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Return the convex hull of each slice, smoothed from slice to slice; empty slices take their neighbours'."""
    from scipy import ndimage  # of the extra train

    hulls = np.zeros(mask.shape, np.uint8)
    filled = []
    for number, plane in enumerate(mask):
        points = cv2.findNonZero(plane.astype(np.uint8))
        if points is not None:
            cv2.fillConvexPoly(hulls[number], cv2.convexHull(points), 1)
            filled.append(number)
    if not filled:
        return hulls > 0
    nearest = np.abs(np.arange(len(mask))[:, None] - np.array(filled)[None, :]).argmin(axis=1)
    whole = hulls[np.array(filled)[nearest]] > 0
    soft = ndimage.gaussian_filter(whole.astype(np.float32), (2.5, 2.0, 2.0), mode="nearest")
    return (soft > 0.4) | (whole & mask)


def _disc(radius_voxels: float) -> np.ndarray:
    size = 2 * max(1, round(radius_voxels)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _by_slice(mask: Bool[np.ndarray, "z y x"], operation: int, radius_voxels: float) -> Bool[np.ndarray, "z y x"]:
    kernel = _disc(radius_voxels)
    return np.stack([cv2.morphologyEx(plane.astype(np.uint8), operation, kernel) for plane in mask]) > 0


def _dilate(mask: Bool[np.ndarray, "z y x"], radius_voxels: float) -> Bool[np.ndarray, "z y x"]:
    return _by_slice(mask, cv2.MORPH_DILATE, radius_voxels)


def _erode(mask: Bool[np.ndarray, "z y x"], radius_voxels: float) -> Bool[np.ndarray, "z y x"]:
    return _by_slice(mask, cv2.MORPH_ERODE, radius_voxels)


def _filled(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Fill what each slice encloses."""
    planes = np.zeros(mask.shape, np.uint8)
    for number, plane in enumerate(mask):
        contours, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(planes[number], contours, -1, 1, cv2.FILLED)
    return planes > 0


def _largest(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=6)) > 0


def _body(hu: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Find the body: the largest piece without the table and clothes, which are thin."""
    return _filled(_largest(_by_slice(hu > BODY_HU, cv2.MORPH_OPEN, 2)))


def _muscle(
    hu: Float[np.ndarray, "z y x"], body: Bool[np.ndarray, "z y x"], step_mm: float
) -> Bool[np.ndarray, "z y x"]:
    """Find the trunk's muscles and bones: what is dense, not skin, and not a strand in the fat."""
    dense = (hu > SOFT_HU) & _erode(body, 5.0 / step_mm)
    return _largest(_by_slice(dense, cv2.MORPH_OPEN, 1))


def _paint_scan_(
    tissue: UInt8[np.ndarray, "z y x"], hu: Float[np.ndarray, "z y x"], where: Bool[np.ndarray, "z y x"], step_mm: float
) -> None:
    """Tell by its HU what has no label."""
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.7) for plane in hu])
    air = where & (smooth < FAT_HU - 200)
    tissue[where & (smooth > SOFT_HU)] = Tissue.MUSCLE
    tissue[where & (smooth > BONE_HU)] = Tissue.MARROW
    tissue[where & (smooth > CORTEX_HU)] = Tissue.CORTEX
    pieces, count = pieces_of(air, connectivity=6)
    if count:
        sizes_ml = np.bincount(pieces.ravel()) * step_mm**3 / 1000
        is_lung = sizes_ml > LUNG_ML
        is_lung[np.unique(pieces[-1])] = True
        tissue[air] = np.where(is_lung, Tissue.LUNG, Tissue.GAS)[pieces[air]]


def _beneath(tissue: UInt8[np.ndarray, "z y x"], labelled: Bool[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "z y x"]:
    """Let what is made up go on beneath the labels, from the nearest voxel: labels change a little between grids."""
    from scipy import ndimage  # of the extra train

    if not labelled.any() or labelled.all():
        return tissue
    nearest = ndimage.distance_transform_edt(labelled, return_distances=False, return_indices=True)
    return tissue[tuple(np.asarray(nearest))]


def _paint_spine_(scene: Scene, tissue: np.ndarray, label: np.ndarray) -> None:
    """Paint discs between the vertebral bodies, and the spinal canal with its cord behind them."""
    from scipy import ndimage  # of the extra train

    spine = scene.label == VALUE["vertebrae"]
    bodies = _by_slice(spine, cv2.MORPH_OPEN, 8.0 / scene.step_mm)
    levels = np.flatnonzero(bodies.any(axis=(1, 2)))
    if len(levels) < 2:
        return
    gap = max(3, 2 * round(9.0 / scene.step_mm) + 1)
    padded = np.pad(bodies, ((gap, gap), (0, 0), (0, 0)), mode="edge")
    discs = ndimage.binary_closing(padded, np.ones((gap, 1, 1)))[gap:-gap] & ~bodies
    tissue[discs], label[discs] = Tissue.DISC, 0
    places = []
    for level in levels.tolist():
        body_rows, body_columns = np.nonzero(bodies[level])
        places.append((np.quantile(body_rows, 0.97), np.median(body_columns)))
    between = np.arange(levels[0], levels[-1] + 1)
    course = np.array([np.interp(between, levels, column) for column in zip(*places, strict=True)])
    rows, columns = np.asarray(ndimage.gaussian_filter1d(course, 3.0, axis=1, mode="nearest")).tolist()
    y, x = np.arange(tissue.shape[1])[:, None], np.arange(tissue.shape[2])[None, :]
    for level, row, column in zip(between.tolist(), rows, columns, strict=True):
        middle = row + 9.5 / scene.step_mm
        reach = np.hypot((y - middle) / 7.0, (x - column) / 8.0) * scene.step_mm
        tissue[level][reach < 1.35], label[level][reach < 1.35] = Tissue.FAT, VALUE["fat"]
        tissue[level][reach < 1], label[level][reach < 1] = Tissue.CORD, VALUE["spinal_cord"]


def _paint_sinuses_(scene: Scene, tissue: np.ndarray, label: np.ndarray) -> None:
    """Paint the renal sinus (fat, told from other fat by its tissue) into the hollow of each kidney."""
    reach = round(9.0 / scene.step_mm)
    for organ in ("kidney_left", "kidney_right"):
        own = scene.label == VALUE[organ]
        if not own.any():
            continue
        places = np.argwhere(own)
        box = tuple(
            slice(max(0, int(low) - reach), int(high) + reach + 1)
            for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)
        )
        part = np.pad(own[box], reach)
        grown = edt.edt(~part, parallel=1) <= reach
        closed = (edt.edt(grown, black_border=True, parallel=1) > reach)[(slice(reach, -reach),) * 3]
        sinus = closed & ~own[box] & np.isin(tissue[box], (Tissue.FREE, Tissue.FAT, Tissue.MUSCLE))
        tissue[box][sinus], label[box][sinus] = Tissue.KIDNEY_PELVIS, VALUE["fat"]


def _ratio(
    inner: Bool[np.ndarray, "z y x"], body: Bool[np.ndarray, "z y x"], step_mm: float
) -> Float[np.ndarray, "z y x"]:
    """Return how far towards the skin a voxel lies, relative to how thick the fat is there."""
    outwards = _distances(~inner) * step_mm
    inwards = (_distances(body) - _distances(~body)) * step_mm
    thickness = np.clip(outwards + inwards, 4.0, 90.0)
    return np.where(inner, 0.0, np.maximum(FULL_DEPTH * outwards / thickness, 1.0)).astype(np.float32)


def _distances(mask: Bool[np.ndarray, "z y x"]) -> Float[np.ndarray, "z y x"]:
    """Return each slice's distances to what is not in the mask, in voxels."""
    planes = [cv2.distanceTransform(plane.astype(np.uint8), cv2.DIST_L2, 5) for plane in mask]
    distances = np.stack(planes)
    return np.minimum(distances, max(mask.shape))
