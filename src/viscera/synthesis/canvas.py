"""The canvas that a patient is painted on: tissues (what the X-ray sees) and labels (what the truth says).

An organ claims the voxels that its shape covers and that are still free (visceral fat); its size is settled once on a
coarse canvas, by volume, so that it depends neither on the scanner's grid nor on the scan range.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, UInt8

from viscera.synthesis.shapes import Box, Field, Grid, Shape, evaluate

ORGANS: tuple[str, ...] = (
    "urinary_bladder",
    "colon",
    "femoral_head_left",
    "femoral_head_right",
    "kidney_left",
    "kidney_right",
    "liver",
    "rectum",
    "small_bowel",
    "spinal_cord",
    "stomach",
    "spleen",
    "pancreas",
    "gallbladder",
    "duodenum",
    "adrenal_gland_left",
    "adrenal_gland_right",
    "aorta",
    "inferior_vena_cava",
    "portal_vein_and_splenic_vein",
    "esophagus",
    "prostate",
    "uterus",
    "iliac_artery",
    "iliac_vena",
    "vertebrae",
    "ribs",
    "pelvis",
    "femur",
    "lung",
    "heart",
    "muscle",
    "fat",
    "skin",
)
"""Every structure that a synthetic patient may hold; the label's value is the position plus one."""

VALUE: dict[str, int] = {name: value for value, name in enumerate(ORGANS, start=1)}


class Tissue(IntEnum):
    """What the X-ray sees; synthesis/appearance/tissues.py gives each its HU."""

    AIR = 0
    SKIN = 1
    SUBCUTANEOUS_FAT = 2
    MUSCLE = 3
    FREE = 4
    """Visceral fat that an organ may still claim."""
    FAT = 5
    """Fat that no organ may claim: around kidneys and vessels, in the renal sinus."""
    CORTEX = 6
    MARROW = 7
    DISC = 8
    CARTILAGE = 9
    CORD = 10
    LUNG = 11
    HEART = 12
    LIVER = 13
    SPLEEN = 14
    PANCREAS = 15
    KIDNEY_CORTEX = 16
    KIDNEY_MEDULLA = 17
    KIDNEY_PELVIS = 18
    ADRENAL = 19
    BILE = 20
    URINE = 21
    BLADDER_WALL = 22
    ARTERY = 23
    VEIN = 24
    PORTAL_VEIN = 25
    STOMACH_WALL = 26
    BOWEL_WALL = 27
    COLON_WALL = 28
    GAS = 29
    FLUID = 30
    CHYME = 31
    STOOL = 32
    ORAL_CONTRAST = 33
    FOOD = 34
    GENITAL = 35
    ESOPHAGUS = 36
    MYOCARDIUM = 37
    BLOOD_RIGHT = 38
    BLOOD_LEFT = 39
    EFFUSION = 40
    COLLAPSED_LUNG = 41
    ASCITES = 42
    CYST = 43
    SMALL_BOWEL_CONTRAST = 44
    COLON_CONTRAST = 45
    COLLAPSED = 46
    """The lumen of an empty loop."""
    AIRWAY = 47
    METAL = 48
    PULMONARY_ARTERY = 49
    LIVERLIKE = 60
    """Content of bowel whose HU are near the liver's."""
    THROMBUS = 61
    STENT = 62
    """The wires of a graft, the wall of a catheter: bright, but without streaks."""
    CLIP = 63
    """Metal too small for streaks."""
    RENAL_TUMOUR = 64
    HAZE = 65
    """Lung with less air than usual: ground glass."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """Tissues and labels on a grid; painting changes them in place."""

    grid: Grid
    tissue: UInt8[np.ndarray, "z y x"]
    label: UInt8[np.ndarray, "z y x"]

    def paint_(self, box: Box, mask: Bool[np.ndarray, "z y x"], tissue: Tissue, organ: str) -> None:
        """Paint a mask over whatever is there."""
        self.tissue[box][mask] = tissue
        self.label[box][mask] = VALUE[organ]


def blank_canvas(grid: Grid) -> Canvas:
    """Return a canvas of air."""
    return Canvas(grid, np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8))


Detail = Callable[[Canvas, Box, Field, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Organ:
    """A shape that claims free voxels.

    Attributes:
        name: One of ORGANS.
        tissue: What it is made of, at least at its surface.
        shape: Where it is.
        volume_ml: What it claims in all, once settled; None leaves the shape as it is.
        margin_mm: Width of the fat around it that no later organ may claim.
        detail: Paints its inside: (canvas, box, field, claimed mask).
    """

    name: str
    tissue: Tissue
    shape: Shape
    volume_ml: float | None = None
    margin_mm: float = 0.0
    detail: Detail | None = None


SETTLING_REACH_MM = 14.0
"""How far an organ's surface may move outwards while its volume is settled."""


def settle_(organ: Organ, canvas: Canvas) -> float:
    """Paint an organ on a coarse canvas of the whole body, and return the level of its field that has its volume."""
    level = 0.0
    box, field = evaluate(organ.shape, canvas.grid, reach_mm=SETTLING_REACH_MM)
    if organ.volume_ml is not None:
        free = field[canvas.tissue[box] == Tissue.FREE]
        wanted = round(organ.volume_ml / canvas.grid.voxel_ml)
        if 0 < wanted < len(free):
            level = float(max(np.partition(free, len(free) - wanted)[len(free) - wanted], -SETTLING_REACH_MM))
    _claim_(organ, canvas, box, field - np.float32(level))
    return level


def claim_(organ: Organ, canvas: Canvas, *, level: float) -> None:
    """Paint an organ at the level that ``settle_`` gave."""
    box, field = evaluate(organ.shape, canvas.grid, reach_mm=organ.margin_mm + max(0.0, -level))
    if field.size:
        _claim_(organ, canvas, box, field - np.float32(level))


def _claim_(organ: Organ, canvas: Canvas, box: Box, field: Field) -> None:
    free = canvas.tissue[box] == Tissue.FREE
    inside = free & (field > 0)
    canvas.paint_(box, inside, organ.tissue, organ.name)
    if organ.detail is not None:
        organ.detail(canvas, box, field, inside)
    if organ.margin_mm:
        canvas.tissue[box][free & ~inside & (field > -organ.margin_mm)] = Tissue.FAT
