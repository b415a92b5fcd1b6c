"""Scores of predictions against truth: what each organ of each case gets, over files and folders.

An organ that a case does not annotate has no row: neither 0 nor 1. What the numbers mean is in metrics.py; what belongs
together in pairing.py; summaries, intervals and comparisons in scores.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8

from viscera.datasets import Problem, Source
from viscera.errors import VisceraError
from viscera.label_files import read_names
from viscera.labels import PART_OF
from viscera.metrics import confusion, organ_boxes, overlap, surface_scores
from viscera.pairing import Pair, Task, case_name, find_tasks, match
from viscera.scores import Evaluation, OrganScore, summarise
from viscera.volume import require_same_grid, to_axial, with_voxels

__all__ = [
    "TOLERANCES_MM",
    "Pair",
    "Rules",
    "Task",
    "evaluate",
    "evaluate_pair",
    "find_tasks",
    "match",
    "read_names",
    "score_case",
]

Mode = Literal["volume", "slices"]

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
        mode: "volume": whole volumes. "slices": zhang2d's slice Dice and IoU, with names of their own.
        tolerances_mm: {organ: tolerance of the NSD}, over TOLERANCES_MM.
    """

    mode: Mode = "volume"
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)

    def tolerance_mm(self, organ: str) -> float:
        """Give the tolerance of an organ, else of the whole that it is part of, else OTHER_TOLERANCE_MM."""
        for table in (self.tolerances_mm, TOLERANCES_MM):
            for name in (organ, PART_OF.get(organ, organ)):
                if name in table:
                    return table[name]
        return OTHER_TOLERANCE_MM


def score_case(pair: Pair, rules: Rules = Rules()) -> list[OrganScore]:
    """Score one case, one row per annotated organ of the space.

    Mode "volume": dice, iou, nsd, hd95_mm, truth_ml, prediction_ml, volume_error_ml (prediction minus truth) and
    tolerance_mm. An organ that is absent from truth and prediction has NaN for all four scores; a false find of an
    absent organ, or a missed one, has 0, 0, 0 and infinity.

    Mode "slices": slice_dice and slice_iou, from voxels counted together over the axial slices on which the truth shows
    the organ; NaN if none does. What the network finds on other slices does not count, so these are kinder.

    Args:
        pair: The case.
        rules: How to score.

    Raises:
        GeometryError: The grids differ.
        LabelError: A label outside of the space.

    Source:
        slices: Zhang 2025, equations 3 and 4, and the README of its code. Departs: the original does not say whether
        counts or ratios are averaged over slices; here counts are pooled within a case, and cases averaged.
    """
    require_same_grid(pair.truth, pair.prediction, where=pair.case)
    truth, prediction = pair.truth.voxels, pair.prediction.voxels
    if pair.known is not None:
        truth, prediction = truth * pair.known, prediction * pair.known
    organs = [(organ, index) for index, organ in pair.space.labels.items() if organ in pair.annotated]
    if rules.mode == "slices":
        axial = [to_axial(with_voxels(pair.truth, voxels))[0].voxels for voxels in (truth, prediction)]
        values = _slice_values(axial[0], axial[1], organs)
    else:
        values = _volume_values(pair, truth, prediction, rules)
    return [OrganScore(pair.case, pair.patient, organ, values[organ]) for organ, _ in organs]


def _volume_values(
    pair: Pair, truth: UInt8[np.ndarray, "z y x"], prediction: UInt8[np.ndarray, "z y x"], rules: Rules
) -> dict[str, dict[str, float]]:
    """Give the scores of whole volumes for each annotated organ."""
    counts = confusion(truth, prediction, len(pair.space.classes))
    boxes = [organ_boxes(labels, len(pair.space.organs)) for labels in (truth, prediction)]
    spacing_mm, voxel_ml = pair.truth.spacing_mm, pair.truth.voxel_ml
    values = {}
    for organ in pair.annotated:
        index, tolerance_mm = pair.space.index(organ), rules.tolerance_mm(organ)
        score = overlap(counts, index)
        nsd, hd95_mm = math.nan, math.nan
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
    return values


def _slice_values(
    truth: Shaped[np.ndarray, "z y x"], prediction: Shaped[np.ndarray, "z y x"], organs: Sequence[tuple[str, int]]
) -> dict[str, dict[str, float]]:
    """Give slice Dice and IoU of each organ; slices are along the first axis."""
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
    """Give the smallest box that holds both."""
    if a is None or b is None:
        return a or b
    return tuple(slice(min(one.start, two.start), max(one.stop, two.stop)) for one, two in zip(a, b, strict=True))


def evaluate_pair(
    truth: Path, prediction: Path, *, labels: Path | None = None, rules: Rules = Rules()
) -> tuple[list[OrganScore], tuple[str, ...]]:
    """Score one prediction against one truth, both files.

    Args:
        truth: Label file.
        prediction: Label file on the same grid.
        labels: A JSON file of names for files that have none beside them.
        rules: How to score.

    Returns:
        Scores, and notes on organs that were merged or left out.

    Raises:
        FileError, GeometryError, LabelError: The files cannot be used or do not fit each other.
    """
    pair, notes = match(Task(case_name(prediction), prediction, truth), labels=labels)
    return score_case(pair, rules), notes


def evaluate(
    truth: Path | Sequence[Source],
    prediction: Path,
    *,
    labels: Path | None = None,
    rules: Rules = Rules(),
    workers: int = 1,
    done: Callable[[str], None] = lambda case: None,
) -> Evaluation:
    """Score all predictions of a file or folder. A case that cannot be scored is a problem and does not stop the rest.

    Args:
        truth: A label file, a folder of them, or the cases of a data set.
        prediction: A label file, or a folder of them.
        labels: A JSON file of names for label files that have none beside them.
        rules: How to score.
        workers: Cases scored at a time.
        done: Called with the name of each case that is finished.

    Raises:
        FileError: There is nothing to compare.
    """
    tasks, problems, notes = find_tasks(truth, prediction)

    def scored(task: Task) -> tuple[list[OrganScore], tuple[str, ...], list[Problem]]:
        """Give the scores of a case, its notes, or its problem."""
        try:
            pair, remarks = match(task, labels=labels)
            return score_case(pair, rules), remarks, []
        except VisceraError as error:
            return [], (), [Problem(task.case, str(task.prediction), str(error), "Correct it, then evaluate again.")]
        finally:
            done(task.case)

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(scored, tasks))
    scores = tuple(row for rows, _, _ in results for row in rows)
    # A fixed seed: the same files give the same intervals.
    summary = summarise(scores, np.random.default_rng(0))
    remarks = dict.fromkeys(note for _, found, _ in results for note in found)
    problems = [*problems, *(problem for _, _, found in results for problem in found)]
    return Evaluation(rules.mode, scores, summary, tuple(problems), (*notes, *remarks))
