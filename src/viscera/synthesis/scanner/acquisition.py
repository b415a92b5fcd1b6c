"""What the scanner adds: table, partial volume, noise, field of view, and the order and orientation of the file."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int16

from viscera.volume import Turn

AIR_HU, OUTSIDE_HU = -1000.0, -1024
TABLE_HU, FOAM_HU = -60.0, -880.0


@dataclass(frozen=True)
class Scanner:
    """How one scan was made.

    Attributes:
        blur_pixels: Standard deviation of the in-plane blur.
        blur_slices: Share of each neighbouring slice that a slice takes in.
        noise_hu: Standard deviation of the noise.
        grain_pixels: Its correlation length.
        circular: Whether the field of view is a disc with OUTSIDE_HU around it.
        turn: From axial order to the order of the file.
        tilt: Rotation of the scan in the world.
    """

    blur_pixels: float
    blur_slices: float
    noise_hu: float
    grain_pixels: float
    circular: bool
    turn: Turn
    tilt: Float[np.ndarray, "3 3"]


def draw_scanner(generator: np.random.Generator, *, orientation: str) -> Scanner:
    """Draw a scanner.

    Args:
        generator: Source of randomness.
        orientation: "axial" for slices in axial order on a straight grid, "random" for any order and slight tilts.
    """
    turn, tilt = Turn((0, 1, 2), (False, False, False)), np.eye(3)
    kind, flips, axes = generator.random(), generator.random(3) < 0.5, generator.permutation(3)
    angles, oblique = np.radians(generator.uniform(-7, 7, 3)), generator.random() < 0.2
    if orientation == "random":
        if 0.35 <= kind < 0.7:
            turn = Turn((0, 1, 2), (False, True, True))  # as NIfTI stores RAS
        elif kind >= 0.7:
            (a, b, c), (d, e, f) = axes.tolist(), flips.tolist()
            turn = Turn((a, b, c), (d, e, f))
        tilt = _rotation(angles) if oblique else tilt
    return Scanner(
        blur_pixels=generator.uniform(0.4, 0.75),
        blur_slices=generator.uniform(0.08, 0.2),
        noise_hu=generator.choice((6.0, 10.0, 15.0)) * generator.uniform(0.8, 1.3),
        grain_pixels=generator.uniform(0.5, 0.9),
        circular=bool(generator.random() < 0.35),
        turn=turn,
        tilt=tilt,
    )


def _rotation(angles: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles.tolist()):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def paint_table_(
    image: Float[np.ndarray, "z y x"], y_mm: Float[np.ndarray, "y"], x_mm: Float[np.ndarray, "x"], back_mm: float
) -> None:
    """Paint a curved table with a thin shell under the patient, wherever there is air.

    Args:
        image: HU, changed in place.
        y_mm: Places of the rows, to the back.
        x_mm: Places of the columns.
        back_mm: Where the table touches the patient.
    """
    depth = y_mm[:, None] - (back_mm + 3 - (x_mm[None, :] / 210) ** 2 * 38)
    wide = np.abs(x_mm)[None, :] < 205
    pixel = float(y_mm[1] - y_mm[0])
    shell = wide & (((depth > 0) & (depth < max(3.0, pixel))) | ((depth > 34) & (depth < 34 + max(3.0, pixel))))
    foam = wide & (depth > 0) & (depth < 34)
    plane = np.where(shell, TABLE_HU, np.where(foam, FOAM_HU, AIR_HU)).astype(np.float32)
    rows = np.flatnonzero((foam | shell).any(axis=1))
    if len(rows):
        part = image[:, rows[0] : rows[-1] + 1]
        np.copyto(part, plane[None, rows[0] : rows[-1] + 1], where=part < -950)


def blur(image: Float[np.ndarray, "z y x"], scanner: Scanner) -> Float[np.ndarray, "z y x"]:
    """Return an image with the scanner's partial volume."""
    across = image * (1 - 2 * scanner.blur_slices)
    across[1:] += scanner.blur_slices * image[:-1]
    across[:-1] += scanner.blur_slices * image[1:]
    across[0] += scanner.blur_slices * image[0]
    across[-1] += scanner.blur_slices * image[-1]
    for number, plane in enumerate(across):
        across[number] = cv2.GaussianBlur(plane, (0, 0), scanner.blur_pixels)
    return across


def _square_radius(shape: tuple[int, ...]) -> Float[np.ndarray, "y x"]:
    y, x = (np.linspace(-1, 1, count, dtype=np.float32) for count in shape)
    return y[:, None] ** 2 + x[None, :] ** 2


def disc(shape: tuple[int, ...]) -> Bool[np.ndarray, "y x"]:
    """Return what lies outside the disc that fills a slice."""
    return _square_radius(shape) > 1


def add_grain_(generator: np.random.Generator, image: Float[np.ndarray, "z y x"], scanner: Scanner) -> None:
    """Add the scanner's noise."""
    shape = image.shape[1:]
    # The middle of the body lies behind the most tissue, so it is noisiest.
    strength = np.float32(scanner.noise_hu) * (0.75 + 0.5 * np.exp(-2.0 * _square_radius(shape)))
    gain = _noise_gain(scanner.grain_pixels)
    for plane in image:
        white = generator.standard_normal(shape, dtype=np.float32)
        grain = cv2.GaussianBlur(white, (0, 0), scanner.grain_pixels)
        grain -= cv2.blur(grain, (9, 9))
        plane += grain * strength * gain


def store(
    image: Float[np.ndarray, "z y x"], outside: Bool[np.ndarray, "y x"] | None, outside_hu: float
) -> Int16[np.ndarray, "z y x"]:
    """Return whole HU within what a scanner can store, and ``outside_hu`` outside the field of view."""
    stored = np.empty(image.shape, np.int16)
    for number, plane in enumerate(image):
        kept = np.clip(plane, OUTSIDE_HU, 3071)
        if outside is not None:
            kept[outside] = outside_hu
        stored[number] = np.rint(kept, out=kept)
    return stored


def _noise_gain(grain_pixels: float) -> float:
    """Return what restores unit variance after the blur of white noise (and the loss of its slow part, about 8 %)."""
    taps = cv2.getGaussianKernel(2 * int(np.ceil(4 * grain_pixels)) + 1, grain_pixels)
    return 1.08 / float((taps**2).sum())
