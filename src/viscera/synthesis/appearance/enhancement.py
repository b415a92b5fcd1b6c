"""HU of a varied patient: how contrast medium has spread, or nothing plausible at all; livers that are fatty or dense.

In three of four patients one moment after the injection is drawn, and every organ's enhancement follows from it
together. In the fourth ("wide") each tissue's HU are drawn on their own from broad ranges, so that a network learns shape
and neighbours rather than HU. The usual patients' table is in tissues.py.
"""

from dataclasses import replace

import numpy as np

from viscera.synthesis.appearance.tissues import Palette
from viscera.synthesis.canvas import Tissue

WIDE_FRACTION = 0.25
FATTY_FRACTION = 0.12
DENSE_FRACTION = 0.04
"""Share of patients whose HU are drawn from broad ranges, whose liver is fatty, and whose liver is dense (iron, gold)."""
BRIGHT_CORTEX = 0.4
EQUAL_HEART, BRIGHT_HEART = 0.4, 0.25
"""Share of patients soon after the injection whose renal cortex is far brighter than the medulla, of all whose heart has the
liver's HU, and of all in whose heart one ventricle is far brighter than its wall."""

MOMENTS: dict[str, tuple[str, ...]] = {
    "none": ("plain",),
    "arterial": ("early", "late"),
    "portal": ("portal", "portal", "portal", "late", "nephrographic"),
    "delayed": ("nephrographic", "excretory", "excretory"),
}
"""{contrast phase: moments that scans of it may catch}."""

COLUMNS: tuple[str, ...] = ("plain", "early", "late", "portal", "nephrographic", "excretory")
MOMENT_HU: dict[Tissue, tuple[tuple[float, float], ...]] = {
    Tissue.ARTERY: ((28, 52), (200, 420), (170, 390), (95, 210), (85, 165), (60, 130)),
    Tissue.PULMONARY_ARTERY: ((28, 52), (120, 420), (120, 330), (95, 210), (85, 165), (60, 130)),
    Tissue.PORTAL_VEIN: ((28, 52), (35, 85), (85, 185), (105, 225), (85, 165), (60, 130)),
    Tissue.VEIN: ((28, 52), (32, 80), (55, 125), (85, 185), (85, 160), (60, 130)),
    Tissue.LIVER: ((42, 70), (46, 80), (56, 102), (74, 152), (74, 132), (62, 112)),
    Tissue.SPLEEN: ((36, 58), (60, 160), (95, 190), (84, 165), (76, 138), (58, 112)),
    Tissue.PANCREAS: ((22, 50), (50, 118), (72, 142), (56, 126), (52, 100), (44, 84)),
    Tissue.KIDNEY_CORTEX: ((24, 42), (105, 225), (140, 260), (130, 250), (120, 215), (80, 180)),
    Tissue.KIDNEY_MEDULLA: ((22, 38), (32, 80), (55, 130), (95, 215), (115, 215), (80, 195)),
    Tissue.KIDNEY_PELVIS: ((-4, 18), (-4, 18), (-4, 22), (-4, 45), (0, 260), (150, 900)),
    Tissue.MUSCLE: ((38, 62), (40, 64), (44, 70), (46, 76), (46, 76), (44, 72)),
    Tissue.ADRENAL: ((5, 38), (35, 80), (50, 100), (45, 100), (38, 80), (30, 66)),
    Tissue.BOWEL_WALL: ((24, 48), (50, 110), (65, 135), (60, 125), (50, 100), (44, 86)),
    Tissue.STOMACH_WALL: ((24, 50), (45, 110), (60, 120), (55, 112), (50, 95), (44, 84)),
    Tissue.COLON_WALL: ((24, 48), (40, 90), (50, 105), (50, 105), (46, 92), (42, 80)),
    Tissue.MYOCARDIUM: ((32, 52), (55, 130), (80, 150), (80, 140), (75, 125), (60, 105)),
    Tissue.GENITAL: ((32, 52), (40, 95), (55, 120), (60, 125), (58, 110), (50, 95)),
    Tissue.ESOPHAGUS: ((26, 50), (34, 75), (42, 85), (46, 90), (45, 85), (42, 75)),
    Tissue.BLADDER_WALL: ((26, 46), (30, 56), (34, 64), (40, 74), (42, 74), (40, 70)),
    Tissue.COLLAPSED_LUNG: ((25, 50), (45, 120), (60, 140), (60, 130), (55, 110), (45, 90)),
}
"""{tissue: range of its mean HU at each of COLUMNS}."""

STEADY_HU: dict[Tissue, tuple[float, float, float]] = {
    Tissue.SKIN: (-40, 60, 10),
    Tissue.SUBCUTANEOUS_FAT: (-122, -86, 7),
    Tissue.FREE: (-120, -78, 9),
    Tissue.CORTEX: (260, 800, 70),
    Tissue.MARROW: (50, 290, 45),
    Tissue.DISC: (55, 115, 9),
    Tissue.CARTILAGE: (40, 170, 25),
    Tissue.CORD: (15, 52, 6),
    Tissue.LUNG: (-920, -690, 40),
    Tissue.BILE: (-8, 28, 4),
    Tissue.URINE: (-6, 20, 4),
    Tissue.GAS: (-1010, -900, 15),
    Tissue.FLUID: (-4, 30, 6),
    Tissue.CHYME: (2, 60, 12),
    Tissue.STOOL: (-70, 80, 70),
    Tissue.ORAL_CONTRAST: (110, 620, 30),
    Tissue.SMALL_BOWEL_CONTRAST: (110, 620, 40),
    Tissue.COLON_CONTRAST: (110, 700, 110),
    Tissue.FOOD: (-30, 85, 45),
    Tissue.EFFUSION: (-4, 26, 4),
    Tissue.ASCITES: (-6, 26, 4),
    Tissue.CYST: (-6, 24, 3),
    Tissue.AIRWAY: (-1010, -940, 10),
    Tissue.METAL: (2400, 3071, 0),
}
"""{tissue: (lowest mean, highest mean, texture)} in HU, alike at every moment."""

TEXTURE_HU: dict[Tissue, float] = {
    Tissue.PANCREAS: 18,
    Tissue.ADRENAL: 6,
    Tissue.BOWEL_WALL: 12,
    Tissue.COLON_WALL: 10,
    Tissue.STOMACH_WALL: 10,
    Tissue.GENITAL: 14,
    Tissue.MUSCLE: 12,
    Tissue.COLLAPSED_LUNG: 14,
}

WIDE_HU: dict[Tissue, tuple[float, float]] = {
    Tissue.ARTERY: (28, 400),
    Tissue.PULMONARY_ARTERY: (28, 400),
    Tissue.PORTAL_VEIN: (28, 260),
    Tissue.VEIN: (28, 240),
    Tissue.LIVER: (30, 190),
    Tissue.SPLEEN: (35, 200),
    Tissue.PANCREAS: (10, 150),
    Tissue.KIDNEY_CORTEX: (25, 260),
    Tissue.KIDNEY_MEDULLA: (20, 240),
    Tissue.KIDNEY_PELVIS: (-10, 400),
    Tissue.MUSCLE: (30, 85),
    Tissue.ADRENAL: (0, 120),
    Tissue.BOWEL_WALL: (20, 150),
    Tissue.STOMACH_WALL: (20, 140),
    Tissue.COLON_WALL: (20, 120),
    Tissue.MYOCARDIUM: (30, 180),
    Tissue.GENITAL: (25, 130),
    Tissue.ESOPHAGUS: (20, 110),
    Tissue.BLADDER_WALL: (20, 90),
    Tissue.COLLAPSED_LUNG: (20, 150),
    Tissue.BILE: (-15, 70),
    Tissue.URINE: (-10, 350),
}
"""{tissue: range of its mean HU where each tissue is drawn on its own}."""


def vary_palette(generator: np.random.Generator, palette: Palette, phase: str) -> tuple[Palette, str]:
    """Draw HU anew.

    Args:
        generator: Source of randomness.
        palette: The usual HU, kept for tissues of which nothing is said here.
        phase: One of appearance.PHASES.

    Returns:
        The HU, and the phase: "wide" where the HU tell nothing about it.
    """
    means, textures = palette.means.copy(), palette.textures.copy()
    for tissue, (low, high, texture) in STEADY_HU.items():
        means[tissue], textures[tissue] = generator.uniform(low, high), texture * generator.uniform(0.5, 1.4)
    means[Tissue.FAT] = means[Tissue.FREE]
    wide = bool(generator.random() < WIDE_FRACTION)
    column = COLUMNS.index(generator.choice(MOMENTS[phase]))
    strength = generator.random()
    for tissue, ranges in MOMENT_HU.items():
        low, high = ranges[column]
        own, spread = strength + generator.uniform(-0.35, 0.35), generator.uniform(0.5, 1.5)
        means[tissue] = low + (high - low) * np.clip(own, 0, 1)
        textures[tissue] = TEXTURE_HU.get(tissue, 7) * spread
    if column == 0:  # without contrast all blood is alike
        for tissue in (Tissue.PORTAL_VEIN, Tissue.VEIN, Tissue.PULMONARY_ARTERY):
            means[tissue] = means[Tissue.ARTERY] + generator.uniform(-3, 3)
    if column == COLUMNS.index("excretory"):
        means[Tissue.URINE] = generator.uniform(10, 500) if generator.random() < 0.7 else means[Tissue.URINE]
    draws = {tissue: generator.uniform(*span) for tissue, span in WIDE_HU.items()}
    if wide:
        for tissue, value in draws.items():
            means[tissue] = value
    _vary_organs_(generator, means, textures)
    means[Tissue.BLOOD_LEFT] = means[Tissue.ARTERY] * generator.uniform(0.85, 1.1)
    means[Tissue.BLOOD_RIGHT] = generator.uniform(*sorted((means[Tissue.VEIN], means[Tissue.PULMONARY_ARTERY])))
    textures[Tissue.BLOOD_LEFT] = textures[Tissue.BLOOD_RIGHT] = 12
    means[Tissue.HEART] = 0.6 * means[Tissue.BLOOD_LEFT] + 0.4 * means[Tissue.MYOCARDIUM]
    means[Tissue.COLLAPSED] = means[Tissue.BOWEL_WALL] - generator.uniform(0, 25)
    textures[Tissue.COLLAPSED] = 10
    return replace(palette, means=means, textures=textures), "wide" if wide else phase


def brighten_kidneys(generator: np.random.Generator, palette: Palette, phase: str) -> Palette:
    """Return HU with a cortex of 190 to 300 HU over a dark medulla in some patients, and with any HU of renal tumours."""
    means, textures = palette.means.copy(), palette.textures.copy()
    is_bright, cortex, share = generator.random() < BRIGHT_CORTEX, generator.uniform(190, 300), generator.random()
    tumour, necrosis, shift = generator.random(), generator.uniform(6, 32), generator.uniform(-15, 25)
    if is_bright and phase in ("arterial", "portal"):
        means[Tissue.KIDNEY_CORTEX] = cortex
        lowest, highest = (35, 110) if phase == "arterial" else (60, 170)
        means[Tissue.KIDNEY_MEDULLA] = lowest + (highest - lowest) * share
    # From as dark as muscle (papillary) to as bright as the cortex (clear cell).
    dark, bright = sorted((float(means[Tissue.MUSCLE]), float(means[Tissue.KIDNEY_CORTEX])))
    means[Tissue.RENAL_TUMOUR] = dark + (bright - dark) * tumour**1.5 + shift
    textures[Tissue.RENAL_TUMOUR] = necrosis
    return replace(palette, means=means, textures=textures)


def level_heart(generator: np.random.Generator, palette: Palette) -> Palette:
    """Return HU with blood and muscle of the heart like the liver's, in some patients."""
    means = palette.means.copy()
    is_equal, shifts, wall = generator.random() < EQUAL_HEART, generator.normal(0, 5, 4), generator.random()
    if is_equal:
        liver = means[Tissue.LIVER]
        for tissue, shift in zip((Tissue.BLOOD_LEFT, Tissue.BLOOD_RIGHT, Tissue.HEART), shifts, strict=False):
            means[tissue] = liver + shift
        means[Tissue.MYOCARDIUM] = liver - 30 * wall**2 + shifts[3]
    return replace(palette, means=means)


def brighten_heart(generator: np.random.Generator, palette: Palette) -> Palette:
    """Return HU with ventricles that differ, soon after the injection, and with any haze of the lung."""
    means, textures = palette.means.copy(), palette.textures.copy()
    is_bright, is_right = generator.random() < BRIGHT_HEART, generator.random() < 0.25
    blood, other, wall = generator.uniform((170, 60, 60), (400, 260, 140))
    haze, grain = generator.uniform(-680, -120), generator.uniform(25, 110)
    if is_bright:
        means[Tissue.BLOOD_LEFT], means[Tissue.BLOOD_RIGHT] = (other, blood) if is_right else (blood, other)
        means[Tissue.MYOCARDIUM] = wall
        means[Tissue.HEART] = 0.6 * means[Tissue.BLOOD_LEFT] + 0.4 * wall
    means[Tissue.HAZE], textures[Tissue.HAZE] = haze, grain
    return replace(palette, means=means, textures=textures)


def _vary_organs_(generator: np.random.Generator, means: np.ndarray, textures: np.ndarray) -> None:
    """Make livers fatty or dense, fat within the pancreas, bile dense; draw all, so that the stream goes on alike."""
    kind, fat, dense = generator.random(), generator.uniform(-20, 40), generator.uniform(15, 45)
    if kind < FATTY_FRACTION:
        means[Tissue.LIVER] = min(means[Tissue.LIVER], fat + 0.3 * max(0.0, means[Tissue.LIVER] - 60))
        textures[Tissue.LIVER] *= generator.uniform(1, 1.8)
    elif kind < FATTY_FRACTION + DENSE_FRACTION:
        means[Tissue.LIVER] += dense
    thin, loss = generator.random(), generator.uniform(10, 45)
    if thin < 0.25:
        means[Tissue.PANCREAS] -= loss
        textures[Tissue.PANCREAS] *= 2
    bile, density = generator.random(), generator.uniform(40, 260)
    if bile < 0.06:
        means[Tissue.BILE] = density
