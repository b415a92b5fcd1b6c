"""How every chart looks, and how a figure becomes a file or an inline SVG.

Figures are made with matplotlib's object interface: no pyplot, no display, no global state, nothing to close.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from viscera.colours import colour
from viscera.io.atomic import replacing

INK = "#1d2733"
"""Text, axes and grid. An inline SVG takes the page's text colour instead, so that it suits light and dark pages."""

BLUE, RED, GREY = "#3d7edb", "#e0524a", "#8a94a3"
DPI = 110
LONGEST_TEXT = 1000
"""Letters that are drawn of one text; the rest would lie beyond the figure."""


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty white figure that lays out its axes by itself."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, layout="constrained", facecolor="white")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.09, h_pad=0.07)  # pyright: ignore
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, title: str, *, x: str = "", y: str = "") -> None:
    """Style axes as viscera does: a quiet frame, a light grid behind, title on the left."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.set_facecolor("none")
    axes.grid(visible=True, color=INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_alpha(0.45)


def line_colour(organ: str) -> tuple[float, float, float]:
    """Return an organ's colour for lines and boxes, not so pale or dark as to be lost on a white or black page."""
    red, green, blue = (value / 255 for value in colour(organ))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    if luminance > 0.62:
        factor = 0.62 / luminance
        return red * factor, green * factor, blue * factor
    if luminance < 0.3:
        share = (0.3 - luminance) / (1 - luminance)
        return red + share * (1 - red), green + share * (1 - green), blue + share * (1 - blue)
    return red, green, blue


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; the file appears whole or not at all.

    Raises:
        FileError: The folder cannot be written to.
    """
    with replacing(path) as part, _plain_text(figure):
        figure.savefig(
            part, format="png", dpi="figure", facecolor=figure.get_facecolor(), metadata={"Software": "viscera"}
        )
    return path


@contextmanager
def _plain_text(figure: Figure) -> Iterator[None]:
    """Let names of files and organs be drawn as they are, though they may hold what matplotlib takes for formulas ($)."""
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_parse_math(False)
            if len(text.get_text()) > LONGEST_TEXT:
                text.set_text(text.get_text()[: LONGEST_TEXT - 1] + "…")
    with mpl.rc_context({"text.parse_math": False}):  # of what is made while drawing
        yield


def inline_svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element for an HTML page, in the page's fonts and text colour.

    Args:
        figure: The figure; its white ground becomes transparent.
        name: Unique on the page; becomes the accessible label and keeps the ids of several figures apart.
    """
    stream = io.StringIO()
    # svg.fonttype and svg.hashsalt can be given in no other way; rc_context puts the settings back.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), _plain_text(figure):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # an HTML page knows both; so no address is left in the page
    text = re.sub(r' id="[a-z0-9]+(\.[a-z0-9]+)*_\d+"', "", text)  # figure_1, axes_1 ...: the same in every figure
    text = re.sub(r' (width|height)="[0-9.]+pt"', "", text, count=2)
    label = re.sub(r"[^\w ,.-]", " ", name)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return text.replace(INK, "currentColor")
