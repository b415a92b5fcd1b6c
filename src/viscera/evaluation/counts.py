"""Voxels of the intersection and of the union of each class in a case, from which scores are made, pooled or per case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from viscera.preparation.store import Case


@dataclass(frozen=True, eq=False)
class Counts:
    """What the scores of a case are made of.

    Attributes:
        case: Its name in the store.
        patient: <data set>/<patient>: a patient's name is unique in its data set only.
        voxels: {class: (voxels of intersection, of union)} of background and of the annotated organs.
    """

    case: str
    patient: str
    voxels: Mapping[str, tuple[int, int]]


def count_case(case: Case, labels: UInt8[np.ndarray, "z y x"], *, classes: Sequence[str]) -> Counts:
    """Count a case's intersections and unions, over known voxels, of background and of the organs that it annotates.

    What the network calls an organ that the case does not annotate counts as background, as in the case's own labels.

    Args:
        case: With its labels.
        labels: The network's, on the same grid.
        classes: Background first.
    """
    kept = np.array([organ in case.annotated for organ in classes])
    both, union = overlaps(case.truth, labels, kept=kept, known=case.known)
    voxels = {
        organ: (int(both[index]), int(union[index])) for index, organ in enumerate(classes) if index == 0 or kept[index]
    }
    return Counts(case.name, f"{case.dataset}/{case.patient}", voxels)


def overlaps(
    truth: UInt8[np.ndarray, "z y x"],
    labels: UInt8[np.ndarray, "z y x"],
    *,
    kept: Bool[np.ndarray, " class"],
    known: Bool[np.ndarray, "z y x"] | None,
) -> tuple[Int64[np.ndarray, " class"], Int64[np.ndarray, " class"]]:
    """Return the voxels of the intersection and of the union of each class; those that are not kept become background."""
    classes = len(kept)
    table = np.where(kept, np.arange(classes), 0).astype(np.uint8)
    pairs = table[truth].astype(np.int64) * classes + table[labels]
    matrix = np.bincount(pairs[known] if known is not None else pairs.ravel(), minlength=classes**2)
    matrix = matrix.reshape(classes, classes)
    both = matrix.diagonal()
    return both, matrix.sum(0) + matrix.sum(1) - both
