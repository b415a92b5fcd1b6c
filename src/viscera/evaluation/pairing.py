"""Which prediction belongs to which truth, and how both come into one label space: by the names of the organs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Problem, Source
from viscera.errors import FileError, LabelError
from viscera.io.label_names import Names, label_names
from viscera.io.nifti import find_files, is_nifti, read, stem
from viscera.labels import SIDES, Fit, LabelSpace, fit, organ_name
from viscera.volume import Volume, require_same_grid, with_voxels

SUFFIX = re.compile(r"(_0000|_ct|_image|_labels?|_seg|_segmentation|_prediction)$")
"""What may follow the name of a case in the name of its file."""


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
class ScoringJob:
    """A case to score: where its prediction is, and its truth as a file with names or in a data set."""

    case: str
    prediction: Path
    truth: Path | Source


def case_name(path: Path) -> str:
    """Return the name of a file's case: without .nii.gz, then without what says which file of the case it is.

    Example:
        >>> case_name(Path("liver_3_0000.nii.gz")), case_name(Path("x_label.nii"))
        ('liver_3', 'x')
    """
    return SUFFIX.sub("", stem(path))


def find_jobs(truth: Path | Sequence[Source], prediction: Path) -> tuple[list[ScoringJob], list[Problem], tuple[str, ...]]:
    """Find which prediction belongs to which truth.

    Args:
        truth: A label file, a folder of them, or the cases of a data set.
        prediction: A label file (for a file or a single case), or a folder of them, named after the cases.

    Returns:
        Cases to score, truths without prediction as problems, and a note on predictions without truth.

    Raises:
        FileError: There is nothing to compare.
    """
    if isinstance(truth, Path) and truth.is_file() and is_nifti(truth) and prediction.is_file():
        return [ScoringJob(case_name(prediction), prediction, truth)], [], ()
    for path in (truth, prediction):
        if isinstance(path, Path) and not path.exists():
            raise FileError(f"{path}: no such file or folder", "Check the path.", file=path)
    if isinstance(truth, Path) and (truth.is_file() or prediction.is_file()):
        raise FileError(f"{truth} and {prediction}: give two NIfTI files or two folders.")
    truths = _truths(truth)
    if not truths:
        raise FileError(
            f"{truth if isinstance(truth, Path) else 'the data set'} holds no label maps", "Check the path."
        )
    found = [prediction] if prediction.is_file() else _files(prediction)
    given: dict[str, Path] = {}
    for path in found:
        for name in (case_name(path), stem(path)):
            given[name] = path
    tasks, problems, used = [], [], set()
    for case, names, target in truths:
        path = next((given[name] for name in names if name in given), None)
        if path is None:
            wanted = f"{names[0]}.nii.gz"
            remedy = f"Segment this case, or name its file {wanted}."
            problems.append(Problem(case, str(prediction / wanted), "no prediction", remedy))
            continue
        used.add(path)
        tasks.append(ScoringJob(case, path, target))
    if not tasks:
        raise FileError(
            f"no file in {prediction} belongs to any of the {len(truths)} truths: expected names like "
            f"{truths[0][1][0]}.nii.gz, found {', '.join(path.name for path in found[:3]) or 'none'}."
        )
    extra = [path.name for path in found if path not in used]
    notes = (f"{len(extra)} predictions without truth, not scored: {', '.join(extra[:5])}",) if extra else ()
    return tasks, problems, notes


def _truths(truth: Path | Sequence[Source]) -> list[tuple[str, list[str], Path | Source]]:
    """List the truths: case, names that its prediction may have, and what holds it."""
    if isinstance(truth, Path):
        return [(case_name(path), [stem(path), case_name(path)], path) for path in _files(truth)]
    images = [stem(source.image) for source in truth]
    rows: list[tuple[str, list[str], Path | Source]] = []
    for source in truth:
        names = [source.name, f"{source.dataset}__{source.name}"]
        if images.count(stem(source.image)) == 1:
            names += [stem(source.image), case_name(source.image)]
        if source.labels is not None:
            rows.append((source.name, names, source))
    return rows


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileError(f"{folder}: no such file or folder", "Check the path.", file=folder)
    return find_files(folder)


def common_space(truth: Names, prediction: Names) -> LabelSpace:
    """Return the space in which to score: the prediction's organs, sides merged where the truth has only the whole."""
    organs = list(dict.fromkeys(organ_name(name) for _, name in sorted(prediction.labels.items())))
    known = {organ_name(name) for name in truth.labels.values()}
    for whole, sides in SIDES.items():
        if whole in known and not known & set(sides) and set(sides) <= set(organs):
            organs = [organ for organ in organs if organ not in (*sides, whole)] + [whole]
    if not organs:
        raise LabelError("the prediction names no organs", "Give its NAME.json a {'labels': {index: organ}}.")
    return LabelSpace("prediction", tuple(organs))


def match(task: ScoringJob, *, labels: Path | None = None) -> tuple[Pair, tuple[str, ...]]:
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
    require_same_grid(truth, prediction, where=task.case, names=("truth", "predicted labels"))
    space = common_space(names, found)
    of_truth = fit(space, names.labels, names.annotated, unknown=names.unknown)
    of_prediction = fit(space, found.labels, tuple(found.labels.values()), unknown=found.unknown)
    if not of_truth.annotated:
        raise LabelError(
            f"{task.case}: truth ({', '.join(names.annotated)}) and prediction ({', '.join(space.organs)}) "
            "share no organ",
            "Correct the names in their label files.",
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
    """Return labels of the space for the values of a file."""
    values = _whole_numbers(voxels, where=where)
    known = {0: 0} | dict.fromkeys(fitted.unknown, 0) | dict(fitted.values)
    table = np.zeros(max(255, int(values.max(initial=0)), *known) + 1, np.uint8)
    strange = np.ones(table.size, np.uint8)
    for value, index in known.items():
        table[value], strange[value] = index, 0
    mapped = np.empty(values.shape, np.uint8)
    for number, section in enumerate(values):
        if _look_up(strange, section).any():
            raise LabelError(
                f"{where} holds label {section[strange[section] > 0][0]}, but its names are for "
                f"{sorted(set(known) - {0})}",
                "Correct the file, or add the label to its names.",
            )
        mapped[number] = _look_up(table, section)
    return mapped


def _look_up(table: UInt8[np.ndarray, "values"], section: Integer[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    """Return the table's entry for each pixel; OpenCV is ten times as quick as NumPy, for tables of 256."""
    if table.size > 256:
        return table[section]
    return cv2.LUT(np.ascontiguousarray(section, np.uint8), table).reshape(section.shape)


def _whole_numbers(voxels: Shaped[np.ndarray, "z y x"], *, where: str) -> Integer[np.ndarray, "z y x"]:
    """Return labels as integers, 0 to 65535."""
    low, high = (float(voxels.min()), float(voxels.max())) if voxels.size else (0.0, 0.0)
    if not (low >= 0 and high <= 65535):
        raise LabelError(
            f"{where} holds values from {low:g} to {high:g}, which are not labels (0 to 65535)", "Is it a scan?"
        )
    if np.issubdtype(voxels.dtype, np.integer):
        return voxels
    whole = voxels.astype(np.uint16)
    if not np.array_equal(whole, voxels):
        raise LabelError(f"{where} holds fractions, which are not labels", "Resample it with nearest neighbours.")
    return whole
