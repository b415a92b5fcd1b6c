"""What a set of scans holds: HU of every scan, voxels of every organ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from viscera.figures.canvas import BLUE, GREY, INK, RED, new_figure, style
from viscera.labels import readable

SERIES = ("#3d7edb", "#e08a2e", "#2fa37c", "#b4569e", "#8a94a3", "#c9b02f")
"""Colours of data sets."""

MOST_PANELS_PER_LINE = 3


@dataclass(frozen=True)
class ScanHu:
    """The intensities of one scan, HU.

    Attributes:
        minimum: Lowest.
        p10: 10 % percentile.
        mean: Mean.
        p90: 90 % percentile.
        maximum: Highest.
    """

    minimum: float
    p10: float
    mean: float
    p90: float
    maximum: float


def hu_distribution(scans: Mapping[str, Sequence[ScanHu]]) -> Figure:
    """Draw one panel per data set and in it, for each scan, range (grey), 10 to 90 % (blue) and mean (red).

    Args:
        scans: {data set: its scans}.

    Source:
        The kind of picture is that of figure 2 in Zhang 2025.
    """
    columns = max(1, min(len(scans), MOST_PANELS_PER_LINE))
    lines = max(1, -(-len(scans) // columns))
    figure = new_figure(max(6.0, 4.2 * columns), 3.3 * lines + 0.3)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for number, (axes, (dataset, facts)) in enumerate(zip(panels, scans.items(), strict=False)):
        style(axes, f"{dataset}  ({len(facts)} scans)", x="scan", y="HU" if number % columns == 0 else "")
        places = range(1, len(facts) + 1)
        width = max(0.8, min(9.0, 150 / max(len(facts), 1)))  # points: bars that just do not touch
        axes.vlines(
            places, [f.minimum for f in facts], [f.maximum for f in facts], color=GREY, alpha=0.65, linewidth=width
        )
        axes.vlines(
            places, [f.p10 for f in facts], [f.p90 for f in facts], color=BLUE, linewidth=max(1.0, width * 0.35)
        )
        axes.scatter(places, [f.mean for f in facts], s=14, color=RED, zorder=3)
        axes.set_xlim(0.3, max(len(facts), 1) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in panels[len(scans) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=GREY, alpha=0.65, linewidth=6, label="range"),
        Line2D([], [], color=BLUE, linewidth=2.5, label="10 % to 90 %"),
        Line2D([], [], color=RED, marker="o", markersize=4, linestyle="none", label="mean"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=INK)
    return figure


def label_frequencies(voxels: Mapping[str, Mapping[str, int | None]]) -> Figure:
    """Draw the voxels of each organ in each data set on a log axis.

    Args:
        voxels: {data set: {organ: voxels over all scans that annotate it; None where none does}}. What is not annotated
            is hatched: it is unknown, not zero. An organ that a data set does not list counts as not annotated.
    """
    organs = list(dict.fromkeys(organ for counts in voxels.values() for organ in counts))
    height = 0.8 / max(len(voxels), 1)
    largest = max((n for counts in voxels.values() for n in counts.values() if n), default=1)
    right = 10 ** len(str(largest))
    figure = new_figure(8.5, 1.2 + max(0.3, 0.17 * len(voxels)) * max(len(organs), 1))
    axes = figure.add_subplot()
    style(axes, "Labelled voxels", x="voxels")
    for number, counts in enumerate(voxels.values()):
        colour = SERIES[number % len(SERIES)]
        for row, organ in enumerate(organs):
            place = row - 0.4 + (number + 0.5) * height
            count = counts.get(organ)
            if count is None:
                axes.barh(
                    place,
                    right - 1,
                    height * 0.8,
                    left=1,
                    facecolor="none",
                    edgecolor=colour,
                    hatch="////",
                    alpha=0.6,
                    lw=0,
                )
            elif count == 0:
                axes.text(1.15, place, "0 (annotated, absent)", va="center", fontsize=6.5, color=colour)
            else:
                axes.barh(place, count - 1, height * 0.9, left=1, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(1, right)
    axes.set_yticks(range(len(organs)), [readable(organ) for organ in organs])
    axes.set_ylim(max(len(organs), 1) - 0.5, -0.5)
    handles = [Patch(color=SERIES[number % len(SERIES)], label=dataset) for number, dataset in enumerate(voxels)]
    handles.append(Patch(facecolor="none", edgecolor=GREY, hatch="////", label="not annotated", linewidth=0))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False, labelcolor=INK)
    return figure
