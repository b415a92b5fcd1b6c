"""Error grids: a slice as the network saw it, all that was predicted on it, then each organ with what is right and wrong.

``error_panels`` computes the pictures, ``error_grid`` draws them into a PNG. Slices are in axial order: the patient's right
is on the picture's left, the front on top.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from viscera.colours import ColourScheme, colour
from viscera.errors import SettingError
from viscera.figures.canvas import save
from viscera.figures.pictures import (
    AGREE,
    AGREEMENT_COLOURS,
    AGREEMENT_NAMES,
    FALSE,
    MISSED,
    RGB,
    SOFT_TISSUE_HU,
    UNJUDGED,
    agreement,
    grey,
    overlay,
    resize_labels,
    resize_slice,
)
from viscera.figures.sheet import (
    DPI,
    EDGE,
    GAP,
    GROUND,
    LETTER,
    LINE,
    QUIET,
    SWATCH,
    draw_legend,
    draw_scale_bar,
    draw_sides,
    write_text,
)
from viscera.labels import readable

ACROSS = 18
"""Pixels between the panels of a row, so that the note of one keeps off the title of the next."""

TITLE = 30
"""Pixels that the title of a grid takes."""

Layout = tuple[int, int, tuple[int, int]]
"""(rows of panels, panels in a row, (pixel rows, pixel columns) of a panel)."""


@dataclass(frozen=True, eq=False)
class JudgedSlice:
    """An axial slice with what is true and what was predicted.

    Attributes:
        input_hu: The network's input in HU, its contrast enhanced if the recipe says so.
        truth: True labels, 0 = none of the annotated organs.
        prediction: Predicted labels.
        spacing_mm: Between neighbouring pixels along rows (y) and columns (x).
        organs: {label: organ}; one panel each, in this order.
        annotated: Organs that the truth annotates; None for all.
        known: False where the truth may be anything; None where all is known.
    """

    input_hu: Shaped[np.ndarray, "y x"]
    truth: Integer[np.ndarray, "_ _"]
    prediction: Integer[np.ndarray, "_ _"]
    spacing_mm: tuple[float, float]
    organs: Mapping[int, str]
    annotated: Collection[str] | None = None
    known: Bool[np.ndarray, "_ _"] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of different sizes and a spacing that is none."""
        shapes = {
            array.shape for array in (self.input_hu, self.truth, self.prediction, self.known) if array is not None
        }
        if len(shapes) != 1:
            raise SettingError(
                f"slice, truth and prediction of an error grid differ in size: {sorted(shapes)}",
                "Pass the same slice of all of them.",
            )
        if not all(math.isfinite(step) and step > 0 for step in self.spacing_mm):
            raise SettingError(
                f"spacing_mm {self.spacing_mm} of an error grid must be above 0", "Pass (rows, columns) in mm."
            )

    def judges(self, organ: str) -> bool:
        """Tell whether the truth annotates an organ."""
        return self.annotated is None or organ in self.annotated


@dataclass(frozen=True)
class GridLook:
    """How an error grid looks.

    Attributes:
        columns: Panels in a row; 0: three for six, and so on in that proportion.
        panel_pixels: Width of a panel.
        window_hu: (black, white), HU.
        opacity: Of the fillings, in [0, 1].
        title: Printed on top.
        colours: Of the organs: viscera's own or 3D Slicer's.
    """

    columns: int = 0
    panel_pixels: int = 300
    window_hu: tuple[float, float] = SOFT_TISSUE_HU
    opacity: float = 0.45
    title: str = ""
    colours: ColourScheme = "viscera"

    def __post_init__(self) -> None:
        """Refuse grids without a column."""
        if self.columns < 0 or self.panel_pixels < 1:
            raise SettingError(
                f"an error grid of {self.columns} columns of {self.panel_pixels} pixels cannot be drawn",
                "Say 0 or more columns (0: as fits) and at least 1 pixel.",
            )


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of an error grid.

    Attributes:
        title: The organ, or what else is shown.
        note: The organ's IoU on this slice, or why there is none.
        picture: RGB.
    """

    title: str
    note: str
    picture: UInt8[np.ndarray, "rows columns 3"]


def error_panels(judged: JudgedSlice, look: GridLook = GridLook()) -> tuple[Panel, ...]:
    """Compute the panels: the slice, the slice with all predicted organs, then one per organ.

    An organ's panel shows yellow where truth and prediction agree, green where only the prediction shows the organ, red
    where only the truth does. An organ that is not annotated is shown in grey as predicted, since nobody knows whether
    that is right. Where the truth is unknown nothing is judged.
    """
    size = picture_size(judged.input_hu.shape, judged.spacing_mm, look.panel_pixels)
    slice_hu = resize_slice(judged.input_hu, size)
    truth, prediction = (resize_labels(labels, size) for labels in (judged.truth, judged.prediction))
    colours = {label: colour(organ, look.colours) for label, organ in judged.organs.items()}
    plain = np.repeat(grey(slice_hu, look.window_hu)[..., None], 3, axis=2)
    painted = overlay(slice_hu, prediction, colours=colours, window_hu=look.window_hu, opacity=look.opacity)
    panels = [Panel("network's input", "", plain), Panel("prediction", _shown(judged), painted)]
    known = np.ones(size, bool) if judged.known is None else resize_labels(judged.known, size)
    for label, organ in judged.organs.items():
        codes = agreement(
            (truth == label) & known,
            (prediction == label) & known,
            annotated=None if judged.judges(organ) else [],
        )
        compared = overlay(slice_hu, codes, colours=AGREEMENT_COLOURS, window_hu=look.window_hu, opacity=look.opacity)
        panels.append(Panel(readable(organ), _verdict(judged, label), compared))
    return tuple(panels)


def error_grid(judged: JudgedSlice, out: Path, look: GridLook = GridLook()) -> Path:
    """Write an error grid as PNG, with side marks, a scale bar and the key to its colours.

    Args:
        judged: The slice.
        out: The PNG to write.
        look: Columns, window, size, title.

    Returns:
        ``out``.

    Raises:
        FileError: It cannot be written.
    """
    panels = error_panels(judged, look)
    layout = _layout(panels, look.columns)
    count, columns, (height, width) = layout
    legend = _legend(judged, look)
    full = 2 * EDGE + columns * width + (columns - 1) * ACROSS
    letters = max(len(name) for group in legend for name in group)
    entry_width = SWATCH + LETTER * letters
    per_line = max(1, (full - 2 * EDGE) // entry_width)
    lines = [list(group.items())[i : i + per_line] for group in legend for i in range(0, len(group), per_line)]
    top = EDGE + (TITLE if look.title else 0)
    total = top + count * (height + LINE) + (count - 1) * GAP + 14 + LINE * len(lines) + EDGE
    figure = Figure(figsize=(full / DPI, total / DPI), dpi=DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    if look.title:
        write_text(figure, (EDGE, total - EDGE + 4), look.title, size=12, place=("left", "top"))
    _draw_panels(figure, panels, layout, floor=total - top)
    pixel_mm = judged.input_hu.shape[1] * judged.spacing_mm[1] / width
    draw_scale_bar(figure, (EDGE, total - top - LINE - height), width, pixel_mm)
    floor = total - top - count * (height + LINE) - (count - 1) * GAP
    for number, line in enumerate(lines):
        draw_legend(figure, floor - 14 - LINE * (number + 1) + 6, line, entry_width)
    return save(figure, out)


def picture_size(shape: tuple[int, ...], spacing_mm: tuple[float, float], width: int) -> tuple[int, int]:
    """Return rows and columns of a picture ``width`` pixels wide that shows a slice in its true proportions.

    Example:
        >>> picture_size((100, 200), (3.0, 1.0), 100)
        (150, 100)
    """
    return max(1, round(width * shape[0] * spacing_mm[0] / (shape[1] * spacing_mm[1]))), width


def _layout(panels: Sequence[Panel], columns: int) -> Layout:
    """Divide the panels among rows; by themselves, half as many again in a row as there are rows."""
    columns = min(columns or max(1, round(math.sqrt(1.5 * len(panels)))), len(panels))
    rows, width = panels[0].picture.shape[:2]
    return math.ceil(len(panels) / columns), columns, (rows, width)


def _draw_panels(figure: Figure, panels: Sequence[Panel], layout: Layout, *, floor: int) -> None:
    """Place the panels row by row below ``floor``, each with its title and note above it."""
    _, columns, (height, width) = layout
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left = EDGE + column * (width + ACROSS)
        bottom = floor - (row + 1) * (height + LINE) - row * GAP
        figure.figimage(panel.picture, left, bottom, origin="upper")
        draw_sides(figure, (left, bottom), (height, width), ("R", "L"))
        write_text(figure, (left, bottom + height + 5), panel.title, size=9.5, place=("left", "bottom"))
        write_text(
            figure, (left + width, bottom + height + 5), panel.note, size=8, colour=QUIET, place=("right", "bottom")
        )


def _shown(judged: JudgedSlice) -> str:
    return "" if np.isin(judged.prediction, list(judged.organs)).any() else "nothing on this slice"


def _verdict(judged: JudgedSlice, label: int) -> str:
    """Say the IoU of an organ on the slice, or why there is none."""
    if not judged.judges(judged.organs[label]):
        return "not annotated in this case"
    known = np.ones(judged.truth.shape, bool) if judged.known is None else judged.known
    true, predicted = ((labels == label) & known for labels in (judged.truth, judged.prediction))
    either = int((true | predicted).sum())
    return f"slice IoU {int((true & predicted).sum()) / either:.2f}" if either else "not on this slice"


def _legend(judged: JudgedSlice, look: GridLook) -> list[dict[str, RGB]]:
    organs = {organ: colour(organ, look.colours) for organ in judged.organs.values()}
    kinds = [AGREE, FALSE, MISSED]
    if not all(judged.judges(organ) for organ in judged.organs.values()):
        kinds.append(UNJUDGED)
    compared = {AGREEMENT_NAMES[kind]: AGREEMENT_COLOURS[kind] for kind in kinds}
    return [group for group in (organs, compared) if group]
