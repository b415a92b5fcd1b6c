"""Folds of the stomach's wall, and gas caught between and over them: a level in a smooth bag is not the usual stomach.

All of it stays within the organ and needs nothing but the canvas, so that patients of templates have it too.
"""

import numpy as np

from viscera.boxes import boxes_of, widen
from viscera.synthesis.anatomy.rims import distances
from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import draw_noise

FOLDED_FRACTION = 0.65
UNEVEN_FRACTION = 0.6
"""Share of patients whose stomach has folds, and of these in whom gas is caught between them rather than over a level."""
DEEPEST_MM = 14.0


def fold_stomach_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Fold the stomach's wall, in some patients, and break the level of its gas; labels stay as they are."""
    is_folded, is_uneven = generator.random(2) < (FOLDED_FRACTION, UNEVEN_FRACTION)
    wall_mm, fold_mm, rise_mm = generator.uniform((2.0, 3.0, 3.0), (5.0, 12.0, 16.0))
    narrow, pockets = draw_noise(generator, generator.uniform(7, 13)), draw_noise(generator, generator.uniform(10, 22))
    share = generator.uniform(0.03, 0.25)
    box = boxes_of(canvas.label, (VALUE["stomach"],)).get(VALUE["stomach"]) if is_folded else None
    if box is None:
        return
    box, grid = widen(box, (1, 1, 1), canvas.label.shape), canvas.grid
    own, tissue = canvas.label[box] == VALUE["stomach"], canvas.tissue[box]
    steps = tuple(float(axis[1] - axis[0]) for axis in (grid.z, grid.y, grid.x))
    axes = grid.axes(box)
    gas = own & (tissue == Tissue.GAS)
    held = tissue[own & (tissue != Tissue.GAS) & (tissue != Tissue.STOMACH_WALL)]
    content = int(np.bincount(held).argmax()) if len(held) else int(Tissue.FOOD)
    if is_uneven:
        front = np.broadcast_to(axes[1], own.shape)
        # Where there is no gas, what lies in front may catch some.
        level = front[gas].max() if gas.any() else np.quantile(front[own], share)
        tissue[gas] = content
        tissue[own & (front + np.float32(rise_mm) * pockets(*axes) < level)] = Tissue.GAS
    thickness = np.float32(wall_mm) + np.float32(fold_mm) * np.maximum(narrow(*axes), 0)
    tissue[own & (distances(~own, steps) < np.minimum(thickness, DEEPEST_MM))] = Tissue.STOMACH_WALL
