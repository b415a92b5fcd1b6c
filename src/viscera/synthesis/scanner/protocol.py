"""How a varied scan is made: slice thickness and kernel, noise, streaks, gain. The usual scanner is in acquisition.py.

Each step changes HU on the scanner's grid; synthesis/patient.py calls those whose ingredient is on, in the order of this file.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from viscera.synthesis.canvas import Canvas, Tissue

BONE_HU = 220.0
ARMS_APART, ARMS_LOSS = 1.75, 0.5
"""Bone further apart than this many depths of the body is that of arms or shoulders, and how much these add to Loss.side."""
LOW_DOSE = (0.12, 0.3)
"""Share of scans with a low dose: of those with slices thicker and not thicker than THIN_MM."""
THIN_MM = 2.0
MOST_NOISE_HU = 65.0


def blur_varied(
    generator: np.random.Generator, image: Float[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> Float[np.ndarray, "z y x"]:
    """Return the image of thicker or thinner slices through a soft or sharp kernel.

    Args:
        generator: Source of randomness.
        image: HU of an ideal scanner.
        spacing_mm: Of its voxels (z, y, x).
    """
    thickness_mm = float(generator.choice((1.0, 2.0, 3.0, 5.0)) * generator.uniform(0.9, 1.1))
    soft_mm, sharp = generator.uniform(0.7, 2.3), generator.uniform(0.2, 1.1)
    is_sharp = generator.random() < 0.3
    across = _average_slices(image, thickness_mm / spacing_mm[0])
    sigma = soft_mm / spacing_mm[1]
    # A voxel's own width blurs as well: the canvas is made of points.
    sigma = float(np.hypot(sigma, 0.4))
    blurred = np.empty_like(across)
    for number, plane in enumerate(across):
        smooth = cv2.GaussianBlur(plane, (0, 0), sigma)
        if is_sharp:
            smooth += np.float32(sharp) * (smooth - cv2.GaussianBlur(smooth, (0, 0), 1.2 * sigma + 0.3))
        blurred[number] = smooth
    return blurred


def _average_slices(image: Float[np.ndarray, "z y x"], slices: float) -> Float[np.ndarray, "z y x"]:
    """Average over a thickness given in slices, as a Gaussian of the same variance."""
    sigma = 0.29 * float(np.hypot(slices, 1.0))
    reach = max(1, int(np.ceil(2.5 * sigma)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    flat = image.reshape(len(image), -1)
    # One column of weights along the first axis of the flattened slices: OpenCV's separable filter does it in one pass.
    return cv2.sepFilter2D(flat, -1, np.ones(1, np.float32), weights, borderType=cv2.BORDER_REPLICATE).reshape(
        image.shape
    )


@dataclass(frozen=True, eq=False)
class Loss:
    """How much of the beam is lost on its way through the patient.

    Attributes:
        map: Per pixel of some slices, from 0 (in air) to about 1 (in the middle of an average abdomen).
        side: Per slice, how much bone lies to both sides (0 to about 1): shoulders, arms and hips.
    """

    map: Float[np.ndarray, "z y x"]
    side: Float[np.ndarray, "z"]


def beam_loss(image: Float[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]) -> Loss:
    """Return how much of the beam is lost, from the image itself."""
    maps, side = np.empty_like(image), np.empty(len(image), np.float32)
    window = 2 * int(125 / spacing_mm[1]) + 1
    for number, plane in enumerate(image):
        mass = np.clip((plane + 1000) / 1000, 0, 1.8)
        small = cv2.resize(mass, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        smooth = cv2.blur(small, (window // 4 | 1, window // 4 | 1), borderType=cv2.BORDER_CONSTANT)
        maps[number] = cv2.resize(smooth, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        bone = plane > BONE_HU
        arms = ARMS_LOSS * _has_arms(plane, bone, spacing_mm)
        side[number] = np.clip(bone.sum(axis=1).max() * spacing_mm[2] / 120 + arms, 0, 1.5)
    return Loss(maps, side)


def _has_arms(plane: Float[np.ndarray, "y x"], bone: Bool[np.ndarray, "y x"], spacing_mm: tuple[float, ...]) -> bool:
    """Tell whether bone lies further out on both sides than in a trunk as deep as this one."""
    columns = np.flatnonzero(bone.any(axis=0))
    if not len(columns):
        return False
    depth_mm = np.count_nonzero((plane > -300).sum(axis=1) * spacing_mm[2] > 60) * spacing_mm[1]
    return bool((columns[-1] - columns[0]) * spacing_mm[2] > ARMS_APART * max(depth_mm, 60.0))


def add_noise_(
    generator: np.random.Generator, image: Float[np.ndarray, "z y x"], loss: Loss, spacing_mm: tuple[float, ...]
) -> None:
    """Add grain: finer or coarser, more where the beam is weak."""
    noise_hu = float(np.exp(generator.normal(np.log(9), 0.65)).clip(3, 45))
    noise_hu *= _draw_dose(generator.spawn(1)[0], thin=bool(spacing_mm[0] <= THIN_MM))
    noise_hu = min(noise_hu, MOST_NOISE_HU)
    grain_mm, flatness = generator.uniform(0.9, 3.2), generator.uniform(0.4, 1.6)
    sigma = max(grain_mm / spacing_mm[1], 0.3)
    probe = cv2.GaussianBlur(generator.standard_normal((96, 96), dtype=np.float32), (0, 0), sigma)
    probe -= cv2.GaussianBlur(probe, (0, 0), 3 * sigma)
    scale = np.float32(noise_hu / float(probe.std()))
    for number, plane in enumerate(image):
        grain = cv2.GaussianBlur(generator.standard_normal(plane.shape, dtype=np.float32), (0, 0), sigma)
        grain -= cv2.GaussianBlur(grain, (0, 0), 3 * sigma)
        strength = np.exp(np.float32(flatness) * (loss.map[number] - 0.75))
        plane += grain * (scale * np.clip(strength, 0.2, 2.5))


def _draw_dose(generator: np.random.Generator, *, thin: bool) -> float:
    """Return by how much noisier than usual a scan is: 1 unless its dose is low."""
    draw, factor = generator.random(), generator.uniform(2.0, 4.5)
    return float(factor) if draw < LOW_DOSE[int(thin)] else 1.0


def add_streaks_(
    generator: np.random.Generator, image: Float[np.ndarray, "z y x"], loss: Loss, spacing_mm: tuple[float, ...]
) -> None:
    """Add horizontal streaks in slices with much bone on both sides."""
    most, length = generator.uniform(0, 70), generator.uniform(25, 70) / spacing_mm[2]
    gain = 1.2 * np.sqrt(2 * np.sqrt(np.pi) * length)
    for number, plane in enumerate(image):
        strength = most * max(0.0, float(loss.side[number]) - 0.45)
        white = generator.standard_normal(plane.shape, dtype=np.float32)
        if strength < 1:
            continue
        streaks = cv2.GaussianBlur(white, (0, 0), sigmaX=length, sigmaY=0.6)
        plane += streaks * np.clip(loss.map[number], 0, 1) * np.float32(strength * gain)


def add_metal_streaks_(
    generator: np.random.Generator, image: Float[np.ndarray, "z y x"], canvas: Canvas, spacing_mm: tuple[float, ...]
) -> None:
    """Add what metal does to its slices: dark between pieces, bright and dark rays around each."""
    rays, strength = generator.standard_normal(90), generator.uniform(120, 420)
    metal = canvas.tissue == Tissue.METAL
    for number in np.flatnonzero(metal.any(axis=(1, 2))).tolist():
        count, _, _, centres = cv2.connectedComponentsWithStats(metal[number].astype(np.uint8))
        rows, columns = np.indices(image[number].shape, dtype=np.float32)
        for centre_x, centre_y in centres[1:count].tolist():
            away_y, away_x = (rows - centre_y) * spacing_mm[1], (columns - centre_x) * spacing_mm[2]
            angle = np.arctan2(away_y, away_x) * (len(rays) / (2 * np.pi))
            place = np.floor(angle).astype(int)
            part = angle - place
            ray = rays[place % len(rays)] * (1 - part) + rays[(place + 1) % len(rays)] * part
            fall = np.exp(-np.hypot(away_y, away_x) / 55)
            dark = -1.2 * np.exp(-((away_y / 9) ** 2)) * np.exp(-np.abs(away_x) / 90)
            image[number] += (strength * (0.5 * ray * fall + dark * ~metal[number])).astype(np.float32)


def change_gain_(generator: np.random.Generator, image: Float[np.ndarray, "z y x"]) -> None:
    """Change gain and offset of the HU, as scanners differ."""
    gain, offset = generator.uniform(0.97, 1.03), generator.uniform(-8, 8)
    image += 1000
    image *= np.float32(gain)
    image += np.float32(offset - 1000)
