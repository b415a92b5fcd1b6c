"""What surgeons have taken out or put in: organs that are not there, with bowel in their bed, clips, and stents.

It works on a painted patient, procedural or from a template. The labels lack what was taken out: absent, not unknown.
"""

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Bool, Float

from viscera.synthesis.anatomy.bowel import draw_loop
from viscera.synthesis.canvas import VALUE, Box, Canvas, Tissue, claim_
from viscera.synthesis.shapes import Tube, draw_noise, evaluate, spline

SHARES: dict[str, float] = {
    "spleen": 0.04,
    "kidney_left": 0.02,
    "kidney_right": 0.02,
    "gallbladder": 0.07,
    "left lobe": 0.02,
    "right lobe": 0.025,
    "biliary stent": 0.03,
    "ureter stent": 0.03,
}
"""Share of patients with each; the first four are taken out whole."""
LEFT_LOBE, RIGHT_LOBE = (0.62, 0.85), (0.12, 0.5)
"""Share of the liver that lies to the right of the cut, where its left or right part is taken out."""
CUT_MM, CLIPS = 7.0, 5
"""Unevenness of a cut (standard deviation), and how many clips there are at most."""


@dataclass(frozen=True)
class Surgery:
    """What was done to one patient.

    Attributes:
        done: Keys of SHARES.
        cut: Share of the liver to the right of the cut.
        slope: Of the cut: by how much it moves to the left per mm to the back and upwards.
        colon: Whether colon (rather than small bowel) falls into a bed.
    """

    done: tuple[str, ...]
    cut: float
    slope: tuple[float, float]
    colon: bool


def draw_surgery(generator: np.random.Generator) -> Surgery:
    """Draw what was done; nothing in most patients, and never both parts of the liver or both kidneys."""
    draws, share = generator.random(len(SHARES)), generator.random()
    back, up, colon = *generator.normal(0, 0.25, 2), generator.random() < 0.5
    done = [name for name, draw, limit in zip(SHARES, draws, SHARES.values(), strict=True) if draw < limit]
    for first, second in (("kidney_left", "kidney_right"), ("left lobe", "right lobe")):
        if first in done and second in done:
            done.remove(second)
    low, high = LEFT_LOBE if "left lobe" in done else RIGHT_LOBE
    return Surgery(tuple(done), float(low + (high - low) * share), (float(back), float(up)), bool(colon))


def operate_(generator: np.random.Generator, canvas: Canvas) -> Surgery:
    """Take out and put in what was drawn, and return it."""
    surgery = draw_surgery(generator)
    loops, metal, uneven = generator.spawn(3)
    if "biliary stent" in surgery.done:
        _paint_biliary_stent_(metal, canvas)
    for name in ("spleen", "kidney_left", "kidney_right"):
        if name in surgery.done:
            bed = _take_out_(canvas, name)
            _fall_in_(loops, canvas, bed, colon=surgery.colon)
    if "gallbladder" in surgery.done:
        bed = _take_out_(canvas, "gallbladder")
        _paint_clips_(metal, canvas, bed)
    if "left lobe" in surgery.done or "right lobe" in surgery.done:
        bed = _cut_liver_(uneven, canvas, surgery)
        _paint_clips_(metal, canvas, _rim(canvas, bed))
        _fall_in_(loops, canvas, bed, colon=surgery.colon)
    if "ureter stent" in surgery.done:
        _paint_ureter_stent_(metal, canvas)
    return surgery


@dataclass(frozen=True, eq=False)
class _Bed:
    """Where something was.

    Attributes:
        box: Its voxels.
        mask: Which of them.
    """

    box: Box
    mask: Bool[np.ndarray, "z y x"]


def _box_of(mask: Bool[np.ndarray, "z y x"]) -> Box | None:
    places = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not all(len(place) for place in places):
        return None
    z, y, x = (slice(int(place[0]), int(place[-1]) + 1) for place in places)
    return z, y, x


def _clear_(canvas: Canvas, mask: Bool[np.ndarray, "z y x"]) -> _Bed | None:
    """Leave fat where a mask is."""
    box = _box_of(mask)
    if box is None:
        return None
    inside = mask[box]
    canvas.paint_(box, inside, Tissue.FREE, "fat")
    return _Bed(box, inside)


def _take_out_(canvas: Canvas, organ: str) -> _Bed | None:
    """Take out an organ; of a kidney also what its sinus holds."""
    own = canvas.label == VALUE[organ]
    box = _box_of(own)
    if box is not None and organ.startswith("kidney"):
        own[box] |= (canvas.tissue[box] == Tissue.KIDNEY_PELVIS) & (canvas.label[box] == VALUE["fat"])
    return _clear_(canvas, own)


def _cut_liver_(generator: np.random.Generator, canvas: Canvas, surgery: Surgery) -> _Bed | None:
    """Take out the part of the liver to the left or right of an uneven plane, and the gallbladder with the right one."""
    uneven, grid = draw_noise(generator, 40.0), canvas.grid
    liver = canvas.label == VALUE["liver"]
    box = _box_of(liver)
    if box is None:
        return None
    z, y, x = grid.axes(box)
    back, up = surgery.slope
    place = x - back * y - up * (z - float(z.mean())) + CUT_MM * uneven(z, y, x)
    limit = float(np.quantile(place[liver[box]], surgery.cut))
    left = "left lobe" in surgery.done
    gone = np.zeros_like(liver)
    gone[box] = liver[box] & ((place > limit) if left else (place < limit))
    if not left:
        gone |= canvas.label == VALUE["gallbladder"]
    return _clear_(canvas, gone)


def _fall_in_(generator: np.random.Generator, canvas: Canvas, bed: _Bed | None, *, colon: bool) -> None:
    """Let a stretch of bowel fall into a bed."""
    radius = generator.uniform(10, 16) if colon else generator.uniform(9, 14)
    if bed is None:
        return
    grid = canvas.grid
    z, y, x = bed.box
    axes = (grid.z[z], grid.y[y], grid.x[x])
    if min(len(axis) for axis in axes) < 2:
        return
    steps = tuple(float(axis[1] - axis[0]) for axis in axes)
    clearance: Float[np.ndarray, "z y x"] = edt.edt(bed.mask, anisotropy=steps, parallel=1)
    for organ in draw_loop(generator, clearance, axes, name="colon" if colon else "small_bowel", radius_mm=radius):
        claim_(organ, canvas, level=0.0)


def _rim(canvas: Canvas, bed: _Bed | None) -> _Bed | None:
    """Return the part of a bed that touches the liver from the left or right."""
    if bed is None:
        return None
    liver = canvas.label[bed.box] == VALUE["liver"]
    near = np.zeros_like(liver)
    near[..., 1:] |= liver[..., :-1]
    near[..., :-1] |= liver[..., 1:]
    return _Bed(bed.box, near & bed.mask)


def _paint_clips_(generator: np.random.Generator, canvas: Canvas, bed: _Bed | None) -> None:
    """Paint some clips; they leave the labels as they are."""
    count, draws = int(generator.integers(2, CLIPS + 1)), generator.random(CLIPS)
    angles = generator.uniform(0, np.pi, CLIPS)
    places = np.argwhere(bed.mask) if bed is not None else np.zeros((0, 3), int)
    if bed is None or not len(places):
        return
    grid = canvas.grid
    for draw, angle in zip(draws[:count].tolist(), angles[:count].tolist(), strict=True):
        z, y, x = (places[int(draw * len(places))] + [part.start for part in bed.box]).tolist()
        middle = np.array((grid.z[z], grid.y[y], grid.x[x]), float)
        half = np.array((1.0, 3 * np.cos(angle), 3 * np.sin(angle)))
        _paint_wire_(canvas, np.stack([middle - half, middle + half]), 1.3, Tissue.CLIP)


def _paint_wire_(canvas: Canvas, points: np.ndarray, radius_mm: float, tissue: Tissue) -> None:
    """Paint a thin tube, never thinner than would be seen on the grid, into the body."""
    least = 0.55 * float(canvas.grid.x[1] - canvas.grid.x[0])
    tube = spline(points, np.full(len(points), max(radius_mm, least)), step_mm=max(1.0, radius_mm))
    box, field = evaluate(Tube(tube.points, tube.radii_mm), canvas.grid, reach_mm=0.0)
    bone = (Tissue.AIR, Tissue.CORTEX, Tissue.MARROW)
    canvas.tissue[box][(field > 0) & ~np.isin(canvas.tissue[box], bone)] = tissue


def _middle(canvas: Canvas, organ: str) -> Float[np.ndarray, "3"] | None:
    """Return the middle of an organ in standard mm; None without it."""
    places = np.nonzero(canvas.label == VALUE[organ])
    if not len(places[0]):
        return None
    axes = (canvas.grid.z, canvas.grid.y, canvas.grid.x)
    return np.array([float(axis[place].mean()) for axis, place in zip(axes, places, strict=True)])


def _paint_biliary_stent_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Paint a stent from the porta of the liver through the pancreatic head into the duodenum."""
    jitter, wide = generator.normal(0, 3, 3), generator.uniform(1.4, 3.6)
    portal, duodenum = _middle(canvas, "portal_vein_and_splenic_vein"), _middle(canvas, "duodenum")
    liver = _middle(canvas, "liver")
    if portal is None or duodenum is None or liver is None:
        return
    top = 0.6 * portal + 0.4 * liver
    middle = 0.5 * (top + duodenum) + np.array((0.0, 4.0, -3.0)) + jitter
    _paint_wire_(canvas, np.stack([top, middle, duodenum + jitter]), wide, Tissue.STENT)


def _paint_ureter_stent_(generator: np.random.Generator, canvas: Canvas) -> None:
    """Paint a double-J stent from a kidney along the psoas into the bladder, or out of the scan."""
    side, jitter = generator.choice((-1, 1)), generator.normal(0, 3, (2, 3))
    kidney = _middle(canvas, "kidney_left" if side > 0 else "kidney_right")
    if kidney is None:
        return
    bladder = _middle(canvas, "urinary_bladder")
    bladder = np.array((30.0, -20.0, 6.0 * side)) if bladder is None else bladder
    hilum = kidney * (1, 1, 0.72) + np.array((4.0, -6.0, 0.0))
    curl = [hilum + np.array((9.0, 0, 7.0 * side)), hilum + np.array((14.0, 0, 0.0)), hilum]
    psoas = np.array([(hilum[0] - 45, 6, 34 * side), (150, 2, 36 * side), (95, 14, 46 * side), (60, 26, 40 * side)])
    psoas[1:3] += jitter
    course = np.concatenate([curl, psoas[psoas[:, 0] < hilum[0] - 20], bladder[None]])
    _paint_wire_(canvas, course, 1.2, Tissue.STENT)
