"""Splits that are brought along, in a file of the user's or in the data set's folder: who trains, who validates, who tests.

    {"training": ["case_1", ...], "validation": [...], "test": [...]}
    {"case_1": "training", ...}
    [{"train": ["case_1", ...], "val": [...]}, ...]     nnU-Net's splits_final.json; a number chooses the fold

A store's splits.json will do, too. What is not understood is refused, never left out: a case that is not there, one that is
not listed though others of its data set are, a word that is no split, a patient on two sides. Splits that nobody brought along
are drawn in splits.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import get_args

from viscera.datasets.sources import Problem, Source
from viscera.errors import DataSetError, SettingError, StoreError, did_you_mean
from viscera.json_text import load_json
from viscera.preparation.case import case_name
from viscera.preparation.store import Split, Store

FILES = ("splits.json", "splits_final.json")
"""In a data set's folder; the first that is there counts."""

SPELLINGS: dict[Split, tuple[str, ...]] = {
    "training": ("training", "train", "tr"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing", "ts"),
}
WORDS: dict[str, Split] = {word: split for split, words in SPELLINGS.items() for word in words}
"""{word in a file: the split that it means}."""


@dataclass(frozen=True)
class OwnSplits:
    """What the user brings along.

    Attributes:
        file: For all data sets that it names cases of; None to look into the data sets' folders.
        fold: Of a file that lists folds: which, from 0 as nnU-Net counts.
    """

    file: Path | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        """Refuse folds that cannot be."""
        if self.fold is not None and self.fold < 0:
            raise SettingError(f"the fold must not be negative, got {self.fold}", "Folds are counted from 0.")

    @staticmethod
    def of(given: str | PathLike[str] | tuple[str | PathLike[str], int] | None) -> "OwnSplits":
        """Return what a file, or a file of folds and the number of one, stands for; None: nothing is brought along."""
        file, fold = given if isinstance(given, tuple) else (given, None)
        return OwnSplits(None if file is None else Path(file), fold)


def find_own_splits(
    store: Store, sources: Sequence[Source], problems: Sequence[Problem], *, own: OwnSplits
) -> tuple[dict[str, Split], list[str]]:
    """Return {case in the store: split} as the files say, and notes on what was used and what was not.

    Args:
        store: Where the cases go, or stand already; a side that one has there cannot be changed.
        sources: The cases of the data sets.
        problems: Cases that cannot be used; they may be listed.
        own: Which file, which fold.

    Raises:
        DataSetError: A file is not understood in all that it says.
        SettingError: A fold was asked for, and no file lists folds.
        StoreError: A case has another side in the store.
    """
    given, notes = read_own_splits(sources, problems, own=own, held=store.names())
    for case, split in given.items():
        if store.splits.get(case, split) != split:
            raise StoreError(
                f"case '{case}' is for {store.splits[case]} in {store.path}, but for {split} in the splits given",
                "Prepare another store, for what was trained on must not be tested on.",
                file=store.path,
            )
    return given, notes


def read_own_splits(
    sources: Sequence[Source], problems: Sequence[Problem], *, own: OwnSplits = OwnSplits(), held: Sequence[str] = ()
) -> tuple[dict[str, Split], list[str]]:
    """Return {case as a store calls it: split} as the files say, and notes on what was used and what was not.

    Args:
        sources: The cases of the data sets.
        problems: Cases that cannot be used; they may be listed.
        own: Which file, which fold.
        held: Further cases that may be listed: those of a store.

    Raises:
        DataSetError: A file is not understood in all that it says.
        SettingError: A fold was asked for, and no file lists folds.
    """
    given: dict[str, Split] = {}
    notes, folds = [], 0
    for file, owners in _files(sources, own):
        content = _read(file)
        if isinstance(content, list) and own.file is None and own.fold is None and len(content) != 1:
            notes.append(
                f"{owners[0].dataset}: {file.name} lists {len(content)} folds and is not used; choose one by --fold"
            )
            continue
        folds += isinstance(content, list)
        listed = _sides(content, file=file, fold=own.fold)
        given |= _resolve(listed, owners, problems, held=held, file=file)
        notes += [f"{dataset}: divided as {file.name} says" for dataset in sorted({one.dataset for one in owners})]
    if own.fold is not None and not folds:
        raise SettingError(
            f"fold {own.fold} was asked for, but no file lists folds", "Give nnU-Net's splits_final.json."
        )
    if given and "training" not in given.values():
        raise DataSetError("the splits that were brought along leave no case for training", "Correct the file.")
    _require_one_side_each(given, sources)
    return given, notes


def _files(sources: Sequence[Source], own: OwnSplits) -> list[tuple[Path, list[Source]]]:
    """Return each file of splits with the sources that it is about."""
    if own.file is not None:
        return [(own.file, list(sources))]
    found = []
    for dataset in dict.fromkeys(source.dataset for source in sources):
        owners = [source for source in sources if source.dataset == dataset]
        origin = owners[0].origin
        there = [origin.folder / name for name in FILES if (origin.folder / name).is_file()] if origin else []
        found += [(file, owners) for file in there[:1]]
    return found


def _read(file: Path) -> object:
    try:
        return load_json(file)
    except (OSError, ValueError) as error:
        raise DataSetError(f"{file} cannot be read as JSON: {error}", "Correct the file.", file=file) from error


def _sides(content: object, *, file: Path, fold: int | None) -> dict[str, Split]:
    """Return {case as the file names it: split}.

    Raises:
        DataSetError: The file has none of the forms, holds a word that is no split, or lists a case twice.
    """
    if isinstance(content, list):
        if fold is None and len(content) != 1:
            raise DataSetError(f"{file} lists {len(content)} folds", "Choose one by --fold, from 0.", file=file)
        if (fold or 0) >= len(content):
            raise DataSetError(
                f"{file} has no fold {fold or 0}: it lists {len(content)}", "They count from 0.", file=file
            )
        content = content[fold or 0]
    if isinstance(content, dict) and isinstance(content.get("cases"), dict):
        content = content["cases"]  # of a store's splits.json
    if not isinstance(content, dict) or not content:
        raise DataSetError(
            f"{file} does not say which cases are in which split",
            'Write {"training": [case], "test": [case]}.',
            file=file,
        )
    pairs: list[tuple[object, object]] = []
    for key, value in content.items():
        pairs += [(case, key) for case in value] if isinstance(value, list) else [(key, value)]
    sides: dict[str, Split] = {}
    for case, word in pairs:
        split = WORDS.get(word.strip().lower()) if isinstance(word, str) else None
        if split is None or not isinstance(case, str):
            hint = did_you_mean(str(word)[:60], WORDS)
            raise DataSetError(
                f"{file}: case {case!r} is in {word!r}, which is no split",
                f"{hint} The splits are {', '.join(get_args(Split))}.",
                file=file,
            )
        if case in sides:
            raise DataSetError(f"{file} lists case '{case}' twice", "List each case once.", file=file)
        sides[case] = split
    return sides


def _resolve(
    sides: dict[str, Split], sources: Sequence[Source], problems: Sequence[Problem], *, held: Sequence[str], file: Path
) -> dict[str, Split]:
    """Return {case in the store: split}; a file may name a case as the data set does or as the store does.

    Raises:
        DataSetError: A case is not there, its name is that of two, or one is not listed though others of its data set are.
    """
    known = {case_name(source): case_name(source) for source in sources} | {name: name for name in held}
    short: dict[str, list[str]] = {}
    for source in sources:
        short.setdefault(source.name, []).append(case_name(source))
    unusable = {problem.case for problem in problems}
    found: dict[str, Split] = {}
    for case, split in sides.items():
        cases = [known[case]] if case in known else short.get(case, [])
        if len(cases) > 1:
            raise DataSetError(
                f"{file}: case '{case}' may be {' or '.join(cases)}", "Write these longer names.", file=file
            )
        if cases and cases[0] in found:
            raise DataSetError(f"{file} lists case '{cases[0]}' twice", "List each case once.", file=file)
        if cases:
            found[cases[0]] = split
        elif case not in unusable and case.partition("__")[2] not in unusable:
            remedy = f"{did_you_mean(case, [*short, *known])} Correct the file, or prepare its data set, too."
            raise DataSetError(f"{file} lists case '{case}', which is not in the data sets", remedy, file=file)
    named = {source.dataset for source in sources if case_name(source) in found}
    missing = [
        source.name
        for source in sources
        if source.dataset in named and source.annotated and case_name(source) not in found
    ]
    if missing:
        raise DataSetError(
            f"{file} does not list case '{missing[0]}' ({len(missing)} such case{'s' * (len(missing) > 1)})",
            "Add it to a split.",
            file=file,
        )
    return found


def _require_one_side_each(given: dict[str, Split], sources: Iterable[Source]) -> None:
    """Raise DataSetError where a patient stands on two sides, as far as data sets say who is who."""
    first: dict[tuple[str, str], str] = {}
    for source in sources:
        name = case_name(source)
        if name in given:
            other = first.setdefault((source.dataset, source.patient), name)
            require_same_side(given, other, name)


def require_same_side(splits: Mapping[str, Split], one: str, other: str) -> None:
    """Raise DataSetError unless two cases that show one patient are in one split."""
    if splits[one] != splits[other]:
        raise DataSetError(
            f"cases '{one}' ({splits[one]}) and '{other}' ({splits[other]}) show one patient, but are in different splits",
            "Put them into one, or correct patients.json.",
        )
