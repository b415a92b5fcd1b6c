"""Above the domes: chest wall, sternum, great vessels, airways, shoulders; and fluid in chest and belly.

Lungs and heart within the lower chest belong to every patient and are in frame.py. What has no name among the labels
(great vessels other than the aorta, airways, bones of the shoulder) has label 0 here.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from viscera.synthesis.anatomy.frame import Frame, Outline
from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import Noise, Tube, draw_noise, ellipsoid, evaluate, profile, spline

TOP_MM = 600.0
"""Where the highest scans end: above the lungs."""
TALL = Outline(
    levels=(*Outline.levels, 500.0, 545.0, 575.0, 600.0, 630.0),
    wall_x=(*Outline.wall_x, 150, 138, 116, 90, 64),
    wall_y=(*Outline.wall_y, 106, 98, 88, 76, 66),
    wall_front=(*Outline.wall_front, 102, 86, 72, 62, 56),
    cavity_x=(*Outline.cavity_x, 130, 112, 84, 50, 8),
    cavity_y=(*Outline.cavity_y, 88, 76, 58, 34, 6),
    cavity_front=(*Outline.cavity_front, 88, 70, 50, 28, 5),
    fat_x=(*Outline.fat_x, 0.5, 0.5, 0.5, 0.4, 0.3),
    fat_front=(*Outline.fat_front, 0.5, 0.45, 0.4, 0.3, 0.3),
    fat_back=(*Outline.fat_back, 0.6, 0.6, 0.6, 0.6, 0.6),
)
"""The outline of a patient whose chest has a top."""
EFFUSION_FRACTION = 0.1
ASCITES_FRACTION = 0.07


def grow_chest(frame: Frame) -> Frame:
    """Return the chest a top: an outline that narrows above the heart, and an aorta with an arch."""
    return replace(frame, outline=TALL, arch_mm=530.0)


def paint_upper_chest_(frame: Frame, canvas: Canvas) -> None:
    """Paint sternum, arch, pulmonary artery, upper vena cava, airways and shoulders, as far as the scan reaches."""
    if canvas.grid.z[-1] < 380:
        return
    _paint_sternum_(frame, canvas)
    heart = 0.5 * (frame.heart.low[0] + frame.heart.high[0])
    arch = frame.arch_mm or 530.0
    soft = (Tissue.FREE, Tissue.FAT, Tissue.LUNG)
    for side in (-1, 1):
        lung_root = [(heart + 45, 12, 18 * side), (heart + 40, 8, 48 * side), (heart + 25, 10, 70 * side)]
        _paint_tube_(canvas, lung_root, (11, 9, 5), Tissue.PULMONARY_ARTERY, soft)
    trunk = [(heart + 15, -42, 16), (heart + 40, -34, 18), (heart + 52, -10, 14)]
    _paint_tube_(canvas, trunk, (14, 14, 12), Tissue.PULMONARY_ARTERY, soft)
    cava = [(heart + 10, -14, -30), (heart + 60, -16, -28), (arch + 40, -14, -24)]
    _paint_tube_(canvas, cava, (10, 9, 8), Tissue.VEIN, soft)
    above = [
        (heart + 18, -22, -4),
        (heart + 55, -34, -14),
        (arch - 12, -26, -12),
        (arch + 2, -4, 4),
        (arch - 6, 24, 18),
    ]
    _paint_tube_(canvas, [*above, (arch - 30, 38, 20)], (15, 15.5, 14, 13, 12, 11), Tissue.ARTERY, soft, label="aorta")
    airway = [(TOP_MM + 30, 14, 0), (arch, 16, 2), (arch - 32, 18, 2)]
    _paint_tube_(canvas, airway, (10, 9, 9), Tissue.AIRWAY, (*soft, Tissue.MUSCLE))
    for side in (-1, 1):
        bronchus = [(arch - 32, 18, 2), (heart + 48, 22, 26 * side), (heart + 28, 24, 44 * side)]
        _paint_tube_(canvas, bronchus, (8, 6.5, 4), Tissue.AIRWAY, (*soft, Tissue.PULMONARY_ARTERY))
        _paint_shoulder_(canvas, frame, side)


def _paint_tube_(
    canvas: Canvas,
    course: Sequence[tuple[float, float, float]],
    radii_mm: tuple[float, ...],
    tissue: Tissue,
    over: tuple[Tissue, ...],
    *,
    label: str | None = None,
) -> None:
    tube = spline(np.array(course, np.float64), np.array(radii_mm, np.float64), step_mm=4)
    box, field = evaluate(tube, canvas.grid, reach_mm=2.0)
    if not field.size:
        return
    usable = np.isin(canvas.tissue[box], over)
    canvas.paint_(box, usable & (field > -2), Tissue.FAT, "fat")
    canvas.tissue[box][usable & (field > 0)] = tissue
    canvas.label[box][usable & (field > 0)] = VALUE[label] if label else 0


def _paint_sternum_(frame: Frame, canvas: Canvas) -> None:
    levels, shape = np.linspace(392, 548, 24), frame.outline
    outer, inner = (profile(shape.levels, v, levels) * frame.depth for v in (shape.wall_front, shape.cavity_front))
    middle = -0.5 * (outer + inner)
    rows = [np.stack([levels, middle, np.full(24, x)], axis=1) for x in (-11.0, -4, 4, 11)]
    sternum = Tube(np.concatenate(rows), np.full(96, 6.5))
    box, field = evaluate(sternum, canvas.grid, reach_mm=0.0)
    within = np.isin(canvas.tissue[box], (Tissue.MUSCLE, Tissue.SUBCUTANEOUS_FAT, Tissue.LUNG, Tissue.FAT, Tissue.FREE))
    for least, tissue in ((0.0, Tissue.CORTEX), (1.8, Tissue.MARROW)):
        canvas.paint_(box, within & (field > least), tissue, "ribs")


def _paint_shoulder_(canvas: Canvas, frame: Frame, side: int) -> None:
    """Paint the muscles and bones of a shoulder over air, and a shoulder blade into the wall."""
    empty = (Tissue.AIR,)
    for grown, tissue in ((frame.fat_mm * 0.5 + 3, Tissue.SUBCUTANEOUS_FAT), (0.0, Tissue.MUSCLE)):
        shape = ellipsoid(
            (598.0, 34.0, side * 122.0), (66 + grown, 52 + grown, 62 + grown), noise=frame.fine, noise_mm=2
        )
        box, field = evaluate(shape, canvas.grid, reach_mm=0.0)
        usable = np.isin(canvas.tissue[box], (*empty, Tissue.SUBCUTANEOUS_FAT, Tissue.SKIN))
        canvas.paint_(box, usable & (field > 0), tissue, "fat" if tissue == Tissue.SUBCUTANEOUS_FAT else "muscle")
    blade = spline(
        np.array([(470, 92, 92), (520, 100, 110), (570, 84, 128), (600, 60, 140)]) * (1, 1, side),
        np.array((4.0, 5, 7, 9)),
        step_mm=3,
    )
    head = ellipsoid((604.0, 30.0, side * 158.0), (23, 23, 23))
    for bone in (blade, head):
        box, field = evaluate(bone, canvas.grid, reach_mm=0.0)
        within = np.isin(canvas.tissue[box], (Tissue.MUSCLE, Tissue.SUBCUTANEOUS_FAT))
        for least, tissue in ((0.0, Tissue.CORTEX), (2.5, Tissue.MARROW)):
            canvas.tissue[box][within & (field > least)] = tissue
            canvas.label[box][within & (field > least)] = 0


def paint_fluids_(generator: np.random.Generator, canvas: Canvas, frame: Frame) -> None:
    """Paint pleural effusion (labelled lung) and ascites (labelled fat), in some patients."""
    sides = [(side, generator.random() < EFFUSION_FRACTION, generator.uniform(10, 110)) for side in (-1, 1)]
    has_ascites, amount_mm = generator.random() < ASCITES_FRACTION, generator.uniform(3, 26)
    uneven = draw_noise(generator, 40.0)
    for side, has_effusion, depth_mm in sides:
        if has_effusion:
            _paint_effusion_(canvas, frame, side, depth_mm, uneven)
    if has_ascites:
        _paint_ascites_(canvas, frame, amount_mm, uneven)


def _paint_effusion_(canvas: Canvas, frame: Frame, side: int, depth_mm: float, uneven: Noise) -> None:
    grid = canvas.grid
    low, high = (250.0, -110.0, 0.0 if side > 0 else -200.0), (560.0, 130.0, 200.0 if side > 0 else 0.0)
    box = grid.box(np.array(low), np.array(high))
    if canvas.tissue[box].size == 0:
        return
    z, y, x = (axis.astype(np.float32) for axis in grid.axes(box))
    lung = canvas.tissue[box] == Tissue.LUNG
    # The patient lies on the back: fluid stands to a level, more of it low down, and the lung above it is airless.
    back = profile(frame.outline.levels, frame.outline.cavity_y, grid.z[box[0]])[:, None, None] * frame.depth
    level = back - depth_mm * np.clip(1.15 - (z - 330) / 260, 0.2, 1) + 3 * uneven(z, y, x)
    canvas.tissue[box][lung & (y > level)] = Tissue.EFFUSION
    collapsed = lung & (y > level - 0.15 * depth_mm) & (y <= level) & (np.abs(x) < 105)
    canvas.tissue[box][collapsed] = Tissue.COLLAPSED_LUNG


def _paint_ascites_(canvas: Canvas, frame: Frame, amount_mm: float, uneven: Noise) -> None:
    grid = canvas.grid
    box = grid.box(np.array((15.0, -160.0, -190.0)), np.array((420.0, 75.0, 190.0)))
    if canvas.tissue[box].size == 0:
        return
    z, y, x = (axis.astype(np.float32) for axis in grid.axes(box))
    outline, level = frame.outline, grid.z[box[0]]
    half_x = profile(outline.levels, outline.cavity_x, level)[:, None, None] * frame.waist
    half_y = profile(outline.levels, outline.cavity_front, level)[:, None, None] * frame.depth
    depth = (1 - np.sqrt((x / half_x) ** 2 + (y / half_y) ** 2)) * 95
    pool = np.clip((75 - z) / 60, 0, 1) * 45  # it gathers in the pelvis
    wet = (canvas.tissue[box] == Tissue.FREE) & (depth < amount_mm * (1 + 0.4 * uneven(z, y, x)) + pool) & (y < 45)
    canvas.tissue[box][wet] = Tissue.ASCITES
