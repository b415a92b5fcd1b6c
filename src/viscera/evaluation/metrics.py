"""Metrics of two masks on one grid: Dice, IoU, surface Dice (NSD), robust Hausdorff distance.

Overlaps of all organs come from one joint histogram; surfaces from one organ at a time, within the box that holds both
masks. Which organs of which case get a score, and what a missing organ means, is decided in evaluate.py.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import edt
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from viscera.boxes import boxes_of
from viscera.errors import GeometryError, LabelError, SettingError

Spacing = tuple[float, float, float]
CHUNK_VOXELS = 2**20
"""Voxels per histogram: its float32 counts are exact up to 2**24, and codes of this size stay in the cache."""
RINGS = 400
"""Offsets tried one by one around each surface element: a ball of 4.5 voxels. Of organs smoothed and moved by a slice
and two rows (benchmarks/metrics.py) under 2 % of the elements are left after them, 9 % of the pancreas's."""
LAYERS = 16
"""Slices in which surfaces are looked for at a time, so that what is computed stays in the cache."""
RINGS_PER_CHECK = 64
"""Give up on offsets once so many of them found less than 5 % of what was left: the surfaces are far apart."""
KD_POINTS_PER_VOXEL = 0.002
"""Elements per voxel of the box up to which the k-d tree is taken instead of the distance map. The map takes 25 ns per
voxel; scipy's tree took 0.5 us per element far outside of the other surface, 120 us far inside (2-core Xeon): even at 12 us.
OpenCV's takes up to a third of that."""
KD_TREE = 4
"""FLANN_INDEX_KDTREE_SINGLE: one tree, which finds the nearest element, not one that is probably near (FLANN's manual)."""
CANDIDATES = 8
"""Nearest elements by OpenCV's float32, among which the nearest by float64 is looked for."""


@dataclass(frozen=True)
class Overlap:
    """Overlap of one organ.

    Attributes:
        dice: 2|X and Y| / (|X| + |Y|) in [0, 1]; NaN if both are empty, 0 if one is.
        iou: |X and Y| / |X or Y| in [0, 1]; NaN if both are empty, 0 if one is.
        truth_voxels: |X|.
        prediction_voxels: |Y|.
    """

    dice: float
    iou: float
    truth_voxels: int
    prediction_voxels: int


@dataclass(frozen=True)
class SurfaceScores:
    """How near two surfaces are.

    Attributes:
        nsd: Part of both surfaces' area that lies within the tolerance of the other, in [0, 1]; NaN if both masks are
            empty, 0 if one is.
        hd95_mm: The larger of the two area-weighted 95 % quantiles of the distance to the other surface; infinite if
            either mask is empty.
    """

    nsd: float
    hd95_mm: float


@dataclass(frozen=True, eq=False)
class _Surface:
    """Surface elements of one mask in the box: a map of where they are, their flat indices in it, their areas."""

    border: Bool[np.ndarray, "z y x"]
    indices: Int[np.ndarray, "n"]
    areas_mm2: Float[np.ndarray, "n"]


def confusion(
    truth: UInt8[np.ndarray, "*grid"], prediction: UInt8[np.ndarray, "..."], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Count the voxels of each pair (true class, predicted class).

    Args:
        truth: Labels, 0 to classes - 1.
        prediction: Labels on the same grid.
        classes: Number of classes, background included, 1 to 256.

    Returns:
        Counts; rows are the truth's classes, columns the prediction's. All 0 for empty arrays.

    Raises:
        GeometryError: The shapes differ.
        LabelError: A label is ``classes`` or more.
    """
    _check_shapes(truth, prediction)
    kind = np.uint8 if classes <= 16 else np.uint16
    counts = np.zeros(classes * classes, np.int64)
    flat_truth, flat_prediction = np.ravel(truth), np.ravel(prediction)
    for start in range(0, flat_truth.size, CHUNK_VOXELS):
        rows, columns = (flat[start : start + CHUNK_VOXELS] for flat in (flat_truth, flat_prediction))
        largest = max(int(rows.max()), int(columns.max()))
        if largest >= classes:
            raise LabelError(f"a label map holds label {largest}, but there are {classes} classes (0-{classes - 1}).")
        codes = rows.astype(kind)
        codes *= classes % 256 if kind is np.uint8 else classes
        codes += columns
        if codes.size == CHUNK_VOXELS:
            # Most of a scan is background in both: eight voxels at once, and what is left is counted one by one.
            words = codes.view(np.uint64)
            codes = words[words != 0].view(kind)
            counts[0] += CHUNK_VOXELS - codes.size
        if codes.size == 0:
            continue
        histogram = cv2.calcHist([codes.reshape(1, -1)], [0], None, [classes * classes], [0, classes * classes])
        counts += histogram.ravel().astype(np.int64)
    return counts.reshape(classes, classes)


def overlap(counts: Integer[np.ndarray, "classes classes"], index: int) -> Overlap:
    """Return the overlap of one class from the joint histogram of ``confusion``.

    Both empty is not a score (NaN), as in MONAI (``ignore_empty``) and surface-distance: a 1 would reward every network
    for organs that the scan does not show. A false find of an absent organ is 0.
    """
    both, true, predicted = (int(n) for n in (counts[index, index], counts[index].sum(), counts[:, index].sum()))
    if true + predicted == 0:
        return Overlap(np.nan, np.nan, 0, 0)
    return Overlap(2 * both / (true + predicted), both / (true + predicted - both), true, predicted)


def surface_scores(
    truth: Bool[np.ndarray, "z y x"],
    prediction: Bool[np.ndarray, "_ _ _"],
    spacing_mm: Spacing,
    *,
    tolerance_mm: float,
) -> SurfaceScores:
    """Compare the surfaces of two masks.

    The surface has one element per 2x2x2 neighbourhood that is neither empty nor full; its weight is the area of the
    marching-cubes surface in it. Outside of the array there is background. Values are those of DeepMind's
    surface-distance, which the FLARE challenges use.

    Args:
        truth: Mask.
        prediction: Mask on the same grid.
        spacing_mm: Along (z, y, x).
        tolerance_mm: Distance that still counts as agreement, 0 or more.

    Raises:
        GeometryError: The shapes differ.
        SettingError: The tolerance is negative or NaN, or a spacing is not positive.

    Source:
        Nikolov et al. 2021, doi:10.2196/26151 (surface Dice); github.com/google-deepmind/surface-distance (values).

    Example:
        >>> mask = np.zeros((8, 8, 8), bool)
        >>> mask[2:6, 2:6, 2:6] = True
        >>> surface_scores(mask, np.roll(mask, 1, axis=2), (5.0, 1.0, 1.0), tolerance_mm=1)
        SurfaceScores(nsd=1.0, hd95_mm=1.0)
    """
    _check_shapes(truth, prediction)
    if not (tolerance_mm >= 0 and min(spacing_mm) > 0):
        raise SettingError(f"tolerance {tolerance_mm} mm and spacing {spacing_mm} mm: must be >= 0 and positive.")
    boxes = [box for box in (bounding_box(truth), bounding_box(prediction)) if box is not None]
    if len(boxes) < 2:
        return SurfaceScores(0.0 if boxes else np.nan, np.inf)
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
    areas_mm2 = element_areas_mm2(spacing_mm)
    reach = _offsets(spacing_mm)[2]
    ours, theirs = (_surface(mask[box], areas_mm2, reach) for mask in (truth, prediction))
    near, total, hd95_mm = 0.0, 0.0, 0.0
    for surface, other in ((ours, theirs), (theirs, ours)):
        distances_mm = _distances(surface, other, spacing_mm, tolerance_mm)
        near += float(surface.areas_mm2[distances_mm <= tolerance_mm].sum())
        total += float(surface.areas_mm2.sum())
        hd95_mm = max(hd95_mm, _quantile(distances_mm, surface.areas_mm2, 0.95))
    return SurfaceScores(near / total, hd95_mm)


def bounding_box(mask: Bool[np.ndarray, "z y x"]) -> tuple[slice, slice, slice] | None:
    """Return the smallest box that holds all True voxels, or None if there are none."""
    z = np.flatnonzero(mask.any(axis=(1, 2)))
    if z.size == 0:
        return None
    seen = mask[z[0] : z[-1] + 1].any(axis=0)
    y, x = np.flatnonzero(seen.any(axis=-1)), np.flatnonzero(seen.any(axis=0))
    return slice(z[0], z[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


def organ_boxes(labels: UInt8[np.ndarray, "z y x"], organs: int) -> list[tuple[slice, slice, slice] | None]:
    """Return the smallest box of each label from 1 to ``organs``, or None for one that is absent."""
    found = boxes_of(labels, range(1, organs + 1))
    return [found.get(label) for label in range(1, organs + 1)]


@lru_cache(maxsize=16)
def element_areas_mm2(spacing_mm: Spacing) -> Float[np.ndarray, "256"]:
    """Return the area of the surface between eight voxel centres for each pattern of set voxels.

    Pattern bit 4 dz + 2 dy + dx is the voxel at (dz, dy, dx). The surface cuts the edges of the cell halfway.

    Args:
        spacing_mm: Along (z, y, x).
    """
    z, y, x = spacing_mm
    faces_mm2 = np.array([y * x, z * x, z * y])
    areas = [sum(np.linalg.norm(np.array(v) / 8 * faces_mm2) for v in _triangles(code)) for code in range(256)]
    table = np.array(areas, float)
    table.setflags(write=False)  # the same array serves every organ of a scan
    return table


@lru_cache(maxsize=256)
def _triangles(code: int) -> list[tuple[float, float, float]]:
    """List the triangles that cut off the set corners: area vectors up to sign, in eighths of a voxel's faces.

    Corners that touch along edges of the cell are cut off together, others apart; with more than four set, the
    unset are cut off instead. A set of up to four touching corners has one of six shapes, told by its edges.
    """
    corners = {(bit >> 2, bit >> 1 & 1, bit & 1) for bit in range(8) if code >> bit & 1}
    if len(corners) > 4:
        return _triangles(255 - code)
    triangles = []
    while corners:
        group, edges = _take_group(corners)
        along = [sum(axis == which for _, axis in edges) for which in range(3)]
        empty = tuple(float(count == 0) for count in along)  # axes without an edge
        ends = [
            axis for corner, axis in edges if min(_degree(end, group) for end in (corner, _step(corner, axis))) == 1
        ]
        if len(group) == 1:  # a corner
            parts = [(1, (1, 1, 1))]
        elif len(group) == 2:  # an edge: a rectangle, halved
            parts = [(2, empty)] * 2
        elif len(group) == 3:  # an L: a pentagon that is not flat
            parts = [(4, empty), (2, (1, 1, 1)), (1, (1, 1, 1))]
        elif sum(empty):  # a face: a square, halved
            parts = [(4, empty)] * 2
        elif len(ends) == 3:  # a corner and its neighbours: a flat hexagon
            parts = [(6, (1, 1, 1))]
        else:  # a path along all three axes: a hexagon that is not flat
            parts = [(4, (1, 1, 1))] + [(2, tuple(float(axis != end) for axis in range(3))) for end in ends]
        triangles += [tuple(size * part for part in vector) for size, vector in parts]
    return triangles


def _take_group(corners: set[tuple[int, int, int]]) -> tuple[set[tuple[int, int, int]], list]:
    """Take a group of corners that touch along edges out of the set; give it and its edges (lower corner, axis)."""
    group = {corners.pop()}
    while grown := {_step(corner, axis) for corner in group for axis in range(3)} & corners:
        corners -= grown
        group |= grown
    edges = [(c, axis) for c in group for axis in range(3) if c[axis] == 0 and _step(c, axis) in group]
    return group, edges


def _step(corner: tuple[int, int, int], axis: int) -> tuple[int, int, int]:
    """Go from a corner of the cell to the one across, along an axis."""
    z, y, x = (value ^ (which == axis) for which, value in enumerate(corner))
    return z, y, x


def _degree(corner: tuple[int, int, int], group: set[tuple[int, int, int]]) -> int:
    """Count a corner's neighbours in its group."""
    return sum(_step(corner, axis) in group for axis in range(3))


def _surface(
    mask: Bool[np.ndarray, "z y x"], areas_mm2: Float[np.ndarray, "256"], reach: tuple[int, int, int]
) -> _Surface:
    """Find the surface elements of a mask, on a map that is ``reach`` voxels wider than they on each side."""
    border = np.zeros([n + 1 + 2 * margin for n, margin in zip(mask.shape, reach, strict=True)], bool)
    areas = [np.zeros(0)]
    for start in range(0, mask.shape[0] + 1, LAYERS):
        # Layer n of the elements lies between slices n - 1 and n.
        first = max(start - 1, 0)
        box = bounding_box(mask[first : start + LAYERS])
        if box is None:
            continue
        part = mask[first : start + LAYERS][:, box[1], box[2]]
        depth = min(start + LAYERS, mask.shape[0] + 1) - start
        codes = np.zeros((depth + 1, part.shape[1] + 2, part.shape[2] + 2), np.uint8)
        above = first - start + 1
        codes[above : above + part.shape[0], 1:-1, 1:-1] = part
        codes = codes[:, :, :-1] | codes[:, :, 1:] << 1
        codes = codes[:, :-1] | codes[:, 1:] << 2
        codes = codes[:-1] | codes[1:] << 4
        found = (codes - np.uint8(1)) < 254  # neither 0 nor 255
        corner = [place + margin for place, margin in zip((start, box[1].start, box[2].start), reach, strict=True)]
        border[tuple(slice(c, c + n) for c, n in zip(corner, found.shape, strict=True))] = found
        areas.append(areas_mm2[codes[found]])
    return _Surface(border, np.flatnonzero(border), np.concatenate(areas))


@lru_cache(maxsize=16)
def _offsets(spacing_mm: Spacing) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Return the RINGS nearest steps between voxels (z, y, x), their lengths from short to long, and their reach."""
    # A ball of the volume of 8 RINGS voxels surely holds the RINGS nearest of them.
    radius_mm = 2 * max(*spacing_mm, (RINGS * float(np.prod(spacing_mm)) * 3 / (4 * np.pi)) ** (1 / 3))
    counts = [min(int(radius_mm / step), RINGS) for step in spacing_mm]
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in counts), indexing="ij"), axis=-1).reshape(-1, 3)
    lengths_mm = np.sqrt(((steps * np.array(spacing_mm)) ** 2).sum(axis=1))
    nearest = np.argsort(lengths_mm, kind="stable")[:RINGS]
    z, y, x = np.abs(steps[nearest]).max(axis=0).tolist()
    return steps[nearest], lengths_mm[nearest], (z, y, x)


def _distances(surface: _Surface, other: _Surface, spacing_mm: Spacing, tolerance_mm: float) -> Float[np.ndarray, "n"]:
    """Return the distance of each element of a surface to the nearest of the other, in mm.

    Exact to float64 wherever it decides the scores: near elements are found by trying offsets from short to long, far ones in a
    k-d tree (of CANDIDATES the best); a distance map, which is quicker for many far elements in a compact box, rounds to float32,
    so that values near the tolerance or the quantile are looked up in the tree.
    """
    distances_mm = np.full(surface.indices.size, np.inf)
    steps, lengths_mm, _ = _offsets(spacing_mm)
    border, rest, places = other.border.reshape(-1), np.arange(surface.indices.size), surface.indices
    strides = np.array([other.border.shape[1] * other.border.shape[2], other.border.shape[2], 1])
    before = rest.size
    for ring, (shift, length_mm) in enumerate(
        zip((steps @ strides).tolist(), lengths_mm.tolist(), strict=True), start=1
    ):
        found = border[places + shift]
        distances_mm[rest[found]] = length_mm
        rest, places = rest[~found], places[~found]
        if rest.size == 0:
            return distances_mm
        if ring % RINGS_PER_CHECK == 0:
            if rest.size > 0.95 * before:
                break
            before = rest.size
    if rest.size < KD_POINTS_PER_VOXEL * border.size:
        distances_mm[rest] = _tree_distances(places, other, spacing_mm)
        return distances_mm
    field_mm = edt.edt(~other.border, anisotropy=spacing_mm, parallel=1)
    distances_mm[rest] = field_mm.reshape(-1)[places]
    decisive = np.zeros(rest.size, bool)
    for value_mm in (tolerance_mm, _quantile(distances_mm, surface.areas_mm2, 0.95)):
        decisive |= np.abs(distances_mm[rest] - value_mm) <= 1e-5 * value_mm
    if decisive.any():
        distances_mm[rest[decisive]] = _tree_distances(places[decisive], other, spacing_mm)
    return distances_mm


def _tree_distances(places: Int[np.ndarray, "n"], other: _Surface, spacing_mm: Spacing) -> Float[np.ndarray, "n"]:
    """Return the distance from flat indices of the map to the nearest element of a surface, in mm."""
    targets, points = (np.stack(np.unravel_index(flat, other.border.shape), axis=1) for flat in (other.indices, places))
    step = np.array(spacing_mm)
    tree = cv2.flann.Index((targets * step).astype(np.float32), {"algorithm": KD_TREE})
    found, _ = tree.knnSearch((points * step).astype(np.float32), min(CANDIDATES, len(targets)), params={})
    nearest = np.asarray(found, np.intp)
    # Whole steps times spacing: a distance that equals the tolerance must not miss it by a rounding of the positions.
    return np.sqrt((((points[:, None] - targets[nearest]) * step) ** 2).sum(axis=-1).min(axis=1))


def _quantile(values: Float[np.ndarray, "n"], weights: Float[np.ndarray, "n"], fraction: float) -> float:
    """Return the smallest value at which the values up to it carry the fraction of the weight."""
    order = np.lexsort((weights, values))
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order[min(int(np.searchsorted(share, fraction)), values.size - 1)]])


def _check_shapes(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Raise GeometryError unless both arrays have one shape."""
    if truth.shape != prediction.shape:
        raise GeometryError(
            f"truth has {truth.shape} voxels (z, y, x), the prediction {prediction.shape}",
            "Resample one to the other's grid.",
        )
