"""What is mistaken for what: the confusion matrix over organs in ml, merged over cases, and its largest mix-ups.

Only what the truth can tell counts, see ``tally``. The voxels are counted in metrics.py, over cases in evaluate.py.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from viscera.labels import LabelSpace

BACKGROUND = "background"


@dataclass(frozen=True)
class Confusion:
    """How much of each true class is called what, summed over cases.

    Attributes:
        classes: Background, then the organs.
        ml: One row per true class, one column per predicted class.
    """

    classes: tuple[str, ...]
    ml: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Raise ValueError where it is not a matrix of volumes over these classes."""
        count = len(self.classes)
        square = len(self.ml) == count and all(len(row) == count for row in self.ml)
        if self.classes[:1] != (BACKGROUND,) or len(set(self.classes)) != count or not square:
            raise ValueError(f"{count} classes, background first, need as many rows and columns")
        if not all(0 <= value < math.inf for row in self.ml for value in row):
            raise ValueError("it holds something other than volumes in ml")

    @property
    def fractions(self) -> Float[np.ndarray, "classes classes"]:
        """Each row divided by its sum, in [0, 1]; NaN in rows of classes that no truth shows."""
        ml = np.array(self.ml, float).reshape(len(self.classes), len(self.classes))
        sums = ml.sum(axis=1, keepdims=True)
        return np.where(sums > 0, ml / np.where(sums > 0, sums, 1), np.nan)


@dataclass(frozen=True)
class MixUp:
    """A true class of which some is called another.

    Attributes:
        truth: The true class; background: the predicted organ is found where none of the organs is.
        predicted: What it is called; background: it is missed.
        ml: How much.
        share: ``ml`` as part of the true organ's volume; in background, of the predicted organ's true volume, so that
            it may exceed 1, and is NaN if no truth shows that organ.
        back: The share of the mix-up the other way round; 0 if there is none.
    """

    truth: str
    predicted: str
    ml: float
    share: float
    back: float


def tally(
    counts: Int[np.ndarray, "classes classes"], space: LabelSpace, annotated: Collection[str], *, voxel_ml: float
) -> Confusion:
    """Return one case's matrix, without what its truth cannot tell.

    An organ that the truth does not annotate has no row. Its column counts in the rows of other organs, where it is
    wrong whatever the truth does not show, but not in background, where it may be right.

    Args:
        counts: What ``metrics.confusion`` gave for the known voxels.
        space: Names the classes.
        annotated: Organs that the truth annotates.
        voxel_ml: Volume of a voxel.
    """
    ml = counts * voxel_ml
    for index, organ in space.labels.items():
        if organ not in annotated:
            ml[index, :] = ml[0, index] = 0
    return Confusion(space.classes, tuple(map(tuple, ml.tolist())))


def merge(matrices: Iterable[Confusion]) -> Confusion | None:
    """Add matrices up, class by class, by the classes' names; None without any."""
    matrices = list(matrices)
    if not matrices:
        return None
    classes = tuple(dict.fromkeys([BACKGROUND, *(name for matrix in matrices for name in matrix.classes)]))
    total = np.zeros((len(classes), len(classes)))
    for matrix in matrices:
        places = [classes.index(name) for name in matrix.classes]
        total[np.ix_(places, places)] += np.array(matrix.ml)
    return Confusion(classes, tuple(map(tuple, total.tolist())))


def mix_ups(confusion: Confusion, *, most: int = 10) -> list[MixUp]:
    """List what is mistaken for what, the largest share first; a false find of an organ that is never there counts as 1.

    Args:
        confusion: Of any number of cases.
        most: How many at most.
    """
    ml = np.array(confusion.ml, float).reshape(len(confusion.classes), len(confusion.classes))
    sums = ml.sum(axis=1)

    def share(row: int, column: int) -> float:
        """Return an entry as part of the true volume of its organ."""
        whole = sums[row or column]
        return float(ml[row, column] / whole) if whole > 0 else math.nan if ml[row, column] > 0 else 0.0

    found = []
    for row, column in np.argwhere(ml).tolist():
        if row != column:
            names = confusion.classes[row], confusion.classes[column]
            found.append(MixUp(*names, float(ml[row, column]), share(row, column), share(column, row)))
    found.sort(key=lambda entry: (1.0 if math.isnan(entry.share) else entry.share, entry.ml), reverse=True)
    return found[:most]
