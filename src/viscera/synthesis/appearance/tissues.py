"""How tissues look: HU by tissue and contrast phase, texture, vessels. The scanner itself is in scanner/acquisition.py."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from viscera.synthesis.canvas import Canvas, Tissue
from viscera.synthesis.shapes import Noise, draw_noise

PHASES: tuple[str, ...] = ("none", "arterial", "portal", "delayed")
PHASE_PROBABILITY = (0.2, 0.15, 0.5, 0.15)
VARIED_PROBABILITY = (0.34, 0.17, 0.35, 0.14)
"""Of PHASES, where contrast is varied: a quarter of patients is unenhanced (0.34 but for enhancement.WIDE_FRACTION)."""

PLAIN_HU: dict[Tissue, tuple[float, float, float]] = {
    Tissue.AIR: (-1000, -1000, 0),
    Tissue.SKIN: (-10, 40, 8),
    Tissue.SUBCUTANEOUS_FAT: (-112, -98, 6),
    Tissue.FREE: (-108, -92, 7),
    Tissue.FAT: (-108, -92, 7),
    Tissue.CORTEX: (420, 680, 60),
    Tissue.MARROW: (110, 230, 38),
    Tissue.DISC: (70, 105, 8),
    Tissue.CARTILAGE: (60, 110, 12),
    Tissue.CORD: (25, 45, 5),
    Tissue.LUNG: (-880, -800, 25),
    Tissue.BILE: (0, 18, 3),
    Tissue.URINE: (-2, 14, 3),
    Tissue.GAS: (-1000, -960, 8),
    Tissue.FLUID: (4, 22, 5),
    Tissue.CHYME: (14, 38, 9),
    Tissue.STOOL: (-25, 50, 48),
    Tissue.ORAL_CONTRAST: (160, 330, 25),
    Tissue.FOOD: (22, 62, 26),
}
"""{tissue: (lowest mean, highest mean, texture)} in HU, alike in every phase."""

PHASE_HU: dict[
    Tissue, tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float], float]
] = {
    Tissue.MUSCLE: ((46, 58), (50, 64), (54, 70), (54, 68), 9),
    Tissue.HEART: ((36, 46), (150, 220), (110, 160), (80, 110), 10),
    Tissue.LIVER: ((46, 66), (62, 88), (92, 128), (78, 104), 6),
    Tissue.SPLEEN: ((42, 54), (95, 135), (108, 142), (80, 106), 5),
    Tissue.PANCREAS: ((34, 46), (80, 112), (72, 100), (58, 82), 15),
    Tissue.KIDNEY_CORTEX: ((27, 37), (150, 205), (165, 215), (130, 165), 8),
    Tissue.KIDNEY_MEDULLA: ((24, 34), (65, 100), (130, 180), (130, 170), 8),
    Tissue.KIDNEY_PELVIS: ((2, 14), (5, 20), (10, 50), (250, 420), 8),
    Tissue.ADRENAL: ((22, 36), (60, 90), (60, 88), (45, 65), 5),
    Tissue.BLADDER_WALL: ((30, 42), (40, 55), (48, 66), (48, 64), 5),
    Tissue.ARTERY: ((36, 48), (240, 350), (130, 180), (90, 125), 5),
    Tissue.VEIN: ((36, 46), (55, 95), (115, 165), (92, 125), 7),
    Tissue.PORTAL_VEIN: ((36, 46), (95, 140), (145, 190), (95, 125), 5),
    Tissue.STOMACH_WALL: ((36, 48), (65, 100), (72, 100), (60, 80), 8),
    Tissue.BOWEL_WALL: ((34, 46), (80, 115), (88, 118), (66, 86), 9),
    Tissue.COLON_WALL: ((32, 44), (55, 80), (64, 88), (58, 76), 8),
    Tissue.GENITAL: ((38, 48), (60, 85), (74, 104), (70, 94), 12),
    Tissue.ESOPHAGUS: ((34, 46), (50, 70), (58, 78), (54, 70), 10),
}
"""{tissue: (range of means per phase of PHASES ..., texture)} in HU."""

STEADY: dict[Tissue, tuple[float, float]] = {
    Tissue.LIVERLIKE: (90, 8),
    Tissue.THROMBUS: (38, 6),
    Tissue.STENT: (1100, 120),
    Tissue.CLIP: (2400, 0),
    Tissue.HAZE: (-450, 60),
}
"""{tissue: (mean, texture)} in HU of what only some ingredients paint; confusers.py draws the first two about these."""


def draw_phase(generator: np.random.Generator, *, varied: bool = False) -> str:
    """Draw a contrast phase; with ``varied``, of VARIED_PROBABILITY."""
    return PHASES[generator.choice(len(PHASES), p=VARIED_PROBABILITY if varied else PHASE_PROBABILITY)]


@dataclass(frozen=True, eq=False)
class Palette:
    """HU by tissue.

    Attributes:
        means: Mean of each tissue.
        textures: Standard deviation of its texture.
    """

    means: Float[np.ndarray, "tissue"]
    textures: Float[np.ndarray, "tissue"]


def draw_palette(generator: np.random.Generator, phase: str) -> Palette:
    """Draw the HU of each tissue in one patient."""
    means, textures = np.zeros(256, np.float32), np.zeros(256, np.float32)
    column = PHASES.index(phase)
    for tissue, (low, high, texture) in PLAIN_HU.items():
        means[tissue], textures[tissue] = generator.uniform(low, high), texture
    for tissue, (mean, texture) in STEADY.items():
        means[tissue], textures[tissue] = mean, texture
    means[Tissue.FAT] = means[Tissue.FREE]
    # One draw of how strongly the patient enhances; organs vary little about it.
    strength = generator.random()
    for tissue, row in PHASE_HU.items():
        low, high = row[:4][column]
        means[tissue] = low + (high - low) * np.clip(strength + generator.uniform(-0.25, 0.25), 0, 1)
        textures[tissue] = row[4]
    if generator.random() < 0.12:
        means[Tissue.LIVER] -= generator.uniform(10, 32)  # fatty liver
    if phase == "delayed" and generator.random() < 0.5:
        means[Tissue.URINE] = generator.uniform(60, 220)
    means[Tissue.RENAL_TUMOUR] = 0.5 * (means[Tissue.KIDNEY_MEDULLA] + means[Tissue.MUSCLE])
    textures[Tissue.RENAL_TUMOUR] = 14
    return Palette(means, textures)


def render(generator: np.random.Generator, canvas: Canvas, palette: Palette) -> Float[np.ndarray, "z y x"]:
    """Return the HU of an ideal scanner, without noise and blur.

    Args:
        generator: Source of randomness.
        canvas: A painted patient.
        palette: HU by tissue.
    """
    means, textures, grid = palette.means, palette.textures, canvas.grid
    image = np.take(means, canvas.tissue)
    grain = np.take(textures, canvas.tissue)
    fine = draw_noise(generator, 5.5)
    axes = grid.axes(grid.everything)
    lumps = fine(*axes)
    grain *= lumps
    image += grain
    coarse = draw_noise(generator, 17.0)
    _paint_mottle_(canvas, image, lumps, coarse)
    _paint_hepatic_vessels_(generator, canvas, image, means)
    _paint_mesentery_(generator, canvas, image, means)
    return image


def _paint_mottle_(canvas: Canvas, image: np.ndarray, lumps: np.ndarray, coarse: Noise) -> None:
    """Gas bubbles in stool, fat within muscle."""
    stool = canvas.tissue == Tissue.STOOL
    image[stool & (lumps > 1.05)] = -520
    image[(canvas.tissue == Tissue.MUSCLE) & (lumps > 1.75)] -= 75
    rows = coarse(*canvas.grid.axes(canvas.grid.everything))
    image[(canvas.tissue == Tissue.MUSCLE) & (np.abs(rows - 0.7) < 0.035)] -= 60


def _paint_hepatic_vessels_(
    generator: np.random.Generator, canvas: Canvas, image: np.ndarray, means: np.ndarray
) -> None:
    """Vessels in the liver: where two smooth random fields are both near zero."""
    grid = canvas.grid
    box = grid.box(np.array((190.0, -130, -150)), np.array((450.0, 110, 130)))
    if image[box].size == 0:
        return
    axes = grid.axes(box)
    liver = canvas.tissue[box] == Tissue.LIVER
    for tissue, width in ((Tissue.PORTAL_VEIN, 0.018), (Tissue.VEIN, 0.014)):
        first, second = draw_noise(generator, 34.0)(*axes), draw_noise(generator, 34.0)(*axes)
        image[box][liver & (first**2 + second**2 < width)] = 0.75 * means[tissue] + 0.25 * means[Tissue.LIVER]


def _paint_mesentery_(generator: np.random.Generator, canvas: Canvas, image: np.ndarray, means: np.ndarray) -> None:
    """Small vessels and strands in the visceral fat."""
    grid = canvas.grid
    box = grid.box(np.array((30.0, -110, -130)), np.array((330.0, 70, 130)))
    if image[box].size == 0:
        return
    axes = grid.axes(box)
    fat = canvas.tissue[box] == Tissue.FREE
    first, second = draw_noise(generator, 19.0)(*axes), draw_noise(generator, 19.0)(*axes)
    square = first**2 + second**2
    image[box][fat & (square < 0.05)] = 0.6 * means[Tissue.VEIN] - 25
    image[box][fat & (np.abs(first) < 0.03)] += 22
