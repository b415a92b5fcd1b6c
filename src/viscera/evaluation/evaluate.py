"""Scores of predictions against truth: what each organ of each case gets, over files and folders.

An organ that a case's truth does not annotate has no row: neither 0 nor 1. What the numbers mean is in metrics.py, of lesions in
lesions.py; what belongs together in pairing.py; what the case's own data set annotates in source_annotations.py; FLARE's rules in
flare.py; summaries, intervals and comparisons in statistics.py and comparing.py; mix-ups in confusion.py; sets in merging.py.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from viscera.datasets.sources import Problem, Source
from viscera.errors import SettingError, VisceraError
from viscera.evaluation.confusion import Confusion, merge, tally
from viscera.evaluation.flare import flare_scores
from viscera.evaluation.lesions import lesion_scores
from viscera.evaluation.metrics import confusion, organ_boxes, overlap, surface_scores
from viscera.evaluation.pairing import Pair, ScoringJob, case_name, find_jobs, match
from viscera.evaluation.scores import ANNOTATED, UNANNOTATED, Evaluation, OrganScore
from viscera.evaluation.source_annotations import OwnOrgans, half_annotated, is_annotated, own_organs, read_own_organs
from viscera.evaluation.statistics import summarise
from viscera.io.label_names import read_names
from viscera.io.nifti import stem
from viscera.io.spacing import header_spacing_mm
from viscera.labels import PART_OF, has_lesions
from viscera.quality.efficiency import CaseEfficiency, read_case_efficiency
from viscera.quality.flags import CaseTrust, read_case_trust
from viscera.volume import require_same_grid, to_axial, with_voxels

__all__ = [
    "TOLERANCES_MM",
    "OwnOrgans",
    "Pair",
    "Rules",
    "ScoringJob",
    "case_confusion",
    "evaluate",
    "evaluate_pair",
    "find_jobs",
    "match",
    "read_names",
    "read_own_organs",
    "score_case",
]

Mode = Literal["volume", "slices", "flare"]

TOLERANCES_MM: dict[str, float] = {
    "liver": 5.0,
    "kidney": 3.0,
    "spleen": 3.0,
    "pancreas": 5.0,
    "aorta": 2.0,
    "inferior_vena_cava": 2.0,
    "adrenal_gland": 2.0,
    "gallbladder": 2.0,
    "esophagus": 3.0,
    "stomach": 5.0,
    "duodenum": 7.0,
    "tumour": 2.0,
    "liver_tumour": 2.0,
    "kidney_tumour": 2.0,
    "pancreas_tumour": 2.0,
    "colon_tumour": 2.0,
}
"""NSD tolerances of FLARE22 and FLARE23 (their evaluation code); a side has its whole's."""

OTHER_TOLERANCE_MM = 3.0
"""For organs that FLARE does not score: its value for kidney, spleen and esophagus, about one thick slice."""


@dataclass(frozen=True)
class Rules:
    """How to score.

    Attributes:
        mode: "volume": whole volumes. "slices": zhang2d's slice Dice and IoU, with names of their own. "flare": also
            by the official code of FLARE23, with names of their own.
        tolerances_mm: {organ: tolerance of the NSD}, over TOLERANCES_MM.
        other_tolerance_mm: Of every organ that ``tolerances_mm`` does not name; None: TOLERANCES_MM. FLARE21 has 1.
    """

    mode: Mode = "volume"
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    other_tolerance_mm: float | None = None

    def __post_init__(self) -> None:
        """Raise SettingError for a tolerance that is negative or not finite."""
        for value in (*self.tolerances_mm.values(), self.other_tolerance_mm or 0.0):
            if not (value >= 0 and math.isfinite(value)):
                raise SettingError(f"a tolerance of the surface Dice is {value:g} mm", "Give 0 mm or more.")

    def tolerance_mm(self, organ: str) -> float:
        """Return the tolerance of an organ, else of the whole that it is part of, else OTHER_TOLERANCE_MM."""
        names = (organ, PART_OF.get(organ, organ))
        for table in (self.tolerances_mm, TOLERANCES_MM if self.other_tolerance_mm is None else {}):
            for name in names:
                if name in table:
                    return table[name]
        return OTHER_TOLERANCE_MM if self.other_tolerance_mm is None else self.other_tolerance_mm


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    scores: Sequence[OrganScore] = ()
    confusion: Confusion | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


ScoringCase = tuple[ScoringJob, tuple[str, ...] | None]
"""A case, and the organs that its own data set annotates; None: all."""
ScoreAll = Callable[[Rules, Path | None, Sequence[ScoringCase]], Iterable[tuple[int, Outcome]]]
"""Yields the number of each case, and what came of it, in any order."""


def score_case(pair: Pair, rules: Rules = Rules(), *, own: Collection[str] | None = None) -> list[OrganScore]:
    """Score one case, one row per annotated organ of the space.

    Mode "volume": dice, iou, nsd, hd95_mm, truth_ml, prediction_ml, volume_error_ml (prediction minus truth) and
    tolerance_mm. An organ that is absent from truth and prediction has NaN for all four scores; a false find of an
    absent organ, or a missed one, has 0, 0, 0 and infinity. Of tumours also what ``lesion_scores`` counts.

    Mode "slices": slice_dice and slice_iou, from voxels counted together over the axial slices on which the truth shows
    the organ; NaN if none does. What the network finds on other slices does not count, so these are kinder.

    Mode "flare": all of mode "volume", and flare_dice and flare_nsd by the official code, see ``flare_scores``.

    Args:
        pair: The case.
        rules: How to score.
        own: Organs that the case's own data set annotates; scores of others are of the group "unannotated". None: all.

    Raises:
        GeometryError: The grids differ.
        LabelError: A label outside of the space.

    Source:
        slices: Zhang 2025, equations 3 and 4, and the README of its code. Departs: the original does not say whether
        counts or ratios are averaged over slices; here counts are pooled within a case, and cases averaged.
    """
    return list(_judge(pair, rules, own).scores)


def case_confusion(pair: Pair) -> Confusion:
    """Return a case's confusion matrix of whole volumes: what its truth can tell, see ``mixups.tally``.

    Raises:
        GeometryError: The grids differ.
        LabelError: A label outside of the space.
    """
    truth, prediction = _known_labels(pair)
    return _tallied(pair, confusion(truth, prediction, len(pair.space.classes)))


def _known_labels(pair: Pair) -> tuple[UInt8[np.ndarray, "z y x"], UInt8[np.ndarray, "z y x"]]:
    """Return the labels of truth and prediction, both 0 where the truth is not known."""
    require_same_grid(pair.truth, pair.prediction, where=pair.case)
    truth, prediction = pair.truth.voxels, pair.prediction.voxels
    return (truth, prediction) if pair.known is None else (truth * pair.known, prediction * pair.known)


def _tallied(pair: Pair, counts: Int[np.ndarray, "classes classes"]) -> Confusion:
    """Make a matrix of the voxels of each pair of classes, all of those that are not known being background in both."""
    known = counts.copy()
    if pair.known is not None:
        known[0, 0] -= pair.known.size - np.count_nonzero(pair.known)
    return tally(known, pair.space, pair.annotated, voxel_ml=pair.truth.voxel_ml)


def _judge(pair: Pair, rules: Rules, own: Collection[str] | None) -> Outcome:
    """Return the scores of a case and, of whole volumes, its confusion matrix."""
    truth, prediction = _known_labels(pair)
    organs = [(organ, index) for index, organ in pair.space.labels.items() if organ in pair.annotated]
    matrix = None
    if rules.mode == "slices":
        axial = [to_axial(with_voxels(pair.truth, voxels))[0].voxels for voxels in (truth, prediction)]
        values = _slice_values(axial[0], axial[1], organs)
    else:
        counts = confusion(truth, prediction, len(pair.space.classes))
        values = _volume_values(pair, truth, prediction, rules=rules, counts=counts)
        matrix = _tallied(pair, counts)
    scores = [
        OrganScore(
            pair.case,
            pair.patient,
            organ,
            values[organ],
            ANNOTATED if own is None or is_annotated(organ, own) else UNANNOTATED,
        )
        for organ, _ in organs
    ]
    halves = half_annotated((organ for organ, _ in organs), own or ())
    notes = [f"{organ}: only one side is annotated in its own data set, so unannotated" for organ in halves]
    thin = [organ for organ, _ in organs if math.isnan(values[organ].get("flare_dice", 0.0))]
    notes += [f"{pair.case}: {organ} is on one slice of the truth, so FLARE's code has no score" for organ in thin]
    return Outcome(scores, matrix, tuple(notes))


def _volume_values(
    pair: Pair,
    truth: UInt8[np.ndarray, "z y x"],
    prediction: UInt8[np.ndarray, "z y x"],
    *,
    rules: Rules,
    counts: Int[np.ndarray, "classes classes"],
) -> dict[str, dict[str, float]]:
    """Return the scores of whole volumes for each annotated organ; ``counts`` are the voxels of each pair of classes."""
    boxes = [organ_boxes(labels, len(pair.space.organs)) for labels in (truth, prediction)]
    spacing_mm, voxel_ml = header_spacing_mm(pair.truth), pair.truth.voxel_ml
    values = {}
    for organ in pair.annotated:
        index, tolerance_mm = pair.space.index(organ), rules.tolerance_mm(organ)
        score = overlap(counts, index)
        nsd, hd95_mm = math.nan, math.nan
        masks = [np.zeros((0, 0, 0), bool)] * 2
        box = _union(boxes[0][index - 1], boxes[1][index - 1])
        if box is not None:
            masks = [labels[box] == index for labels in (truth, prediction)]
            surfaces = surface_scores(masks[0], masks[1], spacing_mm, tolerance_mm=tolerance_mm)
            nsd, hd95_mm = surfaces.nsd, surfaces.hd95_mm
        values[organ] = {
            "dice": score.dice,
            "iou": score.iou,
            "nsd": nsd,
            "hd95_mm": hd95_mm,
            "truth_ml": score.truth_voxels * voxel_ml,
            "prediction_ml": score.prediction_voxels * voxel_ml,
            "volume_error_ml": (score.prediction_voxels - score.truth_voxels) * voxel_ml,
            "tolerance_mm": tolerance_mm,
        }
        if has_lesions(organ):
            values[organ] |= lesion_scores(masks[0], masks[1], voxel_ml=voxel_ml)
        if rules.mode == "flare":
            flare = flare_scores(masks[0], masks[1], spacing_mm, organ=organ, tolerance_mm=tolerance_mm, nsd=nsd)
            values[organ] |= {"flare_dice": flare.dice, "flare_nsd": flare.nsd}
    return values


def _slice_values(
    truth: Shaped[np.ndarray, "z y x"], prediction: Shaped[np.ndarray, "z y x"], organs: Sequence[tuple[str, int]]
) -> dict[str, dict[str, float]]:
    """Return slice Dice and IoU of each organ; slices are along the first axis."""
    classes = max((index for _, index in organs), default=0) + 1
    classes = max(classes, int(truth.max(initial=0)) + 1, int(prediction.max(initial=0)) + 1)
    tables = np.zeros((truth.shape[0], classes, classes), np.int64)
    for number, (rows, columns) in enumerate(zip(truth, prediction, strict=True)):
        tables[number] = confusion(rows, columns, classes)
    values = {}
    for organ, index in organs:
        shown = tables[tables[:, index].sum(axis=1) > 0].sum(axis=0)
        score = overlap(shown, index)
        values[organ] = {"slice_dice": score.dice, "slice_iou": score.iou}
    return values


def _union(a: tuple[slice, ...] | None, b: tuple[slice, ...] | None) -> tuple[slice, ...] | None:
    """Return the smallest box that holds both."""
    if a is None or b is None:
        return a or b
    return tuple(slice(min(one.start, two.start), max(one.stop, two.stop)) for one, two in zip(a, b, strict=True))


def evaluate_pair(
    truth: Path,
    prediction: Path,
    *,
    labels: Path | None = None,
    rules: Rules = Rules(),
    own: OwnOrgans | None = None,
) -> tuple[list[OrganScore], tuple[str, ...]]:
    """Score one prediction against one truth, both files.

    Args:
        truth: Label file.
        prediction: Label file on the same grid.
        labels: A JSON file of names for files that have none beside them.
        rules: How to score.
        own: Which organs each case's own data set annotates; None: all.

    Returns:
        Scores, and notes on organs that were merged or left out.

    Raises:
        FileError, GeometryError, LabelError: The files cannot be used or do not fit each other.
        DataSetError, LabelError: ``own`` does not fit the case.
    """
    job = ScoringJob(case_name(prediction), prediction, truth)
    listed = own_organs(own, [job], labels=labels)[0] if own else None
    pair, notes = match(job, labels=labels)
    found = _judge(pair, rules, listed)
    return list(found.scores), (*notes, *found.notes)


def evaluate(
    truth: Path | Sequence[Source],
    prediction: Path,
    *,
    labels: Path | None = None,
    rules: Rules = Rules(),
    workers: int | ScoreAll = 1,
    done: Callable[[str], None] = lambda case: None,
    own: OwnOrgans | None = None,
) -> Evaluation:
    """Score all predictions of a file or folder. A case that cannot be scored is a problem and does not stop the rest.

    Args:
        truth: A label file, a folder of them, or the cases of a data set.
        prediction: A label file, or a folder of them.
        labels: A JSON file of names for label files that have none beside them.
        rules: How to score.
        workers: Cases scored at a time; or who scores them elsewhere, as ``score_over`` (on_cluster.py).
        done: Called with the name of each case that is finished.
        own: Which organs each case's own data set annotates, where the truth annotates more; None: all.

    Raises:
        FileError: There is nothing to compare.
        DataSetError: ``own`` says nothing of a case.
        LabelError: It lists an organ that neither truth nor prediction can hold.
    """
    jobs, problems, notes = find_jobs(truth, prediction)
    listed = own_organs(own, jobs, labels=labels) if own else [None] * len(jobs)
    cases = list(zip(jobs, listed, strict=True))
    found: dict[int, Outcome] = {}
    score_all = partial(_score_here, workers) if isinstance(workers, int) else workers
    for index, outcome in score_all(rules, labels, cases):
        found[index] = outcome
        done(jobs[index].case)
    results = [found[index] for index in range(len(cases))]
    scores = tuple(score for result in results for score in result.scores)
    remarks = dict.fromkeys(note for result in results for note in result.notes)
    if own and own.is_store:
        untaught = {score.organ for score in scores} - own.taught({score.organ for score in scores})
        scores = tuple(score for score in scores if score.organ not in untaught)
        if untaught:
            remarks[f"no case of {own.where.name} annotates {', '.join(sorted(untaught))}: not scored"] = None
    # A fixed seed: the same files give the same intervals.
    summary = summarise(scores, np.random.default_rng(0))
    if own and scores and all(score.group == ANNOTATED for score in scores):
        remarks["every organ that is scored is annotated in its case's own data set"] = None
    problems = (*problems, *(problem for result in results for problem in result.problems))
    matrix = merge(result.confusion for result in results if result.confusion)
    return Evaluation(rules.mode, scores, summary, problems, (*notes, *remarks), matrix, _costs(jobs), _trusts(jobs))


def _score_here(
    workers: int, rules: Rules, labels: Path | None, cases: Sequence[ScoringCase]
) -> Iterator[tuple[int, Outcome]]:
    """Score cases in threads."""
    with ThreadPoolExecutor(workers) as pool:
        tasks = {pool.submit(score_or_tell, rules, labels, case): index for index, case in enumerate(cases)}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def score_or_tell(rules: Rules, labels: Path | None, case: ScoringCase) -> Outcome:
    """Return the scores of a case, or its problem."""
    job, organs = case
    try:
        pair, remarks = match(job, labels=labels)
        found = _judge(pair, rules, organs)
        return replace(found, notes=(*remarks, *found.notes))
    except VisceraError as error:
        return failed(job, error.what, error.remedy or "Correct it, then evaluate again.")
    except Exception as error:  # whatever a case causes is that case's problem
        what = "it does not fit into memory" if isinstance(error, MemoryError) else "an unexpected fault"
        remedy = "Evaluate it alone; if its files are sound, please report it."
        return failed(job, f"{what} ({type(error).__name__})", remedy)


def failed(job: ScoringJob, what: str, remedy: str) -> Outcome:
    """Return what came of a case that cannot be scored."""
    return Outcome(problems=(Problem(job.case, str(job.prediction), what, remedy),))


def _costs(jobs: Sequence[ScoringJob]) -> tuple[CaseEfficiency, ...]:
    """Return what the predictions cost, of those whose NAME.json says so."""
    rows = (
        read_case_efficiency(job.prediction.with_name(stem(job.prediction) + ".json"), case=job.case) for job in jobs
    )
    return tuple(row for row in rows if row is not None)


def _trusts(jobs: Sequence[ScoringJob]) -> tuple[CaseTrust, ...]:
    """Return what speaks against the predictions, of those whose NAME.json has statistics."""
    rows = (read_case_trust(job.prediction, case=job.case) for job in jobs)
    return tuple(row for row in rows if row is not None)
