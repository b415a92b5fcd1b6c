"""Lesions of a synthetic patient: uneven ellipsoids in five organs, painted into the image of the ideal scanner.

They are drawn after everything else and from a generator of their own, so that the same seed gives the same patient with
and without them: whatever differs between the two scans is tumour.
"""

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Bool, Float, Integer

from viscera.boxes import pieces_of
from viscera.synthesis.appearance.tissues import PHASES
from viscera.synthesis.canvas import ORGANS, VALUE, Canvas, Tissue
from viscera.synthesis.shapes import Blob, Box, Noise, draw_noise, ellipsoid, evaluate, rotation_about

TUMOUR_VALUE = len(ORGANS) + 1
"""The tumour's label."""

MOST = 4
"""Lesions of one patient, at most."""
RADIUS_MM = (6.0, 25.0)
SHARE = 0.3
"""Of the part of an organ within the scan, what one lesion may take at most."""
BULGE_MM = (0.0, 5.0)
"""How far a lesion may reach out of its organ, into fat."""
UNEVENNESS = 0.07
"""Standard deviation of a lesion's surface, as a share of its radius."""
TEXTURE_HU = 6.0
RIM_HU = (25.0, 50.0)
"""How much brighter than its organ a rim is, in the portal phase."""
CORE_HU = (10.0, 25.0)
"""How much darker than the rest of the lesion a necrotic core is, in every phase."""
CORE_FRACTION = 0.45
"""Of the way from the surface to the centre, where a core begins."""
PHASE_CONTRAST = dict(zip(PHASES, (0.5, 0.75, 1.0, 0.75), strict=True))
"""Share of the portal phase's contrast that is seen in each phase."""


@dataclass(frozen=True)
class Site:
    """An organ that lesions grow in.

    Attributes:
        weight: How often, relative to the others.
        contrast_hu: Lowest and highest difference to the organ in the portal phase.
        tissues: Of what the organ's own HU are taken, and where lesions begin.
    """

    weight: float
    contrast_hu: tuple[float, float]
    tissues: tuple[Tissue, ...]


SITES: dict[str, Site] = {
    "liver": Site(0.40, (-60, -25), (Tissue.LIVER,)),
    "kidney_left": Site(0.10, (-60, -25), (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA)),
    "kidney_right": Site(0.10, (-60, -25), (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA)),
    "pancreas": Site(0.15, (-50, -25), (Tissue.PANCREAS,)),
    # A mass of the wall stands out of the content: were it much darker than the wall, it would look like stool.
    "colon": Site(0.15, (-25, 10), (Tissue.COLON_WALL,)),
    "spleen": Site(0.10, (-60, -25), (Tissue.SPLEEN,)),
}


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion as it was painted.

    Attributes:
        organ: What it grows in, one of SITES.
        box: Where its mask lies on the canvas.
        mask: Its voxels.
        radius_mm: Mean semi-axis.
        organ_hu: Mean of the organ (SITES' tissues of it) before any lesion came.
        contrast_hu: Difference of the lesion's flesh (no rim, no core) to ``organ_hu``.
        rim_hu: Difference of its rim to ``organ_hu``; None where it has none.
        core_hu: Difference of its core to its flesh; 0 where it has none.
    """

    organ: str
    box: Box
    mask: Bool[np.ndarray, "z y x"]
    radius_mm: float
    organ_hu: float
    contrast_hu: float
    rim_hu: float | None
    core_hu: float


def paint_tumours_(
    generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"], phase: str
) -> tuple[Lesion, ...]:
    """Paint one to MOST lesions, and label them TUMOUR_VALUE.

    Args:
        generator: Source of randomness.
        canvas: A painted patient; its labels change.
        image: HU of the ideal scanner; changed where the lesions are.
        phase: One of PHASES.

    Returns:
        The lesions; none where the scan holds none of the organs.
    """
    surface, grain = draw_noise(generator, 9.0), draw_noise(generator, 5.5)
    flesh = {organ: voxels for organ in SITES if len(voxels := _flesh(canvas, organ))}
    organ_hu = {organ: float(image.ravel()[voxels].mean()) for organ, voxels in flesh.items()}
    lesions = []
    for _ in range(int(generator.integers(1, MOST + 1))):
        flesh = {organ: left for organ, voxels in flesh.items() if len(left := _still(canvas, organ, voxels))}
        if not flesh:
            break
        weights = np.array([SITES[organ].weight for organ in flesh])
        organ = list(flesh)[generator.choice(len(flesh), p=weights / weights.sum())]
        lesion, depth_mm = _draw_lesion(
            generator, canvas, organ, flesh=flesh[organ], surface=surface, organ_hu=organ_hu[organ], phase=phase
        )
        canvas.label[lesion.box][lesion.mask] = TUMOUR_VALUE
        texture = grain(*canvas.grid.axes(lesion.box))[lesion.mask] * np.float32(TEXTURE_HU)
        image[lesion.box][lesion.mask] = _appearance(lesion, depth_mm[lesion.mask]) + texture
        lesions.append(lesion)
    return tuple(lesions)


def relabel_as_organs_(canvas: Canvas, lesions: tuple[Lesion, ...]) -> None:
    """Return the voxels of lesions to the organs that they grow in: the truth of those who label organs only."""
    for lesion in lesions:
        canvas.label[lesion.box][lesion.mask] = VALUE[lesion.organ]


def _flesh(canvas: Canvas, organ: str) -> Integer[np.ndarray, " voxels"]:
    """Return the flat indices of an organ's own tissues; of an organ too thin for the grid to show them, all of it."""
    own = np.flatnonzero(canvas.label == VALUE[organ])
    flesh = own[np.isin(canvas.tissue.ravel()[own], SITES[organ].tissues)]
    return flesh if len(flesh) else own


def _still(canvas: Canvas, organ: str, voxels: Integer[np.ndarray, " voxels"]) -> Integer[np.ndarray, " left"]:
    """Return those voxels of an organ that no lesion has taken."""
    return voxels[canvas.label.ravel()[voxels] == VALUE[organ]]


def _draw_lesion(
    generator: np.random.Generator,
    canvas: Canvas,
    organ: str,
    *,
    flesh: Integer[np.ndarray, " voxels"],
    surface: Noise,
    organ_hu: float,
    phase: str,
) -> tuple[Lesion, Float[np.ndarray, "z y x"]]:
    """Draw a lesion that begins in one of some voxels of an organ.

    Returns:
        The lesion, and how deep each voxel of its box lies beneath its surface, in mm.
    """
    visible_mm3 = np.count_nonzero(canvas.label == VALUE[organ]) * canvas.grid.voxel_ml * 1000
    highest = min(RADIUS_MM[1], (SHARE * visible_mm3 * 3 / (4 * np.pi)) ** (1 / 3))
    # Small ones are the more frequent.
    radius = float(np.exp(generator.uniform(np.log(RADIUS_MM[0]), np.log(max(highest, RADIUS_MM[0])))))
    seed = np.array(np.unravel_index(flesh[generator.integers(len(flesh))], canvas.grid.shape))
    shape = _draw_shape(generator, canvas, seed, radius_mm=radius, surface=surface)
    reach_mm = float(generator.uniform(*BULGE_MM))
    low, high = SITES[organ].contrast_hu
    flesh_hu, rim_hu, core_hu = (float(generator.uniform(*span)) for span in ((low, high), RIM_HU, CORE_HU))
    kind = generator.choice(("plain", "rim", "necrotic"), p=(0.5, 0.25, 0.25))
    contrast = PHASE_CONTRAST[phase]
    box, depth = evaluate(shape, canvas.grid, reach_mm=0.0)
    room = _room(canvas, box, organ, reach_mm=reach_mm)
    mask = _piece_at((depth > 0) & room, seed - [part.start for part in box])
    lesion = Lesion(
        organ,
        box,
        mask,
        radius,
        organ_hu,
        contrast * flesh_hu,
        contrast * rim_hu if kind == "rim" else None,
        -core_hu if kind == "necrotic" else 0.0,
    )
    return lesion, depth


def _draw_shape(
    generator: np.random.Generator,
    canvas: Canvas,
    seed: Integer[np.ndarray, "3"],
    *,
    radius_mm: float,
    surface: Noise,
) -> Blob:
    """Draw an uneven ellipsoid around a voxel."""
    grid = canvas.grid
    centre = float(grid.z[seed[0]]), float(grid.y[seed[1]]), float(grid.x[seed[2]])
    stretch = np.exp(generator.uniform(-0.22, 0.22, 3))
    z, y, x = (radius_mm * stretch / np.cbrt(stretch.prod())).tolist()
    turn = rotation_about(0, generator.uniform(0, np.pi)) @ rotation_about(1, generator.uniform(0, np.pi))
    return ellipsoid(centre, (z, y, x), rotation=turn, noise=surface, noise_mm=UNEVENNESS * radius_mm)


def _room(canvas: Canvas, box: Box, organ: str, *, reach_mm: float) -> Bool[np.ndarray, "z y x"]:
    """Return where a lesion of an organ may be: in the organ, and in the fat about it."""
    grid = canvas.grid
    own = canvas.label[box] == VALUE[organ]
    spacing_mm = tuple(float(axis[1] - axis[0]) for axis in (grid.z, grid.y, grid.x))
    fat = np.isin(canvas.tissue[box], (Tissue.FREE, Tissue.FAT)) & (canvas.label[box] == VALUE["fat"])
    return own | fat & (edt.edt(~own, anisotropy=spacing_mm, parallel=1) <= reach_mm)


def _piece_at(mask: Bool[np.ndarray, "z y x"], place: Integer[np.ndarray, "3"]) -> Bool[np.ndarray, "z y x"]:
    """Return the connected component that holds a place."""
    pieces, _ = pieces_of(mask, connectivity=6)
    z, y, x = place.tolist()
    return pieces == pieces[z, y, x]


def _appearance(lesion: Lesion, depth_mm: Float[np.ndarray, " voxels"]) -> Float[np.ndarray, " voxels"]:
    """Return the HU of a lesion's voxels by how deep they lie beneath its surface."""
    values = np.full(depth_mm.shape, lesion.organ_hu + lesion.contrast_hu, np.float32)
    values[depth_mm > CORE_FRACTION * lesion.radius_mm] += lesion.core_hu
    if lesion.rim_hu is not None:
        values[depth_mm < min(3.0, lesion.radius_mm / 4)] = lesion.organ_hu + lesion.rim_hu
    return values
