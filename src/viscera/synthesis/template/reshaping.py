"""Templates deformed: the whole by an affine map and smooth displacements, some organs once more on their own.

Maps lead from the patient back to the template, so that each of the patient's voxels finds what it is; templates are
fine enough (template.FINE_MM) that the nearest voxel will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from viscera.boxes import pieces_of
from viscera.synthesis.anatomy.kidney_plans import APART, APART_MM, LOWEST_MM, draw_place, sunk
from viscera.synthesis.canvas import VALUE, Canvas, Tissue, blank_canvas
from viscera.synthesis.grafting import GROUPS, Donor
from viscera.synthesis.shapes import Box, Grid, Noise, draw_noise, rotation_about
from viscera.synthesis.template.gifts import Gift, draw_gifts, paint_gift
from viscera.synthesis.template.template import FINE_MM, Reshaping, Template

SLICES = 16
"""Slices that are mapped at once: their coordinates fit the cache."""


@dataclass(frozen=True, eq=False)
class Warp:
    """A map from a patient's standard coordinates to the template's.

    Attributes:
        size: Millimetres of the patient per standard one, along z, y, x.
        matrix: Turns a patient's coordinates into the template's.
        displacements: (amplitude in mm, noise for z, y and x).
    """

    size: Float[np.ndarray, "3"]
    matrix: Float[np.ndarray, "3 3"]
    displacements: tuple[tuple[float, tuple[Noise, Noise, Noise]], ...]

    @property
    def reach_mm(self) -> float:
        """How far the displacements go, at most (nearly)."""
        return 3.0 * sum(amplitude for amplitude, _ in self.displacements)

    def __call__(self, grid: Grid, box: Box) -> Float[np.ndarray, "3 z y x"]:
        """Return where the voxels of a box lie in the template, in its own coordinates (mm)."""
        z, y, x = (axis.astype(np.float32) for axis in grid.axes(box))
        turn = self.matrix.astype(np.float32)
        places = np.stack([row[0] * z + row[1] * y + row[2] * x for row in turn])
        for amplitude, noises in self.displacements:
            for place, noise in zip(places, noises, strict=True):
                place += np.float32(amplitude) * noise(z, y, x)
        return places


def draw_warp(generator: np.random.Generator, reshaping: Reshaping) -> Warp:
    """Draw how a template is deformed."""
    size, matrix = np.ones(3), np.eye(3)
    common, single = np.clip(generator.normal(-0.02, 0.06), -0.14, 0.1), generator.normal(0, 0.07, 3)
    drawn = np.exp(common + single - 0.7 * single.mean())
    angles, shear = generator.normal(0, 0.045, 3), generator.normal(0, 0.035, (3, 3))
    if reshaping.affine:
        size = np.clip(drawn, 0.72, 1.4)
        np.fill_diagonal(shear, 0)
        matrix = np.eye(3) + shear
        for axis, angle in enumerate(np.clip(angles, -0.13, 0.13).tolist()):
            matrix = rotation_about(axis, angle) @ matrix
    displacements = []
    for on, (near, far), (least, most) in (
        (reshaping.coarse, (70.0, 110.0), (2.0, 9.0)),
        (reshaping.fine, (28.0, 45.0), (0.8, 3.2)),
    ):
        step_mm, amplitude = generator.uniform(near, far), generator.uniform(least, most)
        first, second, third = (draw_noise(generator, step_mm) for _ in range(3))
        if on:
            displacements.append((float(amplitude), (first, second, third)))
    return Warp(size, matrix, tuple(displacements))


@dataclass(frozen=True, eq=False)
class Sample:
    """A patient's anatomy on a grid.

    Attributes:
        canvas: Tissues and labels.
        depth: As Template.depth.
        lifted: Where the organs that move on their own lay before.
    """

    canvas: Canvas
    depth: UInt8[np.ndarray, "z y x"]
    lifted: UInt8[np.ndarray, "z y x"]


def _indices(template: Template, places: Float[np.ndarray, "3 z y x"]) -> Integer[np.ndarray, "z y x"]:
    """Return the flat index of the template's voxel at each place; what is beyond the map's end has its outermost."""
    flat = np.zeros(places.shape[1:], np.int32)
    for place, origin, count in zip(places, template.origin_mm, template.label.shape, strict=True):
        index = (place + np.float32(origin)) * np.float32(1 / FINE_MM) + np.float32(0.5)
        np.clip(index, 0, count - 1, out=index)
        flat *= np.int32(count)
        flat += index.astype(np.int32)
    return flat


MOVED: tuple[tuple[str, ...], ...] = (
    ("kidney_left",),
    ("kidney_right",),
    ("spleen",),
    ("liver", "gallbladder"),
    ("stomach",),
)
"""Organs that move on their own, in the order in which they are put back."""
YIELDING = ("colon", "small_bowel", "duodenum")
"""What an organ that is put back may displace, besides fat and the places that organs were lifted from."""
FURTHER, ROOM = (1.0, 0.6, 0.3, 0.0), 0.8
"""Shares of a kidney's further shift that are tried, until there is room for more than this share of the kidney."""
CRUMB = 0.1
"""Of an organ's largest piece: what is smaller is left out, where obstacles part the organ."""


def sample(
    generator: np.random.Generator,
    template: Template,
    warp: Warp,
    grid: Grid,
    *,
    organs: bool,
    places: np.random.Generator | None = None,
    donors: Sequence[Donor] = (),
) -> Sample:
    """Bring a template onto a patient's grid.

    Args:
        generator: Source of randomness.
        template: What the patient is made from.
        warp: How it is deformed.
        grid: The patient's.
        organs: Whether some organs move on their own.
        places: Source of randomness for kidneys that lie low, look another way or lie across; None for none of it.
        donors: Whose organs may take the place of the template's.
    """
    given = draw_gifts(generator.spawn(1)[0], template, donors) if donors else {}
    canvas = blank_canvas(grid)
    depth = np.zeros(grid.shape, np.uint8)
    whole = grid.everything
    for start in range(0, grid.shape[0], SLICES):
        box = (slice(start, min(start + SLICES, grid.shape[0])), whole[1], whole[2])
        index = _indices(template, warp(grid, box))
        np.take(template.tissue.ravel(), index, out=canvas.tissue[box], mode="clip")
        np.take(template.label.ravel(), index, out=canvas.label[box], mode="clip")
        np.take(template.depth.ravel(), index, out=depth[box], mode="clip")
    lifted = np.zeros(grid.shape, np.uint8)
    result = Sample(canvas, depth, lifted)
    if not organs and not given:
        return result
    moves = [_draw_move(generator, names) if organs else STILL for names in MOVED]
    moves = _displaced(places, moves) if organs and places is not None else moves
    groups = [*MOVED, *(names for names in GROUPS if names[0] in given and names not in MOVED)]
    moves += [STILL] * (len(groups) - len(moves))
    hollow = np.isin(np.arange(256), [VALUE[name] for names in groups for name in names])
    sinuses = canvas.tissue == Tissue.KIDNEY_PELVIS
    gone, apart = hollow[canvas.label] | sinuses, bool(sinuses.any())
    lifted[gone] = np.maximum(canvas.label[gone], 1)
    canvas.tissue[gone], canvas.label[gone], depth[gone] = Tissue.FREE, VALUE["fat"], 0
    for names, move in zip(groups, moves, strict=True):
        if names[0] in given:
            _put_in_(result, warp, given[names[0]], move=move, sinus_apart=apart)
        else:
            _put_back_(result, template, warp, names=names, move=move)
    _close_gaps_(result)
    return result


@dataclass(frozen=True, eq=False)
class Move:
    """How one organ moves: about its own middle, in the template's coordinates.

    Attributes:
        matrix: Turns and scales a difference to the middle, from the patient back to the template.
        shift_mm: Along z, y, x.
        scale: Its greatest growth.
        further_mm: A shift beyond, as far as there is room for it; None for a kidney that is where it usually is.
    """

    matrix: Float[np.ndarray, "3 3"]
    shift_mm: Float[np.ndarray, "3"]
    scale: float
    further_mm: Float[np.ndarray, "3"] | None = None


STILL = Move(np.eye(3), np.zeros(3), 1.0)
"""An organ stays where it is."""


def _draw_move(generator: np.random.Generator, names: tuple[str, ...]) -> Move:
    """Draw how an organ moves. Kidneys slide along the psoas: the lower, the further out and to the front."""
    kidney = names[0].startswith("kidney")
    angles = np.clip(generator.normal(0, 0.14, 3), -0.3, 0.3)
    growth, stretch = np.clip(generator.normal(-0.01, 0.08), -0.2, 0.14), generator.normal(0, 0.07, 3)
    scales = np.clip(np.exp(growth + stretch - stretch.mean()), 0.75, 1.35)
    shift = np.clip(generator.normal(0, 6.0, 3), -14, 14)
    if kidney:
        low = float(np.clip(generator.normal(-4, 17), -40, 28))
        side = 1 if names[0].endswith("left") else -1
        slide = np.array((low, 0.2 * min(low, 0.0), -0.12 * side * low))
        shift = slide + np.clip(generator.normal(0, 4.0, 3), -8, 8) * (0, 1, 1)
    matrix = np.diag(1 / scales)
    for axis, angle in enumerate(angles.tolist()):
        matrix = matrix @ rotation_about(axis, angle)
    return Move(matrix, shift, float(scales.max()))


def _displaced(generator: np.random.Generator, moves: list[Move]) -> list[Move]:
    """Sink, part and turn the kidneys beyond what _draw_move does."""
    apart = generator.uniform(*APART_MM) * generator.choice((-0.5, 0.5)) if generator.random() < APART else 0.0
    result = []
    for names, move in zip(MOVED, moves, strict=True):
        if not names[0].startswith("kidney"):
            result.append(move)
            continue
        side = 1 if names[0].endswith("left") else -1
        place = draw_place(generator)
        up, back, out = sunk(max(place.sink_mm + side * apart, LOWEST_MM))
        about_z, about_y, about_x = place.turn
        turn = rotation_about(0, side * about_z) @ rotation_about(1, side * about_y) @ rotation_about(2, about_x)
        result.append(Move(move.matrix @ turn, move.shift_mm, move.scale, np.array((up, back, side * out))))
    return result


@dataclass(frozen=True, eq=False)
class _Piece:
    """An organ at a new place: the box, what of it there is room for, and what share of the organ that is."""

    box: Box
    inside: Bool[np.ndarray, "z y x"]
    index: Integer[np.ndarray, "z y x"]
    share: float


def _put_back_(result: Sample, template: Template, warp: Warp, *, names: tuple[str, ...], move: Move) -> None:
    """Paint an organ at its new place, wherever there is fat, bowel or nothing."""
    found = _extent(template, [VALUE[name] for name in names])
    if found is None:
        return
    piece = None
    for part in (0.0,) if move.further_mm is None else FURTHER:
        far = move.shift_mm if move.further_mm is None else move.shift_mm + part * move.further_mm
        piece = _piece_at(result, template, warp, names=names, move=replace(move, shift_mm=far), found=found)
        if piece is None or piece.share > ROOM:
            break
    if piece is None:
        return
    tissue, label, depth = (np.take(a.ravel(), piece.index) for a in (template.tissue, template.label, template.depth))
    inside = _without_crumbs(piece.inside)
    canvas, box = result.canvas, piece.box
    canvas.tissue[box][inside], canvas.label[box][inside] = tissue[inside], label[inside]
    result.depth[box][inside] = depth[inside]


def _piece_at(
    result: Sample,
    template: Template,
    warp: Warp,
    *,
    names: tuple[str, ...],
    move: Move,
    found: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "3"]],
) -> _Piece | None:
    """Look for room for an organ; None where its new place is not in the scan."""
    low, high, middle = found
    corner = move.scale * np.maximum(middle - low, high - middle) * 1.12 + 3
    if move.further_mm is not None:  # it may have been turned any way
        corner = np.full(3, corner.max())
    box = _box_around(warp, result.canvas.grid, middle + move.shift_mm - corner, middle + move.shift_mm + corner)
    if any(part.start >= part.stop for part in box):
        return None
    places = warp(result.canvas.grid, box)
    away = places - (middle + move.shift_mm).astype(np.float32)[:, None, None, None]
    turn = move.matrix.astype(np.float32)
    for axis, (row, centre) in enumerate(zip(turn, middle.tolist(), strict=True)):
        places[axis] = row[0] * away[0] + row[1] * away[1] + row[2] * away[2] + np.float32(centre)
    index = _indices(template, places)
    tissue, label = np.take(template.tissue.ravel(), index), np.take(template.label.ravel(), index)
    inside = label == VALUE[names[0]]
    for name in names[1:]:
        inside |= label == VALUE[name]
    if names[0].startswith("kidney"):
        near = (places > (low - 1).astype(np.float32)[:, None, None, None]).all(axis=0)
        near &= (places < (high + 1).astype(np.float32)[:, None, None, None]).all(axis=0)
        inside |= (tissue == Tissue.KIDNEY_PELVIS) & near
    whole = np.count_nonzero(inside)
    inside &= _room(result, box, names[0])
    return _Piece(box, inside, index, np.count_nonzero(inside) / max(whole, 1))


def _put_in_(result: Sample, warp: Warp, gift: Gift, *, move: Move, sinus_apart: bool) -> None:
    """Paint a donor's organs where the template's would have been put back."""
    painted, box, inside = None, None, None
    for part in (0.0,) if move.further_mm is None else FURTHER:
        far = move.shift_mm if move.further_mm is None else move.shift_mm + part * move.further_mm
        middle = gift.place.middle_mm + far
        corner = move.scale * gift.reach_mm * 1.12 + 3
        if move.further_mm is not None:  # it may have been turned any way
            corner = np.full(3, corner.max())
        box = _box_around(warp, result.canvas.grid, middle - corner, middle + corner)
        if any(side.start >= side.stop for side in box):
            return
        away = warp(result.canvas.grid, box) - middle.astype(np.float32)[:, None, None, None]
        painted = paint_gift(gift, move.matrix, away, sinus_apart=sinus_apart)
        inside = painted.inside & _room(result, box, gift.names[0])
        if np.count_nonzero(inside) > ROOM * np.count_nonzero(painted.inside):
            break
    if painted is None or box is None or inside is None:
        return
    inside, canvas = _without_crumbs(inside), result.canvas
    canvas.tissue[box][inside], canvas.label[box][inside] = painted.tissue[inside], painted.label[inside]
    result.depth[box][inside] = painted.depth[inside]


def _room(result: Sample, box: Box, first: str) -> Bool[np.ndarray, "z y x"]:
    """Return where there is room for an organ, named by the first of its group: fat, bowel, and lung beneath the domes."""
    yielding = np.zeros(256, bool)
    yielding[[VALUE[name] for name in YIELDING]] = True
    tissue, label = result.canvas.tissue[box], result.canvas.label[box]
    lung = (tissue == Tissue.LUNG) & (first in ("liver", "spleen", "stomach"))
    return ((tissue == Tissue.FREE) | yielding[label] | lung) & (tissue != Tissue.KIDNEY_PELVIS)


def _without_crumbs(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Leave out what obstacles cut off: pieces of less than a tenth of the largest."""
    pieces, _ = pieces_of(mask, connectivity=6)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= max(1.0, CRUMB * sizes.max()))[pieces]


def _extent(
    template: Template, values: list[int]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "3"]] | None:
    """Return the corners and the middle of an organ in the template's coordinates; None where there is none."""
    table = np.zeros(256, np.uint8)
    table[values] = 1
    own = table[template.label[::2, ::2, ::2]]
    if not own.any():
        return None
    low, high, middle = [], [], []
    for axis, origin in enumerate(template.origin_mm):
        counts = own.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.int64)
        where = np.flatnonzero(counts)
        low.append(where[0] * 2 * FINE_MM - origin)
        high.append(where[-1] * 2 * FINE_MM - origin)
        middle.append(float((counts * np.arange(len(counts))).sum() / counts.sum()) * 2 * FINE_MM - origin)
    return np.array(low), np.array(high), np.array(middle)


def _box_around(warp: Warp, grid: Grid, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> Box:
    """Return the voxels that may lie between two corners of the template."""
    back = np.linalg.inv(warp.matrix)
    corners = np.array([[z, y, x] for z in (low[0], high[0]) for y in (low[1], high[1]) for x in (low[2], high[2])])
    there = corners @ back.T
    return grid.box(there.min(axis=0) - warp.reach_mm, there.max(axis=0) + warp.reach_mm)


def _close_gaps_(result: Sample) -> None:
    """Let the lung come down to an organ that moved away from beneath it."""
    tissue, label = result.canvas.tissue, result.canvas.label
    gap = (result.lifted > 0) & (tissue == Tissue.FREE)
    above: Bool[np.ndarray, "y x"] = np.zeros(tissue.shape[1:], bool)
    for number in range(len(tissue) - 1, -1, -1):
        above = (above & gap[number]) | (tissue[number] == Tissue.LUNG)
        fallen = above & gap[number]
        tissue[number][fallen], label[number][fallen] = Tissue.LUNG, VALUE["lung"]
