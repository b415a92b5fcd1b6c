"""One synthetic patient from a generator: anatomy, scan range, appearance, tumours, scanner, and the complete truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int16, UInt8

from viscera.errors import SettingError, did_you_mean
from viscera.labels import TUMOUR
from viscera.synthesis.anatomy.bodies import ADULT, draw_build, shape_trunk
from viscera.synthesis.anatomy.bowel import draw_colon, draw_small_bowel, draw_stomach
from viscera.synthesis.anatomy.chest import grow_chest, paint_fluids_, paint_upper_chest_
from viscera.synthesis.anatomy.dome import draw_dome
from viscera.synthesis.anatomy.frame import Frame, Outline, Pit, draw_frame, paint_chest_, paint_trunk_
from viscera.synthesis.anatomy.habitus import (
    Arms,
    change_posture_,
    draw_arms,
    draw_breathing,
    draw_fatness,
    draw_heart,
    paint_arms_,
)
from viscera.synthesis.anatomy.metal import paint_metal_
from viscera.synthesis.anatomy.old_vessels import age_arteries_
from viscera.synthesis.anatomy.organs import (
    Body,
    draw_pelvic_organs,
    draw_retroperitoneum,
    draw_upper_organs,
    paint_through_walls_,
)
from viscera.synthesis.anatomy.plans import draw_plan
from viscera.synthesis.anatomy.rims import paint_rims_
from viscera.synthesis.anatomy.rugae import fold_stomach_
from viscera.synthesis.anatomy.sick_lungs import sicken_lungs_
from viscera.synthesis.anatomy.skeleton import Skeleton, draw_skeleton, paint_skeleton_
from viscera.synthesis.anatomy.surgery import operate_
from viscera.synthesis.appearance.confusers import brighten_bowel, match_cava, paint_chalk_, paint_mixing_, resemble
from viscera.synthesis.appearance.enhancement import brighten_heart, brighten_kidneys, level_heart, vary_palette
from viscera.synthesis.appearance.large_lesions import paint_large_lesions_
from viscera.synthesis.appearance.lesions import paint_lesions_, paint_texture_
from viscera.synthesis.appearance.tissues import draw_palette, draw_phase, render
from viscera.synthesis.appearance.tumours import TUMOUR_VALUE, paint_tumours_, relabel_as_organs_
from viscera.synthesis.canvas import ORGANS, Canvas, Organ, Tissue, blank_canvas, claim_, settle_
from viscera.synthesis.grafting import TURNED, Donor, graft_organs
from viscera.synthesis.scanner.acquisition import OUTSIDE_HU, Scanner, draw_scanner
from viscera.synthesis.scanner.field_of_view import draw_range, draw_stretch
from viscera.synthesis.scanner.scanning import View, scan_image
from viscera.synthesis.shapes import Grid
from viscera.synthesis.variety import PLAIN, Streams, Variety, open_streams
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

UNENHANCED_HU = 58.0
"""Of the aorta: below it there is no contrast medium."""
SETTLING_MM = 8.0
"""Voxels of the coarse canvas on which volumes are settled."""


@dataclass(frozen=True, eq=False)
class Patient:
    """A synthetic scan and its complete truth.

    Attributes:
        ct: HU (int16).
        labels: What each voxel is (uint8), on the same grid; 0 is air, table, outside the field of view's body, or
            what has no name in ORGANS (in varied patients: great vessels of the chest, airways, bones of the arms).
        organs: {value in the labels: name}; all that a patient may hold.
        phase: Contrast phase: none, arterial, portal or delayed; "wide" where HU were drawn without one.
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
    arms: Arms | None = None  # beside the body


def synthesize(
    generator: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (96, 256, 256),
    spacing_mm: tuple[float, float, float] | None = None,
    scan: Scan = "abdomen",
    orientation: Orientation = "random",
    tumours: Tumours = "none",
    variety: Variety = PLAIN,
    donors: Sequence[Donor] = (),
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
        variety: How much patients and scans differ; see variety.py. Where its scan_range is on, ``scan`` is not used.
        donors: Whose liver, spleen, kidneys and pancreas may take the place of those drawn; see grafting.py.

    Raises:
        SettingError: A shape, spacing, scan, orientation or choice of tumours that is none.
    """
    check_options(shape, spacing_mm, scan, orientation=orientation, tumours=tumours)
    streams = open_streams(generator, variety)
    chosen = str(streams["place"].choice(list(RANGES_MM), p=(0.5, 0.3, 0.2)))
    anatomy = _draw_anatomy(streams, variety, donors)
    scanner = draw_scanner(streams["scanner"], orientation=orientation)
    grid, spacing = _place(
        streams, anatomy, shape, spacing_mm=spacing_mm, scan=chosen if scan == "random" else scan, variety=variety
    )
    canvas = _paint(anatomy, grid)
    _vary_canvas_(streams, variety, anatomy, canvas)
    phase = draw_phase(streams["phase"], varied=variety.contrast)
    image, shown = give_hu(streams, variety, canvas, phase)
    if tumours != "none":
        lesions = paint_tumours_(generator.spawn(1)[0], canvas, image, phase)
        if tumours == "unlabelled":
            relabel_as_organs_(canvas, lesions)
    ct, labels = _scan(streams, variety, image, canvas, anatomy=anatomy, scanner=scanner, spacing_mm=spacing)
    affine = axial_affine(grid, anatomy.size, spacing, scanner)
    return Patient(
        turn_volume(Volume(ct, affine), scanner.turn),
        turn_volume(Volume(labels, affine), scanner.turn),
        dict(enumerate(ORGANS, start=1)) | ({TUMOUR_VALUE: TUMOUR} if tumours == "labelled" else {}),
        shown,
    )


def give_hu(streams: Streams, variety: Variety, canvas: Canvas, phase: str) -> tuple[Float[np.ndarray, "z y x"], str]:
    """Return the HU of an ideal scanner, and the contrast phase as it is told to others."""
    palette, shown = draw_palette(streams["render"], phase), phase
    if variety.contrast:
        palette, shown = vary_palette(streams["contrast"], palette, phase)
    if variety.renal_look:
        palette = brighten_kidneys(streams["renal_look"], palette, phase)
    if variety.dome:
        palette = level_heart(streams["dome"].spawn(1)[0], palette)
    if variety.bright_heart:
        palette = brighten_heart(streams["bright_heart"], palette)
    enhanced = bool(palette.means[Tissue.ARTERY] > UNENHANCED_HU)
    if variety.confluence:
        palette = resemble(streams["confluence"], palette, enhanced=enhanced)
    if variety.bright_bowel:
        palette = brighten_bowel(streams["bright_bowel"], palette)
    if variety.cava:
        palette = match_cava(streams["cava"], palette)
    image = render(streams["render"], canvas, palette)
    if variety.texture:
        paint_texture_(streams["texture"], canvas, image, palette)
    if variety.cava and enhanced:
        paint_mixing_(streams["cava"], canvas, image, palette)
    if variety.old_aorta:
        paint_chalk_(streams["old_aorta"], canvas, image)
    if variety.lesions:
        paint_lesions_(streams["lesions"], canvas, image)
    if variety.liver_lesions:
        paint_large_lesions_(streams["liver_lesions"], canvas, image)
    return image, shown


def _scan(
    streams: Streams,
    variety: Variety,
    image: Float[np.ndarray, "z y x"],
    canvas: Canvas,
    *,
    anatomy: _Anatomy,
    scanner: Scanner,
    spacing_mm: tuple[float, float, float],
) -> tuple[Int16[np.ndarray, "z y x"], UInt8[np.ndarray, "z y x"]]:
    """Return what the scanner stores, and the truth within its field of view."""
    view = View(
        y_mm=canvas.grid.y * anatomy.size[1],
        x_mm=canvas.grid.x * anatomy.size[2],
        spacing_mm=spacing_mm,
        back_mm=anatomy.frame.depth_mm()[1] * anatomy.size[1],
        half_width_mm=anatomy.frame.half_width_mm() * anatomy.size[2],
    )
    ct, outside = scan_image(streams, variety, image, canvas, scanner=scanner, view=view)
    labels = canvas.label
    if variety.view and outside is not None:
        labels[:, outside] = 0
    elif scanner.circular and not variety.view:
        labels[ct == OUTSIDE_HU] = 0
    return ct, labels


def check_options(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] | None,
    scan: str,
    *,
    orientation: str,
    tumours: str,
) -> None:
    """Raise SettingError unless a patient can be made so; see ``synthesize``."""
    if len(shape) != 3 or any(size < least for size, least in zip(shape, (4, 16, 16), strict=True)):
        raise SettingError(f"synthetic patient: shape must be at least 4x16x16 voxels (z, y, x), got {shape}.")
    if spacing_mm is not None and (len(spacing_mm) != 3 or not all(0.1 <= step <= 50 for step in spacing_mm)):
        raise SettingError(f"synthetic patient: spacing must be three values from 0.1 to 50 mm, got {spacing_mm}.")
    choices = ((scan, Scan, "scan"), (orientation, Orientation, "orientation"), (tumours, Tumours, "choice of tumours"))
    for value, kind, what in choices:
        if value not in get_args(kind):
            known = ", ".join(get_args(kind))
            near = did_you_mean(value, get_args(kind))
            raise SettingError(f"synthetic patient: no {what} '{value}'", f"{near} Choose one of {known}.")


def _draw_anatomy(streams: Streams, variety: Variety, donors: Sequence[Donor]) -> _Anatomy:
    """Draw a patient and settle the volumes of the organs on a coarse canvas that holds the whole trunk."""
    generator = streams["frame"]
    frame = draw_frame(generator)
    skeleton = draw_skeleton(generator, frame)
    size = np.array((generator.uniform(0.93, 1.06), generator.uniform(0.95, 1.06), generator.uniform(0.95, 1.06)))
    female, lift = bool(generator.random() < 0.5), generator.normal(0, 6)
    build = draw_build(streams["bodies"]) if variety.bodies else ADULT
    frame, shift_mm = _vary_frame(streams, variety, frame)
    frame = shape_trunk(frame, build)
    plan = draw_plan(streams, variety)
    if variety.dome:
        frame, plan = draw_dome(streams["dome"], frame, plan)
    body = Body(frame, female, lift + shift_mm, plan)
    # Volumes are those of an adult's organs: a child's are settled in the body of an adult of its shape.
    grid = _settling_grid(frame, float(size.prod()) / build.organs)
    size = size * build.size
    canvas = blank_canvas(grid)
    _paint_frame_(frame, skeleton, canvas)
    rectum, colon = draw_colon(streams["colon"], body)
    organs = [
        *draw_retroperitoneum(streams["retroperitoneum"], body),
        *draw_pelvic_organs(streams["pelvic organs"], body),
        rectum,
        *draw_upper_organs(streams["upper organs"], body),
        *draw_stomach(streams["stomach and duodenum"], body),
        colon,
    ]
    if donors:
        drawn = Canvas(grid, canvas.tissue.copy(), canvas.label.copy())
        for organ in organs:
            settle_(organ, drawn)
        kidneys = {"kidney_left": body.plan.kidney_left, "kidney_right": body.plan.kidney_right}
        turned = [name for name, plan in kidneys.items() if plan.isthmus_mm or max(np.abs(plan.turn)) > TURNED]
        organs = graft_organs(generator.spawn(1)[0], donors, organs, drawn, turned=turned)
    levels = [settle_(organ, canvas) for organ in organs]
    bowel = draw_small_bowel(streams["small bowel"], body, canvas)
    arms = draw_arms(streams["arms"]) if variety.arms else None
    return _Anatomy(frame, skeleton, (*organs, *bowel), (*levels, *(0.0 for _ in bowel)), size, arms)


def _vary_frame(streams: Streams, variety: Variety, frame: Frame) -> tuple[Frame, float]:
    """Return a varied trunk, and by how many mm its upper organs move with the domes."""
    shift_mm = 0.0
    if variety.scan_range:
        frame = grow_chest(frame)
    if variety.fatness:
        frame = draw_fatness(streams["fatness"], frame)
    if variety.heart:
        frame = draw_heart(streams["heart"], frame)
    if variety.breathing:
        frame, shift_mm = draw_breathing(streams["breathing"], frame)
    return frame, shift_mm


def _settling_grid(frame: Frame, scale: float) -> Grid:
    """Return the coarse grid of a trunk; ``scale`` is the true volume of a standard one."""
    coarse = SETTLING_MM
    half_x, half_y, top = 168.0, 130.0, 440.0
    if frame.pit != Pit():
        top = max(top, frame.dome_right_mm + coarse, frame.dome_left_mm + coarse)
    if frame.outline != Outline():  # all that organs may claim must lie on it
        half_x = max(half_x, coarse * np.ceil(max(frame.outline.wall_x) * frame.waist / coarse + 1))
        half_y = max(half_y, coarse * np.ceil(max(frame.outline.wall_front) * frame.depth / coarse + 1))
    return Grid(
        np.arange(-56, top, coarse, dtype=np.float32),
        np.arange(-half_y, 134, coarse, dtype=np.float32),
        np.arange(-half_x, half_x + 4, coarse, dtype=np.float32),
        coarse**3 * scale / 1000,
    )


def _vary_canvas_(streams: Streams, variety: Variety, anatomy: _Anatomy, canvas: Canvas) -> None:
    """Paint what varied patients have besides their organs, then turn and bend them."""
    if variety.rims:
        paint_rims_(streams["rims"], canvas)
    if variety.old_aorta:
        age_arteries_(streams["old_aorta"], canvas)
    if variety.rugae:
        fold_stomach_(streams["rugae"], canvas)
    if variety.surgery:
        operate_(streams["surgery"], canvas)
    if variety.scan_range:
        paint_upper_chest_(anatomy.frame, canvas)
    if variety.fluids:
        paint_fluids_(streams["fluids"], canvas, anatomy.frame)
    if variety.lungs:
        sicken_lungs_(streams["lungs"], canvas)
    if variety.metal:
        paint_metal_(streams["metal"], canvas, anatomy.skeleton)
    if anatomy.arms is not None:
        frame = anatomy.frame
        paint_arms_(canvas, anatomy.arms, half_width_mm=frame.half_width_mm(), fat_mm=frame.fat_mm)
    if variety.posture:
        change_posture_(streams["posture"], canvas)


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
    streams: Streams,
    anatomy: _Anatomy,
    shape: tuple[int, int, int],
    *,
    spacing_mm: tuple[float, float, float] | None,
    scan: str,
    variety: Variety,
) -> tuple[Grid, tuple[float, float, float]]:
    """Draw the scan range and the field of view, and return the grid and its spacing."""
    generator = streams["place"]
    low, high = RANGES_MM[scan]
    low, high = low + generator.uniform(-10, 5), high + generator.uniform(-10, 10)
    if variety.scan_range:
        length_mm = None if spacing_mm is None else shape[0] * spacing_mm[0] / float(anatomy.size[0])
        low, high = draw_range(streams["scan_range"], length_mm)
    front, back = anatomy.frame.depth_mm()
    wide = 2 * anatomy.frame.half_width_mm() * anatomy.size[2] * generator.uniform(1.02, 1.15)
    deep = (front + back) * anatomy.size[1] * generator.uniform(1.05, 1.15)
    wide += 2 * anatomy.arms.breadth_mm * anatomy.size[2] if anatomy.arms else 0.0
    stretch, (back_off, left_off) = draw_stretch(streams["view"].spawn(1)[0]) if variety.view else (1.0, (0.0, 0.0))
    if spacing_mm is None:
        pixel = max(wide / shape[2], deep / shape[1]) * stretch
        spacing_mm = ((high - low) * float(anatomy.size[0]) / shape[0], pixel, pixel)
    middle = (
        (low + high) / 2,
        (back - front) / 2 + generator.uniform(-3, 12) + back_off * shape[1] * spacing_mm[1] / 2,
        generator.uniform(-5, 5) + left_off * shape[2] * spacing_mm[2] / 2,
    )
    return centred_grid(middle, shape, spacing_mm, anatomy.size), spacing_mm


def centred_grid(
    middle: tuple[float, float, float],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    size: Float[np.ndarray, "3"],
) -> Grid:
    """Return the grid of a scan around ``middle``; ``size`` is mm per standard mm along z, y, x."""
    z, y, x = (
        (centre + (np.arange(count) - (count - 1) / 2) * step / scale).astype(np.float32)
        for centre, count, step, scale in zip(middle, shape, spacing_mm, size, strict=True)
    )
    return Grid(z, y, x, float(np.prod(spacing_mm)) / 1000)


def axial_affine(
    grid: Grid, size: Float[np.ndarray, "3"], spacing_mm: tuple[float, float, float], scanner: Scanner
) -> Float[np.ndarray, "4 4"]:
    """Return the affine of the axial volume: x to the left and y to the back are negative in RAS+."""
    affine = np.eye(4)
    step = np.array([[0, 0, -spacing_mm[2]], [0, -spacing_mm[1], 0], [spacing_mm[0], 0, 0]])
    start = np.array((-grid.x[0] * size[2], -grid.y[0] * size[1], grid.z[0] * size[0]))
    affine[:3, :3] = scanner.tilt @ step
    affine[:3, 3] = scanner.tilt @ start
    return affine
