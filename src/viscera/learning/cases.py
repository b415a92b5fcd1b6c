"""Which cases a training learns from: those of the store that its sampling and its fold take, and patients made for it."""

import warnings
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from viscera.config import Recipe, Sampling
from viscera.errors import RunError, SettingError, StoreError
from viscera.labels import LabelSpace
from viscera.learning.synthetic_patients import TrainingData, split_supply
from viscera.preparation.splits import SPLITS, Member, fold_of, unlabelled_cases
from viscera.preparation.store import Case, Store


def training_cases(store: Store, recipe: Recipe, *, taught: bool = False) -> list[str]:
    """Name the training cases, then the unlabelled ones with pseudo-labels, where the loss learns from these.

    A teacher (``taught``) has something to say of all unlabelled cases, unless the loss calls what is not annotated background.

    Cases of a fold that is to be left out, or too partly annotated, are not among them. Labelled cases are in the same fold
    whatever unlabelled ones there are.

    Raises:
        SettingError: There is no such fold.
        RunError: There is no such case.
    """
    names = store.names("training")
    if not names and store.names() and not any(store.facts(name).annotated for name in store.names()):
        raise RunError(
            f"{store.path} has no training cases: none of its {len(store.names())} cases annotates any of "
            f"{', '.join(store.space.organs)}",
            "Prepare a data set that does, or list them in its annotated.json.",
            file=store.path,
        )
    if not names:
        raise RunError(
            f"{store.path} has no training cases",
            "Prepare a data set with labels first: viscera prepare --help.",
            file=store.path,
        )
    sampling, pseudo = recipe.sampling, recipe.loss.uses_pseudo_labels
    free = unlabelled_cases(store)[0]
    if not (taught and recipe.loss.unannotated == "marginal"):
        free = [name for name in free if pseudo and store.case(name).pseudo_annotated]
    filled = free
    labelled, filled = (chosen_cases(store, part, sampling, pseudo=pseudo) for part in (names, filled))
    names = [*labelled, *filled]
    if not names:
        raise RunError(
            f"no training case of {store.path} annotates all of {', '.join(store.space.organs)}, which sampling.cases "
            "'complete' asks for",
            "Pass --sampling.cases any (what a case does not annotate is then unknown), or prepare a "
            "data set that annotates them.",
        )
    if sampling.fold is None:
        return names
    number, folds = sampling.fold
    if not 1 <= number <= folds or folds < 2:
        raise SettingError(f"sampling.fold {number} {folds}: say 1 3, 2 3 or 3 3 to leave out one of three parts.")
    parts = [[Member.of(store.facts(name)) for name in part] for part in (labelled, filled)]
    folds_of_cases = fold_of(parts[0], folds=folds) | fold_of(parts[1], folds=folds)
    return [name for name in names if folds_of_cases[name] != number]


def chosen_cases(store: Store, names: Sequence[str], sampling: Sampling, *, pseudo: bool = False) -> list[str]:
    """Return the cases that a sampling takes: all, or those of which every organ is known.

    Args:
        store: Where they are.
        names: Of which cases.
        sampling: What it takes.
        pseudo: Whether an organ that teachers filled in is known, too; else only one that is annotated.
    """
    if sampling.cases == "any":
        return list(names)
    cases, organs = [store.case(name) for name in names], set(store.space.organs)
    return [case.name for case in cases if {*case.annotated, *(case.pseudo_annotated if pseudo else ())} >= organs]


def require_apart(store: Store) -> None:
    """Raise StoreError where one scan stands on two sides of the split (by its prepared voxels)."""
    seen: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for name in store.names(split):
            image = store.facts(name).image_sha256
            other, where = seen.setdefault(image, (name, split))
            if where != split and image:
                raise StoreError(
                    f"{store.path}: {other} ({where}) and {name} ({split}) hold the same scan: a test on it would tell "
                    "nothing",
                    "Delete splits.json and run viscera prepare again (every patient is then drawn anew).",
                    file=store.path,
                )


def never_annotated(cases: Sequence[Case], space: LabelSpace, taught: Collection[str] = ()) -> Bool[Tensor, " class"]:
    """Tell which organs no case annotates, with a warning: a network cannot learn them, so they count as background.

    Args:
        cases: To learn from.
        space: The classes.
        taught: Organs that fresh patients annotate.
    """
    known = {*taught, *(organ for case in cases for organ in (*case.annotated, *case.pseudo_annotated))}
    missing = [organ for organ in space.organs if organ not in known]
    if missing:
        warnings.warn(
            f"no training case annotates {', '.join(missing)}: the network will never find them. Add a data set that does, "
            "or take a label space without them.",
            stacklevel=2,
        )
    return torch.tensor([False, *(organ in missing for organ in space.organs)])


def fresh_organs(supply: Store | TrainingData, recipe: Recipe) -> set[str]:
    """Return the organs that fresh patients annotate.

    Raises:
        SettingError: They annotate none, or not all where the sampling takes complete cases only; the store has no training
            cases, which say how long an epoch is.
    """
    store, fresh = split_supply(supply)
    if fresh is None:
        return set()
    if not store.names("training"):
        raise SettingError(
            f"{store.path} has no training cases, and fresh patients cannot stand for them: an epoch has as many steps as the "
            "store's training cases ask for",
            "Prepare a data set with labels too (viscera synth writes one).",
        )
    complete = recipe.sampling.cases == "complete"
    found = fresh.annotated(recipe.space)
    for number, organs in enumerate(found, start=1):
        missing = [organ for organ in recipe.space.organs if organ not in organs]
        if not organs or (complete and missing):
            who = f"template {number}" if fresh.templates else "procedural anatomy"
            way = "Pass --sampling.cases any, or take" if organs else "Take"
            raise SettingError(
                f"fresh patients: {who} does not annotate {', '.join(missing)}",
                f"{way} templates that show what is to be learnt, or a label space that they fit.",
            )
    return {organ for organs in found for organ in organs}
