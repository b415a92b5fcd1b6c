"""Folds for cross-validation: which part of a store's patients each case is in, so that every one is held out once.

Drawn by patient, alike in data sets and annotated organs; or the user's own, in a file of one of these forms:

    [{"train": ["case_1", ...], "val": ["case_9", ...]}, ...]     nnU-Net's splits_final.json, one entry per fold
    {"folds": [["case_9", ...], ["case_1", ...], ...]}            the cases that each fold holds out
    {"count": 2, "cases": {"case_9": 0, "case_1": 1, ...}}        RUN/folds.json, of an earlier cross-validation

A case may be named as its data set does or as the store does. What is not understood is refused, never left out. Test cases are in
no fold, and neither are cases that annotate nothing. Who is whose scan the store knows (splits.py): by patients.json in the data
set's folder, and by equal voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viscera.errors import DataSetError, RunError, SettingError, did_you_mean
from viscera.json_text import load_json
from viscera.preparation.splits import Member, group_by_patient
from viscera.preparation.store import Split, Store

REMEDY = "Correct the file."


@dataclass(frozen=True)
class Folds:
    """Who is held out where.

    Attributes:
        count: How many folds.
        cases: {case in the store: the fold, from 0, that holds it out}.
        origin: "drawn", or the name of the user's file.
    """

    count: int
    cases: Mapping[str, int]
    origin: str = "drawn"

    def held_out(self, number: int) -> list[str]:
        """Return the cases that a fold holds out, sorted."""
        return sorted(case for case, fold in self.cases.items() if fold == number)


def fold_store(store: Store, folds: Folds, number: int) -> Store:
    """Return a store whose validation cases are those that a fold holds out, and whose training cases are those of the others.

    Test cases stay what they are.
    """
    splits: dict[str, Split] = {name: split for name, split in store.splits.items() if split == "test"}
    splits |= {name: "validation" if fold == number else "training" for name, fold in folds.cases.items()}
    return replace(store, splits=splits)


def foldable_cases(store: Store) -> list[str]:
    """Return the cases that are divided into folds: all that train or validate."""
    return sorted([*store.names("training"), *store.names("validation")])


def draw_folds(store: Store, count: int, *, seed: int = 0) -> Folds:
    """Divide a store's training and validation cases into folds, by patient.

    Patients of one data set who have the same organs annotated are dealt out evenly; then each data set's patients are, then all.

    Args:
        store: Its cases.
        count: How many folds.
        seed: Of the order within each group; the same store and seed give the same folds.

    Raises:
        SettingError: Fewer than two folds, or fewer patients than folds.
    """
    if count < 2:
        raise SettingError(f"--folds {count}: a cross-validation has two folds or more", "Say 5, as is usual.")
    facts = {name: store.facts(name) for name in foldable_cases(store)}
    groups = group_by_patient(Member.of(fact) for fact in facts.values())
    if len(groups) < count:
        raise SettingError(
            f"--folds {count}: {store.path} has {len(groups)} patients to train and validate on",
            "Say fewer folds, or prepare more patients.",
        )
    alike: dict[tuple[str, tuple[str, ...]], list[list[Member]]] = {}
    for group in groups:
        organs = {organ for member in group for organ in facts[member.name].annotated}
        alike.setdefault((group[0].dataset, tuple(sorted(organs))), []).append(group)
    of_dataset = {dataset: [0] * count for dataset, _ in alike}
    of_all, cases = [0] * count, {}
    for (dataset, organs), members in sorted(alike.items()):
        own, whole = [0] * count, of_dataset[dataset]
        drawn = np.random.default_rng([seed, *f"{dataset} {' '.join(organs)}".encode()]).permutation(len(members))
        for place in drawn:
            fold = min(range(count), key=lambda one: (own[one], whole[one], of_all[one], one))
            for held in (own, whole, of_all):
                held[fold] += 1
            cases |= {member.name: fold for member in members[place]}
    return Folds(count, dict(sorted(cases.items())))


def own_folds(store: Store, file: Path, count: int | None = None) -> Folds:
    """Read folds that a user brings along.

    Args:
        store: Whose cases they are of.
        file: See above.
        count: How many there must be; None: as many as the file has.

    Raises:
        DataSetError: The file has none of the forms, names a case that is not there, is for test or is named twice, or leaves
            one out; a patient is in two folds.
        SettingError: The file has another number of folds.
    """
    try:
        content = load_json(file)
    except (OSError, ValueError) as error:
        raise DataSetError(f"{file} cannot be read as JSON: {error}", REMEDY, file=file) from error
    held_out, trained = _parsed(content, file)
    if count is not None and count != len(held_out):
        raise SettingError(f"--folds {count}: {file} has {len(held_out)} folds", "Leave --folds out, or say as many.")
    if len(held_out) < 2:
        raise DataSetError(
            f"{file} has {len(held_out)} folds, but a cross-validation has two or more", REMEDY, file=file
        )
    names = _Names(store, file)
    cases: dict[str, int] = {}
    for fold, listed in enumerate(held_out):
        for case in names.resolved(listed):
            if case in cases:
                where = f"folds {cases[case]} and {fold}" if cases[case] != fold else f"fold {fold}, twice"
                raise DataSetError(f"{file} holds case '{case}' out in {where}", "Hold each case out once.", file=file)
            cases[case] = fold
    if missing := sorted(names.foldable - set(cases)):
        raise DataSetError(
            f"{file} holds case '{missing[0]}' out in no fold ({len(missing)} such case{'s' * (len(missing) > 1)})",
            "Add it to a fold.",
            file=file,
        )
    if empty := sorted(set(range(len(held_out))) - set(cases.values())):
        raise DataSetError(f"{file}: fold {empty[0]} holds no case out", REMEDY, file=file)
    for fold, listed in enumerate(trained):
        _require_rest(names.resolved(listed), cases, fold=fold, file=file)
    folds = Folds(len(held_out), dict(sorted(cases.items())), file.name)
    require_one_fold_each(store, folds, where=str(file))
    return folds


def require_one_fold_each(store: Store, folds: Folds, *, where: str) -> None:
    """Raise DataSetError where two cases of one patient are in different folds, by name or by equal voxels."""
    for group in group_by_patient(Member.of(store.facts(name)) for name in folds.cases):
        first, *others = (member.name for member in group)
        for other in others:
            if folds.cases[first] != folds.cases[other]:
                raise DataSetError(
                    f"{where}: cases '{first}' (fold {folds.cases[first]}) and '{other}' (fold {folds.cases[other]}) show one "
                    "patient, but are in different folds",
                    "Put them into one, or correct patients.json and prepare again.",
                )


def require_whole(store: Store, folds: Folds, *, where: str) -> None:
    """Raise RunError where folds are not of exactly the cases that a store has to train and validate on."""
    differing = sorted(set(foldable_cases(store)) ^ set(folds.cases))
    if differing:
        came = "is in no fold" if differing[0] not in folds.cases else "is not to train or validate on any more"
        raise RunError(
            f"{store.path} has changed since {where} was begun: case '{differing[0]}' {came} ({len(differing)} such in all)",
            "Give the store as it was, or cross-validate anew in another folder.",
            file=store.path,
        )


def _parsed(content: object, file: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Return the cases that each fold holds out and, where the file lists them, those that each trains on."""
    if isinstance(content, list):
        entries = [entry if isinstance(entry, dict) else {} for entry in content]
        held, trained = ([entry.get(key) for entry in entries] for key in ("val", "train"))
        if content and all(_are_names(names) for names in (*held, *trained)):
            return held, trained  # type: ignore[return-value]
    elif isinstance(content, dict) and isinstance(content.get("folds"), list):
        if all(_are_names(names) for names in content["folds"]):
            return content["folds"], []
    elif isinstance(content, dict) and isinstance(content.get("cases"), dict):
        cases, count = content["cases"], content.get("count")
        numbers = list(cases.values())
        if (
            type(count) is int
            and all(type(fold) is int and 0 <= fold < count for fold in numbers)
            and count <= len(cases)
        ):
            return [[case for case, fold in cases.items() if fold == number] for number in range(count)], []
    raise DataSetError(
        f"{file} does not say which cases each fold holds out",
        'Write {"folds": [[case, ...], ...]}, or nnU-Net\'s [{"train": [...], "val": [...]}, ...].',
        file=file,
    )


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


class _Names:
    """What a file may call the cases of a store."""

    def __init__(self, store: Store, file: Path) -> None:
        self.store, self.file, self.foldable = store, file, set(foldable_cases(store))
        self.known, self.short = set(store.names()), dict[str, list[str]]()
        for name in sorted(self.known):
            own = name.removeprefix(f"{store.facts(name).dataset.lstrip('.')}__")
            self.short.setdefault(own, []).append(name)

    def resolved(self, listed: Sequence[str]) -> list[str]:
        """Return the cases in the store that a file names.

        Raises:
            DataSetError: One is not there, may be several, or is in no fold.
        """
        return [self._one(case) for case in listed]

    def _one(self, case: str) -> str:
        found = [case] if case in self.known else self.short.get(case, [])
        if not found:
            remedy = f"{did_you_mean(case, [*self.short, *self.known])} {REMEDY}"
            raise DataSetError(
                f"{self.file} lists case '{case}', which is not in {self.store.path}", remedy, file=self.file
            )
        if len(found) > 1:
            raise DataSetError(
                f"{self.file}: case '{case}' may be {' or '.join(found)}", "Write these longer names.", file=self.file
            )
        if found[0] not in self.foldable:
            split = self.store.splits.get(found[0])
            why = f"is for {split} in {self.store.path}" if split else "annotates none of the organs"
            raise DataSetError(
                f"{self.file} lists case '{case}', which {why} and so is in no fold", "Take it out.", file=self.file
            )
        return found[0]


def _require_rest(trained: Sequence[str], cases: Mapping[str, int], *, fold: int, file: Path) -> None:
    """Raise DataSetError unless a fold trains on exactly the cases that it does not hold out."""
    rest = {case for case, held in cases.items() if held != fold}
    wrong = sorted(set(trained) ^ rest)
    if wrong:
        what = "trains on a case that it holds out" if wrong[0] in trained else "neither trains on it nor holds it out"
        raise DataSetError(
            f"{file}: fold {fold}, case '{wrong[0]}': the fold {what}",
            "Let each fold train on all cases but those that it holds out.",
            file=file,
        )
