"""Draw a sheet of slice pictures: columns with titles, rows with captions, side marks, scale bars and a legend.

Pictures are placed pixel by pixel, never resampled, so that the sheet shows exactly the arrays it was given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import IdentityTransform

from viscera.figures.canvas import save
from viscera.figures.pictures import RGB
from viscera.labels import readable

GROUND, PALE, QUIET = "#0b0e13", "#f2f4f8", "#9aa4b2"
DPI = 100
EDGE, GAP, LINE = 18, 8, 22  # pixels: around the sheet, between pictures, of a line of text
LOWEST = 76  # pixels: a lower picture, of a thin slab, gets room below for caption and scale bar
SWATCH, LETTER = 36, 7  # pixels: a colour patch with the space around it, a letter of 8 points
BAR_STEPS_MM = (1, 2, 5, 10, 20, 50, 100, 200)

Caption = tuple[str, tuple[str, str]]
"""(text, (mark on the left, mark on the right))."""


def draw_sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    captions: Sequence[Caption],
    *,
    columns: Sequence[str],
    pixel_mm: float,
    legend: Sequence[Mapping[str, RGB]],
    title: str,
    out: Path,
) -> Path:
    """Write a sheet as PNG.

    Args:
        rows: The pictures, row by row, as many as there are columns.
        captions: Text and side marks of each row.
        columns: Titles of the columns.
        pixel_mm: Size of a pixel of every picture, for the scale bar.
        legend: Groups of {name: colour}; each starts a line.
        title: Printed on top; may be empty.
        out: The PNG.

    Returns:
        ``out``.

    Raises:
        FileError: It cannot be written.
    """
    widest = max(row[0].shape[1] for row in rows)
    heights = [max(row[0].shape[0], LOWEST) for row in rows]
    width = 2 * EDGE + len(columns) * widest + (len(columns) - 1) * GAP
    letters = max((len(name) for group in legend for name in group), default=0)
    entry_width = SWATCH + LETTER * letters
    per_line = max(1, (width - 2 * EDGE) // entry_width)
    lines = [list(group.items())[i : i + per_line] for group in legend for i in range(0, len(group), per_line)]
    top = EDGE + (LINE + 8 if title else 0)
    height = top + LINE + sum(heights) + GAP * (len(rows) - 1) + 14 + LINE * len(lines) + EDGE
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    if title:
        write_text(figure, (EDGE, height - EDGE - 4), title, size=13, place=("left", "top"))
    for column, name in enumerate(columns):
        write_text(
            figure,
            (EDGE + column * (widest + GAP), height - top - 4),
            name,
            size=10,
            colour=QUIET,
            place=("left", "top"),
        )
    floor = height - top - LINE
    for pictures, caption in zip(rows, captions, strict=True):
        floor -= max(pictures[0].shape[0], LOWEST)
        _draw_row(figure, floor, pictures, caption, (widest, pixel_mm))
        floor -= GAP
    for number, line in enumerate(lines):
        draw_legend(figure, floor - 6 - LINE * (number + 1), line, entry_width)
    return save(figure, out)


def _draw_row(
    figure: Figure,
    floor: float,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    caption: Caption,
    scale: tuple[int, float],
) -> None:
    """Place the pictures of a row, each in the middle of its column; ``scale`` is (column's width, mm per pixel)."""
    widest, pixel_mm = scale
    for column, picture in enumerate(pictures):
        left = EDGE + column * (widest + GAP) + (widest - picture.shape[1]) // 2
        above = max(LOWEST - picture.shape[0], 0)
        figure.figimage(picture, left, floor + above, origin="upper")
        draw_sides(figure, (left, floor + above), picture.shape[:2], caption[1])
        if column == 0:
            write_text(figure, (left + 8, floor + 8), caption[0], size=8, stroke=True, place=("left", "bottom"))
            draw_scale_bar(figure, (left, floor), picture.shape[1], pixel_mm)


def bar_length_mm(width_mm: float) -> int:
    """Return the longest round length that fits a third of a picture.

    Example:
        >>> bar_length_mm(400.0), bar_length_mm(50.0)
        (100, 10)
    """
    return max([step for step in BAR_STEPS_MM if step <= width_mm / 3], default=BAR_STEPS_MM[0])


def write_text(
    figure: Figure,
    at: tuple[float, float],
    text: str,
    *,
    size: float = 9,
    colour: str = PALE,
    place: tuple[Literal["left", "center", "right"], Literal["top", "center", "bottom"]],
    stroke: bool = False,
) -> None:
    """Write text at pixels (x, y up); ``stroke`` puts a dark rim around it, for text on a picture."""
    written = figure.text(*at, text, fontsize=size, color=colour, ha=place[0], va=place[1])
    written.set_transform(IdentityTransform())
    written.set_parse_math(False)  # a dollar sign in a file name is a dollar sign
    if stroke:
        written.set_path_effects([withStroke(linewidth=2, foreground=GROUND)])


def draw_sides(figure: Figure, corner: tuple[float, float], shape: tuple[int, int], marks: tuple[str, str]) -> None:
    """Write which side of the patient the left and the right of a picture are."""
    (left, floor), (rows, columns) = corner, shape
    middle = floor + rows / 2
    write_text(figure, (left + 7, middle), marks[0], size=9, stroke=True, place=("left", "center"))
    write_text(figure, (left + columns - 7, middle), marks[1], size=9, stroke=True, place=("right", "center"))


def draw_scale_bar(figure: Figure, corner: tuple[float, float], columns: int, pixel_mm: float) -> None:
    """Draw a bar of round length at the lower right of a picture."""
    length_mm = bar_length_mm(columns * pixel_mm)
    right, floor, length = corner[0] + columns - 9, corner[1] + 10, length_mm / pixel_mm
    figure.add_artist(_rectangle((right - length - 1, floor - 1), length + 2, 5, GROUND))
    figure.add_artist(_rectangle((right - length, floor), length, 3, PALE))
    text = f"{length_mm // 10} cm" if length_mm >= 10 else f"{length_mm} mm"
    write_text(figure, (right, floor + 6), text, size=8, stroke=True, place=("right", "bottom"))


def draw_legend(figure: Figure, floor: float, entries: Sequence[tuple[str, RGB]], width: int) -> None:
    """Draw one line of colour patches with names."""
    for number, (name, colour) in enumerate(entries):
        left = EDGE + number * width
        figure.add_artist(_rectangle((left, floor), 12, 12, "#{:02x}{:02x}{:02x}".format(*colour)))
        write_text(figure, (left + 19, floor + 6), readable(name), size=8, colour=PALE, place=("left", "center"))


def _rectangle(corner: tuple[float, float], width: float, height: float, colour: str) -> Rectangle:
    return Rectangle(corner, width, height, facecolor=colour, edgecolor="none", transform=IdentityTransform())
