"""What a varied scan shows: its range along the body, its field of view, the table beneath."""

import numpy as np
from jaxtyping import Bool, Float

from viscera.synthesis.scanner.acquisition import AIR_HU, OUTSIDE_HU

RANGES: tuple[tuple[float, tuple[float, float], tuple[float, float]], ...] = (
    (0.14, (-75.0, -30.0), (545.0, 600.0)),
    (0.34, (-75.0, -20.0), (385.0, 460.0)),
    (0.24, (120.0, 215.0), (395.0, 480.0)),
    (0.07, (-80.0, -20.0), (120.0, 260.0)),
    (0.07, (290.0, 370.0), (540.0, 600.0)),
)
"""(share, where the lowest slice lies, where the highest does) in standard mm; whole body, abdomen, upper abdomen,
pelvis, chest. The rest are short ranges."""
SHORT_MM = (60.0, 150.0)
LOWEST_MM, HIGHEST_MM = -80.0, 600.0
ROOM = 0.06
"""Of a field of view's width, how far off its middle a patient may lie."""


def draw_range(generator: np.random.Generator, length_mm: float | None) -> tuple[float, float]:
    """Draw the lowest and highest slice of a scan.

    Args:
        generator: Source of randomness.
        length_mm: How long it must be; None leaves it free. What is longer than the body reaches beyond it.
    """
    kind, draws = generator.random(), generator.random(3)
    for share, lows, highs in RANGES:
        if kind < share:
            low, high = (
                span[0] + (span[1] - span[0]) * draw for span, draw in zip((lows, highs), draws[:2], strict=True)
            )
            break
        kind -= share
    else:
        short = SHORT_MM[0] + (SHORT_MM[1] - SHORT_MM[0]) * draws[0]
        low = -60 + (560 - short) * draws[1]
        high = low + short
    if length_mm is None:
        return low, high
    room = high - low - length_mm
    # A given length lies somewhere within a longer range, and about the middle of a shorter one.
    low += room * (draws[2] if room > 0 else 0.5)
    low = min(max(low, LOWEST_MM), max(HIGHEST_MM - length_mm, LOWEST_MM))
    return low, low + length_mm


def draw_stretch(generator: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Draw how much wider than the patient the grid is, where that is free, and how far off its middle the patient lies.

    Returns:
        Factor on the width; shifts to the back and left, as a share of the grid's half-width.
    """
    wide = generator.choice((0.88, 1.0, 1.2), p=(0.25, 0.5, 0.25)) * generator.uniform(0.95, 1.1)
    y, x = generator.uniform(-ROOM, ROOM, 2)
    return float(wide), (float(y), float(x))


def draw_outside(
    generator: np.random.Generator, shape: tuple[int, int], pixel_mm: float, half_width_mm: float
) -> tuple[Bool[np.ndarray, "y x"] | None, float]:
    """Draw what lies outside the field of view, and the HU there.

    Args:
        generator: Source of randomness.
        shape: Rows and columns.
        pixel_mm: Their size.
        half_width_mm: Of the patient: narrow fields of view are measured by it.

    Returns:
        The mask (None where the field is the whole grid), and HU.
    """
    kind, share = generator.random(), generator.uniform(0.72, 1.05)
    off, value = generator.uniform(-0.12, 0.12, 2), OUTSIDE_HU if generator.random() < 0.8 else AIR_HU
    y, x = (np.arange(count) - (count - 1) / 2 for count in shape)
    y, x = y[:, None] * pixel_mm, x[None, :] * pixel_mm
    half = share * half_width_mm
    y0, x0 = off * half
    if kind < 0.45:
        return None, value
    if kind < 0.62:
        radius = max(min(shape) * pixel_mm / 2, half)
        return y**2 + x**2 > radius**2, value
    if kind < 0.82:
        return (y - y0) ** 2 + (x - x0) ** 2 > half**2, value
    return (np.abs(y - y0) > 0.8 * half) | (np.abs(x - x0) > half), value


def paint_table_varied_(
    generator: np.random.Generator,
    image: Float[np.ndarray, "z y x"],
    y_mm: Float[np.ndarray, "y"],
    x_mm: Float[np.ndarray, "x"],
    *,
    back_mm: float,
) -> None:
    """Paint one of several tables with a cushion, clothing and lines on the patient, wherever there is air."""
    hollow, gap = generator.uniform(0, 55), generator.uniform(0, 14)
    thick, shell, width = generator.uniform(15, 60), generator.uniform(1, 5), generator.uniform(190, 260)
    shell_hu, foam_hu, cushion_hu = (
        generator.uniform(-500, 250),
        generator.uniform(-970, -820),
        generator.uniform(-960, -850),
    )
    second, has_table = generator.random() < 0.4, generator.random() < 0.9
    if has_table:
        depth = y_mm[:, None] - (back_mm + gap - (x_mm[None, :] / 210) ** 2 * hollow)
        wide = np.abs(x_mm)[None, :] < width
        edge = max(shell, float(y_mm[1] - y_mm[0]))
        plane = np.full(depth.shape, AIR_HU, np.float32)
        plane[wide & (depth > -gap) & (depth <= 0)] = cushion_hu
        plane[wide & (depth > 0) & (depth < thick)] = foam_hu
        plane[wide & (((depth > 0) & (depth < edge)) | ((depth > thick) & (depth < thick + edge)))] = shell_hu
        if second:
            plane[wide & (np.abs(depth - thick - 40) < edge / 2)] = shell_hu
        rows = np.flatnonzero((plane > AIR_HU).any(axis=1))
        if len(rows):
            part = image[:, rows[0] : rows[-1] + 1]
            np.copyto(part, plane[None, rows[0] : rows[-1] + 1], where=part < -950)
    _paint_cloth_(generator, image)


def _paint_cloth_(generator: np.random.Generator, image: Float[np.ndarray, "z y x"]) -> None:
    """Paint a thin layer of cloth some pixels in front of the body, in a third of scans."""
    has_cloth, gap, hu = generator.random() < 0.33, int(generator.integers(1, 4)), generator.uniform(-900, -600)
    if not has_cloth:
        return
    body = image > -300
    front = np.where(body.any(axis=1), body.argmax(axis=1), 0)
    z, x = np.nonzero(front > gap)
    rows = front[z, x] - gap
    line = image[z, rows, x]
    image[z, rows, x] = np.where(line < -900, hu, line)
