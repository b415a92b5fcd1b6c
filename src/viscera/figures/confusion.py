"""What is mistaken for what as a chart: the confusion matrix over organs, each row as parts of its true class."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from viscera.evaluation.confusion import Confusion
from viscera.figures.canvas import GREY, new_figure, style
from viscera.labels import readable

RIGHT = LinearSegmentedColormap.from_list("right", ["#f2f6fc", "#9dc1ec", "#2a64b7", "#0b2f6b"])
WRONG = LinearSegmentedColormap.from_list("wrong", ["#fdf8f2", "#f9c48a", "#d9691a", "#7f2f04"])
"""Blue and orange are told apart by all kinds of colour vision, and light from dark without any."""
STRETCH = PowerNorm(0.5, vmin=0, vmax=1)
"""Square root: 1 % is seen beside 100 %."""
DARK_FROM = 0.3
"""Cells with a larger fraction have white numbers."""
ON_LIGHT = "#10161d"
"""Numbers on light cells: not the ink of canvas.py, which turns light on a dark page."""
NUMBERS_FROM = 0.01


def confusion_figure(confusion: Confusion) -> Figure:
    """Draw the matrix: true classes from top to bottom, predicted ones from left to right, blue where they agree.

    Each row adds up to 100 %; numbers are per cent, from 1 % on. A class that no truth shows has a hatched row.

    Args:
        confusion: Of any number of cases.
    """
    fractions, names = confusion.fractions, [readable(name) for name in confusion.classes]
    height = 0.46 * len(names) + 1.9
    figure = new_figure(max(8.5, height), height)  # as wide as the page's other charts, so that its texts are as large
    axes = figure.add_subplot()
    style(axes, "% of each true class: blue right, orange mistaken", x="predicted", y="true")
    axes.grid(visible=False)
    for row, column in np.ndindex(fractions.shape):
        _cell(axes, row, column, fraction=float(fractions[row, column]))
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect("equal")
    return figure


def _cell(axes: Axes, row: int, column: int, *, fraction: float) -> None:
    """Draw one cell, hatched where the true class is shown nowhere."""
    place = (column - 0.5, row - 0.5)
    if np.isnan(fraction):
        axes.add_patch(Rectangle(place, 1, 1, facecolor="none", edgecolor=GREY, hatch="///", linewidth=0, alpha=0.5))
        return
    map_ = RIGHT if row == column else WRONG
    axes.add_patch(Rectangle(place, 1, 1, facecolor=map_(STRETCH(fraction)), edgecolor="white", linewidth=0.6))
    if fraction >= NUMBERS_FROM:
        colour = "white" if fraction > DARK_FROM else ON_LIGHT
        axes.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
