"""Labels of cases by networks that never saw them, and their scores.

    RUN/out_of_fold/CASE.nii.gz   the labels on the store's grid, which has voxels of its own (its affine says where they lie)
    RUN/out_of_fold/CASE.json     what they mean, and by which weights they were made
    RUN/out_of_fold/scores.json   what `viscera evaluate --json` writes, for `viscera report`

The truth that a store holds is on its own grid, and scans need not be there any more; so labels are compared there. They are the
network's own, nothing tidied: what tidying is worth is measured on them (choosing.py). For scores on the scanner's grid:
`viscera predict --weights RUN --fold K`, then `viscera evaluate`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from viscera.config import Accelerator
from viscera.errors import FileError
from viscera.evaluation.evaluate import Pair, score_case
from viscera.evaluation.scores import Evaluation, OrganScore
from viscera.evaluation.statistics import summarise
from viscera.inference.model import Model, load_model
from viscera.inference.prepared import prepared_labels
from viscera.io import nifti
from viscera.io.atomic import replacing, sha256, write_json
from viscera.json_text import load_json
from viscera.labels import LabelSpace
from viscera.learning.contents import contents_of
from viscera.networks.find_weights import find_weights, fold_folder
from viscera.preparation.folds import Folds
from viscera.preparation.store import Case, Store
from viscera.volume import Volume

FOLDER, SCORES = "out_of_fold", "scores.json"
NOTE = "each case was labelled by the fold that did not learn from it; on the store's own grid, nothing tidied"


@dataclass(frozen=True)
class Maker:
    """What labels are made by.

    Attributes:
        weights_sha256: Of the weights; of an ensemble, of all of them.
        fold: Which held the case out.
    """

    weights_sha256: str
    fold: int


def label_held_out(
    run: Path,
    number: int,
    store: Store,
    folds: Folds,
    *,
    accelerator: Accelerator = "auto",
    watch: Callable[[int, int], None] = lambda done, cases: None,
) -> None:
    """Label the cases that a fold holds out with its network; what is labelled already, by the same weights, is left alone.

    Args:
        run: The cross-validated run.
        number: Of the fold; it must be trained.
        store: Its cases.
        folds: Who is held out.
        accelerator: Where the network runs.
        watch: Told of the cases done, and all of them.

    Raises:
        WeightsError: The fold has no weights.
        FileError: The labels cannot be written.
    """
    weights, names = find_weights(fold_folder(run, number)), folds.held_out(number)
    maker, model = Maker(sha256(weights), number), None
    for done, name in enumerate(names):
        watch(done, len(names))
        if is_labelled(run / FOLDER, store, name, maker):
            continue
        model = model or load_model(weights, accelerator=accelerator, runtime="torch")
        write_labels(run / FOLDER, store, name, model, maker=maker)
    watch(len(names), len(names))


def labels_file(folder: Path, name: str) -> Path:
    """Return the label map of a case."""
    return folder / f"{name}.nii.gz"


def write_labels(folder: Path, store: Store, name: str, model: Model, *, maker: Maker) -> None:
    """Label a case of a store, and write its label map with what it means."""
    case, file = store.case(name), labels_file(folder, name)
    labels = prepared_labels(case.image, model, case.geometry)
    with replacing(file) as part:
        nifti.write_part(part, Volume(labels, case.geometry.prepared_affine), path=file)
        facts = {
            "labels": {str(index): organ for index, organ in model.space.labels.items()},
            "run": {
                **asdict(maker),
                "recipe": model.recipe.name,
                "label_map": file.name,
                "labels_sha256": sha256(part),
                "contents": contents_of(store, [name])[name],
            },
        }
        write_json(folder / f"{name}.json", facts)


def is_labelled(folder: Path, store: Store, name: str, maker: Maker) -> bool:
    """Tell whether a case's label map stands there, whole, made by these weights from the case as the store holds it."""
    file = labels_file(folder, name)
    try:
        run = load_json(folder / f"{name}.json")["run"]
        made = {key: run[key] for key in asdict(maker)}
        scan, whole = run["contents"]["scan"], run["labels_sha256"] == sha256(file)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return made == asdict(maker) and whole and scan == contents_of(store, [name])[name]["scan"]


def read_labels(folder: Path, case: Case) -> UInt8[np.ndarray, "z y x"]:
    """Read what ``write_labels`` wrote.

    Raises:
        FileError: It is damaged, or of another case.
    """
    file = labels_file(folder, case.name)
    found = nifti.read(file).voxels
    if found.shape != case.image.shape or found.dtype != np.uint8:
        raise FileError(f"{file}: does not fit the case in the store", "Delete it, and go on with --resume.", file=file)
    return found


def unlabelled(run: Path, store: Store, folds: Folds) -> list[str]:
    """Return the cases that no finished fold has labelled yet, or that its weights of now have not."""
    missing = []
    for number in range(folds.count):
        weights = fold_folder(run, number) / "best.safetensors"
        maker = Maker(sha256(weights), number) if weights.is_file() else None
        for name in folds.held_out(number):
            if maker is None or not is_labelled(run / FOLDER, store, name, maker):
                missing.append(name)
    return missing


def score_held_out(
    folder: Path,
    store: Store,
    names: Sequence[str],
    *,
    workers: int = 1,
    watch: Callable[[int, int], None] = lambda done, cases: None,
) -> Evaluation:
    """Score the labels of cases by their truth in the store: Dice, NSD and more, of annotated organs only.

    Args:
        folder: Where the labels are.
        store: The truth.
        names: Of the cases.
        workers: Cases scored at a time.
        watch: Told of the cases done, and all of them.

    Raises:
        FileError: Labels are missing or damaged.
    """

    def scored(name: str) -> list[OrganScore]:
        case = store.case(name)
        return score_labels(case, read_labels(folder, case), space=store.space)

    scores: list[OrganScore] = []
    with ThreadPoolExecutor(workers) as pool:
        for done, found in enumerate(pool.map(scored, names), start=1):
            scores += found
            watch(done, len(names))
    # A fixed seed: the same labels give the same intervals.
    return Evaluation("volume", tuple(scores), summarise(scores, np.random.default_rng(0)), notes=(NOTE,))


def score_labels(case: Case, labels: UInt8[np.ndarray, "z y x"], *, space: LabelSpace) -> list[OrganScore]:
    """Return the scores of a prepared case's labels, one per organ that it annotates."""
    affine = case.geometry.prepared_affine
    truth, found = Volume(np.asarray(case.truth), affine), Volume(labels, affine)
    known = None if case.known is None else np.asarray(case.known)
    return score_case(Pair(case.name, patient_of(case), truth, found, space, case.annotated, known))


def patient_of(case: Case) -> str:
    """Return who is shown: a patient's name is unique in its data set only."""
    return f"{case.dataset}/{case.patient}"
