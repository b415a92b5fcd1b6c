"""Metal in a varied patient: hip prostheses and spine screws. Their streaks are in scanner/protocol.py; the labels stay."""

import numpy as np

from viscera.synthesis.anatomy.skeleton import SACRUM_MM, VERTEBRA_MM, Skeleton
from viscera.synthesis.canvas import Canvas, Tissue
from viscera.synthesis.shapes import Tube, evaluate, spline

HIP_FRACTION = 0.03
SCREWS_FRACTION = 0.03


def paint_metal_(generator: np.random.Generator, canvas: Canvas, skeleton: Skeleton) -> None:
    """Paint a prosthesis of one or both hips, and screws in two or three vertebrae, each in few patients."""
    has_hip, has_screws = generator.random() < HIP_FRACTION, generator.random() < SCREWS_FRACTION
    sides, lowest, count = generator.choice((-1, 1, 0)), int(generator.integers(0, 3)), int(generator.integers(2, 4))
    if has_hip:
        for side in (-1, 1) if sides == 0 else (int(sides),):
            _paint_hip_(canvas, skeleton, side)
    if has_screws:
        for number in range(lowest, lowest + count):
            _paint_screws_(canvas, skeleton, SACRUM_MM + (number + 0.55) * VERTEBRA_MM - skeleton.phase_mm)


def _paint_hip_(canvas: Canvas, skeleton: Skeleton, side: int) -> None:
    stem = np.array([(0, 4, 90), (-14, 8, 112), (-40, 13, 134), (-90, 10, 137), (-150, 6, 132)])
    parts = (
        Tube(np.array([(0.0, 4.0, side * 90.0), (0.5, 4.0, side * 90.0)]), np.full(2, skeleton.head_mm - 4)),
        spline(stem * (1, 1, side), np.array((8.0, 8, 8, 7, 5)), step_mm=3),
    )
    for part in parts:
        _paint_part_(canvas, part)


def _paint_screws_(canvas: Canvas, skeleton: Skeleton, z: float) -> None:
    y, x = (float(value[0]) for value in skeleton.axis(np.array([z])))
    for side in (-1, 1):
        course = np.array([(z, y - 8, x + 9 * side), (z, y + 12, x + 15 * side), (z, y + 36, x + 20 * side)])
        _paint_part_(canvas, spline(course, np.array((2.6, 2.8, 5)), step_mm=2))


def _paint_part_(canvas: Canvas, part: Tube) -> None:
    box, field = evaluate(part, canvas.grid, reach_mm=0.0)
    if field.size:
        canvas.tissue[box][field > 0] = Tissue.METAL
