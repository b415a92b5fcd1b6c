"""The page of an evaluation: means with intervals, charts, signs of doubt, best and worst cases with pictures, every score."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from viscera.errors import VisceraError
from viscera.evaluation.confusion import BACKGROUND, Confusion, MixUp, mix_ups
from viscera.evaluation.pairing import ScoringJob, match
from viscera.evaluation.scores import ALL, ANNOTATED, GROUPS, MEAN, UNANNOTATED, Evaluation, Summary
from viscera.figures.confusion import confusion_figure
from viscera.figures.montage import Look, montage
from viscera.figures.scores import dice_bars, dice_boxes
from viscera.io import scans
from viscera.io.scans import Scan
from viscera.labels import readable
from viscera.reports.flare import efficiency_section, targets_section
from viscera.reports.page import (
    MISSING,
    Cell,
    Page,
    Row,
    Section,
    Table,
    chart,
    counted,
    number_cell,
    png_base64,
    problem_table,
    without_folders,
)
from viscera.reports.trust import trust_section
from viscera.volume import with_voxels

METRICS: dict[str, tuple[str, int]] = {
    "flare_dice": ("FLARE DSC", 3),
    "flare_nsd": ("FLARE NSD", 3),
    "dice": ("Dice", 3),
    "iou": ("IoU", 3),
    "slice_dice": ("slice Dice", 3),
    "slice_iou": ("slice IoU", 3),
    "nsd": ("NSD", 3),
    "hd95_mm": ("HD95, mm", 1),
    "truth_ml": ("truth, ml", 1),
    "prediction_ml": ("prediction, ml", 1),
    "volume_error_ml": ("volume error, ml", 1),
    "tolerance_mm": ("tolerance, mm", 1),
    "lesion_sensitivity": ("share of lesions found", 3),
    "large_lesion_sensitivity": ("share of lesions from 15 mm found", 3),
    "false_lesions": ("false lesions per scan", 2),
    "lesion_dice": ("Dice of found lesions", 3),
    "lesions": ("lesions", 0),
    "lesions_found": ("lesions found", 0),
    "large_lesions": ("lesions from 15 mm", 0),
    "large_lesions_found": ("lesions from 15 mm found", 0),
}
"""{name in the evaluation: (heading, digits)}."""

FRACTIONS = (
    *("flare_dice", "flare_nsd", "dice", "iou", "slice_dice", "slice_iou", "nsd"),
    *("lesion_sensitivity", "large_lesion_sensitivity", "lesion_dice"),
)
"""Metrics in [0, 1], drawn with a bar."""

LEADING = {"slices": "slice_dice", "flare": "flare_dice"}
"""{mode: metric that is drawn and ranks the cases}; "dice" for other modes."""

SHOWN_PER_END = 2
"""Montages of so many of the worst and of the best cases."""

SMALLEST_MIX_UP = 0.005
"""Smaller shares of an organ are not put into words."""

MOST_MIX_UPS = 8

LOOK = Look(axial=3, coronal=1, panel_pixels=330)

MODES = {
    "volume": "Scores of whole volumes on the scanner's grid, per case and organ.",
    "flare": "Scores as the official code of FLARE23 gives them, and beside them those of whole volumes without its "
    "oddities, per case and organ.",
    "slices": "Pooled over the slices on which the truth shows the organ, as in Zhang 2025. False positives on other "
    "slices do not count: not to be compared with scores of whole volumes.",
}


@dataclass(frozen=True)
class CaseFiles:
    """Where the files of a case are, for its picture.

    Attributes:
        title: The case's name in the evaluation.
        ct: The scan.
        job: Its truth and its prediction.
        labels: A JSON file of names for label files that have none beside them.
    """

    title: str
    ct: Scan
    job: ScoringJob
    labels: Path | None = None


def evaluation_page(evaluation: Evaluation, title: str, pictures: Sequence[CaseFiles] = ()) -> Page:
    """Return the page of an evaluation.

    Args:
        evaluation: What is shown.
        title: Its name.
        pictures: Cases of which montages can be made. The best and the worst of those that have a score are drawn.
    """
    metric = LEADING.get(evaluation.mode, "dice")
    values = _by_case(evaluation, metric)
    ranking = sorted(
        ((case, sum(scores.values()) / len(scores)) for case, scores in values.items()), key=lambda entry: entry[1]
    )
    sections = [_accuracy(evaluation, metric)]
    if evaluation.mode == "flare":
        sections.append(targets_section(evaluation))
    if evaluation.of_group(UNANNOTATED):
        sections.append(_groups(evaluation, metric))
    if ranking:
        sections.append(_charts(evaluation, metric))
    if evaluation.scores:
        # An organ that truth and prediction lack has FLARE's best score, so that signs are held against the plain one.
        held = "slice_dice" if evaluation.mode == "slices" else "dice"
        sections.append(trust_section(evaluation.scores, evaluation.trust, metric=held, name=_heading(held)))
    if ranking:
        text = f"By the mean {_heading(metric)} over the organs that each case annotates."
        sections.append(Section("Worst and best cases", text, table=_ranking_table(values, ranking, metric)))
    if evaluation.confusion is not None:
        sections.append(_confusion(evaluation.confusion))
    shown = _chosen(pictures, [case for case, _ in ranking])
    if shown:
        sections.append(_pictures(shown))
    if evaluation.efficiency:
        sections.append(efficiency_section(evaluation.efficiency))
    if evaluation.problems:
        text = "These cases have no score and are in no mean."
        sections.append(Section("Problems", text, table=problem_table(evaluation.problems)))
    if evaluation.notes:
        sections.append(Section("Notes", notes=tuple(without_folders(note) for note in evaluation.notes)))
    sections.append(Section("Every score", "Click on a heading to sort.", table=_case_table(evaluation)))
    subtitle = MODES.get(evaluation.mode, f"Mode {evaluation.mode}.")
    return Page("Evaluation", title, subtitle, _tiles(evaluation), tuple(sections))


def picture(case: CaseFiles, look: Look = LOOK) -> str:
    """Draw the montage of a case, and return the PNG in base64. Voxels of unknown truth are shown as background.

    Raises:
        VisceraError: Its files cannot be used.
    """
    pair, _ = match(case.job, labels=case.labels)
    prediction = pair.prediction
    if pair.known is not None:  # they have no score either
        prediction = with_voxels(prediction, prediction.voxels * pair.known)
    return png_base64(
        lambda out: montage(
            scans.read(case.ct),
            prediction,
            truth=pair.truth,
            names=pair.space.labels,
            annotated=pair.annotated,
            out=out,
            look=look,
        )
    )


def _tiles(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    tiles = [
        ("cases", str(len({score.case for score in evaluation.scores}))),
        ("organs", str(len({score.organ for score in evaluation.scores}))),
    ]
    if evaluation.problems:
        tiles.append(("problems", str(len(evaluation.problems))))
    means = {row.metric: row.mean for row in evaluation.of_group(ALL) if row.organ == MEAN and math.isfinite(row.mean)}
    tiles += [(f"mean {_heading(metric)}", f"{means[metric]:.3f}") for metric in FRACTIONS if metric in means]
    return tuple(tiles)


def _accuracy(evaluation: Evaluation, metric: str) -> Section:
    """Return the first section: what was measured on how much, and the means."""
    organs, cases = ({getattr(score, name) for score in evaluation.scores} for name in ("organ", "case"))
    title = "Accuracy"
    if evaluation.scores:
        title += (
            f": {_heading(metric)} of {counted(len(organs), 'organ')} on {counted(len(cases), 'case')} against truth"
        )
    text = "Mean over cases, with the bootstrap 95 % interval over patients in brackets; 1 is perfect."
    if any(row.metric == "hd95_mm" for row in evaluation.summary):
        text += (
            " HD95 and the volume error are perfect at 0. An organ that was missed, or found where none is, counts as 0, but "
            "has no HD95: how many are left out of its mean stands beside it."
        )
    return Section(title, text, table=_summary_table(evaluation))


def _by_case(evaluation: Evaluation, metric: str) -> dict[str, dict[str, float]]:
    """Return {case: {organ: score}}, without what is not finite."""
    values: dict[str, dict[str, float]] = {}
    for score in evaluation.scores:
        value = score.values.get(metric, math.nan)
        if math.isfinite(value):
            values.setdefault(score.case, {})[score.organ] = value
    return values


def _charts(evaluation: Evaluation, metric: str) -> Section:
    per_organ: dict[str, list[float]] = {score.organ: [] for score in evaluation.scores}
    for score in evaluation.scores:
        value = score.values.get(metric, math.nan)
        if math.isfinite(value):
            per_organ[score.organ].append(value)
    name = _heading(metric)
    charts = [chart(dice_boxes(per_organ, metric=name), f"{name} per case")]
    means = [row for row in evaluation.of_group(ALL) if row.metric == metric and math.isfinite(row.mean)]
    if means:
        means.sort(key=lambda row: row.organ == MEAN)
        charts.append(chart(dice_bars(means, metric=name), f"mean {name}"))
    text = "The number of cases is in brackets. An organ that a case does not annotate has no score there."
    return Section(f"{name[0].upper()}{name[1:]} per organ", text, charts=tuple(charts))


def _groups(evaluation: Evaluation, metric: str) -> Section:
    """Put the two groups of scores side by side, one row per organ."""
    name = _heading(metric)
    found = {(row.organ, group): row for group in GROUPS for row in evaluation.of_group(group) if row.metric == metric}
    rows = []
    for organ in dict.fromkeys(row.organ for row in evaluation.of_group(ALL) if row.metric == metric):
        cells = []
        for group in GROUPS:
            row = found.get((organ, group))
            cases = row.cases if row else 0
            cells += [Cell(str(cases), number=cases), _mean_cell(row, metric, cases)]
        rows.append(Row((Cell(readable(organ)), *cells), total=organ == MEAN))
    rows.sort(key=lambda row: row.total)
    columns = ("organ", "cases, annotated", f"{name}, annotated", "cases, unannotated", f"{name}, unannotated")
    text = (
        "Annotated: by the case's own data set. Unannotated: by other data sets only, so that the network never saw this "
        "organ's labels in scans of this one; the truth of this evaluation knows it. The two means may be over different "
        "organs."
    )
    return Section("Organs that the case's own data set annotates, and others", text, table=Table(columns, tuple(rows)))


def _confusion(confusion: Confusion) -> Section:
    """Draw the matrix, and tell the largest mix-ups, each pair of classes once with both directions."""
    pairs: dict[frozenset[str], MixUp] = {}
    for entry in mix_ups(confusion, most=len(confusion.classes) ** 2):
        if not entry.share < SMALLEST_MIX_UP:
            pairs.setdefault(frozenset((entry.truth, entry.predicted)), entry)
    text = (
        "Voxels of all cases, as parts of what they truly are; numbers from 1 % on, hatched where no truth shows the "
        "organ. Of each case only what its truth can tell: no row for an organ that it does not annotate, and such an "
        "organ found in the background is not counted, since it may be right."
    )
    notes = [_sentence(entry) for entry in list(pairs.values())[:MOST_MIX_UPS]]
    figure = chart(confusion_figure(confusion), "confusion matrix")
    return Section("What is mistaken for what", text, charts=(figure,), notes=tuple(notes))


def _sentence(entry: MixUp) -> str:
    """Return a mix-up and the one the other way round as a sentence."""
    truth, predicted = readable(entry.truth), readable(entry.predicted)
    amount, share, back = f"({entry.ml:.1f} ml)", _per_cent(entry.share), _per_cent(entry.back)
    if entry.truth == BACKGROUND and math.isnan(entry.share):
        return f"{predicted}: found where none of the organs is {amount}, though no truth shows any."
    if entry.truth == BACKGROUND:
        return (
            f"{predicted}: {share} of its true volume {amount} is found where none of the organs is; {back} is missed."
        )
    if entry.predicted == BACKGROUND:
        return f"{truth}: {share} {amount} is missed; {back} of its true volume is found where none of the organs is."
    return f"{truth}: {share} {amount} is called {predicted}; {back} of {predicted} is called {truth}."


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _pictures(shown: Sequence[tuple[str, CaseFiles]]) -> Section:
    """Draw cases, given as (caption, files); those that cannot be drawn get a sentence."""
    images, notes = [], []
    for caption, case in shown:
        try:
            images.append((caption, picture(case)))
        except VisceraError as error:
            files = (case.ct, case.job.prediction, case.job.truth)
            reason = without_folders(str(error), *(str(file) for file in files if isinstance(file, Path)))
            notes.append(f"No picture of {caption}. {reason}")
    text = (
        "The patient's right is on the left of each picture. Yellow: agreement; green: false; red: missed; "
        "purple: another organ; grey: not annotated, so neither right nor wrong."
    )
    return Section("Pictures", text, images=tuple(images), notes=tuple(notes))


def _chosen(pictures: Sequence[CaseFiles], ranked: Sequence[str]) -> list[tuple[str, CaseFiles]]:
    """Return (caption, case): the worst and best of the ranked cases that can be drawn."""
    places = {case: place for place, case in enumerate(ranked, start=1)}
    known = sorted((case for case in pictures if case.title in places), key=lambda case: places[case.title])
    if len(known) > 2 * SHOWN_PER_END:
        known = known[:SHOWN_PER_END] + known[-SHOWN_PER_END:]
    return [(f"{case.title}: place {places[case.title]} of {len(ranked)} from the worst", case) for case in known]


def _ranking_table(
    values: Mapping[str, Mapping[str, float]], ranking: Sequence[tuple[str, float]], metric: str
) -> Table:
    """Show both ends of the ranking, with the organ that is worst in each case."""
    rows = []
    for case, mean in dict([*ranking[:5], *ranking[-5:]]).items():
        organs = values[case]
        worst = min(organs, key=organs.__getitem__)
        rows.append(
            Row((Cell(case), Cell(readable(worst)), number_cell(mean, bar=True), number_cell(organs[worst], bar=True)))
        )
    name = _heading(metric)
    return Table(("case", "worst organ", f"mean {name}", f"its {name}"), tuple(rows), words=2)


def _summary_table(evaluation: Evaluation) -> Table:
    """Put organs in rows, the mean last, and metrics in columns."""
    found: dict[str, dict[str, Summary]] = {}
    for row in evaluation.of_group(ALL):
        found.setdefault(row.organ, {})[row.metric] = row
    metrics = _ordered(row.metric for row in evaluation.summary)
    rows = []
    for organ in sorted(found, key=lambda organ: organ == MEAN):
        cases = max(row.cases for row in found[organ].values())
        cells = [_mean_cell(found[organ].get(metric), metric, cases) for metric in metrics]
        rows.append(Row((Cell(readable(organ)), Cell(str(cases), number=cases), *cells), total=organ == MEAN))
    return Table(("organ", "cases", *(_heading(metric) for metric in metrics)), tuple(rows))


def _mean_cell(row: Summary | None, metric: str, cases: int) -> Cell:
    """Return a mean with its interval, and its number of cases where that is less than the organ's."""
    if row is None:
        return Cell(MISSING)
    digits = _digits(metric)
    cell = number_cell(row.mean, digits=digits, bar=metric in FRACTIONS)
    small = []
    if math.isfinite(row.low) and math.isfinite(row.high):
        small.append(f"[{row.low:.{digits}f}, {row.high:.{digits}f}]")
    if row.cases < cases:
        small.append(f"of {row.cases}")
    if row.left_out:
        small.append(f"{row.left_out} left out")
    return replace(cell, small=" ".join(small))


def _case_table(evaluation: Evaluation) -> Table:
    metrics = _ordered(metric for score in evaluation.scores for metric in score.values)
    apart = any(score.group != ANNOTATED for score in evaluation.scores)
    rows = []
    for score in evaluation.scores:
        words = [Cell(score.case), Cell(readable(score.organ)), *([Cell(score.group)] * apart)]
        cells = [number_cell(score.values.get(m), digits=_digits(m), bar=m in FRACTIONS) for m in metrics]
        rows.append(Row((*words, *cells)))
    names = ("case", "organ", *(("own data set",) * apart))
    return Table((*names, *(_heading(metric) for metric in metrics)), tuple(rows), words=len(names))


def _ordered(metrics: Iterable[str]) -> list[str]:
    """Return each metric once: those known in the order of METRICS, then the others."""
    given = dict.fromkeys(metrics)
    return [metric for metric in METRICS if metric in given] + [metric for metric in given if metric not in METRICS]


def _heading(metric: str) -> str:
    return METRICS.get(metric, (metric, 3))[0]


def _digits(metric: str) -> int:
    return METRICS.get(metric, (metric, 3))[1]
