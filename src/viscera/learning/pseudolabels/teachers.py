"""Teachers: trained networks that fill in what a case does not annotate, and what each was trained on.

What they saw stands in the run.json beside their weights and in the store that it names. It decides who may teach: one
that saw a test case would carry that case's truth into the student's training, and one that learnt "not annotated" as
"background" would only hand on the mistake that pseudo-labels are to mend.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscera.config import Accelerator
from viscera.errors import RunError, SettingError, StoreError
from viscera.inference.model import Model, load_model
from viscera.json_text import load_json
from viscera.networks.weights import find_weights, load_weights
from viscera.preparation.store import Facts, Store, open_store

CHOSEN = "was chosen by its scores on"
CARRIED = "what the student learns from it would carry their truth, and its scores would mean nothing"


class TeacherWarning(UserWarning):
    """Something about the teachers that the user may not want."""


@dataclass(frozen=True)
class Seen:
    """What a network was trained on.

    Attributes:
        training: {case: SHA-256 of its prepared image} of the cases it learnt from; "" where its store is gone.
        validation: Likewise of those its best weights were chosen by.
        annotated: Organs annotated in each training case; None where its store is gone.
    """

    training: Mapping[str, str]
    validation: Mapping[str, str]
    annotated: Sequence[frozenset[str]] | None

    @property
    def taught(self) -> frozenset[str] | None:
        """Organs that any training case annotates; None where that is not known."""
        return None if self.annotated is None else frozenset().union(*self.annotated)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network.

    Attributes:
        model: The network.
        run: Name of the folder it was found in.
        seen: What it was trained on; None where its run.json did not travel with it.
        dice: How well it found each organ where it is annotated, when it was trained: in the validation cases, else in
            the training cases. An organ that neither showed is missing.
    """

    model: Model
    run: str
    seen: Seen | None
    dice: Mapping[str, float]

    def facts(self) -> dict[str, str]:
        """Return what pseudo.json tells of it."""
        return {"weights_sha256": self.model.weights_sha256, "recipe": self.model.recipe.name, "run": self.run}


def find_teacher(where: Path, *, accelerator: Accelerator = "auto", runtime: Literal["torch"] | None = None) -> Teacher:
    """Load a teacher.

    Args:
        where: A run's folder, or a weights file.
        accelerator: Where to run it.
        runtime: torch: made faster, as for predicting; None: torch's module as it was trained.

    Raises:
        WeightsError: No weights there, or damaged.
        RunError: Its run.json is damaged.
    """
    file = find_weights(where)
    folder = file.resolve().parent
    log = load_weights(file).provenance
    dice: dict[str, float] = {}
    for name in ("train_dice", "val_dice"):  # the latter has the last word
        scores = log.get(name)
        if isinstance(scores, dict):
            dice |= {str(organ): float(score) for organ, score in scores.items() if score is not None}
    return Teacher(
        load_model(file, accelerator=accelerator, runtime=runtime), folder.name, read_seen(folder / "run.json"), dice
    )


def finds_of(teachers: Sequence[Teacher]) -> dict[str, float]:
    """Return, for each organ of which all teachers tell it, how well the worst of them finds it."""
    shared = set.intersection(*(set(teacher.dice) for teacher in teachers))
    return {organ: min(teacher.dice[organ] for teacher in teachers) for organ in shared}


def teachers_for(teachers: Sequence[Teacher], name: str, sha256: str) -> list[Teacher]:
    """Return the teachers of a case: those who were not trained on it, or all where fewer than two were not."""
    others = [one for one in teachers if one.seen is None or not shared_cases(one.seen.training, {name: sha256})]
    return others if len(others) > 1 else list(teachers)


def read_seen(file: Path) -> Seen | None:
    """Read what a run was trained on; None without the file.

    Raises:
        RunError: The file is damaged.
    """
    if not file.is_file():
        return None
    try:
        found = load_json(file)
        training, validation = ([str(name) for name in found["splits"][split]] for split in ("training", "validation"))
        store = Path(found["store"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} is damaged: it does not list the cases of the run", "Copy it again, or train again.", file=file
        ) from error
    facts = _facts(store, [*training, *validation])
    hashes = {name: facts[name].image_sha256 if name in facts else "" for name in (*training, *validation)}
    annotated = [frozenset(facts[name].annotated) for name in training if name in facts]
    return Seen(
        {name: hashes[name] for name in training},
        {name: hashes[name] for name in validation},
        annotated if len(annotated) == len(training) else None,
    )


def _facts(store: Path, names: Iterable[str]) -> dict[str, Facts]:
    """Read the facts of those cases that are still in a run's store."""
    try:
        opened = open_store(store)
        there = set(opened.names())
        return {name: opened.facts(name) for name in names if name in there}
    except StoreError:  # it may be gone, or made anew by another version: its cases' names are still known
        return {}


def check_teachers(teachers: Sequence[Teacher], store: Store, names: Sequence[str]) -> None:
    """Refuse teachers who must not label these cases; warn of what the user may not want.

    Args:
        teachers: At least two.
        store: Whose cases are to be labelled.
        names: These cases.

    Raises:
        SettingError: Fewer than two different teachers.
        StoreError: A teacher was made for another label space or preparation.
        RunError: A teacher saw cases that the student is to be validated or tested on, or learnt that what is not
            annotated is background.

    Warns:
        TeacherWarning: A teacher was trained on cases it is to label, or does not tell what it was trained on.
    """
    if len({teacher.model.weights_sha256 for teacher in teachers}) < len(teachers) or len(teachers) < 2:
        raise SettingError(
            f"pseudo-labels need two or more different teachers, got {', '.join(one.run for one in teachers) or 'none'}; "
            "equal weights are one teacher",
            "Train another with --training.seed 1.",
        )
    hashes = {name: store.facts(name).image_sha256 for name in store.names()}
    for teacher in teachers:
        _check_fit(teacher, store)
        _check_absence(teacher)
        if teacher.seen is not None:
            _check_unseen(teacher, teacher.seen, store, hashes)
    _warn_of_seen(teachers, {name: hashes[name] for name in names})


def _check_fit(teacher: Teacher, store: Store) -> None:
    """Refuse a teacher of other organs or another preparation."""
    try:
        store.require(space=teacher.model.space, preparation=teacher.model.recipe.preparation)
    except StoreError as error:
        raise StoreError(
            f"teacher {teacher.run} cannot label this store: {error.what}",
            "Train teachers on this store, or on one prepared with the same recipe.",
        ) from error


def _check_absence(teacher: Teacher) -> None:
    """Refuse a teacher who learnt that an organ is absent from cases that do not annotate it."""
    if teacher.model.recipe.loss.unannotated != "background":
        return
    taught = teacher.seen.taught if teacher.seen else None
    if teacher.seen is None or teacher.seen.annotated is None or taught is None:
        return  # warned of below: it may have seen complete labels only
    partly = sum(annotated != taught for annotated in teacher.seen.annotated)
    if partly:
        raise RunError(
            f"teacher {teacher.run} learnt from {partly} training cases that what they do not annotate is background "
            f"(loss.kind {teacher.model.recipe.loss.kind}), and would say so of the cases to be labelled",
            "Train teachers with a recipe whose loss.kind is partial or sigmoid.",
        )


def _check_unseen(teacher: Teacher, seen: Seen, store: Store, hashes: Mapping[str, str]) -> None:
    """Refuse a teacher who saw what the student is to be validated or tested on."""
    kept = store.names("validation") + store.names("test")
    learnt = shared_cases(seen.training, {name: hashes[name] for name in kept})
    chosen = shared_cases(seen.validation, {name: hashes[name] for name in store.names("test")})
    for cases, how in ((learnt, "was trained on"), (chosen, CHOSEN)):
        if cases:
            raise RunError(
                f"teacher {teacher.run} {how} {len(cases)} of the store's validation and test cases ({cases[0]} ...): {CARRIED}",
                "Train teachers on the training cases of this store.",
            )


def check_teaching(teachers: Sequence[Teacher], store: Store) -> None:
    """Refuse teachers who must not teach a student of a store's training cases, who may have seen its validation cases.

    Raises:
        RunError: A teacher saw cases that the student is to be tested on, or learnt that what is not annotated is background.
    """
    hashes = {name: store.facts(name).image_sha256 for name in store.names("test")}
    for teacher in teachers:
        _check_absence(teacher)
        seen = teacher.seen
        for cases, how in ((seen.training, "was trained on"), (seen.validation, CHOSEN)) if seen is not None else ():
            shared = shared_cases(cases, hashes)
            if shared:
                raise RunError(
                    f"teacher {teacher.run} {how} {len(shared)} of the store's test cases ({shared[0]} ...): {CARRIED}",
                    "Train teachers on the training and validation cases of this store.",
                )


def _warn_of_seen(teachers: Sequence[Teacher], hashes: Mapping[str, str]) -> None:
    """Warn once of teachers who label what they were trained on, and once of those who do not tell."""
    silent = [one.run for one in teachers if one.seen is None or one.seen.annotated is None]
    if silent:
        warnings.warn(
            f"teachers {', '.join(silent)}: run.json or the store that it names is not there, so it cannot be checked what "
            "they were trained on. Make sure that they saw no validation or test case of this store, and that their "
            "training took no unannotated organ for background.",
            TeacherWarning,
            stacklevel=3,
        )
    seen = [
        name
        for name, sha256 in hashes.items()
        if any(
            one.seen and shared_cases(one.seen.training, {name: sha256}) for one in teachers_for(teachers, name, sha256)
        )
    ]
    if seen:
        warnings.warn(
            f"teachers were trained on {len(seen)} of the {len(hashes)} cases that they are to label, so they may be too "
            "sure of themselves there. Three teachers trained with --sampling.fold 1 3, 2 3 and 3 3 are safer: each case is "
            "then labelled by the two that did not see it.",
            TeacherWarning,
            stacklevel=3,
        )


def shared_cases(seen: Mapping[str, str], hashes: Mapping[str, str]) -> list[str]:
    """List the cases that were seen: by their voxels, or by name where the voxels of one side are not known."""
    voxels = set(seen.values()) - {""}
    return [
        name
        for name, sha256 in hashes.items()
        if sha256 in voxels or (name in seen and ("" in (sha256, seen[name]) or sha256 == seen[name]))
    ]
