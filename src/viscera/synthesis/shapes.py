"""Grids, smooth noise, and the two kinds of shape (blobs and tubes) that a synthetic patient is made of.

Coordinates are standard millimetres (z up, y to the back, x to the patient's left; the origin lies between the femoral
heads): the patient's own millimetres divided by the patient's size. What the shapes mean is in anatomy/ (skeleton.py,
organs.py, bowel.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

LOW_MM = np.array((-150.0, -190.0, -300.0))
"""The lowest z, y, x that the smooth noise covers; it is constant beyond."""
HIGH_MM = np.array((560.0, 190.0, 300.0))

Box = tuple[slice, slice, slice]
Field = Float[np.ndarray, "z y x"]
FieldFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxel centres of an axial volume lie, in standard millimetres.

    Attributes:
        z: Centres from feet to head.
        y: Centres from front to back.
        x: Centres from the patient's right to left.
        voxel_ml: The true volume of a voxel (not of a standard one).
    """

    z: Float[np.ndarray, "nz"]
    y: Float[np.ndarray, "ny"]
    x: Float[np.ndarray, "nx"]
    voxel_ml: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return len(self.z), len(self.y), len(self.x)

    def box(self, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> Box:
        """Return the voxels whose centres lie between two corners (perhaps none)."""
        starts = [
            int(np.searchsorted(axis, corner)) for axis, corner in zip((self.z, self.y, self.x), low, strict=True)
        ]
        stops = [
            int(np.searchsorted(axis, corner)) for axis, corner in zip((self.z, self.y, self.x), high, strict=True)
        ]
        z, y, x = (slice(start, max(start, stop)) for start, stop in zip(starts, stops, strict=True))
        return z, y, x

    def axes(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the coordinates within a box, shaped so that they broadcast to it."""
        return self.z[box[0]][:, None, None], self.y[box[1]][None, :, None], self.x[box[2]][None, None, :]

    @property
    def everything(self) -> Box:
        """The box of all voxels."""
        return slice(0, len(self.z)), slice(0, len(self.y)), slice(0, len(self.x))


def _weights(
    coordinates: Float[np.ndarray, "n"], low_mm: float, count: int, step_mm: float
) -> Float[np.ndarray, "n k"]:
    """Return the cubic B-spline weights of lattice points for each coordinate."""
    position = np.clip((coordinates - low_mm) / step_mm + 1, 1, count - 2.001)
    distance = np.abs(position[:, None] - np.arange(count)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Noise:
    """Smooth random values of mean 0 and about unit variance, independent of any grid.

    Attributes:
        values: Random numbers on a coarse lattice from LOW_MM to HIGH_MM.
        step_mm: The lattice's step, about the distance over which values are alike.
    """

    values: Float[np.ndarray, "z y x"]
    step_mm: float

    def __call__(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> Field:
        """Return the values at broadcastable coordinates."""
        nz, ny, nx = self.values.shape
        weights_z = _weights(z.ravel(), LOW_MM[0], nz, self.step_mm)
        weights_y = _weights(y.ravel(), LOW_MM[1], ny, self.step_mm)
        weights_x = _weights(x.ravel(), LOW_MM[2], nx, self.step_mm)
        used = np.flatnonzero(weights_x.any(axis=0))
        values = self.values[:, :, used[0] : used[-1] + 1] if len(used) else self.values
        weights_x = weights_x[:, used[0] : used[-1] + 1] if len(used) else weights_x
        rows = (weights_z @ values.reshape(nz, -1)).reshape(len(weights_z), ny, values.shape[2])
        return np.matmul(np.matmul(weights_y, rows), weights_x.T)


def draw_noise(generator: np.random.Generator, step_mm: float) -> Noise:
    """Draw smooth noise.

    Args:
        generator: Source of randomness.
        step_mm: Distance over which values are alike.
    """
    counts = np.ceil((HIGH_MM - LOW_MM) / step_mm).astype(int) + 4
    # Cubic B-spline weights shrink the variance by 0.479 per axis on average.
    values = generator.standard_normal(tuple(counts), dtype=np.float32) * np.float32(0.479**-1.5)
    return Noise(values, step_mm)


@dataclass(frozen=True, eq=False)
class Blob:
    """A shape given by a function that is positive inside and falls by about 1 per mm.

    Attributes:
        low: A corner (z, y, x) below which it never reaches.
        high: A corner beyond which it never reaches.
        function: Broadcastable z, y, x -> field.
    """

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]
    function: FieldFunction


@dataclass(frozen=True, eq=False)
class Tube:
    """A union of balls along a curve.

    Attributes:
        points: Centres (z, y, x), closer to each other than a radius.
        radii_mm: One per point.
    """

    points: Float[np.ndarray, "n 3"]
    radii_mm: Float[np.ndarray, "n"]


Shape = Blob | Tube


def evaluate(shape: Shape, grid: Grid, *, reach_mm: float) -> tuple[Box, Field]:
    """Return a shape's field on the part of a grid that it may touch.

    Args:
        shape: What to draw.
        grid: Where.
        reach_mm: How far outside the field must still be right; further out it may be anything below -reach_mm.
    """
    match shape:
        case Blob():
            box = grid.box(shape.low - reach_mm, shape.high + reach_mm)
            size = tuple(part.stop - part.start for part in box)
            return box, shape.function(*grid.axes(box)) if all(size) else np.zeros(size, np.float32)
        case Tube():
            return _tube_field(shape, grid, reach_mm)


def ball_boxes(tube: Tube, grid: Grid, reach_mm: float) -> np.ndarray:
    """Return, per ball, where its voxels start and stop on z, y, x: array (ball, 6)."""
    reach = (tube.radii_mm + reach_mm)[:, None]
    low, high = tube.points - reach, tube.points + reach
    columns = []
    for axis, coordinates in enumerate((grid.z, grid.y, grid.x)):
        columns += [np.searchsorted(coordinates, low[:, axis]), np.searchsorted(coordinates, high[:, axis])]
    return np.stack(columns, axis=1)


def _tube_field(tube: Tube, grid: Grid, reach_mm: float) -> tuple[Box, Field]:
    reach = tube.radii_mm.max() + reach_mm
    box = grid.box(tube.points.min(axis=0) - reach, tube.points.max(axis=0) + reach)
    field = np.full([s.stop - s.start for s in box], -1e3, np.float32)
    if field.size == 0:
        return box, field
    limits = ball_boxes(tube, grid, reach_mm)
    limits -= np.repeat([s.start for s in box], 2)
    z, y, x = (axis.ravel() for axis in grid.axes(box))
    for (z0, z1, y0, y1, x0, x1), point, radius in zip(
        limits.tolist(), tube.points.tolist(), tube.radii_mm.tolist(), strict=True
    ):
        if z0 >= z1 or y0 >= y1 or x0 >= x1:
            continue
        plane = ((y[y0:y1] - point[1]) ** 2)[:, None] + (x[x0:x1] - point[2]) ** 2
        distance = ((z[z0:z1] - point[0]) ** 2)[:, None, None] + plane
        np.sqrt(distance, out=distance)
        np.subtract(radius, distance, out=distance)
        view = field[z0:z1, y0:y1, x0:x1]
        np.maximum(view, distance, out=view)
    return box, field


def spline(points: Shaped[np.ndarray, "k 3"], radii_mm: Float[np.ndarray, "k"], *, step_mm: float) -> Tube:
    """Return a tube along the Catmull-Rom curve through control points, with a ball about every ``step_mm``."""
    controls = np.concatenate([points, radii_mm[:, None]], axis=1).astype(np.float32)
    padded = np.concatenate([2 * controls[:1] - controls[1:2], controls, 2 * controls[-1:] - controls[-2:-1]])
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        count = max(2, int(np.ceil(np.linalg.norm(c[:3] - b[:3]) / step_mm)))
        t = np.linspace(0, 1, count, endpoint=False, dtype=np.float32)[:, None]
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.concatenate([*pieces, controls[-1:]])
    return Tube(curve[:, :3], np.maximum(curve[:, 3], 1.0))


def ellipsoid(
    centre: tuple[float, float, float],
    semi_axes_mm: tuple[float, float, float],
    *,
    rotation: Float[np.ndarray, "3 3"] | None = None,
    noise: Noise | None = None,
    noise_mm: float = 0.0,
) -> Blob:
    """Return a (tilted, uneven) ellipsoid.

    Args:
        centre: z, y, x.
        semi_axes_mm: Along its own z, y, x.
        rotation: Turns a difference of coordinates (z, y, x) into the ellipsoid's own axes.
        noise: What makes its surface uneven.
        noise_mm: By how much (standard deviation).
    """
    semi = np.array(semi_axes_mm, np.float32)
    reach = float(semi.max()) + 3 * noise_mm
    turn = np.eye(3, dtype=np.float32) if rotation is None else rotation.astype(np.float32)
    scale = float(semi.min())

    def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        dz, dy, dx = z - centre[0], y - centre[1], x - centre[2]
        square = np.float32(0)
        for row, length in zip(turn, semi, strict=True):
            square = square + ((row[0] * dz + row[1] * dy + row[2] * dx) / length) ** 2
        field = (1 - np.sqrt(square)) * scale
        return field if noise is None else field + noise_mm * noise(z, y, x)

    middle = np.array(centre)
    return Blob(middle - reach, middle + reach, _field)


def rotation_about(axis: int, radians: float) -> Float[np.ndarray, "3 3"]:
    """Return the rotation of (z, y, x) differences about axis 0 (z), 1 (y) or 2 (x)."""
    first, second = [other for other in range(3) if other != axis]
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = np.cos(radians)
    turn[first, second], turn[second, first] = -np.sin(radians), np.sin(radians)
    return turn


def smooth_minimum(a: np.ndarray, b: np.ndarray, rounding_mm: float) -> np.ndarray:
    """Return the minimum of two fields with the edge between them rounded."""
    blend = np.clip(0.5 + 0.5 * (b - a) / rounding_mm, 0, 1)
    return b + (a - b) * blend - rounding_mm * blend * (1 - blend)


def profile(levels: tuple[float, ...], values: tuple[float, ...], z: np.ndarray) -> np.ndarray:
    """Interpolate a quantity along the body, linearly between levels and constant beyond."""
    knots, heights = np.array(levels), np.array(values)
    place = np.clip(np.searchsorted(knots, z, side="right") - 1, 0, len(knots) - 2)
    fraction = np.clip((z - knots[place]) / (knots[place + 1] - knots[place]), 0, 1)
    return (heights[place] + (heights[place + 1] - heights[place]) * fraction).astype(np.float32)


def jitter(
    generator: np.random.Generator, points: Shaped[np.ndarray, "k 3"], sd_mm: tuple[float, float, float] | float
) -> Shaped[np.ndarray, "k 3"]:
    """Move each control point at random."""
    return points + generator.standard_normal(points.shape) * np.array(sd_mm)
