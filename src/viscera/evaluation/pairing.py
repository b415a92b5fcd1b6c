"""Which prediction belongs to which truth, and how both come into one label space: by the names of the organs."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

from viscera.datasets.read_labels import read_rounded
from viscera.datasets.sources import Problem, Source
from viscera.errors import FileError, LabelError
from viscera.io import scans
from viscera.io.label_names import Names, label_names, names_beside, names_of_set
from viscera.io.label_values import ROUNDED, whole_labels
from viscera.io.nifti import find_files, is_nifti, read, stem
from viscera.labels import SIDES, Fit, LabelSpace, fit, organ_name
from viscera.volume import Volume, axis_codes, require_same_grid, turned_onto, with_voxels

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
    """A case to score: where its prediction is, and its truth as a file with names or in a data set.

    Attributes:
        case: A name that no other case of the evaluation has.
        prediction: The label file.
        truth: A label file, or a case of a data set.
        patient: Whose scan it is; empty: the data set's patient, else the case.
    """

    case: str
    prediction: Path
    truth: Path | Source
    patient: str = ""


@dataclass(frozen=True)
class _Truth:
    """A truth whose prediction is sought: under the first of ``names`` that a file has."""

    case: str
    names: tuple[str, ...]
    target: Path | Source
    patient: str = ""


def case_name(path: Path) -> str:
    """Return the name of a file's case: without .nii.gz, then without what says which file of the case it is.

    Example:
        >>> case_name(Path("liver_3_0000.nii.gz")), case_name(Path("x_label.nii"))
        ('liver_3', 'x')
    """
    return SUFFIX.sub("", stem(path))


def find_jobs(
    truth: Path | Sequence[Source], prediction: Path
) -> tuple[list[ScoringJob], list[Problem], tuple[str, ...]]:
    """Find which prediction belongs to which truth: the file of the exact name, else the only one of the case's name.

    Args:
        truth: A label file, a folder of them, or the cases of a data set.
        prediction: A label file (for a file or a single case), or a folder of them, named after the cases.

    Returns:
        Cases to score; as problems, truths without prediction, and whatever two files claim to be; and a note on predictions
        without truth.

    Raises:
        FileError: There is nothing to compare.
    """
    if isinstance(truth, Path) and truth.is_file() and is_nifti(truth) and prediction.is_file():
        jobs = [ScoringJob(case_name(prediction), prediction, truth)]
        return jobs, [], _own_files(jobs)
    for path in (truth, prediction):
        if isinstance(path, Path) and not path.exists():
            raise FileError(f"{path}: no such file or folder", "Check the path.", file=path)
    if isinstance(truth, Path) and (truth.is_file() or prediction.is_file()):
        raise FileError(f"{truth} and {prediction}: give two NIfTI files or two folders.")
    truths, problems = _of_folder(truth) if isinstance(truth, Path) else _of_sources(truth)
    if not truths and not problems:
        raise FileError(
            f"{truth if isinstance(truth, Path) else 'the data set'} holds no label maps", "Check the path."
        )
    found = [prediction] if prediction.is_file() else find_files(prediction)
    jobs: list[ScoringJob] = []
    used = set[Path]()
    for one, candidates in zip(truths, _candidates(truths, found), strict=True):
        used.update(candidates)
        if len(candidates) == 1:
            jobs.append(ScoringJob(one.case, candidates[0], one.target, one.patient))
        else:
            problems.append(_not_one(one, candidates, prediction))
    if truths and not used:
        raise FileError(
            f"no file in {prediction} belongs to any of the {len(truths)} truths: expected names like "
            f"{truths[0].names[0]}.nii.gz, found {', '.join(path.name for path in found[:3]) or 'none'}."
        )
    extra = [path.name for path in found if path not in used]
    notes = (f"{len(extra)} predictions without truth, not scored: {', '.join(extra[:5])}",) if extra else ()
    return jobs, problems, notes + _own_files(jobs)


def _candidates(truths: Sequence[_Truth], found: Sequence[Path]) -> list[list[Path]]:
    """Return the files that may be the prediction of each truth. What one has by its exact name is no other's."""
    exact: dict[str, list[Path]] = {}
    loose: dict[str, list[Path]] = {}
    for path in found:
        exact.setdefault(stem(path), []).append(path)
        loose.setdefault(case_name(path), []).append(path)
    candidates = [next((exact[name] for name in one.names if name in exact), []) for one in truths]
    taken = {path for paths in candidates for path in paths}
    for number, one in enumerate(truths):
        if not candidates[number]:
            alike = dict.fromkeys(path for name in one.names for path in loose.get(name, ()))
            candidates[number] = [path for path in alike if path not in taken]
    return candidates


def _own_files(jobs: Sequence[ScoringJob]) -> tuple[str, ...]:
    """Return a note where predictions are the files of the truth, by whatever path."""
    same = 0
    for job in jobs:
        truth = job.truth.labels if isinstance(job.truth, Source) else job.truth
        same += isinstance(truth, Path) and truth.resolve() == job.prediction.resolve()
    return (f"{same} predictions are the truth's own files, so their scores say nothing",) if same else ()


def _not_one(truth: _Truth, candidates: Sequence[Path], prediction: Path) -> Problem:
    """Say that a truth has no prediction, or more than one."""
    wanted = f"{truth.names[0]}.nii.gz"
    if not candidates:
        remedy = f"Segment this case, or name its file {wanted}."
        folder = prediction.parent if prediction.is_file() else prediction
        return Problem(truth.case, str(folder / wanted), "no prediction", remedy)
    names = ", ".join(path.name for path in candidates)
    remedy = f"Keep one of them, as {wanted}."
    return Problem(truth.case, str(candidates[0]), f"{len(candidates)} files may be its prediction: {names}", remedy)


def _of_folder(folder: Path) -> tuple[list[_Truth], list[Problem]]:
    """Return the truths of a folder, called by their cases where those differ, else by their files."""
    files: dict[str, list[Path]] = {}
    for path in find_files(folder):
        files.setdefault(stem(path), []).append(path)
    cases = Counter(case_name(paths[0]) for paths in files.values())
    alike = len(cases) < len(files)
    truths, problems = [], []
    for name, paths in files.items():
        case = case_name(paths[0])
        called = name if alike else case
        if len(paths) > 1:
            what = f"{len(paths)} files of one truth: {', '.join(path.name for path in paths)}"
            problems.append(Problem(called, str(paths[0]), what, "Keep one of them."))
        else:
            names = (name,) if case in files or cases[case] > 1 else (name, case)
            truths.append(_Truth(called, names, paths[0]))
    return truths, problems


def _of_sources(sources: Sequence[Source]) -> tuple[list[_Truth], list[Problem]]:
    """Return the truths of data sets; cases and patients of the same name are told apart by their data set's."""
    labelled = [source for source in sources if source.labels is not None]
    several = len({source.dataset for source in labelled}) > 1
    names = Counter(source.name for source in labelled)
    full = Counter(f"{source.dataset}__{source.name}" for source in labelled)
    images = Counter(name for source in labelled for name in set(_image_names(source)))
    truths, problems = [], []
    for source in labelled:
        longer = f"{source.dataset}__{source.name}"
        called = longer if names[source.name] > 1 else source.name
        if full[longer] > 1:
            what = f"{full[longer]} cases have this name"
            problems.append(Problem(called, str(source.image), what, "Evaluate their data sets as pairs of their own."))
            continue
        given = [longer] if called == longer else [source.name, longer]
        given += [name for name in _image_names(source) if images[name] == 1 and name not in names and name not in full]
        patient = f"{source.dataset}/{source.patient}" if several else source.patient
        truths.append(_Truth(called, tuple(given), source, patient))
    return truths, problems


def _image_names(source: Source) -> tuple[str, str]:
    """Return what predictions of a source's scan may be called."""
    name = scans.stem(source.image)
    return name, SUFFIX.sub("", name)


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


def match(job: ScoringJob, *, labels: Path | None = None) -> tuple[Pair, tuple[str, ...]]:
    """Read truth and prediction of a case and bring them into one label space by the names of the organs.

    Args:
        job: The case.
        labels: A JSON file of names for files that have none beside them.

    Returns:
        The pair, on the truth's grid, and notes: what was rounded, turned or taken for granted; organs merged, lost, or not
        annotated.

    Raises:
        FileError, GeometryError, LabelError: The files cannot be used or do not fit each other.
    """
    truth, names, notes = _read_truth(job, labels=labels)
    prediction, remarks = _read_prediction(job, truth)
    found, remark = _prediction_names(job, names, prediction.voxels, labels=labels)
    notes += remarks + remark
    space = common_space(names, found)
    of_truth = fit(space, names.labels, names.annotated, unknown=names.unknown)
    of_prediction = fit(space, found.labels, tuple(found.labels.values()), unknown=found.unknown)
    if not of_truth.annotated:
        raise LabelError(
            f"{job.case}: truth ({', '.join(names.annotated)}) and prediction ({', '.join(space.organs)}) "
            "share no organ",
            "Correct the names in their label files.",
        )
    notes += of_truth.notes
    if silent := [organ for organ in space.organs if organ not in of_truth.annotated]:
        notes += (f"predicted but not annotated, so not scored: {', '.join(silent)}",)
    known = np.isin(truth.voxels, list(of_truth.unknown), invert=True) if of_truth.unknown else None
    volumes = [
        with_voxels(volume, _mapped(volume.voxels, fitted, where=f"{job.case}: the {what}"))
        for volume, fitted, what in ((truth, of_truth, "truth"), (prediction, of_prediction, "prediction"))
    ]
    patient = job.patient or (job.truth.patient if isinstance(job.truth, Source) else job.case)
    return Pair(job.case, patient, volumes[0], volumes[1], space, of_truth.annotated, known), notes


def _read_truth(job: ScoringJob, *, labels: Path | None) -> tuple[Volume, Names, tuple[str, ...]]:
    """Return the truth as whole numbers, what they mean, and a note if they were rounded."""
    if isinstance(job.truth, Source):
        truth, rounded = read_rounded(job.truth)
        names = Names(dict(job.truth.organs), job.truth.annotated, job.truth.unknown)
    else:
        truth, names = read(job.truth), label_names(job.truth, labels=labels)
        whole, rounded = whole_labels(truth.voxels, where=f"{job.case}: the truth", file=job.truth)
        truth = with_voxels(truth, whole)
    return truth, names, (f"the labels of the truth are {ROUNDED}",) if rounded else ()


def _read_prediction(job: ScoringJob, truth: Volume) -> tuple[Volume, tuple[str, ...]]:
    """Return the prediction as whole numbers on the truth's grid, and notes if it was rounded or turned."""
    prediction = read(job.prediction)
    whole, rounded = whole_labels(prediction.voxels, where=f"{job.case}: the prediction", file=job.prediction)
    prediction = with_voxels(prediction, whole)
    notes = (f"the labels of the prediction are {ROUNDED}",) if rounded else ()
    turned = turned_onto(truth, prediction)
    if turned is None:
        require_same_grid(truth, prediction, where=job.case, names=("truth", "predicted labels"))
    elif turned is not prediction:
        codes = f"{axis_codes(prediction.affine)} against {axis_codes(truth.affine)}"
        notes += (f"axes of the prediction run otherwise than the truth's ({codes} for z, y, x): turned without loss",)
        prediction = with_voxels(truth, turned.voxels)
    return prediction, notes


def _prediction_names(
    job: ScoringJob, of_truth: Names, voxels: Integer[np.ndarray, "z y x"], *, labels: Path | None
) -> tuple[Names, tuple[str, ...]]:
    """Return what the prediction's labels mean: what names them, else the data set's own numbering where all values fit it."""
    if isinstance(job.truth, Source):
        own = of_truth if isinstance(job.truth.labels, Path) else None
    else:
        own = of_truth if names_of_set(job.truth) == of_truth else None
    if labels is not None or own is None or names_beside(job.prediction) is not None:
        return label_names(job.prediction, labels=labels), ()
    held = np.zeros(int(voxels.max()) + 1, bool)
    for section in voxels:
        held[section] = True
    if strange := [int(value) for value in np.flatnonzero(held) if value and value not in own.labels]:
        raise LabelError(
            f"{job.case}: nothing names the prediction's labels, and it holds {', '.join(map(str, strange[:5]))}, which the "
            "data set does not name",
            f'Put {stem(job.prediction)}.json beside it, {{"labels": {{"1": "liver", ...}}}}, or pass such a file with '
            "--labels.",
            file=job.prediction,
        )
    note = "nothing names the labels of the prediction: taken for the data set's own numbering, which all of them fit"
    return Names(own.labels, tuple(own.labels.values())), (note,)


def _mapped(values: Integer[np.ndarray, "z y x"], fitted: Fit, *, where: str) -> UInt8[np.ndarray, "z y x"]:
    """Return labels of the space for the values of a file."""
    known = {0: 0} | dict.fromkeys(fitted.unknown, 0) | dict(fitted.values)
    table = np.zeros(max(255, int(values.max()), *known) + 1, np.uint8)
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
    return cv2.LUT(np.ascontiguousarray(section, np.uint8), table)
