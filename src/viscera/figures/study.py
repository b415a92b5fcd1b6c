"""Charts of a study of many models: loss and IoU against epochs, IoU per organ with intervals.

Models are told apart twice over, by colour and by marker, so that the charts can be read without colours. What the models
are, and which of them share a panel, is decided in reports/study.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from viscera.figures.canvas import GREY, INK, new_figure, style
from viscera.figures.curves import Epoch
from viscera.labels import readable

LINE_COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33a7e8", "#cc3311", "#aa8800", "#8a94a3")
"""Of the models in a panel, in turn (Paul Tol's vibrant set, extended; for white and black pages)."""

MARKERS = "osD^vPX*"
MOST_COLUMNS = 4
CROWDED_EPOCHS = 40
"""Beyond, epochs have no markers of their own."""

Values = tuple[Callable[[Epoch], float | None], Callable[[Epoch], float | None]]
"""What is drawn of an epoch: of training and of validation."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The training of one model.

    Attributes:
        panel: Title of the panel that it is drawn in.
        line: What tells it from the others in there; the same words have the same colour in all panels.
        epochs: From its log.
        best: The epoch whose weights were kept.
    """

    panel: str
    line: str
    epochs: Sequence[Epoch]
    best: int


@dataclass(frozen=True)
class Dot:
    """The IoU of one model for one organ.

    Attributes:
        mean: Over cases; NaN: nothing is drawn.
        low: Lower end of its interval; NaN: none.
        high: Upper end.
        pooled: Over the voxels of all cases; NaN: not drawn.
    """

    mean: float
    low: float
    high: float
    pooled: float


def loss_curves(curves: Sequence[Curve], lines: Sequence[str] = ()) -> Figure:
    """Draw training (dotted) and validation loss (solid) against epochs, a panel per architecture, the best epoch ringed.

    Args:
        curves: One per model.
        lines: The words of ``Curve.line`` in the order of the colours; those that are missing follow.
    """
    return _curves(curves, lines, (lambda entry: entry.train_loss, lambda entry: entry.val_loss), name="loss")


def iou_curves(curves: Sequence[Curve], lines: Sequence[str] = ()) -> Figure:
    """Draw the mean IoU over organs of training batches (dotted) and validation cases (solid), pooled over voxels.

    Arguments as in ``loss_curves``.
    """
    values: Values = (lambda entry: mean_iou(entry.train_dice), lambda entry: mean_iou(entry.val_dice))
    figure = _curves(curves, lines, values, name="mean IoU")
    for axes in figure.axes:
        axes.set_ylim(-0.02, 1.02)
    return figure


def mean_iou(dice: Mapping[str, float]) -> float | None:
    """Return the mean over organs of IoU = D / (2 - D), which holds for scores pooled over voxels; None without any.

    Example:
        >>> mean_iou({"liver": 1.0, "spleen": 0.0}), mean_iou({})
        (0.5, None)
    """
    return float(np.mean([score / (2 - score) for score in dice.values()])) if dice else None


def iou_dots(
    models: Sequence[tuple[str, str]], scores: Mapping[str, Sequence[Dot]], *, lines: Sequence[str] = ()
) -> Figure:
    """Draw a panel per organ with a row per model: mean over cases with its interval, and the pooled IoU as a hollow mark.

    Args:
        models: (name of the row, words that decide on its colour), from top to bottom.
        scores: {organ: a dot per model}.
        lines: Those words in the order of the colours; those that are missing follow.
    """
    columns = min(max(len(scores), 1), 5)
    rows = max(1, math.ceil(len(scores) / columns))
    width = 1.2 + 0.062 * max((len(name) for name, _ in models), default=0) + 2.1 * columns
    figure = new_figure(max(width, 5.0), rows * (0.85 + 0.25 * max(len(models), 1)) + 0.45)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    lines = list(dict.fromkeys([*lines, *(line for _, line in models)]))
    for axes, (organ, dots) in zip(panels, scores.items(), strict=False):
        style(axes, readable(organ))
        for row, ((_, line), dot) in enumerate(zip(models, dots, strict=True)):
            _dot(axes, row, dot, lines.index(line))
    for axes in panels[len(scores) :]:
        axes.set_visible(False)
    first = panels[0]
    if not scores:
        style(first, "IoU")
        _say(first, "no scores")
    first.set_yticks(range(len(models)), [name for name, _ in models])
    first.set_ylim(max(len(models), 1) - 0.5, -0.5)
    first.set_xlim(-0.03, 1.03)
    first.set_xticks([0, 0.5, 1])
    handles = [_handle(line, number) for number, line in enumerate(lines) if line]
    handles.append(
        Line2D([], [], color=GREY, marker="d", markersize=6, markerfacecolor="none", linewidth=0, label="pooled")
    )
    _key(figure, handles)
    return figure


def _curves(curves: Sequence[Curve], lines: Sequence[str], values: Values, *, name: str) -> Figure:
    """Draw two values of every curve, a panel per architecture with the same axes."""
    titles = list(dict.fromkeys(curve.panel for curve in curves))
    lines = list(dict.fromkeys([*lines, *(curve.line for curve in curves)]))
    columns = min(max(len(titles), 1), MOST_COLUMNS)
    rows = max(1, math.ceil(len(titles) / columns))
    figure = new_figure(max(3.1 * columns + 0.4, 5.5), 2.6 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, title in zip(panels, titles, strict=False):
        style(axes, title)
        for curve in curves:
            if curve.panel == title:
                _curve(axes, curve, values, number=lines.index(curve.line))
        if not axes.get_lines():
            _say(axes, "not measured")
    for axes in panels[len(titles) :]:
        axes.set_visible(False)
    if not titles:
        style(panels[0], name)
        _say(panels[0], "no finished run")
    for number, axes in enumerate(panels):
        axes.set_xlabel("epoch" if number + columns >= len(titles) else "", fontsize=9, color=INK)
        axes.tick_params(labelbottom=number + columns >= len(titles))
        axes.set_ylabel(name if number % columns == 0 else "", fontsize=9, color=INK)
    numbers = [entry.epoch for curve in curves for entry in curve.epochs] or [1]
    margin = max(0.5, (max(numbers) - min(numbers)) * 0.04)
    panels[0].set_xlim(min(numbers) - margin, max(numbers) + margin)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = [_handle(line, number) for number, line in enumerate(lines) if line]
    handles.append(Line2D([], [], color=GREY, linewidth=1.6, label="validation"))
    handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle=":", label="training"))
    handles.append(
        Line2D([], [], color=GREY, marker="o", markersize=9, markerfacecolor="none", linewidth=0, label="best epoch")
    )
    _key(figure, handles)
    return figure


def _curve(axes: Axes, curve: Curve, values: Values, *, number: int) -> None:
    """Draw one model's training and validation value, and a ring around its best epoch."""
    colour, marker = _look(number)
    at = [entry.epoch for entry in curve.epochs]
    training, validation = ([math.nan if (y := value(one)) is None else y for one in curve.epochs] for value in values)
    crowded = len(at) > CROWDED_EPOCHS
    size = 0 if crowded else 3.4
    if np.isfinite(training).any():
        axes.plot(at, training, color=colour, linestyle=":", linewidth=1.2, marker=marker, markersize=size * 0.6)
    if not np.isfinite(validation).any():
        return
    axes.plot(at, validation, color=colour, linewidth=1.6, marker=marker, markersize=size)
    best = [y for x, y in zip(at, validation, strict=True) if x == curve.best and math.isfinite(y)]
    axes.plot(
        [curve.best] * len(best),
        best,
        color=colour,
        marker="o",
        markersize=10,
        markerfacecolor="none",
        markeredgewidth=1.5,
        linewidth=0,
        zorder=4,
    )


def _dot(axes: Axes, row: int, dot: Dot, number: int) -> None:
    colour, marker = _look(number)
    if math.isfinite(dot.low) and math.isfinite(dot.high):
        axes.plot([dot.low, dot.high], [row, row], color=colour, linewidth=1.5, alpha=0.75)
    if math.isfinite(dot.pooled):
        axes.plot([dot.pooled], [row], color=colour, marker="d", markersize=7, markerfacecolor="none", linewidth=0)
    if math.isfinite(dot.mean):
        axes.plot([dot.mean], [row], color=colour, marker=marker, markersize=5, linewidth=0)
    else:
        axes.text(0.02, row, "no score", fontsize=7, color=GREY, va="center")


def _look(number: int) -> tuple[str, str]:
    """Return the colour and marker of the line of that number; they repeat at different pace after eight."""
    return LINE_COLOURS[number % 8], MARKERS[(number + number // 8) % 8]


def _handle(line: str, number: int) -> Line2D:
    colour, marker = _look(number)
    return Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.6, label=line)


def _key(figure: Figure, handles: list[Line2D]) -> None:
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 6),
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color=GREY, transform=axes.transAxes)
