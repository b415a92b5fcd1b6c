"""Contours of label maps along the edges of their voxels, and voxels out of contours of any program.

``trace`` walks the corners where an organ's outline turns. A hole is joined to the outline around it by a keyhole (a channel
without width that runs between two rows of voxels), so that a reader which fills every contour loses none. ``fill`` is its
exact inverse. Voxel centres have whole numbers as (y, x), hence corners lie at halves. rtstruct.py puts all this into the world.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from viscera.errors import GeometryError

TOLERANCE_VOXELS = 1e-3
"""A centre so near to an outline lies on it: coordinates in files are rounded."""
SLICES_AT_ONCE = 16
CROSSINGS_AT_ONCE = 4_000_000
"""Slices, and crossings of outlines and rows of voxels in them, that are in memory at the same time."""
MOST_CROSSINGS = 50_000_000
"""In one slice; a chessboard of 4096 x 4096 voxels has 17 million."""


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed polygon in one slice.

    Attributes:
        plane: The slice's index.
        points: (y, x) in voxels; the last is joined to the first.
    """

    plane: int
    points: Float[np.ndarray, "points 2"]


def contours_of(mask: Bool[np.ndarray, "z y x"]) -> list[Contour]:
    """Return the contours of a mask, as ``trace`` does for each organ of a label map."""
    return trace(mask.view(np.uint8), [1])[1]


def trace(labels: UInt8[np.ndarray, "z y x"], values: Iterable[int] | None = None) -> dict[int, list[Contour]]:
    """Return the contours of each organ along the edges of its voxels.

    Voxels that touch by a corner only stand in contours of their own. Islands in a hole do too. Only corners are kept.

    Args:
        labels: 0 is background.
        values: Of the organs; all that occur where None.

    Returns:
        {value: contours in the order of the slices}; no contours where the value does not occur.
    """
    keys, around = _vertices(labels)
    width = labels.shape[2] + 1
    found = {}
    occurring = np.flatnonzero(np.bincount(around.ravel())).tolist()
    for value in [value for value in occurring if value > 0] if values is None else values:
        inside = around == value
        here = inside.any(axis=0) & ~inside.all(axis=0)
        found[value] = _trace(keys[here], inside[:, here], labels.shape[1] + 1, width)
    return found


def _vertices(
    labels: UInt8[np.ndarray, "z y x"],
) -> tuple[Int[np.ndarray, " vertices"], UInt8[np.ndarray, "4 vertices"]]:
    """Return where four voxels meet that are not all alike, in order, and these: above left and right, below left and right.

    A vertex (y, x) is the corner above and to the left of voxel (y, x): there is one row and one column more than of voxels.
    """
    height, width = labels.shape[1] + 1, labels.shape[2] + 1
    keys, around = [np.empty(0, np.int64)], [np.empty((4, 0), np.uint8)]
    plane = np.zeros((height + 1, width + 1), np.uint8)
    for index in np.flatnonzero(labels.any(axis=(1, 2))):
        plane[1:-1, 1:-1] = labels[index]
        sideways = plane[:, 1:] != plane[:, :-1]
        mixed = sideways[1:] | sideways[:-1] | (plane[1:, 1:] != plane[:-1, 1:])
        vertices = np.flatnonzero(mixed)
        above = vertices + vertices // width  # the padded plane is one wider
        flat = plane.ravel()
        around.append(np.stack([flat[above + offset] for offset in (0, 1, width + 1, width + 2)]))
        keys.append(vertices + index * height * width)
    return np.concatenate(keys), np.concatenate(around, axis=1)


def _trace(
    keys: Int[np.ndarray, " vertices"], inside: Bool[np.ndarray, "4 vertices"], height: int, width: int
) -> list[Contour]:
    """Return the contours of one organ, whose outline goes through these vertices."""
    above_left, above_right, below_left, below_right = inside
    if not keys.size:
        return []
    # An outline turns where one or three of the four voxels are inside; where two diagonal ones are, two outlines do.
    falling = above_left & below_right & ~above_right & ~below_left
    rising = above_right & below_left & ~above_left & ~below_right
    turns = (inside.sum(axis=0) % 2).astype(np.int64) + 2 * (falling | rising)
    at = np.repeat(np.arange(keys.size), turns)
    second = np.zeros(at.size, bool)
    second[1:] = at[1:] == at[:-1]
    # Of two turns at one vertex the first has the edge to the left; on a rising diagonal it is the lower one.
    lower = np.where(rising[at], ~second, second)
    plane, rest = np.divmod(keys[at], height * width)
    y, x = np.divmod(rest, width)
    down = ((plane * width + x) * height + y) * 2 + lower
    by_column = np.argsort(down)
    corners = _Corners(plane, y, x, by_column, down[by_column], height, width)
    following = _following(corners, below_right[at])
    order, begins = _walk(following, range(at.size))
    starts = order[begins]
    # A run to the right of an outline's first corner (the uppermost, leftmost) has the organ above it: the outline of a hole.
    is_hole = ~below_right[at[starts]]
    points = np.stack([plane, y, x], axis=1)
    if is_hole.any():
        crack = keys[below_left != below_right]
        points, following = _keyholed(corners, points, following, starts[is_hole], crack)
        order, begins = _walk(following, starts[~is_hole].tolist())
    return _polygons(points[order], begins, thinned=bool(is_hole.any()))


@dataclass(frozen=True, eq=False)
class _Corners:
    """The corners of one organ's outlines, in the order of slices, rows and columns.

    Attributes:
        plane: Their slices.
        y: Their rows.
        x: Their columns.
        by_column: Their order by slices, columns and rows.
        columns: The numbers by which that order goes: twice ((plane * width + x) * height + y), and one at lower corners.
        height: Rows of vertices.
        width: Columns of vertices.
    """

    plane: Int[np.ndarray, " corners"]
    y: Int[np.ndarray, " corners"]
    x: Int[np.ndarray, " corners"]
    by_column: Int[np.ndarray, " corners"]
    columns: Int[np.ndarray, " corners"]
    height: int
    width: int


def _following(corners: _Corners, below_right: Bool[np.ndarray, " corners"]) -> Int[np.ndarray, " corners"]:
    """Return the corner after each on its outline, which has the organ on its right (clockwise, with y pointing down)."""
    following = np.empty(corners.y.size, np.int64)
    left, right = np.arange(0, corners.y.size, 2), np.arange(1, corners.y.size, 2)
    rightwards = below_right[left]  # the organ is below the run
    following[np.where(rightwards, left, right)] = np.where(rightwards, right, left)
    upper, lower = corners.by_column[0::2], corners.by_column[1::2]
    upwards = below_right[upper]  # the organ is right of the run
    following[np.where(upwards, lower, upper)] = np.where(upwards, upper, lower)
    return following


def _walk(
    following: Int[np.ndarray, " corners"], starts: Iterable[int]
) -> tuple[Int[np.ndarray, " walked"], Int[np.ndarray, " outlines"]]:
    """Return the corners of each outline one after the other, and where in these an outline begins.

    An outline that was walked already is not walked again. A plain loop: it takes 0.1 us a corner, less than numpy needs to
    rank lists by doubling.
    """
    after = following.tolist()
    seen = bytearray(len(after))
    order: list[int] = []
    begins: list[int] = []
    for start in starts:
        if not seen[start]:
            begins.append(len(order))
            here = start
            while not seen[here]:
                seen[here] = 1
                order.append(here)
                here = after[here]
    return np.array(order, np.int64), np.array(begins, np.int64)


def _keyholed(
    corners: _Corners,
    points: Int[np.ndarray, "corners 3"],
    following: Int[np.ndarray, " corners"],
    holes: Int[np.ndarray, " holes"],
    crack: Int[np.ndarray, " cracks"],
) -> tuple[Int[np.ndarray, "points 3"], Int[np.ndarray, " points"]]:
    """Join every hole to the outline that lies left of its first corner.

    Left of the uppermost, leftmost corner of a hole the organ lies above and below, until an outline of it comes. This one
    goes up there, and begins before the hole does (in rows, then columns): so no two holes are joined to each other in a ring.

    Args:
        corners: Of the organ.
        points: (plane, y, x) of each.
        following: The corner after each.
        holes: The first corner of each hole.
        crack: The keys of the vertices below which an outline goes down or up, ascending.

    Returns:
        The points with three more for each hole, and the point after each.
    """
    height, width = corners.height, corners.width
    plane, y, x = points[holes].T
    reach, rows = np.full(holes.size, -1), np.zeros(holes.size, np.int64)
    for row in (y, y - 1):  # below the channel and above it
        last = crack[np.searchsorted(crack, (plane * height + row) * width + x) - 1] - (plane * height + row) * width
        rows = np.where(last > reach, row, rows)
        reach = np.maximum(reach, last)
    run = np.searchsorted(corners.columns, 2 * ((plane * width + reach) * height + rows) + 1, side="right")
    tail = corners.by_column[run]  # where the run up begins
    # From the tail up to the channel's mouth, along it to the hole, around that, back to the mouth, and on.
    mouth, back, door = len(points) + np.arange(3 * holes.size).reshape(3, -1)
    more = np.stack([plane, y, reach], axis=1)
    points = np.concatenate([points, more, more, points[holes]])
    following = np.concatenate([following, door, np.empty_like(back), following[holes]])
    following[holes] = back
    order = np.lexsort((-y, tail))
    mouth, back, tail = mouth[order], back[order], tail[order]
    first = np.ones(tail.size, bool)
    first[1:] = tail[1:] != tail[:-1]
    final = np.roll(first, -1)
    following[back[final]] = following[tail[final]]
    following[tail[first]] = mouth[first]
    following[back[~final]] = mouth[~first]
    return points, following


def _polygons(
    points: Int[np.ndarray, "points 3"], begins: Int[np.ndarray, " outlines"], *, thinned: bool
) -> list[Contour]:
    """Return the contours, without points that are none of their corners where they are to be thinned."""
    if thinned:
        for _ in range(2):  # first those that stand where the next does, then those on a straight line
            length = np.diff(begins, append=len(points))
            ahead, behind = np.arange(1, len(points) + 1), np.arange(-1, len(points) - 1)
            ahead[begins + length - 1], behind[begins] = begins, begins + length - 1
            to, since = np.sign(points[ahead] - points), np.sign(points - points[behind])
            kept = to.any(axis=1) & ((to != since).any(axis=1) | ~since.any(axis=1))
            begins = np.cumsum(kept)[begins] - kept[begins]
            points = points[kept]
    halves = points[:, 1:] - 0.5
    ends = np.append(begins[1:], len(points))
    return [
        Contour(plane, halves[begin:end])
        for plane, begin, end in zip(points[begins, 0].tolist(), begins.tolist(), ends.tolist(), strict=True)
    ]


def rasterise(contours: Sequence[Contour], shape: tuple[int, int, int]) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels whose centres are inside, by the even-odd rule over all contours of a slice, or on an outline.

    So an inner contour is a hole whether or not a keyhole joins it to the outer one. A centre on an outline (to a thousandth
    of a voxel) counts as inside, since many programs draw outlines through the outermost centres.

    Args:
        contours: Of any program, in voxels; what lies outside the grid is cut off.
        shape: Of the grid.

    Raises:
        GeometryError: The contours of a slice are so many or so long that no program drew an organ so.
    """
    mask = np.zeros(shape, bool)
    place, inside = filled(contours, shape)
    mask[place] = inside
    return mask


def filled(
    contours: Sequence[Contour], shape: tuple[int, int, int]
) -> tuple[tuple[slice, slice, slice], Bool[np.ndarray, "z y x"]]:
    """Return the part of the grid that contours fill, and the voxels in it; see ``rasterise``."""
    contours = [one for one in contours if 0 <= one.plane < shape[0] and len(one.points) > 0]
    if not contours:
        return (slice(0), slice(0), slice(0)), np.zeros((0, 0, 0), bool)
    planes = np.array([one.plane for one in contours])
    points = np.concatenate([one.points for one in contours])
    low = np.clip(np.floor(points.min(axis=0)), 0, shape[1:]).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, low, shape[1:]).astype(int)
    place = (slice(int(planes.min()), int(planes.max()) + 1), slice(low[0], high[0]), slice(low[1], high[1]))
    size = (place[0].stop - place[0].start, high[0] - low[0], high[1] - low[1])
    length = np.array([len(one.points) for one in contours])
    ends = np.cumsum(length)
    after = np.arange(1, len(points) + 1)
    after[ends - 1] = ends - length
    points = points - low
    edges = np.concatenate([points, points[after]], axis=1)
    plane = np.repeat(planes - place[0].start, length)
    near = np.abs(points[:, 0] - np.rint(points[:, 0])) < TOLERANCE_VOXELS
    mask = np.zeros(size, bool)
    # Where an outline touches a row of centres, what is just above it counts as well as what is just below.
    for offset in (-TOLERANCE_VOXELS, TOLERANCE_VOXELS) if near.any() else (0.0,):
        _fill_(mask, plane, edges - np.array([offset, 0, offset, 0]))
    return place, mask


def _fill_(
    mask: Bool[np.ndarray, "z y x"], plane: Int[np.ndarray, " edges"], edges: Float[np.ndarray, "edges 4"]
) -> None:
    """Set the voxels between the first and the second, the third and the fourth ... crossing of a row with edges.

    Args:
        mask: Changed in place.
        plane: Of each edge, ascending or not.
        edges: (y, x) of one end, then of the other; a row's own end belongs to the edge below it.
    """
    height = mask.shape[1]
    upper, lower = np.minimum(edges[:, 0], edges[:, 2]), np.maximum(edges[:, 0], edges[:, 2])
    first = np.clip(np.ceil(upper), 0, height).astype(np.int64)
    rows = np.clip(np.ceil(lower), 0, height).astype(np.int64) - first
    crossing = rows > 0
    plane, edges, first, rows = plane[crossing], edges[crossing], first[crossing], rows[crossing]
    order = np.argsort(plane, kind="stable")
    plane, edges, first, rows = plane[order], edges[order], first[order], rows[order]
    total = np.bincount(plane, rows, minlength=len(mask))
    begin = 0
    while begin < len(mask):  # as many slices as need little memory
        stop = begin + 1
        while stop < min(begin + SLICES_AT_ONCE, len(mask)) and total[begin : stop + 1].sum() <= CROSSINGS_AT_ONCE:
            stop += 1
        if total[begin] > MOST_CROSSINGS:
            raise GeometryError(
                f"the contours of one slice cross its rows {total[begin]:.0f} times, which no outline of an organ does"
            )
        low, high = np.searchsorted(plane, [begin, stop])
        if high > low:
            part = slice(low, high)
            _fill_slices_(mask[begin:stop], plane[part] - begin, edges[part], first[part], rows[part])
        begin = stop


def _fill_slices_(
    mask: Bool[np.ndarray, "z y x"],
    plane: Int[np.ndarray, " edges"],
    edges: Float[np.ndarray, "edges 4"],
    first: Int[np.ndarray, " edges"],
    rows: Int[np.ndarray, " edges"],
) -> None:
    """Do the work of ``_fill_`` for some slices: each edge crosses ``rows`` rows from ``first`` on."""
    planes, height, width = mask.shape
    begins = np.cumsum(rows) - rows
    of = np.repeat(np.arange(len(rows)), rows)
    row = first[of] + np.arange(len(of)) - begins[of]
    y0, x0, y1, x1 = edges[of].T
    x = x0 + (row - y0) * ((x1 - x0) / (y1 - y0))
    line = plane[of] * height + row
    order = np.lexsort((x, line))
    x, line = x[order].reshape(-1, 2), line[order][::2]  # closed polygons: an even number in every row
    wide = x[:, 1] - x[:, 0] > TOLERANCE_VOXELS
    left = np.clip(np.ceil(x[wide, 0] - TOLERANCE_VOXELS), 0, width).astype(np.int64)
    right = np.clip(np.floor(x[wide, 1] + TOLERANCE_VOXELS) + 1, left, width).astype(np.int64)
    change = np.zeros(planes * height * (width + 1), np.int32)
    np.add.at(change, line[wide] * (width + 1) + left, 1)
    np.subtract.at(change, line[wide] * (width + 1) + right, 1)
    mask |= np.cumsum(change.reshape(planes, height, width + 1), axis=2)[:, :, :-1] > 0
