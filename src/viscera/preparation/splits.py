"""Which cases are for training, for validation and for testing: by patient, stratified by data set, seeded.

Two cases show one patient when their data set says so, or when their prepared voxels are equal (public data sets
contain one another). A patient never stands on two sides, and a case that has a side keeps it when others join. Splits that
are brought along are read in own_splits.py.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from viscera.datasets.sources import Source
from viscera.errors import RunError, SettingError
from viscera.io.atomic import write_json
from viscera.io.scans import sha256_of
from viscera.json_text import load_json
from viscera.networks.find_weights import FOLDS, fold_folder
from viscera.preparation.case import case_name
from viscera.preparation.own_splits import require_same_side
from viscera.preparation.store import Facts, Split, Store

READERS = 4
"""Files hashed at a time."""

SPLITS: tuple[Split, ...] = ("training", "validation", "test")


@dataclass(frozen=True)
class Fractions:
    """Shares of each data set's patients; they add up to 1."""

    training: float = 0.7
    """At least one patient is always for training."""
    validation: float = 0.1
    """To choose the best weights by. Above 0, and with three patients or more: at least one."""
    test: float = 0.2
    """Never seen in training. Above 0, and with three patients or more: at least one."""

    def __post_init__(self) -> None:
        """Refuse what is not a division."""
        shares = (self.training, self.validation, self.test)
        if min(shares) < 0 or self.training == 0 or abs(sum(shares) - 1) > 1e-6:
            text = ", ".join(f"{share:g}" for share in shares)
            raise SettingError(f"fractions must be 0 or more, add up to 1 and leave some for training, got {text}.")


@dataclass(frozen=True)
class Member:
    """A case as far as the splits care.

    Attributes:
        name: The case's.
        dataset: The case's.
        patient: The case's; unique in the data set.
        image_sha256: Of the prepared voxels.
    """

    name: str
    dataset: str
    patient: str
    image_sha256: str

    @staticmethod
    def of(facts: Facts) -> "Member":
        """Return what of a case's facts the splits care for."""
        return Member(facts.name, facts.dataset, facts.patient, facts.image_sha256)


def group_by_patient(members: Iterable[Member]) -> list[list[Member]]:
    """Gather the cases that show one patient; groups and their cases are in the order of names."""
    group_of: dict[tuple[str, str], list[Member]] = {}
    for member in sorted(members, key=lambda member: member.name):
        keys = _identities(member)
        joined = [member]
        for group in {id(group_of[key]): group_of[key] for key in keys if key in group_of}.values():
            joined += group
        for other in joined:
            group_of |= dict.fromkeys(_identities(other), joined)
    groups = {id(group): sorted(group, key=lambda member: member.name) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: group[0].name)


def _identities(member: Member) -> list[tuple[str, str]]:
    """Return what a case has in common with others of its patient."""
    patient = ("patient of " + member.dataset, member.patient)
    return [patient, ("image", member.image_sha256)] if member.image_sha256 else [patient]


def divide(
    members: Iterable[Member],
    *,
    fractions: Fractions = Fractions(),
    seed: int = 0,
    before: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Return each case its split.

    A data set's missing validation patients are drawn first, then its test patients; the rest trains. How a data set is
    divided depends on the seed and on itself only, unless it shares patients with another.

    Args:
        members: All cases to divide.
        fractions: How many patients of each data set go where, rounded to whole patients.
        seed: Of the draw.
        before: The splits of some cases, kept. Where they contradict each other for what turns out to be one patient,
            all of that patient's cases go to training, else validation: what was trained on is never tested on.
    """
    groups = group_by_patient(members)
    side: dict[int, Split] = {}
    for number, group in enumerate(groups):
        sides = {(before or {}).get(member.name) for member in group}
        known: list[Split] = [split for split in SPLITS if split in sides]
        if known:
            side[number] = known[0]
    for dataset in sorted({member.dataset for group in groups for member in group}):
        own = [number for number, group in enumerate(groups) if any(member.dataset == dataset for member in group)]
        free = [number for number in own if number not in side]
        drawn = np.random.default_rng([seed, *dataset.encode()]).permutation(len(free))
        queue = [free[place] for place in drawn]
        for split, target in _targets(len(own), fractions).items():
            missing = max(0, target - sum(side.get(number) == split for number in own))
            if "training" not in (side.get(number) for number in own):
                missing = min(missing, len(queue) - 1)  # one is left to train on
            for _ in range(min(missing, len(queue))):
                side[queue.pop()] = split
        for number in queue:
            side[number] = "training"
    return {member.name: side[number] for number, group in enumerate(groups) for member in group}


def fold_of(members: Iterable[Member], *, folds: int, seed: int = 0) -> dict[str, int]:
    """Return each case the number of its fold, from 1: by patient, each data set's patients dealt out in a random order.

    Args:
        members: The cases to divide.
        folds: How many.
        seed: Of the draw.
    """
    by_dataset: dict[str, list[list[Member]]] = {}
    for group in group_by_patient(members):
        by_dataset.setdefault(group[0].dataset, []).append(group)
    folds_of_cases = {}
    for number, (dataset, groups) in enumerate(sorted(by_dataset.items())):
        drawn = np.random.default_rng([seed, *dataset.encode()]).permutation(len(groups))
        for place, chosen in enumerate(drawn):
            # Another data set begins with another fold, so that small ones do not all go to the first.
            folds_of_cases |= {member.name: (number + place) % folds + 1 for member in groups[chosen]}
    return folds_of_cases


def _targets(patients: int, fractions: Fractions) -> dict[Split, int]:
    """Return how many patients validation and test should have."""
    least = 1 if patients >= 3 else 0
    wanted: dict[Split, float] = {"validation": fractions.validation, "test": fractions.test}
    return {split: max(int(share * patients + 0.5), least if share else 0) for split, share in wanted.items()}


def unlabelled_cases(store: Store) -> tuple[list[str], dict[str, str]]:
    """Return the cases that annotate no organ; they stand in no split, and teachers may label them (pseudolabels/).

    Returns:
        Those that may be learnt from, sorted; and {case: labelled case} of those that show a labelled case's patient. The
        latter would carry a test patient into the training, or teach again what is annotated already.
    """
    facts = [store.facts(name) for name in store.names()]
    annotated = {fact.name for fact in facts if fact.annotated}
    free, shown = [], {}
    for group in group_by_patient(Member.of(fact) for fact in facts):
        names = [member.name for member in group]
        labelled = sorted(set(names) & annotated, key=lambda name: (store.splits.get(name) == "training", name))
        if labelled:
            shown |= dict.fromkeys(set(names) - annotated, labelled[0])
        else:
            free += names
    return sorted(free), dict(sorted(shown.items()))


def update_splits(
    store: Store, *, fractions: Fractions, seed: int, given: Mapping[str, Split] | None = None
) -> list[str]:
    """Divide the store's cases anew, keeping the sides they have, and write splits.json.

    Cases without annotated organs stand in no split: nothing can be measured on them, nor learnt without teachers.

    Args:
        store: The store.
        fractions: Of the draw.
        seed: Of the draw.
        given: {case: split} that was brought along. It must not contradict the sides in the store.

    Returns:
        A note for every group of cases that hold the same scan, for every case whose side had to change, and for cases
        that splits.json names and that are gone.

    Raises:
        DataSetError: One patient stands on two sides of what is given; nothing is written.
    """
    facts = [store.facts(name) for name in store.names()]
    members = [Member.of(fact) for fact in facts if fact.annotated]
    file = store.path / "splits.json"
    given = given or {}
    before: dict[str, Split] = {**store.splits, **given}
    splits = divide(members, fractions=fractions, seed=seed, before=before)
    for group in group_by_patient(members):
        fixed = [member.name for member in group if member.name in before]
        if any(name in given for name in fixed):
            for other in fixed[1:]:
                require_same_side(before, fixed[0], other)
    found = {"seed": seed, "fractions": asdict(fractions), "cases": dict(sorted(splits.items()))}
    if not file.is_file() or load_json(file) != found:
        write_json(file, found)
    return [*_notes_of_twins(facts), *_notes_of_moves(store.splits, splits)]


def _notes_of_twins(facts: Iterable[Facts]) -> list[str]:
    same: dict[str, list[str]] = {}
    for fact in facts:
        same.setdefault(fact.image_sha256, []).append(fact.name)
    return [f"{', '.join(names)}: the same scan, so one patient" for names in same.values() if len(names) > 1]


def _notes_of_moves(before: Mapping[str, Split], after: Mapping[str, Split]) -> list[str]:
    """Say which cases have another side than they had, or none."""
    moved = [f"{name} from {side} to {after[name]}" for name, side in before.items() if after.get(name, side) != side]
    notes = [
        f"{name}: had a side in splits.json, but is no case to learn from any more"
        for name in before
        if name not in after
    ]
    if moved:
        text = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
        notes.append(
            f"cases now known to show one patient were in different splits, so some were moved: {text}. "
            "For a division with as many test patients as wanted, prepare a new store"
        )
    return notes


def of_split(sources: Sequence[Source], run: Path | None, split: str) -> list[Source]:
    """Keep the cases of a split of the store that a run was trained on; all where ``split`` is "all".

    Raises:
        RunError: The run does not say what its splits are.
        SettingError: None of the cases is in the split, or one of them goes by the name of another scan.
    """
    if split == "all":
        return list(sources)
    if run is not None and (run / FOLDS).is_file():
        run = _fold_for(run, split)
    facts = run / "run.json" if run else None
    if facts is None or not facts.is_file():
        raise RunError(f"--split {split} needs the folder of a run, with its run.json; {run} is none.")
    try:
        found = load_json(facts)
        chosen, scans = set(found["splits"][split]), found.get("scans")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{facts} is damaged: it does not list the cases of '{split}'", "Copy it again, or train again."
        ) from error
    kept = [source for source in sources if case_name(source) in chosen]
    if not kept:
        raise SettingError(f"none of the {len(sources)} cases is in the split '{split}' of {run}.")
    _require_same_scans(kept, scans, run=facts.parent)
    return kept


def _fold_for(run: Path, split: str) -> Path:
    """Return the fold of a cross-validated run that tells a split: the test cases are the same for all folds.

    Raises:
        RunError: Another split is asked for, which each fold has of its own.
    """
    if split != "test":
        raise RunError(
            f"--split {split}: each fold of {run} has other {split} cases, and every case trains some of them",
            "Give one fold alone, RUN/fold_0 say, or pass --split test. Scores of all cases: RUN/out_of_fold.",
        )
    return fold_folder(run, 0)


def _require_same_scans(sources: Sequence[Source], scans: object, *, run: Path) -> None:
    """Raise SettingError where a case is not the scan that its name stands for in a run; warn where that cannot be told.

    Another hospital's data set may have the same folder and case names, and its cases be in no split of the run.

    Args:
        sources: Cases with names of the run's.
        scans: What run.json says: {case: SHA-256 of its scan file}.
        run: The run's folder.
    """
    if not isinstance(scans, dict):
        warnings.warn(
            f"{run} was trained by an older viscera: its splits go by the names of the cases, and whether these are its "
            "scans is not checked",
            stacklevel=3,
        )
        return
    with ThreadPoolExecutor(READERS) as pool:
        hashes = list(pool.map(_scan_hash, sources))
    names = map(case_name, sources)
    others = [name for name, now in zip(names, hashes, strict=True) if now is not None and now != scans.get(name)]
    if others:
        more = f" (and {len(others) - 1} of the other {len(sources) - 1} cases)" if len(others) > 1 else ""
        raise SettingError(
            f"{others[0]} is another scan file than the case of that name that {run} knows{more}",
            "Give the data set that the run's store was made from, with its files as they were; or --split all.",
        )


def _scan_hash(source: Source) -> str | None:
    """Return the SHA-256 of a case's scan file; None where it cannot be read, which is said when it is."""
    try:
        return sha256_of(source.image)
    except OSError:
        return None
