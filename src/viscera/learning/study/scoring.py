"""Scores of a run's best weights on cases of its store, on the prepared grid: intersections over unions.

The prepared grid is what the network sees, and what the published tables were measured on; nothing is tidied afterwards.
Scores on the scanner's grid, after tidying, are `viscera evaluate`'s.
"""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from viscera.config import Accelerator
from viscera.errors import RunError
from viscera.evaluation.counts import Counts, count_case
from viscera.evaluation.scores import MEAN, OrganScore, Summary
from viscera.evaluation.statistics import summarise
from viscera.inference.model import load_model
from viscera.inference.prepared import prepared_labels
from viscera.io.atomic import replacing
from viscera.learning.run_folder import read_rows
from viscera.learning.study.results import CaseScore, CellResult, ClassScore
from viscera.networks.unet import parameter_count
from viscera.networks.weights import find_weights, load_weights
from viscera.preparation.store import Split, Store


def score_run(
    run: Path, store: Store, split: Split, *, labels: Path | None = None, accelerator: Accelerator = "auto"
) -> CellResult:
    """Score a run's best weights on the cases of a split.

    Args:
        run: A finished run.
        store: Prepared as the run's recipe says.
        split: Which cases.
        labels: Folder for the label maps on the prepared grid, <case>.npz each; None: they are not kept.
        accelerator: Where the network runs.

    Returns:
        The result of a cell that has no name and no settings yet.

    Raises:
        WeightsError: The run has no weights.
        StoreError: The store is another recipe's.
        RunError: The split has no cases.
    """
    model = load_model(run, accelerator=accelerator)
    store.require(space=model.space, preparation=model.recipe.preparation)
    names = store.names(split)
    if not names:
        raise RunError(
            f"{store.path} has no {split} cases to score",
            "Prepare it with more patients, or choose another split.",
            file=store.path,
        )
    counts = []
    for name in names:
        case = store.case(name)
        found = prepared_labels(case.image, model, case.geometry)
        if labels is not None:
            write_labels(labels / f"{name}.npz", found)
        counts.append(count_case(case, found, classes=model.space.classes))
    rows = read_rows(run)
    return CellResult(
        name="",
        settings={},
        epochs=len(rows),
        best_epoch=int(str(load_weights(find_weights(run)).provenance["epoch"])),
        seconds=round(math.fsum(row["seconds"] for row in rows), 2),
        parameters=parameter_count(model.module),
        classes=class_scores(counts, classes=model.space.classes, generator=np.random.default_rng(0)),
        cases=tuple(case_score(one) for one in counts),
    )


def iou(both: int, union: int) -> float:
    """Divide an intersection by its union; NaN where the union is empty."""
    return both / union if union else math.nan


def case_score(counts: Counts) -> CaseScore:
    """Return the scores of one case."""
    return CaseScore(counts.case, counts.patient, {organ: iou(*pair) for organ, pair in counts.voxels.items()})


def class_scores(
    counts: Sequence[Counts], *, classes: Sequence[str], generator: np.random.Generator
) -> tuple[ClassScore, ...]:
    """Return the score of each class over all cases, and last "mean": of the organs, without background.

    Args:
        counts: Of each case.
        classes: Background first.
        generator: Draws the bootstrap's patients (evaluation/scores.py).
    """
    pooled = {}
    for organ in classes:
        pairs = [one.voxels[organ] for one in counts if organ in one.voxels]
        pooled[organ] = iou(sum(both for both, _ in pairs), sum(union for _, union in pairs))
    scores = [
        OrganScore(one.case, one.patient, organ, {"iou": iou(*one.voxels[organ])})
        for organ in classes
        for one in counts
        if organ in one.voxels
    ]
    background = [row for row in summarise(scores[: len(counts)], generator) if row.organ != MEAN]
    rows = {row.organ: row for row in (*background, *summarise(scores[len(counts) :], generator))}
    found = [value for organ, value in pooled.items() if organ != classes[0] and not math.isnan(value)]
    pooled[MEAN] = math.fsum(found) / len(found) if found else math.nan
    return tuple(_class_score(organ, pooled[organ], rows.get(organ)) for organ in (*classes, MEAN))


def _class_score(organ: str, pooled: float, row: Summary | None) -> ClassScore:
    if row is None:
        return ClassScore(organ, pooled, math.nan, math.nan, math.nan, 0)
    return ClassScore(organ, pooled, row.mean, row.low, row.high, row.cases)


def write_labels(file: Path, labels: UInt8[np.ndarray, "z y x"]) -> None:
    """Write a label map compressed, whole or not at all."""
    with replacing(file) as part, part.open("wb") as opened:
        np.savez_compressed(opened, labels=labels)


def read_labels(file: Path) -> UInt8[np.ndarray, "z y x"]:
    """Read what ``write_labels`` wrote.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            return found["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{file.name}: no labels of a study ({error})", "Run the study again with --overwrite.", file=file
        ) from error
