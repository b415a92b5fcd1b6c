"""HU that are taken for the liver's or change within a vessel: confluence, bowel, vena cava, chalk in old arteries.

Shapes are in anatomy/veins.py and anatomy/old_vessels.py; nothing here touches a label.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from viscera.synthesis.appearance.tissues import Palette
from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import draw_noise

ALIKE: dict[Tissue, tuple[float, float, float]] = {
    Tissue.PORTAL_VEIN: (0.3, -8, 25),
    Tissue.PANCREAS: (0.35, -14, 10),
    Tissue.BOWEL_WALL: (0.25, -12, 12),
    Tissue.STOMACH_WALL: (0.2, -12, 12),
    Tissue.FOOD: (0.2, -20, 10),
}
"""{tissue: (share of patients in whom its HU follow the liver's, lowest and highest difference)}."""
BRIGHT_FRACTION, BRIGHT_HU = 0.25, (35.0, 110.0)
"""Share of enhanced patients whose portal vein is much brighter than their liver, and by how much."""
CAVA_ALIKE = 0.35
MIXING_FRACTION = 0.55
"""Share of patients whose vena cava is as bright as the liver, and of enhanced ones in whom its blood has not mixed."""
BOWEL_ALIKE, BRIGHTEST_WALL_HU = (0.2, 0.15), 160.0
"""Share of patients whose bowel is as bright as the spleen, and as the renal medulla, up to so many HU."""
RENAL_MM = 262.0
"""Height of the renal veins where no kidney tells it."""
CHALK_FRACTION = 0.75


def resemble(generator: np.random.Generator, palette: Palette, *, enhanced: bool) -> Palette:
    """Bring what lies beside the liver to its HU, each in some patients; in others make the portal vein bright."""
    means, textures = palette.means.copy(), palette.textures.copy()
    draws, places, bright = generator.random(len(ALIKE)), generator.random(len(ALIKE)), generator.random()
    step = generator.uniform(*BRIGHT_HU)
    for (tissue, (share, low, high)), draw, place in zip(ALIKE.items(), draws, places, strict=True):
        if draw < share:
            means[tissue] = means[Tissue.LIVER] + low + (high - low) * place
    if enhanced and bright < BRIGHT_FRACTION:
        means[Tissue.PORTAL_VEIN] = means[Tissue.LIVER] + step
    means[Tissue.LIVERLIKE] = means[Tissue.LIVER] + generator.uniform(-18, 18)
    textures[Tissue.LIVERLIKE] = generator.uniform(3, 12)
    return replace(palette, means=means, textures=textures)


def brighten_bowel(generator: np.random.Generator, palette: Palette) -> Palette:
    """Give walls and collapsed loops of bowel the HU of spleen or kidney, in some patients: a loop beside these is none."""
    means = palette.means.copy()
    draw, step, emptied = generator.random(), generator.uniform(-15, 15), generator.uniform(-20, 5)
    of_spleen, of_kidney = BOWEL_ALIKE
    if draw < of_spleen + of_kidney:
        model = Tissue.SPLEEN if draw < of_spleen else Tissue.KIDNEY_MEDULLA
        # A wall takes up less contrast medium than a kidney may.
        means[Tissue.BOWEL_WALL] = min(float(means[model]), BRIGHTEST_WALL_HU) + step
        means[Tissue.COLLAPSED] = means[Tissue.BOWEL_WALL] + emptied
    return replace(palette, means=means)


def match_cava(generator: np.random.Generator, palette: Palette) -> Palette:
    """Give venous blood the liver's HU, in some patients."""
    means = palette.means.copy()
    draw, step = generator.random(), generator.uniform(-6, 6)
    if draw < CAVA_ALIKE:
        means[Tissue.VEIN] = means[Tissue.LIVER] + step
    return replace(palette, means=means)


def paint_mixing_(
    generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"], palette: Palette
) -> None:
    """Paint blood from the legs, still dark, and from the kidneys, already bright, that meet in the vena cava.

    Below the renal veins all is dark; above them the two run side by side in layers that mix on their way to the heart.
    """
    mixes, slow, fast = generator.random() < MIXING_FRACTION, draw_noise(generator, 34.0), draw_noise(generator, 7.0)
    share, rise_mm, lengthy = generator.uniform(0.25, 0.9), generator.uniform(6, 30), generator.uniform(50, 160)
    tilt, sharp = generator.uniform(-np.pi, np.pi), generator.uniform(1.0, 5.0)
    means, grid = palette.means, canvas.grid
    veins = np.isin(canvas.label, (VALUE["inferior_vena_cava"], VALUE["iliac_vena"])) & (canvas.tissue == Tissue.VEIN)
    places = np.nonzero(veins)
    bright = float(0.55 * means[Tissue.KIDNEY_CORTEX] + 0.45 * means[Tissue.ARTERY])
    if not mixes or not len(places[0]):
        return
    z, y, x = (axis[place].astype(np.float32) for axis, place in zip((grid.z, grid.y, grid.x), places, strict=True))
    kidneys = np.flatnonzero(np.isin(canvas.label, (VALUE["kidney_left"], VALUE["kidney_right"])).any(axis=(1, 2)))
    renal = float(grid.z[kidneys].mean()) if len(kidneys) else RENAL_MM
    dark = share * min(float(means[Tissue.VEIN]), bright) + (1 - share) * 38
    inflow = 1 / (1 + np.exp(-(z - renal) / rise_mm))
    # Streams run along the vein: the pattern hardly changes along z.
    box_z, box_y, box_x = (slice(int(place.min()), int(place.max()) + 1) for place in places)
    inner = tuple(place - part.start for place, part in zip(places, (box_z, box_y, box_x), strict=True))
    axes = grid.axes((box_z, box_y, box_x))
    pattern = slow(0.3 * axes[0], axes[1], axes[2])[inner] + 0.5 * fast(0.25 * axes[0], axes[1], axes[2])[inner]
    side = (np.cos(tilt) * (x - x.mean()) + np.sin(tilt) * (y - y.mean())) / 8
    layer = 1 / (1 + np.exp(-sharp * (side + pattern)))
    mixed = np.clip((z - renal) / lengthy, 0, 1)
    part = inflow * ((1 - mixed) * layer + 0.55 * mixed)
    image[places] += (dark + (bright - dark) * part - means[Tissue.VEIN]).astype(np.float32)


def paint_chalk_(generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"]) -> None:
    """Paint chalk into the walls of aorta and iliac arteries: plaques, or a shell, around thrombus too."""
    has_chalk, level, hu = (
        generator.random() < CHALK_FRACTION,
        generator.uniform(-0.6, 1.8),
        generator.uniform(250, 1100),
    )
    lumps = draw_noise(generator, 9.0)
    places = np.nonzero(np.isin(canvas.label, (VALUE["aorta"], VALUE["iliac_artery"])))
    if not has_chalk or not len(places[0]):
        return
    box = tuple(slice(max(0, int(place.min()) - 1), int(place.max()) + 2) for place in places)
    z, y, x = box
    box = (z, y, x)
    own = np.isin(canvas.label[box], (VALUE["aorta"], VALUE["iliac_artery"]))
    inner = own.copy()
    inner[:, 1:] &= own[:, :-1]
    inner[:, :-1] &= own[:, 1:]
    inner[:, :, 1:] &= own[:, :, :-1]
    inner[:, :, :-1] &= own[:, :, 1:]
    wall = own & ~inner
    image[box][wall & (lumps(*canvas.grid.axes(box)) > level)] = hu
