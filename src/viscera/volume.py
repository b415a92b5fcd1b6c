"""Volume: voxels on a grid in the scanner's world, and how to turn it so that slices are axial.

Arrays are (z, y, x). The affine maps the index column (z, y, x, 1) to world millimetres (x, y, z, 1) in RAS+: right,
anterior and superior are positive. Reading and writing files is in io/; changing the grid itself in preparation/resampling.py.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped

from viscera.errors import GeometryError

GRID_TOLERANCE_MM = 0.01
"""Two grids are the same when no corner of the volume moves by more than this (files round affines to float32)."""

SPACING_MM = (0.01, 200.0)
"""Between voxels: finer ones are of micro-CT; wider ones are of nothing, though toy patients of 4 slices have 120 mm."""
EXTENT_MM = (1600.0, 1600.0, 3200.0)
"""Of a scan, the shortest side first: tables move by at most 2 m, and no bore is wider than 0.9 m."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the world.

    Attributes:
        voxels: Array (z, y, x) in the order of the file, whatever the orientation.
        affine: 4x4, index (z, y, x, 1) -> world RAS+ mm (x, y, z, 1).
        header: How the file that it came from described the grid; only io/nifti.py looks inside. Kept by
            ``dataclasses.replace(volume, voxels=...)``, so that what is written lies on exactly the grid that was read.

    Example:
        >>> import numpy as np, viscera
        >>> affine = np.array([[0, 0, -0.8, 90], [0, -0.8, 0, 90], [5, 0, 0, -300], [0, 0, 0, 1]])  # of (z, y, x, 1)
        >>> volume = viscera.Volume(np.zeros((40, 256, 256), np.int16), affine)
        >>> volume.spacing_mm, round(volume.voxel_ml, 4)
        ((5.0, 0.8, 0.8), 0.0032)
    """

    voxels: Shaped[np.ndarray, "z y x"]
    affine: Float[np.ndarray, "4 4"]
    header: object | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = self.voxels.shape
        return z, y, x

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (z, y, x)."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True)
class Turn:
    """A permutation and flips of array axes, and the way back. No voxel value changes.

    Attributes:
        axes: For each axis of the turned array, the axis of the original that it comes from.
        flips: For each axis of the turned array, whether it runs backwards.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, voxels: Shaped[np.ndarray, "a b c"]) -> Shaped[np.ndarray, "d e f"]:
        """Return the turned array (a view)."""
        return voxels.transpose(self.axes)[self._slices()]

    def undo(self, voxels: Shaped[np.ndarray, "d e f"]) -> Shaped[np.ndarray, "a b c"]:
        """Return the array in its original order (a view)."""
        back = np.argsort(self.axes)
        return voxels[self._slices()].transpose(back)

    def _slices(self) -> tuple[slice, slice, slice]:
        a, b, c = (slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return a, b, c


def axial_turn(affine: Float[np.ndarray, "4 4"]) -> Turn:
    """Find the turn after which axis 0 runs from feet to head, axis 1 from front to back, axis 2 from right to left.

    That is the order in which a radiologist sees a slice: the first row is anterior, the first column the patient's
    right. An oblique grid is turned to its nearest axial order; voxels are not resampled.

    Args:
        affine: Index (z, y, x, 1) -> world RAS+ mm.

    Raises:
        GeometryError: The affine is singular or not finite.
    """
    check_affine(affine)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Of the six assignments of array axes to world axes take the one that agrees most (ties: the first).
    choices = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    axes = max(choices, key=lambda order: round(sum(abs(directions[2 - i, order[i]]) for i in range(3)), 9))
    wanted = (1.0, -1.0, -1.0)  # superior, posterior, left in RAS+
    z, y, x = (bool(directions[2 - i, axes[i]] * wanted[i] < 0) for i in range(3))
    return Turn(axes, (z, y, x))


def turn_volume(volume: Volume, turn: Turn) -> Volume:
    """Return the volume with turned axes and the affine that goes with them. The header, which no longer fits, is dropped."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        step[source, axis] = -1 if flip else 1
        step[source, 3] = volume.shape[source] - 1 if flip else 0
    return Volume(turn.apply(volume.voxels), volume.affine @ step)


def to_axial(volume: Volume) -> tuple[Volume, Turn]:
    """Return the volume in the order of ``axial_turn``, and the turn, whose ``undo`` leads back."""
    turn = axial_turn(volume.affine)
    return turn_volume(volume, turn), turn


def axis_codes(affine: Float[np.ndarray, "4 4"]) -> str:
    """Name where the axes (z, y, x) point, nearest of Left/Right, Posterior/Anterior, Inferior/Superior: 'SPL'."""
    turn = axial_turn(affine)
    letters = [("S", "I"), ("P", "A"), ("L", "R")]
    codes = [""] * 3
    for axis, (source, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        codes[source] = letters[axis][flip]
    return "".join(codes)


def check_affine(affine: Float[np.ndarray, "4 4"]) -> None:
    """Raise GeometryError unless the affine is finite, has positive spacing and spans three dimensions."""
    if not np.isfinite(affine).all():
        raise GeometryError(
            "the affine holds NaN or infinity", "Rewrite the file with the scanner's spacing and position."
        )
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing_mm <= 0).any() or abs(np.linalg.det(affine[:3, :3] / np.maximum(spacing_mm, 1e-30))) < 1e-3:
        text = "x".join(f"{value:.3g}" for value in spacing_mm)
        raise GeometryError(
            f"the affine is singular (spacing {text} mm along z, y, x)", "Rewrite the file with its true spacing."
        )


def check_extent(affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> None:
    """Raise GeometryError unless a grid can be one of a scan of a human body, whatever it shows of it.

    Args:
        affine: Index (z, y, x, 1) -> world RAS+ mm.
        shape: Voxels along (z, y, x).
    """
    check_affine(affine)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    extent_mm = spacing_mm * shape
    text = f"{_times(spacing_mm)} mm between voxels, {_times(extent_mm)} mm in all (z, y, x)"
    remedy = "Rewrite the file with its true spacing in millimetres."
    if (np.sort(extent_mm) > EXTENT_MM).any() or spacing_mm.max() > SPACING_MM[1]:
        fitting = extent_mm.max() / 1000 <= EXTENT_MM[2] and spacing_mm.min() / 1000 >= SPACING_MM[0]
        guess = "perhaps its header counts in micrometres" if fitting else "perhaps its spacing is damaged"
        raise GeometryError(f"it would be larger than any body: {text}; {guess}", remedy)
    if spacing_mm.min() < SPACING_MM[0]:
        fitting = (spacing_mm * 1000 >= SPACING_MM[0]).all()
        guess = "perhaps its header counts in metres" if fitting else "perhaps its spacing is damaged"
        raise GeometryError(f"its voxels would be finer than any scanner's: {text}; {guess}", remedy)


def _times(values: Float[np.ndarray, " axis"]) -> str:
    """Return numbers as 1x2x3."""
    return "x".join(np.format_float_positional(value, precision=4, fractional=False, trim="-") for value in values)


def same_grid(a: Volume, b: Volume) -> bool:
    """Tell whether two volumes have the same shape and corners that lie within GRID_TOLERANCE_MM of each other."""
    if a.shape != b.shape:
        return False
    corners = np.array([[z, y, x, 1] for z in (0, a.shape[0]) for y in (0, a.shape[1]) for x in (0, a.shape[2])]).T
    return bool(np.abs(a.affine @ corners - b.affine @ corners).max() <= GRID_TOLERANCE_MM)


def turned_onto(grid: Volume, volume: Volume) -> Volume | None:
    """Return a volume whose axes are in the grid's order: itself, or turned without loss; None if it lies elsewhere.

    Files of the same voxels may store their axes in another order or the other way round, with an affine that says so.

    Args:
        grid: The order that is wanted.
        volume: Is turned.
    """
    if same_grid(grid, volume):
        return volume
    # Steps of the grid along each axis of the volume: a permutation with signs if only the order differs.
    steps = np.rint(np.linalg.solve(grid.affine[:3, :3], volume.affine[:3, :3]))
    a, b, c = (int(axis) for axis in np.abs(steps).argmax(axis=1))
    if {a, b, c} != {0, 1, 2}:
        return None
    turn = Turn((a, b, c), (bool(steps[0, a] < 0), bool(steps[1, b] < 0), bool(steps[2, c] < 0)))
    turned = turn_volume(volume, turn)
    return turned if same_grid(grid, turned) else None


def require_same_grid(
    image: Volume, labels: Volume, *, where: str, names: tuple[str, str] = ("image", "labels")
) -> None:
    """Raise GeometryError unless labels lie on the image's grid.

    Args:
        image: The scan.
        labels: Its labels.
        where: The case or file, for the message.
        names: What ``image`` and ``labels`` are, for the message.
    """
    if same_grid(image, labels):
        return
    if image.shape != labels.shape:
        got, expected = (f"{'x'.join(map(str, v.shape))} voxels (z, y, x)" for v in (labels, image))
    elif not np.allclose(image.spacing_mm, labels.spacing_mm, rtol=1e-3):
        digits = 2 if np.abs(np.subtract(image.spacing_mm, labels.spacing_mm)).max() >= 0.01 else 4
        got, expected = ("x".join(f"{s:.{digits}f}" for s in v.spacing_mm) + " mm" for v in (labels, image))
    else:
        got, expected = (
            f"{axis_codes(v.affine)} from {np.round(v.affine[:3, 3], 2).tolist()} mm" for v in (labels, image)
        )
    raise GeometryError(
        f"{where}: {names[1]} lie on another grid than the {names[0]} ({got} against {expected})",
        f"Resample the {names[1]} first.",
    )


def with_voxels(volume: Volume, voxels: Shaped[np.ndarray, "z y x"]) -> Volume:
    """Return other voxels on the same grid."""
    if voxels.shape != volume.shape:
        raise GeometryError(f"{voxels.shape} voxels do not fit the grid {volume.shape} (z, y, x).")
    return replace(volume, voxels=voxels)
