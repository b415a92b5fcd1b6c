"""Scores of predictions against truth: which files belong together, which organs count, what each case gets.

An organ that a case does not annotate has no row: neither 0 nor 1. What the numbers mean is in metrics.py; summaries,
intervals and comparisons are in scores.py.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8
from scipy.ndimage import find_objects

from viscera.datasets import Problem, Source, read_labels
from viscera.errors import FileError, GeometryError, LabelError, VisceraError
from viscera.labels import PART_OF, SIDES, Fit, LabelSpace, fit, organ_name
from viscera.metrics import confusion, overlap, surface_scores
from viscera.nifti import find_files, is_nifti, read, stem
from viscera.scores import Evaluation, OrganScore, summarise
from viscera.volume import Volume, require_same_grid, to_axial, with_voxels

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

SUFFIX = re.compile(r"(_0000|_ct|_image|_labels?|_seg|_segmentation|_prediction)$")
"""What may follow the name of a case in the name of its file."""


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
            for name in (organ, PART_OF.get(organ)):
                if name in table:
                    return table[name]
        return OTHER_TOLERANCE_MM


@dataclass(frozen=True, eq=False)
class Pair:
    """Truth and prediction of one case in one label space, on one grid.

    Attributes:
        case: Its name.
        patient: Whose scan it is.
        truth: Labels (uint8) of the space.
        prediction: Labels (uint8) of the space.
        space: Names the labels.
        annotated: Organs that the truth annotates, absent ones included.
        known: Voxels that count; None: all.
    """

    case: str
    patient: str
    truth: Volume
    prediction: Volume
    space: LabelSpace
    annotated: tuple[str, ...]
    known: Bool[np.ndarray, "z y x"] | None = None


@dataclass(frozen=True)
class Names:
    """What the values of a label file mean.

    Attributes:
        labels: {value: organ}.
        annotated: Organs that the file annotates, absent ones included.
        unknown: Values whose voxels are not scored.
    """

    labels: Mapping[int, str]
    annotated: tuple[str, ...]
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """A case to score: where its prediction is, and its truth as a file with names or in a data set."""

    case: str
    prediction: Path
    truth: Path | Source


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
    boxes = [find_objects(labels, max_label=len(pair.space.organs)) for labels in (truth, prediction)]
    spacing_mm, voxel_ml = pair.truth.spacing_mm, pair.truth.voxel_ml
    values = {}
    for organ in pair.annotated:
        index, tolerance_mm = pair.space.index(organ), rules.tolerance_mm(organ)
        score = overlap(counts, index)
        nsd, hd95_mm = math.nan, math.nan
        box = _union(boxes[0][index - 1], boxes[1][index - 1])
        if box is not None:
            masks = (labels[box] == index for labels in (truth, prediction))
            surfaces = surface_scores(*masks, spacing_mm, tolerance_mm=tolerance_mm)
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


def common_space(truth: Names, prediction: Names) -> LabelSpace:
    """Give the space in which to score: the prediction's organs, two sides merged where the truth has only the whole."""
    organs = list(dict.fromkeys(organ_name(name) for _, name in sorted(prediction.labels.items())))
    known = {organ_name(name) for name in truth.labels.values()}
    for whole, sides in SIDES.items():
        if whole in known and not known & set(sides) and set(sides) <= set(organs):
            organs = [organ for organ in organs if organ not in (*sides, whole)] + [whole]
    if not organs:
        raise LabelError("the prediction names no organs. Give its NAME.json a {'labels': {index: organ}}.")
    return LabelSpace("prediction", tuple(organs))


def match(task: Task, *, labels: Path | None = None) -> tuple[Pair, tuple[str, ...]]:
    """Read truth and prediction of a case and bring them into one label space by the names of the organs.

    Args:
        task: The case.
        labels: A JSON file of names for files that have none beside them.

    Returns:
        The pair, and notes: organs merged, lost, or not annotated.

    Raises:
        FileError, GeometryError, LabelError: The files cannot be used or do not fit each other.
    """
    if isinstance(task.truth, Source):
        truth, patient = read_labels(task.truth), task.truth.patient
        names = Names(dict(task.truth.organs), task.truth.annotated, task.truth.unknown)
    else:
        truth, patient, names = read(task.truth), task.case, label_names(task.truth, labels=labels)
    prediction, found = read(task.prediction), label_names(task.prediction, labels=labels)
    require_same_grid(truth, prediction, where=task.case)
    space = common_space(names, found)
    of_truth = fit(space, names.labels, names.annotated, unknown=names.unknown)
    of_prediction = fit(space, found.labels, tuple(found.labels.values()), unknown=found.unknown)
    if not of_truth.annotated:
        raise LabelError(
            f"{task.case}: truth ({', '.join(names.annotated)}) and prediction ({', '.join(space.organs)}) "
            "share no organ. Correct the names in their label files."
        )
    notes = [*of_truth.notes]
    if silent := [organ for organ in space.organs if organ not in of_truth.annotated]:
        notes.append(f"predicted but not annotated, so not scored: {', '.join(silent)}")
    known = np.isin(truth.voxels, list(of_truth.unknown), invert=True) if of_truth.unknown else None
    volumes = [
        with_voxels(volume, _mapped(volume.voxels, fitted, where=f"{task.case}: the {what}"))
        for volume, fitted, what in ((truth, of_truth, "truth"), (prediction, of_prediction, "prediction"))
    ]
    return Pair(task.case, patient, volumes[0], volumes[1], space, of_truth.annotated, known), tuple(notes)


def _mapped(voxels: Shaped[np.ndarray, "z y x"], fitted: Fit, *, where: str) -> UInt8[np.ndarray, "z y x"]:
    """Give labels of the space for the values of a file."""
    values = _whole_numbers(voxels, where=where)
    known = {0: 0} | dict.fromkeys(fitted.unknown, 0) | dict(fitted.values)
    size = max(int(values.max(initial=0)), *known) + 1
    table = np.zeros(size, np.uint8)
    for value, index in known.items():
        table[value] = index
    if strange := sorted(set(np.flatnonzero(np.bincount(values.reshape(-1), minlength=size)).tolist()) - set(known)):
        raise LabelError(
            f"{where} holds label {strange[0]}, but its names are for {sorted(set(known) - {0})}. "
            "Correct the file, or add the label to its names."
        )
    return table[values]


def _whole_numbers(voxels: Shaped[np.ndarray, "z y x"], *, where: str) -> Integer[np.ndarray, "z y x"]:
    """Give labels as integers, 0 to 65535."""
    low, high = (float(voxels.min()), float(voxels.max())) if voxels.size else (0.0, 0.0)
    if not (0 <= low and high <= 65535):
        raise LabelError(f"{where} holds values from {low:g} to {high:g}, which are no labels (0 to 65535). Is it a scan?")
    if np.issubdtype(voxels.dtype, np.integer):
        return voxels
    whole = voxels.astype(np.uint16)
    if not np.array_equal(whole, voxels):
        raise LabelError(f"{where} holds fractions, which are no labels. Resample it with nearest neighbours.")
    return whole
