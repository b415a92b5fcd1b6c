"""viscera evaluate: predictions against the truth."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import progress, say, show_problems, show_table
from viscera.cli.inputs import data_sets, of_split
from viscera.datasets import Source
from viscera.errors import FileError, SettingError
from viscera.evaluation import Rules, evaluate
from viscera.files import write_text
from viscera.pairing import find_tasks
from viscera.scores import Evaluation, Summary, compare, summarise

SHOWN = {
    "volume": ("dice", "nsd", "iou", "hd95_mm", "volume_error_ml"),
    "slices": ("slice_dice", "slice_iou"),
}
"""The metrics of the table, the first two with their intervals."""


@dataclass(frozen=True)
class Options:
    """Measure predictions against the truth: per case and organ, and the mean with a 95 % interval over patients.

    Organs that a case does not annotate get no score. Organs are matched by name, so truth and prediction may number them
    otherwise and split them otherwise (left and right kidney, kidney).
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="TRUTH PREDICTION [TRUTH PREDICTION ...]")]
    """Two files, two folders, or a data set as LAYOUT=DIR and the folder of its predictions; several such pairs are
    scored together."""
    mode: Literal["volume", "slices"] = "volume"
    """volume: Dice, IoU, surface Dice (NSD), 95 % Hausdorff distance, volumes. slices: zhang2d's slice Dice and IoU, pooled
    over the slices that show the organ; kinder, since false finds elsewhere do not count."""
    json: Path | None = None
    """Write everything there; `viscera report` reads it."""
    csv: Path | None = None
    """Write one row per case and organ there."""
    html: Path | None = None
    """Write the report there, with pictures of the best and worst cases of data sets."""
    labels: Path | None = None
    """JSON {index: organ} for label files that have no NAME.json beside them."""
    versus: tuple[Path, ...] = ()
    """Other predictions of the same cases, one per pair: adds a paired comparison (these minus PREDICTION, Wilcoxon)."""
    split: Literal["all", "training", "validation", "test"] = "all"
    """Of data sets, only the cases of this split of --run."""
    run: Path | None = None
    """The run whose split is meant."""
    jobs: int = 0
    """Cases scored at once; 0: one per core."""
    overwrite: bool = False
    """Replace files that stand there."""
    keep_going: bool = False
    """Exit with 0 even where cases could not be scored."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera evaluate", config=(FlagCreatePairsOff,))
    if len(options.files) < 2 or len(options.files) % 2:
        raise SettingError(f"evaluate needs pairs of TRUTH and PREDICTION, got {', '.join(options.files)}.")
    if options.versus and len(options.versus) != len(options.files) // 2:
        raise SettingError(f"--versus needs one folder per pair, got {len(options.versus)}.")
    if options.jobs < 0:
        raise SettingError(f"--jobs must not be negative, got {options.jobs}.")
    if options.labels and not options.labels.is_file():
        raise FileError(f"{options.labels}: no such file. Check the path of --labels.")
    for file in (options.json, options.csv, options.html):
        if file and file.exists() and not options.overwrite:
            raise FileError(f"{file} exists already. Choose another name or say --overwrite.")
    predictions = [Path(name) for name in options.files[1::2]]
    found = score_all(options, predictions)
    show_scores(found)
    if options.versus:
        show_comparison(found, score_all(options, options.versus))
    if options.json:
        write_text(options.json, found.to_json())
    if options.csv:
        write_text(options.csv, found.to_csv())
    if options.html:
        write_html(options.html, options, found, predictions)
    for note in found.notes:
        say(f"note: {note}")
    if found.problems:
        show_problems(found.problems)
    return 2 if found.problems and not options.keep_going else 0


def score_all(options: Options, predictions: Sequence[Path]) -> Evaluation:
    """Score every pair, and put the scores together."""
    rules, jobs = Rules(options.mode), options.jobs or os.cpu_count() or 1
    found = []
    for name, prediction in zip(options.files[::2], predictions, strict=True):
        truth = truth_of(options, name)
        with progress() as bar:
            task = bar.add_task(f"cases of {name}", total=len(find_tasks(truth, prediction)[0]))
            advance = partial(bar.advance, task, 1)
            found.append(
                evaluate(
                    truth,
                    prediction,
                    labels=options.labels,
                    rules=rules,
                    workers=jobs,
                    done=lambda case, go=advance: go(),
                )
            )
    return found[0] if len(found) == 1 else together(found, options.files[::2])


def truth_of(options: Options, name: str) -> Path | list[Source]:
    """Give the truth that a user named: a path, or the cases of a data set."""
    if "=" in name and not Path(name).exists():
        return of_split(data_sets([name])[0], options.run, options.split)
    if options.split != "all":
        raise SettingError(f"--split {options.split} needs a data set as LAYOUT=DIR, not '{name}'.")
    return Path(name)


def together(found: Sequence[Evaluation], names: Sequence[str]) -> Evaluation:
    """Give one evaluation of several data sets; cases and patients are told apart by the data set's folder."""
    folders = [Path(name.partition("=")[2] or name).name for name in names]
    scores = tuple(
        replace(score, case=f"{folder}/{score.case}", patient=f"{folder}/{score.patient}")
        for folder, one in zip(folders, found, strict=True)
        for score in one.scores
    )
    problems = tuple(
        replace(problem, case=f"{folder}/{problem.case}")
        for folder, one in zip(folders, found, strict=True)
        for problem in one.problems
    )
    notes = tuple(
        dict.fromkeys(f"{folder}: {note}" for folder, one in zip(folders, found, strict=True) for note in one.notes)
    )
    return Evaluation(found[0].mode, scores, summarise(scores, np.random.default_rng(0)), problems, notes)


def show_scores(found: Evaluation) -> None:
    """Show the means with their intervals."""
    metrics = SHOWN[found.mode]
    by_organ: dict[str, dict[str, Summary]] = {}
    for row in found.summary:
        by_organ.setdefault(row.organ, {})[row.metric] = row
    rows = [
        (
            organ,
            str(values[metrics[0]].cases),
            *(text_of(values.get(metric), interval=metric in metrics[:2]) for metric in metrics),
        )
        for organ, values in by_organ.items()
        if metrics[0] in values
    ]
    if rows:
        show_table("Mean [95 % interval over patients]", ("organ", "cases", *metrics), rows)


def text_of(row: Summary | None, *, interval: bool) -> str:
    """Give a mean, perhaps with its interval."""
    if row is None or math.isnan(row.mean):
        return "-"
    digits = 1 if row.metric.endswith(("_mm", "_ml")) else 3
    mean = f"{row.mean:.{digits}f}"
    return f"{mean} [{row.low:.{digits}f}, {row.high:.{digits}f}]" if interval and not math.isnan(row.low) else mean


def show_comparison(second: Evaluation, first: Evaluation) -> None:
    """Show by how much these predictions differ from the other ones."""
    metric = SHOWN[second.mode][0]
    rows = [
        (row.organ, str(row.patients), f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]", f"{row.p_value:.3g}")
        for row in compare(first.scores, second.scores, np.random.default_rng(0), metric=metric)
    ]
    show_table(f"{metric}: PREDICTION minus --versus", ("organ", "patients", "difference", "p (Wilcoxon)"), rows)


def write_html(html: Path, options: Options, found: Evaluation, predictions: Sequence[Path]) -> None:
    """Write the report, with pictures where the scans are known: those of data sets."""
    from viscera.report import CaseFiles, write_report

    pictures = []
    for name, prediction in zip(options.files[::2], predictions, strict=True):
        truth = truth_of(options, name)
        if isinstance(truth, list):
            prefix = f"{truth[0].dataset}/" if len(predictions) > 1 else ""
            pictures += [
                CaseFiles(f"{prefix}{task.case}", task.truth.image, task, options.labels)
                for task in find_tasks(truth, prediction)[0]
                if isinstance(task.truth, Source)
            ]
    write_report(found, html, pictures=pictures, overwrite=options.overwrite)
