"""Large and many lesions of liver and spleen: metastases, tumours with a capsule, cysts, abscesses, chalk; at the surface too.

They belong to the organ: what bulges out of it into fat is labelled with it. Small ones are in lesions.py, tumours with a
label of their own in tumours.py.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.shapes import Noise, draw_noise, ellipsoid, evaluate, rotation_about

SHARES: dict[str, float] = {"liver": 0.3, "spleen": 0.1}
"""Share of patients with large lesions of each."""
TISSUES: dict[str, Tissue] = {"liver": Tissue.LIVER, "spleen": Tissue.SPLEEN}
MOST_OF_ORGAN = 0.4
"""Of the part of an organ within the scan, what one lesion may take."""


@dataclass(frozen=True)
class Kind:
    """A kind of lesion.

    Attributes:
        weight: How often, relative to the others.
        count: Mean number beyond the first.
        radius_mm: Range of radii, drawn evenly on a logarithmic scale.
        shift_hu: Difference to the organ; fluid instead where ``fluid`` is on.
        fluid: Whether it holds fluid of 0 to 25 HU.
        rim_hu: Difference of its outermost part to the organ.
        rim_mm: Thickness of that.
        core: Share of its radius that is necrotic; 0 for none.
        mosaic_hu: Standard deviation of its unevenness.
        chalk: Share of it that is calcified: lumps, or the shell where it is above 1.
        gas: Share of patients in whom gas lies in its front.
    """

    weight: float
    count: float
    radius_mm: tuple[float, float]
    shift_hu: tuple[float, float]
    fluid: bool = False
    rim_hu: tuple[float, float] = (0.0, 0.0)
    rim_mm: float = 3.0
    core: float = 0.0
    mosaic_hu: float = 6.0
    chalk: float = 0.0
    gas: float = 0.0


KINDS: dict[str, Kind] = {
    "metastases": Kind(0.3, 5.0, (6, 38), (-60, -15), rim_hu=(-15, 35), core=0.5, mosaic_hu=8),
    "tumour with capsule": Kind(0.2, 0.4, (18, 52), (-40, 50), rim_hu=(15, 55), core=0.35, mosaic_hu=16),
    "cysts": Kind(0.17, 1.5, (14, 52), (0, 0), fluid=True, mosaic_hu=3),
    "many cysts": Kind(0.04, 18.0, (6, 28), (0, 0), fluid=True, mosaic_hu=3),
    "abscess": Kind(0.1, 0.8, (14, 42), (-75, -40), rim_hu=(5, 45), rim_mm=5.0, core=0.8, mosaic_hu=9, gas=0.25),
    "dark": Kind(0.1, 0.3, (22, 52), (-90, -35), mosaic_hu=10),
    "chalk in lumps": Kind(0.05, 2.0, (8, 40), (-50, 0), mosaic_hu=10, chalk=0.25),
    "chalk shell": Kind(0.04, 0.3, (14, 45), (-70, -20), fluid=True, chalk=2.0, mosaic_hu=5),
}


def paint_large_lesions_(generator: np.random.Generator, canvas: Canvas, image: Float[np.ndarray, "z y x"]) -> None:
    """Paint the lesions of liver and spleen, in some patients.

    Args:
        generator: Source of randomness.
        canvas: A painted patient; its labels change where a lesion bulges.
        image: HU of the ideal scanner; changed where lesions are.
    """
    surface, grain, coarse = (draw_noise(generator, step) for step in (14.0, 6.0, 12.0))
    for stream, (organ, share) in zip(generator.spawn(len(SHARES)), SHARES.items(), strict=True):
        has_lesions, names = stream.random() < share, list(KINDS)
        weights = np.array([kind.weight for kind in KINDS.values()])
        kind = KINDS[names[stream.choice(len(names), p=weights / weights.sum())]]
        count, at_surface = 1 + int(stream.poisson(kind.count)), stream.random() < 0.5
        voxels = np.flatnonzero(canvas.label.ravel() == VALUE[organ]) if has_lesions else []
        if not len(voxels):
            continue
        organ_hu = float(np.median(image.ravel()[voxels[:: max(1, len(voxels) // 4000)]]))
        largest = (MOST_OF_ORGAN * len(voxels) * canvas.grid.voxel_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        gassy = stream.random() < kind.gas
        for _ in range(count):
            start = np.array(np.unravel_index(voxels[int(stream.random() * len(voxels))], canvas.grid.shape))
            radius = min(float(np.exp(stream.uniform(*np.log(kind.radius_mm)))), largest)
            centre = _place(stream, canvas, organ, start, radius_mm=radius, at_surface=at_surface)
            look = _Look(stream.uniform(*kind.shift_hu), stream.uniform(0, 25), stream.uniform(*kind.rim_hu), organ_hu)
            lesion = _Lesion(organ, kind, centre, radius, look, gassy)
            _paint_one_(stream, canvas, image, lesion, (surface, grain, coarse))


@dataclass(frozen=True)
class _Look:
    """HU of one lesion: difference of its flesh, of its fluid (absolute), of its rim, and the organ's own."""

    shift: float
    fluid: float
    rim: float
    organ: float


@dataclass(frozen=True, eq=False)
class _Lesion:
    """One lesion: where, of what kind and size, how bright, and whether gas is in it."""

    organ: str
    kind: Kind
    centre: Float[np.ndarray, "3"]
    radius_mm: float
    look: _Look
    gassy: bool


def _place(
    generator: np.random.Generator,
    canvas: Canvas,
    organ: str,
    start: np.ndarray,
    *,
    radius_mm: float,
    at_surface: bool,
) -> Float[np.ndarray, "3"]:
    """Return a lesion's centre: a voxel of the organ, or short of where a ray from it leaves the organ."""
    grid = canvas.grid
    direction, deep = generator.standard_normal(3), generator.uniform(0.35, 0.95)
    direction /= np.linalg.norm(direction)
    axes = (grid.z, grid.y, grid.x)
    here = np.array([float(axis[place]) for axis, place in zip(axes, start, strict=True)])
    if not at_surface:
        return here
    lows = np.array([axis[0] for axis in axes])
    steps = np.array([axis[1] - axis[0] for axis in axes])
    ray = here + np.arange(0, 250, 3.0)[:, None] * direction
    index = np.rint((ray - lows) / steps).astype(int)
    within = ((index >= 0) & (index < np.array(grid.shape))).all(axis=1)
    z, y, x = index[within].T
    outside = np.flatnonzero(canvas.label[z, y, x] != VALUE[organ])
    # Where the scan ends, nothing is known of the surface.
    return here if not len(outside) else ray[outside[0]] - deep * radius_mm * direction


def _paint_one_(
    generator: np.random.Generator,
    canvas: Canvas,
    image: Float[np.ndarray, "z y x"],
    lesion: _Lesion,
    noises: tuple[Noise, Noise, Noise],
) -> None:
    """Paint one lesion into its organ, and what of it bulges into fat."""
    surface, grain, coarse = noises
    organ, kind, radius, hu = lesion.organ, lesion.kind, lesion.radius_mm, lesion.look
    stretch = np.exp(generator.uniform(-0.18, 0.18, 3)) * radius
    turn = rotation_about(0, generator.uniform(0, np.pi)) @ rotation_about(1, generator.uniform(0, np.pi))
    uneven = generator.uniform(0.03, 0.12) * (0.4 if kind.fluid else 1.0)
    z, y, x = lesion.centre.tolist()
    shape = ellipsoid((z, y, x), tuple(stretch.tolist()), rotation=turn, noise=surface, noise_mm=uneven * radius)
    box, depth = evaluate(shape, canvas.grid, reach_mm=0.0)
    if not depth.size:
        return
    fat = np.isin(canvas.tissue[box], (Tissue.FREE, Tissue.FAT)) & (canvas.label[box] == VALUE["fat"])
    own = canvas.label[box] == VALUE[organ]
    inside = (depth > 0) & (own | fat)
    axes = canvas.grid.axes(box)
    lumps = coarse(*axes)
    values = np.full(depth.shape, hu.fluid if kind.fluid else hu.organ + hu.shift, np.float32)
    values += kind.mosaic_hu * (0.5 * grain(*axes) + 0.8 * lumps)
    if kind.core:
        necrotic = depth > (1 - kind.core) * radius + 0.12 * radius * lumps
        values[necrotic] = hu.fluid + 5 + 4 * lumps[necrotic]
    rim = (depth < min(kind.rim_mm, 0.3 * radius)) & (not kind.fluid or kind.chalk > 1)
    values[rim] = hu.organ + hu.rim
    if kind.chalk > 1:
        values[rim & (lumps > -0.9)] = 420 + 60 * lumps[rim & (lumps > -0.9)]
    elif kind.chalk:
        values[lumps > 1.0] = 350 + 120 * lumps[lumps > 1.0]
    if lesion.gassy:
        values[(axes[1] < y - 0.45 * radius) & (depth > 0.25 * radius)] = -850
    image[box][inside] = values[inside]
    canvas.paint_(box, inside & ~own, TISSUES[organ], organ)
