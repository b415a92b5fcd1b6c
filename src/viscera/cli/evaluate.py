"""viscera evaluate: predictions against the truth."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.clusters import Where, cluster_at, workers_at
from viscera.cli.console import progress, say, show_problems, show_table
from viscera.cli.inputs import data_sets
from viscera.datasets.sources import Source, label_files
from viscera.errors import FileError, SettingError
from viscera.evaluation.comparing import cases_of_one, compare
from viscera.evaluation.confusion import BACKGROUND, MixUp, mix_ups
from viscera.evaluation.evaluate import Rules, ScoreAll, evaluate, read_own_organs
from viscera.evaluation.lesions import LESION_METRICS
from viscera.evaluation.merging import merge_evaluations, names_of_pairs
from viscera.evaluation.pairing import find_jobs
from viscera.evaluation.scores import ALL, GROUPS, UNANNOTATED, Evaluation, Summary
from viscera.io.atomic import write_text
from viscera.io.nifti import is_nifti, stem
from viscera.io.same_file import refuse_inputs
from viscera.io.scans import files_of
from viscera.labels import has_lesions, readable
from viscera.preparation.splits import of_split

if TYPE_CHECKING:
    from viscera.io.clusters import Address

SHOWN = {
    "volume": ("dice", "nsd", "iou", "hd95_mm", "volume_error_ml"),
    "slices": ("slice_dice", "slice_iou"),
    "flare": ("flare_dice", "flare_nsd", "dice", "nsd"),
}
"""The metrics of the table, the first two with their intervals."""

LESION_COLUMNS = ("organ", "lesions", "from 15 mm", "found", "from 15 mm found", "false per scan", "Dice of found ones")

VERSUS_COLUMNS = ("organ", "patients", "without partner", "difference (+: PREDICTION is higher)", "p (Wilcoxon)")


@dataclass(frozen=True)
class Options:
    """Measure predictions against the truth: per case and organ, and the mean with a 95 % interval over patients.

    Organs that a case's truth does not annotate get no score. Organs are matched by name, so truth and prediction may number
    them otherwise and split them otherwise (left and right kidney, kidney).
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="TRUTH PREDICTION [TRUTH PREDICTION ...]")]
    """Two files, two folders, or a data set as LAYOUT=DIR and the folder of its predictions; several such pairs are
    scored together."""
    mode: Literal["volume", "slices", "flare"] = "volume"
    """volume: Dice, IoU, surface Dice (NSD), 95 % Hausdorff distance, volumes; of tumours also how many of the lesions were found,
    and how many are false. slices: zhang2d's slice Dice and IoU, pooled
    over the slices that show the organ; kinder, since false finds elsewhere do not count. flare: those of volume, and beside
    them flare_dice and flare_nsd as FLARE23's official code computes them (absent organs count as 1; aorta, inferior vena
    cava and esophagus only where the truth shows them)."""
    tolerance_mm: float | None = None
    """Tolerance of the NSD for all organs, of flare_nsd too: FLARE21's is 1 mm. Else FLARE23's per organ."""
    json: Path | None = None
    """Write everything there; `viscera report` reads it."""
    csv: Path | None = None
    """Write one row per case and organ there."""
    html: Path | None = None
    """Write the report there, with pictures of the best and worst cases of data sets."""
    labels: Path | None = None
    """JSON {index: organ} for label files that have no NAME.json beside them."""
    annotated: tuple[Path, ...] = ()
    """Where TRUTH knows more organs than the data set of a case annotated for training: JSON {case: [organs]}, "*" for the
    others, or the prepared store of the training. One for all pairs, or one per pair. Scores of organs that a case's own
    data set annotates, and of others, are then given apart."""
    confusion: bool = False
    """Show the ten largest mix-ups: what is called what, missed, or found where nothing is. --json and --html have the
    whole matrix anyway."""
    versus: tuple[Path, ...] = ()
    """Other predictions of the same cases, one per pair: adds a paired comparison, PREDICTION minus these, so that a Dice
    above 0 says that PREDICTION is better (Wilcoxon)."""
    split: Literal["all", "training", "validation", "test"] = "all"
    """Of data sets, only the cases of this split of --run."""
    run: Path | None = None
    """The run whose split is meant."""
    jobs: int = 0
    """Cases scored at once; 0: one per core."""
    cluster: Where = None
    overwrite: bool = False
    """Replace files that stand there."""
    keep_going: bool = False
    """Exit with 0 even where cases could not be scored."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera evaluate", config=(FlagCreatePairsOff,))
    address = check(options)
    if address is None or options.json is None:
        return run(options, options.jobs or os.cpu_count() or 1)
    from viscera.evaluation.on_cluster import forget_kept, kept_beside, score_over

    kept = kept_beside(options.json)
    with workers_at(address) as cluster:
        code = run(options, partial(score_over, cluster, kept))
    forget_kept(kept)
    return code


def run(options: Options, workers: int | ScoreAll) -> int:
    """Score the predictions, show and write what came of them."""
    predictions = [Path(name) for name in options.files[1::2]]
    found = score_all(options, predictions, workers)
    show_scores(found)
    show_lesions(found)
    if found.of_group(UNANNOTATED):
        show_groups(found)
    if options.confusion:
        show_mix_ups(found)
    other = score_all(options, options.versus, workers) if options.versus else None
    if other is not None:
        show_comparison(found, other)
    if options.json:
        write_text(options.json, found.to_json())
    if options.csv:
        write_text(options.csv, found.to_csv())
    if options.html:
        write_html(options.html, options, found, predictions)
    for note in found.notes:
        say(f"note: {note}")
    for note in other.notes if other else ():
        if note not in found.notes:
            say(f"note: --versus: {note}")
    problems = [
        *found.problems,
        *(replace(row, case=f"{row.case} (--versus)") for row in (other.problems if other else ())),
    ]
    if problems:
        show_problems(problems)
    return 2 if problems and not options.keep_going else 0


def check(options: Options) -> "Address | None":
    """Raise SettingError or FileError for what cannot be, before anything is read; return what --cluster says."""
    if len(options.files) < 2 or len(options.files) % 2:
        raise SettingError(f"evaluate needs pairs of TRUTH and PREDICTION, got {', '.join(options.files)}.")
    if options.versus and len(options.versus) != len(options.files) // 2:
        raise SettingError(f"--versus needs one folder per pair, got {len(options.versus)}.")
    if len(options.annotated) not in (0, 1, len(options.files) // 2):
        raise SettingError(
            f"--annotated needs one file or store for all pairs, or one per pair, got {len(options.annotated)}."
        )
    if options.tolerance_mm is not None and options.mode == "slices":
        raise SettingError(
            "--tolerance-mm is for surfaces, which --mode slices does not judge", "Leave one of them out."
        )
    if options.confusion and options.mode == "slices":
        raise SettingError(
            "--confusion counts whole volumes, which --mode slices does not judge", "Leave one of them out."
        )
    if options.jobs < 0:
        raise SettingError(f"--jobs must not be negative, got {options.jobs}.")
    if options.cluster is not None and options.json is None:
        raise SettingError(
            "--cluster needs --json, beside which finished cases are kept until all are",
            "Add --json FILE on the shared disk.",
        )
    address = cluster_at(options.cluster, jobs=options.jobs)
    if options.labels and not options.labels.is_file():
        raise FileError(f"{options.labels}: no such file", "Check the path of --labels.")
    for file in (options.json, options.csv, options.html):
        if file and file.exists() and not options.overwrite:
            raise FileError(f"{file} exists already", "Choose another name or pass --overwrite.", file=file)
    names_of(options)
    refuse_inputs((options.json, options.csv, options.html), inputs_of(options))
    return address


def inputs_of(options: Options) -> list[Path]:
    """List the files and folders that are read, so that none is written to."""
    named = [path for path in (options.labels, options.run, *options.annotated, *options.versus) if path]
    for name in options.files:
        truth = Path(name) if is_path(name) else truth_of(options, name)[0]
        if isinstance(truth, Path):
            named.append(truth)
            continue
        named.append(Path(name.partition("=")[2]))
        for source in truth:
            named += [*files_of(source.image), *label_files(source)]
    return [*named, *(path.with_name(f"{stem(path)}.json") for path in named if is_nifti(path))]


def score_all(options: Options, predictions: Sequence[Path], workers: int | ScoreAll) -> Evaluation:
    """Score every pair, and put the scores together."""
    rules = Rules(options.mode, other_tolerance_mm=options.tolerance_mm)
    found = []
    own = [read_own_organs(path) for path in options.annotated] or [None]
    own *= len(predictions) if len(own) == 1 else 1
    for name, prediction, listed in zip(options.files[::2], predictions, own, strict=True):
        truth, notes = truth_of(options, name)
        with progress() as bar:
            task = bar.add_task(f"cases of {name}", total=len(find_jobs(truth, prediction)[0]))
            advance = partial(bar.advance, task, 1)
            one = evaluate(
                truth,
                prediction,
                labels=options.labels,
                rules=rules,
                workers=workers,
                done=lambda case, go=advance: go(),
                own=listed,
            )
            found.append(replace(one, notes=(*notes, *one.notes)))
    names, truths = names_of(options)
    return found[0] if len(found) == 1 else merge_evaluations(found, names, truths=truths)


def names_of(options: Options) -> tuple[list[str], list[str]]:
    """Return the name of each pair, and of each truth; see ``names_of_pairs``."""
    folders = [Path(name if is_path(name) else name.partition("=")[2]) for name in options.files[::2]]
    return names_of_pairs(folders, [Path(name) for name in options.files[1::2]])


def is_path(name: str) -> bool:
    """Tell a path from a data set named as LAYOUT=DIR."""
    return "=" not in name or Path(name).exists()


def truth_of(options: Options, name: str) -> tuple[Path | list[Source], tuple[str, ...]]:
    """Return the truth that a user named, a path or the cases of a data set, and a note on what of it is no case."""
    if not is_path(name):
        sources, problems = data_sets([name])
        notes = ()
        if problems and options.split == "all":
            reasons = ", ".join(f"{row.case or row.file} ({row.what})" for row in problems[:5])
            notes = (f"{len(problems)} entries of the data set are not cases, so not scored: {reasons}",)
        return of_split(sources, options.run, options.split), notes
    if options.split != "all":
        raise SettingError(f"--split {options.split} needs a data set as LAYOUT=DIR, not '{name}'.")
    return Path(name), ()


def show_scores(found: Evaluation, metrics: Sequence[str] = ()) -> None:
    """Show the means, the first two metrics' with their intervals; those of the mode where none are named."""
    metrics = metrics or SHOWN[found.mode]
    rows = [
        (
            readable(organ),
            str(values[metrics[0]].cases),
            *(mean_text(values.get(metric), interval=metric in metrics[:2]) for metric in metrics),
        )
        for organ, values in means_of(found).items()
        if metrics[0] in values
    ]
    if rows:
        show_table("Mean [95 % interval over patients]", ("organ", "cases", *metrics), rows)


def means_of(found: Evaluation) -> dict[str, dict[str, Summary]]:
    """Return {organ: {metric: its mean}}, of all scores."""
    means: dict[str, dict[str, Summary]] = {}
    for row in found.of_group(ALL):
        means.setdefault(row.organ, {})[row.metric] = row
    return means


def show_lesions(found: Evaluation) -> None:
    """Show how many lesions were found, where truth or prediction may hold any."""
    rows = []
    for organ, means in means_of(found).items():
        if not has_lesions(organ) or means.keys().isdisjoint(LESION_METRICS):
            continue
        scores = [score.values for score in found.scores if score.organ == organ]
        counts = [str(int(sum(values.get(name, 0) for values in scores))) for name in ("lesions", "large_lesions")]
        rows.append((readable(organ), *counts, *(mean_text(means.get(name), interval=True) for name in LESION_METRICS)))
    if rows:
        show_table("Lesions [95 % interval over patients]", LESION_COLUMNS, rows)


def show_groups(found: Evaluation) -> None:
    """Show the means of organs that the case's own data set annotates beside those of organs that it does not."""
    metric = SHOWN[found.mode][0]
    by_group = {group: {row.organ: row for row in found.of_group(group) if row.metric == metric} for group in GROUPS}
    rows = []
    for organ in dict.fromkeys(row.organ for row in found.of_group(ALL) if row.metric == metric):
        means = [by_group[group].get(organ) for group in GROUPS]
        rows.append(
            (
                readable(organ),
                *(text for row in means for text in (str(row.cases if row else 0), mean_text(row, interval=True))),
            )
        )
    columns = ("organ", "cases, annotated", f"{metric}, annotated", "cases, unannotated", f"{metric}, unannotated")
    show_table("Organs that the case's own data set annotates, and others", columns, rows)


def show_mix_ups(found: Evaluation) -> None:
    """Show the largest mix-ups; shares are of the true volume of the organ that is named first."""
    rows = [
        (describe_mix_up(entry), f"{entry.ml:.1f}", per_cent(entry.share), per_cent(entry.back))
        for entry in (mix_ups(found.confusion) if found.confusion else [])
    ]
    if rows:
        show_table("Largest mix-ups, of the organ's true volume", ("mix-up", "ml", "share", "other way round"), rows)
    else:
        say("No confusions found.")


def describe_mix_up(entry: MixUp) -> str:
    """Say what is mistaken for what.

    Example:
        >>> describe_mix_up(MixUp("spleen", "liver", 9.0, 0.1, 0.0))
        'spleen called liver'
        >>> describe_mix_up(MixUp("spleen", "background", 9.0, 0.1, 0.0))
        'spleen missed'
        >>> describe_mix_up(MixUp("background", "spleen", 9.0, 0.1, 0.0))
        'spleen found in background'
    """
    truth, predicted = readable(entry.truth), readable(entry.predicted)
    if entry.truth == BACKGROUND:
        return f"{predicted} found in background"
    return f"{truth} missed" if entry.predicted == BACKGROUND else f"{truth} called {predicted}"


def per_cent(share: float) -> str:
    """Return a share for people, "-" where the organ is shown by no truth."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def mean_text(row: Summary | None, *, interval: bool) -> str:
    """Return a mean, perhaps with its interval, and how many scores it leaves out.

    Example:
        >>> mean_text(Summary("liver", "hd95_mm", 4.25, math.nan, math.nan, 3, left_out=2), interval=True)
        '4.2 (2 left out)'
    """
    if row is None:
        return "-"
    without = f" ({row.left_out} left out)" if row.left_out else ""
    if math.isnan(row.mean):
        return f"-{without}"
    digits = 1 if row.metric.endswith(("_mm", "_ml")) else 3
    mean = f"{row.mean:.{digits}f}"
    between = f" [{row.low:.{digits}f}, {row.high:.{digits}f}]" if interval and not math.isnan(row.low) else ""
    return f"{mean}{between}{without}"


def show_comparison(second: Evaluation, first: Evaluation) -> None:
    """Show by how much these predictions differ from the other ones, of both groups of scores and of each.

    Args:
        second: Of PREDICTION.
        first: Of --versus, which is subtracted.
    """
    metric = SHOWN[second.mode][0]
    for group in (ALL, *GROUPS) if second.of_group(UNANNOTATED) else (ALL,):
        rows = [
            (
                readable(row.organ),
                str(row.patients),
                str(row.left_out),
                f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]",
                f"{row.p_value:.3g}",
            )
            for row in compare(first.scores, second.scores, np.random.default_rng(0), metric=metric, group=group)
        ]
        title = f"{metric}: PREDICTION minus --versus" + (f", {group} organs" if group != ALL else "")
        show_table(title, VERSUS_COLUMNS, rows)
    if cases := cases_of_one(first.scores, second.scores):
        say(
            f"note: {len(cases)} cases that only one of the two has scored are in no difference: {', '.join(cases[:5])}"
        )


def write_html(html: Path, options: Options, found: Evaluation, predictions: Sequence[Path]) -> None:
    """Write the report, with pictures where the scans are known: those of data sets."""
    from viscera.reports.scores import CaseFiles
    from viscera.reports.write import write_report

    pictures = []
    for name, prediction, called in zip(options.files[::2], predictions, names_of(options)[0], strict=True):
        truth, _ = truth_of(options, name)
        if isinstance(truth, list):
            prefix = f"{called}/" if len(predictions) > 1 else ""
            pictures += [
                CaseFiles(f"{prefix}{job.case}", job.truth.image, job, options.labels)
                for job in find_jobs(truth, prediction)[0]
                if isinstance(job.truth, Source)
            ]
    write_report(found, html, pictures=pictures, overwrite=options.overwrite)
