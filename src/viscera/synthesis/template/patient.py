"""Patients from a template: deformed, their organs filled anew, painted and scanned as procedural patients are.

template.py reads the label map, thorax.py continues it upwards, reshaping.py deforms it, contents.py fills it; HU,
lesions and scanner are those of synthesis/patient.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from viscera.errors import SettingError
from viscera.labels import TUMOUR
from viscera.synthesis.anatomy.bodies import ADULT, draw_build
from viscera.synthesis.anatomy.habitus import Arms, draw_arms, paint_arms_
from viscera.synthesis.anatomy.old_vessels import age_arteries_
from viscera.synthesis.anatomy.plans import draw_plan
from viscera.synthesis.anatomy.rims import paint_rims_
from viscera.synthesis.anatomy.rugae import fold_stomach_
from viscera.synthesis.anatomy.sick_lungs import sicken_lungs_
from viscera.synthesis.anatomy.surgery import operate_
from viscera.synthesis.anatomy.veins import flatten_cava_
from viscera.synthesis.appearance.tissues import draw_phase
from viscera.synthesis.appearance.tumours import TUMOUR_VALUE, paint_tumours_, relabel_as_organs_
from viscera.synthesis.canvas import VALUE, Canvas, Tissue
from viscera.synthesis.grafting import Donor
from viscera.synthesis.patient import (
    Orientation,
    Patient,
    Scan,
    Tumours,
    axial_affine,
    centred_grid,
    check_options,
    give_hu,
)
from viscera.synthesis.scanner.acquisition import OUTSIDE_HU, draw_scanner
from viscera.synthesis.scanner.field_of_view import draw_range, draw_stretch
from viscera.synthesis.scanner.scanning import View, scan_image
from viscera.synthesis.shapes import Grid, draw_noise
from viscera.synthesis.template.contents import (
    empty_sinuses_,
    fill_bladder_,
    fill_bowel_,
    fill_heart_,
    fill_kidneys_,
    label_sinuses_,
    paint_masses_,
)
from viscera.synthesis.template.reshaping import Sample, Warp, draw_warp, sample
from viscera.synthesis.template.surroundings import FULL_DEPTH
from viscera.synthesis.template.template import FINE_MM, Template
from viscera.synthesis.template.thorax import grow_thorax
from viscera.synthesis.variety import Streams, Variety, open_streams
from viscera.volume import Volume, turn_volume

HELD: dict[str, tuple[str, ...]] = {
    "upper": ("liver", "spleen", "kidney_left", "kidney_right"),
    "pelvis": ("pelvis", "urinary_bladder", "femoral_head_left", "femoral_head_right", "rectum"),
}
"""{part of the body: organs, one of which a template must hold for it}."""
ARM_FAT_MM = 14.0
LEAST_MM = 60.0
"""Of a template, along the body, that a drawn scan range must cover."""
CHEST_SHARE = 0.6
"""Of a chest above the template, how much a scan may leave out."""
SKIN_MM = 2.0
FATTEST = 2.4
"""Factor on the fat beneath the skin, at most: beyond it the template's depth ends."""
FATNESS = (0.3, 1.9)
"""Factor on the thickness of the template's fat beneath the skin."""


@dataclass(frozen=True)
class _Span:
    """What a scan covers.

    Attributes:
        low_mm: Its lowest slice, in standard coordinates.
        high_mm: Its highest.
        skin: Value of Template.depth at the patient's skin.
    """

    low_mm: float
    high_mm: float
    skin: float


@dataclass(frozen=True, eq=False)
class _Painted:
    """A patient before the scan: the canvas, millimetres per standard one, spacing (z, y, x)."""

    canvas: Canvas
    size: Float[np.ndarray, "3"]
    spacing_mm: tuple[float, float, float]


def synthesize_from(
    template: Template,
    generator: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (96, 256, 256),
    spacing_mm: tuple[float, float, float] | None = None,
    scan: Scan = "abdomen",
    orientation: Orientation = "random",
    tumours: Tumours = "none",
    donors: Sequence[Donor] = (),
) -> Patient:
    """Make a patient from a template and scan it.

    Args:
        template: Where the anatomy comes from; its ``reshaping`` says how far the patient may differ from it.
        generator: Source of all randomness: the same state gives the same patient.
        shape: Axial slices, rows and columns; at least 4 x 16 x 16.
        spacing_mm: Between slices, rows and columns; None fits the scan range and the body into the shape.
        scan: Which part of the template; "random" draws one that it holds.
        orientation: As in ``synthesize``.
        tumours: As in ``synthesize``.
        donors: Whose organs may take the place of the template's own; see grafting.py.

    Returns:
        The patient, with the labels of what the template annotates.

    Raises:
        SettingError: A shape, spacing, scan, orientation or choice of tumours that is none, or a part of the body that
            the template does not hold.
    """
    check_options(shape, spacing_mm, scan, orientation=orientation, tumours=tumours)
    reshaping = template.reshaping
    streams = open_streams(generator, reshaping.variety)
    chest, warping, moving, fatness, filling = generator.spawn(5)
    pit = streams["dome"] if reshaping.variety.dome else None
    grown = grow_thorax(template, chest, pit=pit) if reshaping.thorax else template
    build = draw_build(streams["bodies"]) if reshaping.variety.bodies else ADULT
    warp = draw_warp(warping, reshaping)
    warp = replace(warp, size=warp.size * build.size)
    scale = float(np.exp(fatness.uniform(*np.log(FATNESS)))) if reshaping.fatness else 1.0
    scale = float(np.clip(scale * build.fat, 1.0 if build.least_mm else 0.0, FATTEST))
    low_mm, high_mm = _draw_range(
        streams, grown, len(template.label), scan=scan, length_mm=_length(shape, spacing_mm, warp)
    )
    span = _Span(low_mm, high_mm, FULL_DEPTH * scale)
    arms = draw_arms(streams["arms"]) if reshaping.variety.arms else None
    grid, spacing = _place(streams, grown, warp, shape, spacing_mm=spacing_mm, span=span, arms=arms)
    places = streams["renal_places"] if reshaping.variety.renal_places else None
    patient = sample(moving, grown, warp, grid, organs=reshaping.organs, places=places, donors=donors)
    skin = np.full(grid.shape, span.skin, np.float32)
    if reshaping.fatness:
        skin *= np.exp(np.float32(0.12) * draw_noise(fatness, 85.0)(*grid.axes(grid.everything)))
    _paint_skin_(patient, skin, spacing[1])
    _fill_(filling, streams, patient, template)
    if arms is not None:
        _paint_arms_(patient.canvas, arms)
    painted = _Painted(patient.canvas, warp.size, spacing)
    return _finish(streams, generator, template, painted, orientation=orientation, tumours=tumours)


def _length(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None, warp: Warp) -> float | None:
    return None if spacing_mm is None else shape[0] * spacing_mm[0] / float(warp.size[0])


def _draw_range(
    streams: Streams, grown: Template, slices: int, *, scan: Scan, length_mm: float | None
) -> tuple[float, float]:
    """Draw the lowest and highest slice, in standard coordinates.

    Args:
        streams: Sources of randomness.
        grown: The template, with its chest.
        slices: Of the template without it.
        scan: Which part of the body.
        length_mm: How long the scan must be, if that is given.
    """
    generator = streams["place"]
    parts = [part for part, organs in HELD.items() if _levels(grown, organs) is not None]
    kinds = ["abdomen", *parts]
    weights = np.array([{"abdomen": 0.5, "upper": 0.3, "pelvis": 0.2}[kind] for kind in kinds])
    drawn = str(generator.choice(kinds, p=weights / weights.sum()))
    if scan in HELD and scan not in parts:
        raise SettingError(
            f"the template holds none of {', '.join(HELD[scan])}, so there is no scan '{scan}' of it",
            "Choose another one, or another template.",
        )
    kind = drawn if scan == "random" else scan
    bottom, end = -grown.origin_mm[0], (slices - 1) * FINE_MM - grown.origin_mm[0]
    top = (len(grown.label) - 1) * FINE_MM - grown.origin_mm[0]
    low = bottom + generator.uniform(0, 15)
    high = top - generator.uniform(0, CHEST_SHARE) * (top - end)
    margins = generator.uniform(-10, 40, 2)
    if kind != "abdomen" and (levels := _levels(grown, HELD[kind])) is not None:
        if kind == "upper":
            low = max(bottom, levels[0] - margins[0])
        else:
            high = min(high, levels[1] + margins[1])
    if streams.own and grown.reshaping.variety.scan_range and scan in ("abdomen", "random"):
        least, most = draw_range(streams["scan_range"], length_mm)
        if min(most, top) - max(least, bottom) >= min(LEAST_MM, top - bottom):
            low, high = max(least, bottom), min(most, top)
    return (low, high) if high - low >= 2 * FINE_MM else (bottom, top)


def _levels(template: Template, organs: tuple[str, ...]) -> tuple[float, float] | None:
    """Return between which heights some organs lie."""
    slices = np.flatnonzero(np.isin(template.label, [VALUE[organ] for organ in organs]).any(axis=(1, 2)))
    if not len(slices):
        return None
    low, high = (float(place) * FINE_MM - template.origin_mm[0] for place in (slices[0], slices[-1]))
    return low, high


def _place(
    streams: Streams,
    grown: Template,
    warp: Warp,
    shape: tuple[int, int, int],
    *,
    spacing_mm: tuple[float, float, float] | None,
    span: _Span,
    arms: Arms | None,
) -> tuple[Grid, tuple[float, float, float]]:
    """Draw the field of view, and return the grid and its spacing."""
    generator = streams["place"]
    low, high = (
        int(np.clip((height + grown.origin_mm[0]) / FINE_MM, 0, len(grown.label) - 1))
        for height in (span.low_mm, span.high_mm)
    )
    body = ((grown.tissue[low : high + 1 : 2] != Tissue.AIR) | (grown.depth[low : high + 1 : 2] <= span.skin)).any(
        axis=0
    )
    edges = []
    for axis, origin in ((1, grown.origin_mm[1]), (0, grown.origin_mm[2])):
        places = np.flatnonzero(body.any(axis=axis))
        edges.append((float(places[0]) * FINE_MM - origin, float(places[-1]) * FINE_MM - origin))
    (front, back), (right, left) = edges
    deep = (back - front) * warp.size[1] * generator.uniform(1.05, 1.15)
    wide = (left - right) * warp.size[2] * generator.uniform(1.03, 1.15)
    wide += 2 * arms.breadth_mm * warp.size[2] if arms else 0.0
    varied = grown.reshaping.variety.view
    stretch, (back_off, left_off) = draw_stretch(streams["view"].spawn(1)[0]) if varied else (1.0, (0.0, 0.0))
    if spacing_mm is None:
        pixel = float(max(wide / shape[2], deep / shape[1])) * stretch
        spacing_mm = ((span.high_mm - span.low_mm) * float(warp.size[0]) / shape[0], pixel, pixel)
    middle = (
        (span.low_mm + span.high_mm) / 2,
        (front + back) / 2 + generator.uniform(-3, 12) + back_off * shape[1] * spacing_mm[1] / 2,
        (left + right) / 2 + generator.uniform(-5, 5) + left_off * shape[2] * spacing_mm[2] / 2,
    )
    return centred_grid(middle, shape, spacing_mm, warp.size), spacing_mm


def _paint_skin_(patient: Sample, limit: Float[np.ndarray, "z y x"], pixel_mm: float) -> None:
    """Paint the fat beneath the skin as far out as ``limit`` (of Template.depth) says, and the skin."""
    canvas = patient.canvas
    air = canvas.tissue == Tissue.AIR
    fat = air & (patient.depth <= limit)
    canvas.tissue[fat], canvas.label[fat] = Tissue.SUBCUTANEOUS_FAT, VALUE["fat"]
    size = 2 * max(1, round(SKIN_MM / pixel_mm)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    for number, plane in enumerate((canvas.tissue != Tissue.AIR).astype(np.uint8)):
        skin = (plane > 0) & (cv2.erode(plane, kernel) == 0) & fat[number]
        canvas.tissue[number][skin], canvas.label[number][skin] = Tissue.SKIN, VALUE["skin"]


def _fill_(generator: np.random.Generator, streams: Streams, patient: Sample, template: Template) -> None:
    """Paint what organs hold."""
    bowel, kidneys, heart = generator.spawn(3)
    variety = template.reshaping.variety
    fill_bladder_(patient)
    if template.reshaping.contents:
        plan = draw_plan(streams, variety)
        fill_bowel_(bowel, patient, plan.meals, plan.confluence)
    if variety.renal_hilum:
        label_sinuses_(patient)
    if template.reshaping.kidneys:
        fill_kidneys_(kidneys, patient)
    else:
        empty_sinuses_(patient)
    if variety.renal_look:
        paint_masses_(streams["renal_look"], patient)
    if variety.rims:
        paint_rims_(streams["rims"], patient.canvas)
    if variety.heart:
        fill_heart_(heart, patient)
    _vary_(streams, patient.canvas, variety)


def _vary_(streams: Streams, canvas: Canvas, variety: Variety) -> None:
    """Change the painted patient as procedural ones are changed, as far as that needs nothing but the canvas."""
    if variety.cava:
        flatten_cava_(streams["cava"], canvas)
    if variety.old_aorta:
        age_arteries_(streams["old_aorta"], canvas)
    if variety.rugae:
        fold_stomach_(streams["rugae"], canvas)
    if variety.surgery:
        operate_(streams["surgery"], canvas)
    if variety.lungs:
        sicken_lungs_(streams["lungs"], canvas)


def _paint_arms_(canvas: Canvas, arms: Arms) -> None:
    columns = np.flatnonzero((canvas.tissue != Tissue.AIR).any(axis=(0, 1)))
    half_mm = float(canvas.grid.x[columns[-1]] - canvas.grid.x[columns[0]]) / 2 if len(columns) else 180.0
    paint_arms_(canvas, arms, half_width_mm=half_mm, fat_mm=ARM_FAT_MM)


def _finish(
    streams: Streams,
    generator: np.random.Generator,
    template: Template,
    painted: _Painted,
    *,
    orientation: Orientation,
    tumours: Tumours,
) -> Patient:
    """Return a painted patient its HU, and scan it."""
    variety, canvas, size = template.reshaping.variety, painted.canvas, painted.size
    scanner = draw_scanner(streams["scanner"], orientation=orientation)
    phase = draw_phase(streams["phase"], varied=variety.contrast)
    image, shown = give_hu(streams, variety, canvas, phase)
    if tumours != "none":
        lesions = paint_tumours_(generator.spawn(1)[0], canvas, image, phase)
        if tumours == "unlabelled":
            relabel_as_organs_(canvas, lesions)
    view = _view(painted)
    ct, outside = scan_image(streams, variety, image, canvas, scanner=scanner, view=view)
    labels = _known(canvas, template.annotated, tumours)
    if variety.view and outside is not None:
        labels[:, outside] = 0
    elif scanner.circular and not variety.view:
        labels[ct == OUTSIDE_HU] = 0
    affine = axial_affine(canvas.grid, size, painted.spacing_mm, scanner)
    organs = {VALUE[organ]: organ for organ in template.annotated}
    return Patient(
        turn_volume(Volume(ct, affine), scanner.turn),
        turn_volume(Volume(labels, affine), scanner.turn),
        organs | ({TUMOUR_VALUE: TUMOUR} if tumours == "labelled" else {}),
        shown,
    )


def _view(painted: _Painted) -> View:
    """Tell where the scan lies about the body."""
    grid, size = painted.canvas.grid, painted.size
    body = (painted.canvas.tissue != Tissue.AIR).any(axis=0)
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    y_mm, x_mm = grid.y * size[1], grid.x * size[2]
    back_mm = float(y_mm[rows[-1]]) if len(rows) else float(y_mm[-1])
    half = float(x_mm[columns[-1]] - x_mm[columns[0]]) / 2 if len(columns) else 180.0
    return View(y_mm, x_mm, painted.spacing_mm, back_mm, half)


def _known(canvas: Canvas, annotated: tuple[str, ...], tumours: Tumours) -> UInt8[np.ndarray, "z y x"]:
    """Return the labels of what the template annotates; 0 for all else."""
    table = np.zeros(256, np.uint8)
    for organ in annotated:
        table[VALUE[organ]] = VALUE[organ]
    table[TUMOUR_VALUE] = TUMOUR_VALUE if tumours == "labelled" else 0
    return table[canvas.label]
