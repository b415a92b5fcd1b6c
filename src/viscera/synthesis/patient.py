"""One synthetic patient from a generator: anatomy, scan range, appearance, tumours, scanner, and the complete truth."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from viscera.errors import SettingError, did_you_mean
from viscera.labels import TUMOUR
from viscera.synthesis.acquisition import Scanner, acquire, draw_scanner, paint_table_
from viscera.synthesis.appearance import draw_phase, render
from viscera.synthesis.bowel import draw_colon, draw_small_bowel, draw_stomach
from viscera.synthesis.canvas import ORGANS, Canvas, Organ, blank_canvas, claim_, settle_
from viscera.synthesis.frame import Frame, draw_frame, paint_chest_, paint_trunk_
from viscera.synthesis.geometry import Grid
from viscera.synthesis.organs import (
    Body,
    draw_pelvic_organs,
    draw_retroperitoneum,
    draw_upper_organs,
    paint_through_walls_,
)
from viscera.synthesis.skeleton import Skeleton, draw_skeleton, paint_skeleton_
from viscera.synthesis.tumours import TUMOUR_VALUE, paint_tumours_, relabel_as_organs_
from viscera.volume import Volume, turn_volume

Scan = Literal["abdomen", "upper", "pelvis", "random"]
Orientation = Literal["random", "axial"]
Tumours = Literal["none", "labelled", "unlabelled"]

RANGES_MM: dict[str, tuple[float, float]] = {
    "abdomen": (-50.0, 425.0),
    "upper": (165.0, 430.0),
    "pelvis": (-60.0, 205.0),
}
"""Lowest and highest slice of each kind of scan, in standard mm above the femoral heads."""

SETTLING_MM = 8.0
"""Voxels of the coarse canvas on which volumes are settled."""


@dataclass(frozen=True, eq=False)
class Patient:
    """A synthetic scan and its complete truth.

    Attributes:
        ct: HU (int16).
        labels: What each voxel is (uint8), on the same grid; 0 is air, table, or outside the field of view's body.
        organs: {value in the labels: name}; all that a patient may hold.
        phase: Contrast phase: none, arterial, portal or delayed.
    """

    ct: Volume
    labels: Volume
    organs: dict[int, str]
    phase: str


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """All that is independent of the scan: shapes, with the level at which each has its volume."""

    frame: Frame
    skeleton: Skeleton
    organs: tuple[Organ, ...]
    levels: tuple[float, ...]
    size: Float[np.ndarray, "3"]  # mm per standard mm along z, y, x


def synthesize(
    generator: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (96, 256, 256),
    spacing_mm: tuple[float, float, float] | None = None,
    scan: Scan = "abdomen",
    orientation: Orientation = "random",
    tumours: Tumours = "none",
) -> Patient:
    """Make a patient and scan it.

    Args:
        generator: Source of all randomness: the same state gives the same patient.
        shape: Axial slices, rows and columns; at least 4 x 16 x 16.
        spacing_mm: Between slices, rows and columns; None fits the scan range and the body into the shape.
        scan: Which part of the body; "random" draws one.
        orientation: "axial" keeps the arrays in axial order (feet to head, front to back, right to left) on a straight
            grid; "random" draws order, flips and a slight tilt, as files on disk come.
        tumours: "labelled" adds one to four lesions in liver, kidneys, pancreas, colon or spleen (none where the scan
            holds none of these) and the label viscera.labels.TUMOUR; "unlabelled" the same lesions, labelled as the
            organ that they grow in. The patient is the same in all else, to the bit.

    Raises:
        SettingError: A shape, spacing, scan, orientation or choice of tumours that is none.
    """
    _check(shape, spacing_mm, scan, orientation=orientation, tumours=tumours)
    chosen = str(generator.choice(list(RANGES_MM), p=(0.5, 0.3, 0.2)))
    anatomy = _draw_anatomy(generator)
    scanner = draw_scanner(generator, orientation=orientation)
    grid, spacing = _place(generator, anatomy, shape, spacing_mm, chosen if scan == "random" else scan)
    canvas = _paint(anatomy, grid)
    phase = draw_phase(generator)
    image = render(generator, canvas, phase)
    paint_table_(
        image, grid.y * anatomy.size[1], grid.x * anatomy.size[2], anatomy.frame.depth_mm()[1] * anatomy.size[1]
    )
    if tumours != "none":
        lesions = paint_tumours_(generator.spawn(1)[0], canvas, image, phase)
        if tumours == "unlabelled":
            relabel_as_organs_(canvas, lesions)
    ct = acquire(generator, image, scanner)
    labels = canvas.label
    if scanner.circular:
        labels[ct == -1024] = 0
    affine = _affine(grid, anatomy.size, spacing, scanner)
    return Patient(
        turn_volume(Volume(ct, affine), scanner.turn),
        turn_volume(Volume(labels, affine), scanner.turn),
        dict(enumerate(ORGANS, start=1)) | ({TUMOUR_VALUE: TUMOUR} if tumours == "labelled" else {}),
        phase,
    )


def organ_volumes_ml(patient: Patient) -> dict[str, float]:
    """Give the volume of each organ within the scan; organs outside it have 0."""
    counts = np.bincount(patient.labels.voxels.ravel(), minlength=256)
    return {name: float(counts[value]) * patient.labels.voxel_ml for value, name in patient.organs.items()}


def _check(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] | None,
    scan: str,
    *,
    orientation: str,
    tumours: str,
) -> None:
    if len(shape) != 3 or any(size < least for size, least in zip(shape, (4, 16, 16), strict=True)):
        raise SettingError(f"synthetic patient: shape must be at least 4x16x16 voxels (z, y, x), got {shape}.")
    if spacing_mm is not None and (len(spacing_mm) != 3 or not all(0.1 <= step <= 50 for step in spacing_mm)):
        raise SettingError(f"synthetic patient: spacing must be three values from 0.1 to 50 mm, got {spacing_mm}.")
    choices = ((scan, Scan, "scan"), (orientation, Orientation, "orientation"), (tumours, Tumours, "choice of tumours"))
    for value, kind, what in choices:
        if value not in get_args(kind):
            known = ", ".join(get_args(kind))
            near = did_you_mean(value, get_args(kind))
            raise SettingError(f"synthetic patient: no {what} '{value}'.{near} Choose one of {known}.")


def _draw_anatomy(generator: np.random.Generator) -> _Anatomy:
    """Draw a patient and settle the volumes of the organs on a coarse canvas that holds the whole trunk."""
    frame = draw_frame(generator)
    skeleton = draw_skeleton(generator, frame)
    size = np.array((generator.uniform(0.93, 1.06), generator.uniform(0.95, 1.06), generator.uniform(0.95, 1.06)))
    body = Body(frame, female=bool(generator.random() < 0.5), lift_mm=generator.normal(0, 6))
    coarse = SETTLING_MM
    grid = Grid(
        np.arange(-56, 440, coarse, dtype=np.float32),
        np.arange(-130, 134, coarse, dtype=np.float32),
        np.arange(-168, 172, coarse, dtype=np.float32),
        coarse**3 * float(size.prod()) / 1000,
    )
    canvas = blank_canvas(grid)
    _paint_frame_(frame, skeleton, canvas)
    rectum, colon = draw_colon(generator, body)
    organs = [
        *draw_retroperitoneum(generator, body),
        *draw_pelvic_organs(generator, body),
        rectum,
        *draw_upper_organs(generator, body),
        *draw_stomach(generator, body),
        colon,
    ]
    levels = [settle_(organ, canvas) for organ in organs]
    bowel = draw_small_bowel(generator, body, canvas)
    return _Anatomy(frame, skeleton, (*organs, *bowel), (*levels, *(0.0 for _ in bowel)), size)


def _paint_frame_(frame: Frame, skeleton: Skeleton, canvas: Canvas) -> None:
    paint_trunk_(frame, canvas)
    paint_chest_(frame, canvas)
    paint_skeleton_(skeleton, frame, canvas)


def _paint(anatomy: _Anatomy, grid: Grid) -> Canvas:
    """Paint the patient on the scanner's grid."""
    canvas = blank_canvas(grid)
    _paint_frame_(anatomy.frame, anatomy.skeleton, canvas)
    for organ, level in zip(anatomy.organs, anatomy.levels, strict=True):
        claim_(organ, canvas, level=level)
    paint_through_walls_(list(anatomy.organs), canvas)
    return canvas


def _place(
    generator: np.random.Generator,
    anatomy: _Anatomy,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] | None,
    scan: str,
) -> tuple[Grid, tuple[float, float, float]]:
    """Draw the scan range and the field of view, and give the grid and its spacing."""
    low, high = RANGES_MM[scan]
    low, high = low + generator.uniform(-10, 5), high + generator.uniform(-10, 10)
    front, back = anatomy.frame.depth_mm()
    wide = 2 * anatomy.frame.half_width_mm() * anatomy.size[2] * generator.uniform(1.02, 1.15)
    deep = (front + back) * anatomy.size[1] * generator.uniform(1.05, 1.15)
    if spacing_mm is None:
        pixel = max(wide / shape[2], deep / shape[1])
        spacing_mm = ((high - low) * float(anatomy.size[0]) / shape[0], pixel, pixel)
    middle = ((low + high) / 2, (back - front) / 2 + generator.uniform(-3, 12), generator.uniform(-5, 5))
    z, y, x = (
        (centre + (np.arange(count) - (count - 1) / 2) * step / scale).astype(np.float32)
        for centre, count, step, scale in zip(middle, shape, spacing_mm, anatomy.size, strict=True)
    )
    return Grid(z, y, x, float(np.prod(spacing_mm)) / 1000), spacing_mm


def _affine(
    grid: Grid, size: Float[np.ndarray, "3"], spacing_mm: tuple[float, float, float], scanner: Scanner
) -> Float[np.ndarray, "4 4"]:
    """Give the affine of the axial volume: x to the left and y to the back are negative in RAS+."""
    affine = np.eye(4)
    step = np.array([[0, 0, -spacing_mm[2]], [0, -spacing_mm[1], 0], [spacing_mm[0], 0, 0]])
    start = np.array((-grid.x[0] * size[2], -grid.y[0] * size[1], grid.z[0] * size[0]))
    affine[:3, :3] = scanner.tilt @ step
    affine[:3, 3] = scanner.tilt @ start
    return affine
