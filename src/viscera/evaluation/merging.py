"""Evaluations of several data sets as one, whose cases and patients are told apart by where they come from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from viscera.errors import SettingError
from viscera.evaluation.confusion import merge
from viscera.evaluation.scores import Evaluation
from viscera.evaluation.statistics import summarise


def merge_evaluations(
    found: Sequence[Evaluation], folders: Sequence[str], *, truths: Sequence[str] | None = None
) -> Evaluation:
    """Return one evaluation of several data sets.

    Args:
        found: One per data set, all of one mode.
        folders: A name for each; it is put before the names of its cases, and so tells them apart.
        truths: Likewise for patients: the same name where the truth is the same; None: ``folders``.

    Raises:
        SettingError: Two have one name, so that cases of different sets would be taken for one.
    """
    if len(set(folders)) < len(folders):
        raise SettingError(f"several data sets are called {', '.join(folders)}", "Give each a name of its own.")
    named = list(zip(folders, found, strict=True))
    scores = tuple(
        replace(score, case=f"{folder}/{score.case}", patient=f"{truth}/{score.patient}")
        for (folder, one), truth in zip(named, folders if truths is None else truths, strict=True)
        for score in one.scores
    )
    return Evaluation(
        found[0].mode,
        scores,
        summarise(scores, np.random.default_rng(0)),
        tuple(replace(row, case=f"{folder}/{row.case}") for folder, one in named for row in one.problems),
        tuple(dict.fromkeys(f"{folder}: {note}" for folder, one in named for note in one.notes)),
        merge(one.confusion for one in found if one.confusion),
        tuple(replace(row, case=f"{folder}/{row.case}") for folder, one in named for row in one.efficiency),
        tuple(replace(row, case=f"{folder}/{row.case}") for folder, one in named for row in one.trust),
    )


def names_of_pairs(truths: Sequence[Path], predictions: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return a name for each pair, and for each truth, the same where the truth is: what their paths do not share.

    Args:
        truths: Folders of truth or of data sets, one per pair.
        predictions: One per pair.

    Raises:
        SettingError: Two pairs are the same.

    Example:
        >>> paths = [Path("A/labelsTr"), Path("B/labelsTr"), Path("B/labelsTr")]
        >>> names_of_pairs(paths, [Path("p1"), Path("p2"), Path("p3")])
        (['A', 'B/p2', 'B/p3'], ['A', 'B', 'B'])
    """
    places = [path.resolve() for path in truths]
    pairs = [(place, path.resolve()) for place, path in zip(places, predictions, strict=True)]
    for number, pair in enumerate(pairs):
        if pair in pairs[:number]:
            raise SettingError(f"{truths[number]} with {predictions[number]} is given twice", "Leave one of them out.")
    different = list(dict.fromkeys(places))
    called = _names([truths[places.index(place)].absolute() for place in different])
    of_truths = [called[different.index(place)] for place in places]
    of_pairs = list(of_truths)
    for place in different:
        alike = [number for number, one in enumerate(places) if one == place]
        if len(alike) > 1:
            for number, name in zip(alike, _names([predictions[number].absolute() for number in alike]), strict=True):
                of_pairs[number] = f"{of_truths[number]}/{name}"
    return of_pairs, of_truths


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last part in which all paths differ, else as many of their last parts as it takes, without shared ones.

    No more than that: what folders further up are called may name a patient, or the person who works there.
    """
    rows = [_padded(path, max(len(path.parts) for path in paths)) for path in paths]
    columns = list(zip(*rows, strict=True))
    for column in columns[::-1]:
        if all(column) and len(set(column)) == len(rows):
            return list(column)
    start = len(columns) - 1
    while start and len({row[start:] for row in rows}) < len(rows):
        start -= 1
    kept = [place for place in range(start, len(columns)) if len(set(columns[place])) > 1]
    names = ["/".join(filter(None, (row[place] for place in kept))) for row in rows]
    return names if len(set(names)) == len(names) else [f"{n}, {name}" for n, name in enumerate(names, start=1)]


def _padded(path: Path, length: int) -> tuple[str, ...]:
    """Return the parts of a path, its last ones in the last places."""
    parts = tuple(part.strip("/\\") for part in path.parts)
    return ("",) * (length - len(parts)) + parts
