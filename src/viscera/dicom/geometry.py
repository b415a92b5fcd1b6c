"""Where a series lies in the world: its images in order along their normal, and the affine, sheared where the gantry was tilted.

A series is a volume only if its images lie on a regular grid. What does not is refused, for a program that goes on stretches the
patient: positions are taken from each image, never from slice thickness or numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from viscera.errors import GeometryError, VisceraError
from viscera.volume import check_extent

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DIRECTION_TOLERANCE = 2e-4
"""Of direction cosines: 0.1 mm at the far end of 500 mm. Headers have six digits."""
TOLERANCE_MM, TOLERANCE_FRACTION = 0.01, 0.01
"""By how much an image may lie off the regular grid: the greater of so many mm and this part of the distance of slices."""
ROUNDING_MM, ROUNDING_FRACTION = 0.08, 0.08
"""The lesser of these is forgiven with a note: positions rounded to a tenth of a millimetre are off by 0.05 mm, a little more
from the grid that fits them best."""
MOST_TILT_DEGREES = 60.0
"""Gantries tilt by 30; beyond this, positions are not of slices of one stack."""
SAME_PLACE_MM = 0.005
"""Images nearer than this to each other, along the normal, lie at the same position."""
REMEDY = "Export the series again, complete and by itself."


@dataclass(frozen=True)
class Place:
    """Where one image lies.

    Attributes:
        position: Of its first pixel's centre, LPS mm.
        orientation: Directions of rows and of columns.
        spacing: Between rows, between columns, in mm.
        shape: Rows, columns.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a series lies.

    Attributes:
        affine: Index (z, y, x, 1) -> RAS+ mm, z along the normal of rows and columns.
        tilt_degrees: From the normal to the step from slice to slice, positive where it leans the way columns run; else 0.
        notes: What was forgiven.
    """

    affine: Float[np.ndarray, "4 4"]
    tilt_degrees: float
    notes: tuple[str, ...]


def along_normal(places: Sequence[Place]) -> Float[np.ndarray, " image"]:
    """Return how far along the normal each image lies (mm).

    Raises:
        GeometryError: The images are not parallel, or differ in their size or spacing.
    """
    first = places[0]
    row, column = np.reshape(first.orientation, (2, 3))
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 1e-3 or abs(row @ column) > 1e-3:
        raise GeometryError("the directions of its rows and columns are not at right angles and of length 1", REMEDY)
    if min(first.spacing) <= 0:
        raise GeometryError("the distance of its pixels is not positive", REMEDY)
    if any(one.shape != first.shape for one in places):
        sizes = " and ".join(sorted({f"{rows}x{columns}" for rows, columns in (one.shape for one in places)})[:3])
        raise GeometryError(f"its slices differ in size ({sizes} pixels)", REMEDY)
    if np.abs(np.array([one.orientation for one in places]) - first.orientation).max() > DIRECTION_TOLERANCE:
        raise GeometryError("its slices are not parallel: they differ in orientation", REMEDY)
    if not np.allclose([one.spacing for one in places], first.spacing, rtol=1e-4, atol=0):
        raise GeometryError("its slices differ in the distance of their pixels", REMEDY)
    normal = np.cross(row, column)
    return np.array([one.position for one in places]) @ (normal / np.linalg.norm(normal))


def grid_of(places: Sequence[Place]) -> Grid:
    """Return the grid of parallel images that are in order along their normal, no two at the same position.

    Raises:
        GeometryError: They are not on a regular grid: slices are missing, or their distances or the tilt vary.
    """
    first, count = places[0], len(places)
    row, column = (axis / np.linalg.norm(axis) for axis in np.reshape(first.orientation, (2, 3)))
    normal = np.cross(row, column)
    positions = np.array([one.position for one in places])
    if count < 2:
        raise GeometryError(
            "it is a single slice, whose thickness nobody knows", "Give the folder with all of its slices."
        )
    # The regular grid nearest to all positions, by least squares.
    number = np.arange(count) - (count - 1) / 2
    step = number @ positions / (number @ number)
    origin = positions.mean(axis=0) - step * (count - 1) / 2
    distance = float(normal @ step)
    off_mm = np.linalg.norm(positions - origin - np.arange(count)[:, None] * step, axis=1)
    forgiven = min(ROUNDING_MM, ROUNDING_FRACTION * distance)
    allowed = max(TOLERANCE_MM, TOLERANCE_FRACTION * distance)
    if off_mm.max() > max(allowed, forgiven):
        raise _irregular(positions, normal)
    notes = ()
    if off_mm.max() > allowed:
        notes = (
            f"slices lie up to {off_mm.max():.2f} mm off regular distances of {distance:.4g} mm: rounded positions",
        )
    aside = step - distance * normal
    angle = float(np.degrees(np.arctan2(np.linalg.norm(aside), distance)))
    if angle > MOST_TILT_DEGREES:
        raise GeometryError(f"its slices are not stacked: each lies {angle:.0f} degrees off the one before", REMEDY)
    # What adds up to less than a tenth of a pixel over all slices is rounding.
    tilted = np.linalg.norm(aside) * (count - 1) > 0.1 * min(first.spacing)
    lps = np.eye(4)
    lps[:3, 0] = step if tilted else distance * normal
    lps[:3, 1], lps[:3, 2], lps[:3, 3] = column * first.spacing[0], row * first.spacing[1], origin
    affine = LPS_TO_RAS @ lps
    check_extent(affine, (count, *first.shape))
    tilt = 0.0 if not tilted else angle if aside @ column >= 0 else -angle
    return Grid(affine, tilt, notes)


def _irregular(positions: Float[np.ndarray, "image axis"], normal: Float[np.ndarray, " axis"]) -> VisceraError:
    """Return what is wrong with the distances of images."""
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    least = float(gaps.min())
    multiples = np.rint(gaps / least)
    missing = np.abs(gaps / least - multiples).max() <= 0.1 and (multiples == 1).mean() >= 0.3
    near = least if missing else float(np.median(gaps))
    allowed = max(TOLERANCE_MM, TOLERANCE_FRACTION * near, min(ROUNDING_MM, ROUNDING_FRACTION * near)) * 2
    wide = np.flatnonzero(np.abs(gaps - near) > allowed)
    if len(wide) == 0:
        aside = steps - gaps[:, None] * normal
        if np.linalg.norm(aside - np.median(aside, axis=0), axis=1).max() > TOLERANCE_MM:
            return GeometryError("its slices are shifted against each other: the tilt of the gantry varies", REMEDY)
        return GeometryError(f"its slices are unevenly spaced ({gaps.min():.4g} to {gaps.max():.4g} mm)", REMEDY)
    first = int(wide[0])
    here = ", ".join(f"{value:.1f}" for value in positions[first])
    where = f"after slice {first + 1} of {len(positions)}, at ({here}) mm"
    if missing and multiples.max() > 1:
        lacking = int(multiples.sum()) - len(gaps)
        are = "1 slice is missing" if lacking == 1 else f"{lacking} slices are missing"
        return GeometryError(
            f"{are}: slices are {near:.4g} mm apart, but {gaps[first]:.4g} mm {where}",
            "Export the series again, complete.",
        )
    return GeometryError(
        f"its slices are unevenly spaced: {near:.4g} mm apart, but {gaps[first]:.4g} mm {where}",
        "Export the parts of the series that are evenly spaced as series of their own.",
    )
