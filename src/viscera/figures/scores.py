"""Scores per organ as charts: every case with its box, and means with their intervals."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from viscera.evaluation.scores import MEAN, Summary
from viscera.figures.canvas import GREY, INK, line_colour, new_figure, style
from viscera.labels import readable

GOLDEN = 0.6180339887
"""Multiples of it, modulo 1, spread points evenly whatever their number."""


def dice_boxes(scores: Mapping[str, Sequence[float]], *, metric: str = "Dice") -> Figure:
    """Draw a box per organ with a point for each case; whiskers reach the farthest case within 1.5 box lengths.

    Args:
        scores: {organ: score of each case}, drawn from top to bottom.
        metric: Names the axis.
    """
    figure = new_figure(8.5, 1.1 + 0.38 * max(len(scores), 1))
    axes = figure.add_subplot()
    style(axes, f"{metric} per case", x=metric)
    for row, (organ, values) in enumerate(scores.items()):
        colour = line_colour(organ)
        if len(values) > 1:
            axes.boxplot(
                [list(values)],
                positions=[row],
                orientation="horizontal",
                widths=0.62,
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": (*colour, 0.22), "edgecolor": colour},
                medianprops={"color": INK, "linewidth": 1.6},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
        heights = [row + ((number * GOLDEN + 0.5) % 1 - 0.5) * 0.44 for number in range(len(values))]
        axes.scatter(list(values), heights, s=13, color=[colour], edgecolors="none", alpha=0.85, zorder=3)
    names = [f"{readable(organ)} ({len(values)})" for organ, values in scores.items()]
    axes.set_yticks(range(len(scores)), names)
    axes.set_ylim(max(len(scores), 1) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    return figure


def dice_bars(means: Sequence[Summary], *, metric: str = "Dice") -> Figure:
    """Draw the mean per organ as bars with 95 % intervals and the number beside them.

    Args:
        means: Of one metric, from top to bottom; the organ "mean" is drawn in grey.
        metric: Names the axis.
    """
    figure = new_figure(8.5, 1.1 + 0.34 * max(len(means), 1))
    axes = figure.add_subplot()
    style(axes, f"Mean {metric} with 95 % interval", x=metric)
    for row, entry in enumerate(means):
        colour = GREY if entry.organ == MEAN else line_colour(entry.organ)
        axes.barh(row, entry.mean, height=0.66, color=colour, alpha=0.8)
        end = entry.mean
        if math.isfinite(entry.low) and math.isfinite(entry.high):
            axes.plot([entry.low, entry.high], [row, row], color=INK, linewidth=1.4, marker="|", markersize=7)
            end = max(end, entry.high)
        axes.text(end + 0.012, row, f"{entry.mean:.3f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(means)), [f"{readable(entry.organ)} ({entry.cases})" for entry in means])
    axes.set_ylim(max(len(means), 1) - 0.5, -0.5)
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    return figure
