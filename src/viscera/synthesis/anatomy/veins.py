"""Veins beyond the usual ones: a vena cava that is a slit, and the mesenteric vessels below the portal confluence.

How blood of different HU mixes in the vena cava is in appearance/confusers.py.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from viscera.synthesis.anatomy.frame import Frame
from viscera.synthesis.anatomy.plans import CavaPlan, draw_cava
from viscera.synthesis.canvas import VALUE, Box, Canvas, Detail, Field, Organ, Tissue
from viscera.synthesis.shapes import Tube, draw_noise, spline

WIDEST = 1.35
"""A flat vein's half-width, in its radius while round: its circumference stays about what it was."""
PARALLEL = 7
"""Tubes side by side that make a flat one."""
STUB_MM = 25.0
"""How far below the confluence the mesenteric vein is labelled as portal vein, as label maps of real scans have it."""


def flat_tube(points: Shaped[np.ndarray, "k 3"], radii_mm: Float[np.ndarray, "k"], plan: CavaPlan) -> Tube:
    """Return the tube through control points whose section is flattened as planned."""
    tube = spline(points, radii_mm, step_mm=3)
    if min(plan.flatness) >= 1:
        return tube
    # The plan's values, spread over the balls.
    share = np.linspace(0, len(plan.flatness) - 1, len(tube.points))
    flat = np.interp(share, np.arange(len(plan.flatness)), plan.flatness)
    wide = np.minimum(tube.radii_mm / np.sqrt(flat), WIDEST * tube.radii_mm)
    thick = np.maximum(flat * wide, 2.5)
    aside = np.linspace(-1, 1, PARALLEL)[None, :] * (wide - thick)[:, None]
    points = np.repeat(tube.points[:, None], PARALLEL, axis=1)
    points[..., 1] += np.sin(plan.tilt) * aside
    points[..., 2] += np.cos(plan.tilt) * aside
    return Tube(points.reshape(-1, 3), np.repeat(thick, PARALLEL).astype(np.float32))


def draw_mesenteric(portal: Organ, frame: Frame) -> list[Organ]:
    """Return the upper mesenteric vein and artery that run down from the confluence of a portal vein.

    Below STUB_MM the vein has no label, and the artery has none at all.
    """
    if not isinstance(portal.shape, Tube):
        return []
    place = int(np.argmax(portal.shape.radii_mm))
    start, radius = portal.shape.points[place], 0.8 * float(portal.shape.radii_mm[place])
    wander = 4 * frame.fine(*(start[axis : axis + 1].reshape(-1, 1, 1) for axis in range(3))).item()
    vein = start + np.array([(0, 0, 0), (-25, -5, 4), (-55, -12, 2 + wander), (-95, -20, -4 + wander)])
    artery = start + np.array([(22, 6, 16), (0, -2, 18), (-25, -5, 17), (-55, -10, 16 + wander), (-90, -18, 10)])
    name = "portal_vein_and_splenic_vein"
    return [
        Organ(
            name,
            Tissue.PORTAL_VEIN,
            spline(vein, radius * np.array((1.0, 0.95, 0.8, 0.55)), step_mm=2),
            margin_mm=0.5,
            detail=_without_label(float(start[0]) - STUB_MM),
        ),
        Organ(
            name,
            Tissue.ARTERY,
            spline(artery, np.array((3.8, 3.8, 3.6, 3.2, 2.4)), step_mm=2),
            margin_mm=1.5,
            detail=_without_label(np.inf),
        ),
    ]


def _without_label(below_mm: float) -> Detail:
    """Return what takes the label from all that lies below a height."""

    def _unlabel(canvas: Canvas, box: Box, field: Field, inside: np.ndarray) -> None:
        canvas.label[box][inside & (canvas.grid.axes(box)[0] < below_mm)] = 0

    return _unlabel


def flatten_cava_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Flatten the vena cava of a painted patient, slice by slice about its middle; its neighbours take its place."""
    plan, uneven = draw_cava(generator), draw_noise(generator, 60.0)
    levels = np.flatnonzero((canvas.label == VALUE["inferior_vena_cava"]).any(axis=(1, 2)))
    if not len(levels) or min(plan.flatness) >= 1:
        return
    y, x = np.meshgrid(canvas.grid.y, canvas.grid.x, indexing="ij")
    ease = uneven(canvas.grid.z[levels][:, None, None], np.zeros((1, 1, 1)), np.zeros((1, 1, 1))).ravel()
    share = np.linspace(0, len(plan.flatness) - 1, len(levels))
    flat = np.interp(share, np.arange(len(plan.flatness)), plan.flatness) * (1 + 0.1 * ease)
    for number, ratio in zip(levels.tolist(), flat.tolist(), strict=True):
        own = canvas.label[number] == VALUE["inferior_vena_cava"]
        dy, dx = y - y[own].mean(), x - x[own].mean()
        across = np.cos(plan.tilt) * dy - np.sin(plan.tilt) * dx
        half = float(np.abs(across[own]).max()) + 0.5 * float(canvas.grid.y[1] - canvas.grid.y[0])
        fill_from_neighbours_(canvas, number, own & (np.abs(across) > max(ratio, 0.15) * half))


def fill_from_neighbours_(canvas: Canvas, number: int, gone: Bool[np.ndarray, "y x"]) -> None:
    """Give pixels of a slice to the nearest pixel that is neither among them nor their former owner's."""
    if not gone.any():
        return
    owner = canvas.label[number][gone][0]
    soft = np.isin(canvas.tissue[number], (Tissue.FREE, Tissue.FAT, Tissue.LIVER, Tissue.MUSCLE))
    sources = soft & ~gone & (canvas.label[number] != owner)
    if not sources.any():
        return
    _, nearest = cv2.distanceTransformWithLabels(
        (~sources).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    found = np.zeros(int(nearest.max()) + 1, np.int64)
    found[nearest[sources]] = np.flatnonzero(sources)
    take = found[nearest[gone]]
    canvas.tissue[number][gone] = canvas.tissue[number].ravel()[take]
    canvas.label[number][gone] = canvas.label[number].ravel()[take]
