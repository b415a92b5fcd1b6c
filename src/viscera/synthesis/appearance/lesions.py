"""What a varied patient's image shows beyond its organs' HU: lesions, calcium, fat in muscle, strands, lung vessels.

All of it is painted into the image of the ideal scanner and leaves the labels as they are: a cyst of the liver is liver.
Tumours that have a label of their own are in tumours.py, metal and streaks in anatomy/metal.py and scanner/protocol.py.
"""

import numpy as np
from jaxtyping import Float

from viscera.synthesis.appearance.tissues import Palette
from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import draw_noise, ellipsoid, evaluate, rotation_about

LESION_ORGANS: tuple[tuple[str, float, float, float], ...] = (
    ("liver", 0.4, 3.0, 32.0),
    ("spleen", 0.12, 2.0, 20.0),
    ("kidney_left", 0.15, 1.5, 16.0),
    ("kidney_right", 0.15, 1.5, 16.0),
)
"""(organ, share of patients with lesions of it, mean count, greatest radius in mm)."""


def paint_lesions_(generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"]) -> None:
    """Paint cysts, blobs darker or brighter than their organ, and rims."""
    surface, grain = draw_noise(generator, 11.0), draw_noise(generator, 6.0)
    for stream, (organ, share, most, largest_mm) in zip(
        generator.spawn(len(LESION_ORGANS)), LESION_ORGANS, strict=True
    ):
        has_lesions, count = stream.random() < share, 1 + stream.poisson(most - 1)
        voxels = np.flatnonzero(canvas.label.ravel() == VALUE[organ]) if has_lesions else []
        if not len(voxels):
            continue
        organ_hu = float(np.median(image.ravel()[voxels]))
        for _ in range(int(count)):
            place = np.unravel_index(voxels[int(stream.random() * len(voxels))], canvas.grid.shape)
            z, y, x = (
                float(axis[here])
                for axis, here in zip((canvas.grid.z, canvas.grid.y, canvas.grid.x), place, strict=True)
            )
            radius = float(np.exp(stream.uniform(np.log(3.0), np.log(largest_mm))))
            stretch = np.exp(stream.uniform(-0.25, 0.25, 3)) * radius
            turn = rotation_about(0, stream.uniform(0, np.pi)) @ rotation_about(1, stream.uniform(0, np.pi))
            shape = ellipsoid((z, y, x), tuple(stretch), rotation=turn, noise=surface, noise_mm=0.1 * radius)
            box, depth = evaluate(shape, canvas.grid, reach_mm=0.0)
            value, rim = _draw_lesion_hu(stream, organ_hu)
            inside = (depth > 0) & (canvas.label[box] == VALUE[organ])
            hu = np.full(depth.shape, value, np.float32) + 5 * grain(*canvas.grid.axes(box))
            hu[depth < min(3.0, 0.3 * radius)] += rim
            image[box][inside] = hu[inside]


def _draw_lesion_hu(generator: np.random.Generator, organ_hu: float) -> tuple[float, float]:
    """Return the HU of a lesion, and by how much its rim differs."""
    kind, shift = generator.random(), generator.uniform(-70, 60)
    fluid, calcium, rim = generator.uniform(-5, 25), generator.uniform(200, 700), generator.uniform(20, 70)
    value = fluid if kind < 0.35 else calcium if kind > 0.96 else organ_hu + shift
    return value, rim if generator.random() < 0.2 else 0.0


def paint_texture_(
    generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"], palette: Palette
) -> None:
    """Paint calcified vessels, fat within muscle, strands in fat, slow changes of HU within organs, and lung vessels."""
    grid = canvas.grid
    axes = grid.axes(grid.everything)
    fine, middle, slow = (draw_noise(generator, step) for step in (7.0, 15.0, 48.0))
    fat_share, strands, spread = generator.beta(1.2, 4), generator.beta(1, 3), generator.uniform(0, 0.06)
    calcium_level, calcium_hu = generator.uniform(0.9, 3.2), generator.uniform(180, 900)
    small = fine(*axes)
    tissue = canvas.tissue
    muscle = tissue == Tissue.MUSCLE
    image[muscle & (small > 2.4 - 2.2 * fat_share)] -= np.float32(40 + 70 * fat_share)
    image[muscle] += np.float32(14) * slow(*axes)[muscle]
    wavy = middle(*axes)
    fat = (tissue == Tissue.FREE) | (tissue == Tissue.FAT)
    image[fat & (np.abs(wavy) < 0.10 * strands)] += np.float32(25 + 50 * strands)
    image[fat] += np.float32(25 * strands) * np.maximum(small[fat] * 0.6 + wavy[fat] - 0.4, 0)
    under = (tissue == Tissue.SUBCUTANEOUS_FAT) & (np.abs(wavy - 0.3) < 0.03 + 0.03 * strands)
    image[under] += np.float32(35)
    organs = (tissue == Tissue.LIVER) | (tissue == Tissue.SPLEEN) | (tissue == Tissue.PANCREAS)
    image[organs] *= 1 + np.float32(spread) * wavy[organs]
    _paint_calcium_(canvas, image, small, level=calcium_level, hu=calcium_hu)
    _paint_liver_vessels_(generator, canvas, image, palette)
    lung = tissue == Tissue.LUNG
    if lung.any():
        other = draw_noise(generator, 15.0)(*axes)
        image[lung] += 45 * slow(*axes)[lung] + 25 * small[lung]
        image[lung & (wavy**2 + other**2 < 0.05)] = palette.means[Tissue.PULMONARY_ARTERY] - 60


def _paint_liver_vessels_(
    generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"], palette: Palette
) -> None:
    """Paint vessels of the liver that are wider here and narrower there than the usual ones."""
    grid = canvas.grid
    widest = generator.uniform(0.01, 0.05)
    pairs = [(draw_noise(generator, 40.0), draw_noise(generator, 40.0)) for _ in range(2)]
    box = grid.box(np.array((170.0, -140, -160)), np.array((460.0, 110, 140)))
    if image[box].size == 0:
        return
    axes = grid.axes(box)
    liver = canvas.tissue[box] == Tissue.LIVER
    middle = np.exp(-(((axes[0] - 335) / 60) ** 2) - (axes[1] / 70) ** 2)  # widest near the porta
    for (first, second), tissue in zip(pairs, (Tissue.PORTAL_VEIN, Tissue.VEIN), strict=True):
        square = first(*axes) ** 2 + second(*axes) ** 2
        image[box][liver & (square < widest * (0.3 + middle))] = palette.means[tissue]


def _paint_calcium_(
    canvas: Canvas, image: Float[np.ndarray, "z y x"], lumps: np.ndarray, *, level: float, hu: float
) -> None:
    """Paint calcium where the wall of an artery (its outermost voxels within a slice) and a random field meet."""
    artery = canvas.tissue == Tissue.ARTERY
    inner = artery.copy()
    inner[:, 1:] &= artery[:, :-1]
    inner[:, :-1] &= artery[:, 1:]
    inner[:, :, 1:] &= artery[:, :, :-1]
    inner[:, :, :-1] &= artery[:, :, 1:]
    image[artery & ~inner & (lumps > level)] = hu
