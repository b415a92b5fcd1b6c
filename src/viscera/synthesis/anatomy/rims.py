"""Muscle that touches liver, spleen and stomach without fat between: diaphragm, slips, crura, wall; and what lies behind it.

Its HU are near the organs', so that only an edge tells where these end: a network that never saw such a rim takes it for
the organ. All of it is painted onto a patient whose organs are in place, procedural or from a template; an organ gives
up no more than what slips of the diaphragm press into it.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float

from viscera.synthesis.canvas import VALUE, Box, Canvas, Tissue
from viscera.synthesis.shapes import draw_noise, evaluate, spline

RIMMED = ("liver", "spleen", "stomach")
SLIPPED = ("liver", "spleen")
"""Organs that a rim lies on, and that slips press into."""
REACH_MM = 14.0
"""How far from an organ anything is painted."""
CLOSE_MM = 7.0
"""Fat between organ and wall that is no wider becomes muscle where it lies on the organ, in patches."""
WALL = (Tissue.MUSCLE, Tissue.LUNG, Tissue.CORTEX, Tissue.MARROW, Tissue.CARTILAGE)


def paint_rims_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Paint diaphragm and wall muscle onto liver, spleen and stomach, fat behind it in places, and the crura."""
    thick_mm, uneven = generator.uniform(1.5, 4.5), generator.uniform(0.1, 0.5)
    slip_mm, seldom = generator.uniform(0, 7), generator.uniform(0.6, 1.6)
    fat_mm, patches = np.exp(generator.uniform(np.log(0.8), np.log(6))), generator.uniform(-0.9, 1.2)
    covered = generator.uniform(-0.8, 1.2)
    broad, narrow = draw_noise(generator, 26.0), draw_noise(generator, 13.0)
    paint_crura_(generator, canvas)
    box = _box_about(canvas, RIMMED)
    if box is None:
        return
    grid, tissue, label = canvas.grid, canvas.tissue[box], canvas.label[box]
    steps = tuple(float(axis[1] - axis[0]) for axis in (grid.z, grid.y, grid.x))
    z, y, x = grid.axes(box)
    wide, folds = broad(z, y, x), narrow(0.35 * z, y, x)
    to_wall = distances(_among(tissue, WALL), steps)
    slips = (to_wall < slip_mm * np.maximum(folds - np.float32(seldom), 0)) & _named(label, SLIPPED)
    tissue[slips], label[slips] = Tissue.MUSCLE, VALUE["muscle"]
    away = distances(_named(label, RIMMED), steps)
    rim = np.float32(thick_mm) * np.maximum(1 + np.float32(uneven) * wide, 0.4)
    rim += np.float32(0.4 * slip_mm) * np.maximum(folds - np.float32(seldom), 0)
    fat = _among(tissue, (Tissue.FREE, Tissue.FAT))
    behind = (away >= rim) & (away < rim + np.float32(fat_mm)) & (tissue == Tissue.MUSCLE) & (wide > patches)
    # A voxel counts by its middle.
    muscle = (away < rim) & ((tissue == Tissue.LUNG) | (fat & (to_wall < CLOSE_MM) & (wide < covered)))
    tissue[muscle], label[muscle] = Tissue.MUSCLE, VALUE["muscle"]
    tissue[behind], label[behind] = Tissue.FAT, VALUE["fat"]


def paint_crura_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Paint the crura of the diaphragm beside the aorta, wherever there is fat: bands that may pass for a node or a lobe."""
    sizes, lift = generator.uniform(3.5, 9.0, 2), generator.normal(0, 8)
    for side, radius in zip((-1, 1), sizes.tolist(), strict=True):
        course = np.array([(205, 20, 17), (250, 14, 19), (300, 10, 17), (340, 12, 18), (368, 20, 26)]) * (1, 1, side)
        course = course + np.array((lift, 0, 7))
        tube = spline(course, radius * np.array((0.5, 0.8, 1.0, 1.0, 0.7)), step_mm=4)
        box, field = evaluate(tube, canvas.grid, reach_mm=0.0)
        if field.size:
            free = _among(canvas.tissue[box], (Tissue.FREE, Tissue.FAT)) & (field > 0)
            canvas.paint_(box, free & (canvas.label[box] == VALUE["fat"]), Tissue.MUSCLE, "muscle")


def distances(mask: Bool[np.ndarray, "z y x"], steps_mm: tuple[float, ...]) -> Float[np.ndarray, "z y x"]:
    """Return how far the middle of each voxel is from the surface of a mask's voxels, right up to REACH_MM.

    Args:
        mask: Of what; 0 within.
        steps_mm: Of the grid along z, y, x; those of y and x nearly alike.
    """
    flat = np.stack([cv2.distanceTransform(plane, cv2.DIST_L2, 5) for plane in (~mask).astype(np.uint8)])
    np.minimum(flat, np.float32(2 * REACH_MM / steps_mm[2]), out=flat)
    flat -= np.float32(0.5)
    np.maximum(flat, 0, out=flat)
    flat *= np.float32(steps_mm[2])
    flat *= flat
    square = flat.copy()
    for number in range(1, min(int(REACH_MM / steps_mm[0] + 0.5), len(mask) - 1) + 1):
        gap = np.float32(((number - 0.5) * steps_mm[0]) ** 2)
        np.minimum(square[number:], flat[:-number] + gap, out=square[number:])
        np.minimum(square[:-number], flat[number:] + gap, out=square[:-number])
    return np.sqrt(square, out=square)


def _among(tissue: np.ndarray, kinds: tuple[Tissue, ...]) -> Bool[np.ndarray, "z y x"]:
    table = np.zeros(256, bool)
    table[list(kinds)] = True
    return table[tissue]


def _named(label: np.ndarray, organs: tuple[str, ...]) -> Bool[np.ndarray, "z y x"]:
    table = np.zeros(256, bool)
    table[[VALUE[organ] for organ in organs]] = True
    return table[label]


def _box_about(canvas: Canvas, organs: tuple[str, ...]) -> Box | None:
    """Return the box of some organs and REACH_MM about them; None where there are none."""
    own, ends = _named(canvas.label, organs), []
    plane = own.any(axis=0)
    slices = np.flatnonzero(own.any(axis=(1, 2)))
    rows, columns = (np.unique(places) for places in np.nonzero(plane))
    for places, axis in zip((slices, rows, columns), (canvas.grid.z, canvas.grid.y, canvas.grid.x), strict=True):
        if not len(places) or len(axis) < 2:
            return None
        pad = int(REACH_MM / float(axis[1] - axis[0])) + 1
        ends.append(slice(max(0, int(places[0]) - pad), int(places[-1]) + pad + 1))
    return ends[0], ends[1], ends[2]
