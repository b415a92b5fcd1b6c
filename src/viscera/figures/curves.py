"""Curves of a training run, from its log: losses, learning rate, Dice and IoU per organ."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from viscera.errors import FileError
from viscera.figures.canvas import BLUE, GREY, INK, RED, line_colour, new_figure, save, style
from viscera.io.json_codec import Before, from_json, without_nan
from viscera.labels import readable


def _defined(value: object) -> object:
    """Leave NaN and null out of scores per organ; NaN is null elsewhere."""
    if isinstance(value, dict):
        return {organ: score for organ, score in without_nan(value).items() if score is not None}
    return without_nan({"": value})[""]


Scores = Annotated[Mapping[str, float], Before(lambda value: _defined(value) or {})]
Value = Annotated[float | None, Before(_defined)]


@dataclass(frozen=True)
class Epoch:
    """One line of a run's log.jsonl. None: not measured; an organ that is missing: no annotated case.

    Attributes:
        epoch: Number, from 1.
        learning_rate: Of the epoch.
        train_loss: Mean over the epoch.
        val_loss: Over the validation patients.
        train_dice: {organ: Dice} of training batches.
        val_dice: {organ: Dice} of validation patients.
        val_iou: {organ: IoU} of validation patients.
        seconds: Duration.
    """

    epoch: int
    learning_rate: Value = None
    train_loss: Value = None
    val_loss: Value = None
    train_dice: Scores = field(default_factory=dict)
    val_dice: Scores = field(default_factory=dict)
    val_iou: Scores = field(default_factory=dict)
    seconds: Value = None


def read_log(path: Path) -> list[Epoch]:
    """Read the log.jsonl of a run, given as the file or as the run's folder, in the order of epochs.

    An epoch written twice (a run resumed) counts as last written; a last line that a killed run left unfinished is
    passed over.

    Raises:
        FileError: The file is missing, empty, or has a line that is not an epoch.
    """
    if path.is_dir():
        path = path / "log.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path.name} cannot be read: {error}", "Pass the folder that viscera train wrote.", file=path
        ) from error
    epochs: dict[int, Epoch] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            what = f"{path.name}, line {number}: is not an epoch"
            remedy = "Remove the line or train again."
            entry = from_json(Epoch, line, what=what, remedy=remedy, constants=True)
        except FileError:
            if number == len(lines):  # no line feed behind it: written in part
                continue
            raise
        epochs[entry.epoch] = entry
    if not epochs:
        raise FileError(f"{path.name} holds no finished epoch yet", "Train for at least one epoch first.", file=path)
    return [epochs[number] for number in sorted(epochs)]


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch of the lowest validation loss; without one, of the highest mean validation Dice; else None."""
    lost = [entry for entry in epochs if entry.val_loss is not None]
    if lost:
        return min(lost, key=lambda entry: entry.val_loss if entry.val_loss is not None else math.inf)
    scored = [entry for entry in epochs if entry.val_dice]
    return max(scored, key=lambda entry: _mean(entry.val_dice) or 0.0) if scored else None


def training_curves(log: Path | Sequence[Epoch], out: Path) -> Path:
    """Write the curves of a run as PNG.

    Args:
        log: A run's folder, its log.jsonl, or the epochs.
        out: The PNG.

    Raises:
        FileError: The log cannot be read or the PNG not written.
    """
    return save(curves_figure(read_log(log) if isinstance(log, Path) else log), out)


def curves_figure(epochs: Sequence[Epoch]) -> Figure:
    """Draw losses, learning rate and mean scores above, Dice and IoU per organ below, the best epoch marked.

    Raises:
        FileError: There is no epoch.
    """
    if not epochs:
        raise FileError("there is no epoch to draw", "Train for at least one epoch first.")
    figure = new_figure(12.5, 7.2)
    (losses, rate, means), (val, train, iou) = figure.subplots(2, 3)
    best = best_epoch(epochs)
    style(losses, "Loss", x="epoch")
    _line(losses, epochs, lambda entry: entry.train_loss, label="training", colour=BLUE)
    _line(losses, epochs, lambda entry: entry.val_loss, label="validation", colour=RED)
    style(rate, "Learning rate", x="epoch")
    _line(rate, epochs, lambda entry: entry.learning_rate, label="", colour=GREY)
    if any(entry.learning_rate for entry in epochs):
        rate.set_yscale("log")
        rate.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        rate.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        rate.yaxis.set_minor_formatter(NullFormatter())
    style(means, "Mean over organs", x="epoch")
    _line(means, epochs, lambda entry: _mean(entry.train_dice), label="training Dice", colour=BLUE)
    _line(means, epochs, lambda entry: _mean(entry.val_dice), label="validation Dice", colour=RED)
    _line(means, epochs, lambda entry: _mean(entry.val_iou), label="validation IoU", colour=GREY)
    _organ_lines(val, epochs, "Validation Dice", lambda entry: entry.val_dice)
    _organ_lines(train, epochs, "Training Dice", lambda entry: entry.train_dice)
    _organ_lines(iou, epochs, "Validation IoU", lambda entry: entry.val_iou)
    for axes in (losses, rate, means, val, train, iou):
        _finish(axes, epochs, best)
    handles = {
        str(line.get_label()): line
        for axes in (val, train, iou)
        for line in axes.get_lines()
        if line.get_gid() == "organ"
    }
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=6,
            fontsize=8,
            frameon=False,
            labelcolor=INK,
        )
    return figure


def _line(
    axes: Axes, epochs: Sequence[Epoch], value: Callable[[Epoch], float | None], *, label: str, colour: object
) -> None:
    """Draw one line with a point per epoch; epochs without a value leave a gap."""
    values = [value(entry) for entry in epochs]
    if all(y is None for y in values):
        return
    heights = [math.nan if y is None else y for y in values]
    axes.plot(
        [entry.epoch for entry in epochs],
        heights,
        color=colour,
        label=label or "_",
        linewidth=1.6,
        marker="o",
        markersize=3.2 if len(epochs) <= 60 else 0,
    )


def _organ_lines(
    axes: Axes, epochs: Sequence[Epoch], title: str, scores: Callable[[Epoch], Mapping[str, float]]
) -> None:
    style(axes, title, x="epoch")
    axes.set_ylim(-0.02, 1.02)
    for organ in dict.fromkeys(organ for entry in epochs for organ in scores(entry)):
        _line(
            axes,
            epochs,
            lambda entry, organ=organ: scores(entry).get(organ),
            label=readable(organ),
            colour=line_colour(organ),
        )
    for line, marker in zip(axes.get_lines(), itertools.cycle("osD^vPX"), strict=False):
        line.set_gid("organ")
        line.set_marker(marker)  # so that organs of similar colours can be told apart


def _finish(axes: Axes, epochs: Sequence[Epoch], best: Epoch | None) -> None:
    """Mark the best epoch, say where there is nothing to see, keep the ticks whole."""
    first, last = epochs[0].epoch, epochs[-1].epoch
    margin = max(0.5, (last - first) * 0.03)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not axes.get_lines():
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", fontsize=9, color=GREY, transform=axes.transAxes)
        return
    if best is not None:
        axes.axvline(best.epoch, color=INK, alpha=0.55, linewidth=1, linestyle=(0, (4, 3)), label="_")
        axes.annotate(
            f"best: {best.epoch}",
            (best.epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if best.epoch > (first + last) / 2 else 4, -2),
            textcoords="offset points",
            ha="right" if best.epoch > (first + last) / 2 else "left",
            va="top",
            fontsize=7.5,
            color=INK,
        )
    handles, _ = axes.get_legend_handles_labels()
    if handles and handles[0].get_gid() != "organ":
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def _mean(scores: Mapping[str, float]) -> float | None:
    return sum(scores.values()) / len(scores) if scores else None
