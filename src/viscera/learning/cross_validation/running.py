"""A cross-validated run: one ordinary run per fold, and the labels of every case by the fold that did not learn from it.

    RUN/folds.json                    which case is held out by which fold
    RUN/fold_0, RUN/fold_1 ...        ordinary runs, as `viscera train` leaves them; each validates on what it holds out
    RUN/out_of_fold                   labels and scores (held_out.py)

The folds of one run may be trained by several processes at a time, each alone; whichever ends last writes the scores.
"""

import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from viscera.config import Machine, Recipe
from viscera.config.recipe_json import check_recipe, first_difference, recipe_from_json
from viscera.errors import RunError, SettingError
from viscera.evaluation.scores import Evaluation
from viscera.io.atomic import write_json, write_text
from viscera.io.cores import usable_cores
from viscera.io.json_codec import from_json
from viscera.io.locks import locked
from viscera.json_text import read_text
from viscera.learning.cross_validation.held_out import FOLDER, SCORES, label_held_out, score_held_out, unlabelled
from viscera.learning.devices import find_world
from viscera.learning.setup import with_measurements
from viscera.learning.synthetic_patients import TrainingData, split_supply
from viscera.learning.training import Existing, Given, Watch, train
from viscera.networks.find_weights import FOLDS, fold_folder
from viscera.preparation.folds import Folds, draw_folds, fold_store, foldable_cases, own_folds, require_whole
from viscera.preparation.splits import Member, group_by_patient
from viscera.preparation.store import Store

ANEW = "Choose another folder, or begin anew: --overwrite."


@dataclass(frozen=True)
class FoldPlan:
    """Which folds there are, and which of them are trained now.

    Attributes:
        count: How many; None: as many as the run or the file has.
        file: The user's own folds; None: drawn.
        only: Train this one alone; None: all, one after the other.
        given: Weights that each fold begins with.
    """

    count: int | None = None
    file: Path | None = None
    only: int | None = None
    given: Given = Given()


@dataclass(frozen=True)
class FoldWatch:
    """Whom to tell how far a cross-validation is.

    Attributes:
        fold: Called with each fold's number when it begins, with its training cases and those that it holds out.
        training: Of the fold's training.
        labelled: Called with the held-out cases of the fold that are labelled, and all of them.
        scored: Called with the cases scored, and all of them.
    """

    fold: Callable[[int, int, int], None] = lambda number, training, held_out: None
    training: Watch = field(default_factory=Watch)
    labelled: Callable[[int, int], None] = lambda done, cases: None
    scored: Callable[[int, int], None] = lambda done, cases: None


def cross_validate(
    recipe: Recipe,
    supply: Store | TrainingData,
    run: Path,
    plan: FoldPlan,
    *,
    machine: Machine = Machine(),
    existing: Existing = "refuse",
    watch: FoldWatch | None = None,
) -> Evaluation | None:
    """Train the folds of a run, and label what each holds out.

    Args:
        recipe: Every setting. The organs' HU, where it measures them, are those of all cases in the folds, so that all networks
            see scans alike.
        supply: A store, perhaps with fresh patients.
        run: The folder.
        plan: Which folds, and what they begin with.
        machine: Where to train; one device.
        existing: What to do where a fold's run stands: refuse, resume or overwrite it.
        watch: Whom to tell.

    Returns:
        The scores of all cases, once every fold is finished; None before.

    Raises:
        SettingError: The plan or the recipe cannot be, or other settings than those of the other folds.
        RunError: An ordinary run, or one with other folds, stands there; a fold stands there, or is being trained by another
            process; the store has changed.
        DataSetError: The user's folds are wrong (folds.py).
    """
    watch = watch or FoldWatch()
    if plan.given.distil is not None:
        raise SettingError(
            "--distil with folds: the teacher has learnt from what each fold holds out, so the scores would mean nothing",
            "Train one student on all training cases: leave --folds, --fold and --splits out.",
        )
    store, fresh = split_supply(supply)
    store.require(space=recipe.space, preparation=recipe.preparation)
    recipe = normalised(recipe, machine)
    folds = find_folds(store, run, plan, anew=existing == "overwrite" and plan.only is None)
    recipe = with_measurements(recipe, [store.case(name) for name in foldable_cases(store)], plan.given.start)
    claim(run, folds, recipe, only=plan.only, existing=existing, store=store)
    for number in range(folds.count) if plan.only is None else [plan.only]:
        own, held_out = fold_store(store, folds, number), folds.held_out(number)
        watch.fold(number, len(own.names("training")), len(held_out))
        train(
            recipe,
            own if fresh is None else TrainingData(own, fresh),
            fold_folder(run, number),
            machine=machine,
            start=plan.given.start,
            context=plan.given.context,
            existing=existing,
            watch=watch.training,
        )
        label_held_out(run, number, store, folds, accelerator=machine.accelerator, watch=watch.labelled)
    if unlabelled(run, store, folds):
        return None
    return write_scores(run, store, folds, watch=watch.scored)


def normalised(recipe: Recipe, machine: Machine) -> Recipe:
    """Return the recipe as a run has it.

    Raises:
        SettingError: A setting is out of its range, or cannot be in a cross-validation.
    """
    recipe = check_recipe(recipe)
    if recipe.sampling.fold is not None:
        raise SettingError(
            "sampling.fold leaves out a part of the training cases, and so does a cross-validation",
            "Leave one of them out.",
        )
    if (devices := find_world(machine.devices).size) > 1:
        raise SettingError(
            f"machine.devices {devices}: a cross-validation trains each fold on one device",
            "Train one fold on each: the same command with --fold 0, --fold 1 ... at a time.",
        )
    return replace(recipe, postprocessing=recipe.postprocessing.fitted(recipe.space))


def find_folds(store: Store, run: Path, plan: FoldPlan, *, anew: bool = False) -> Folds:
    """Return the folds of a run: those that it was begun with, the user's, or drawn ones.

    Args:
        store: Its cases.
        run: The folder.
        plan: What is asked for.
        anew: Leave aside those that the run was begun with.

    Raises:
        SettingError: There is no such fold, or it is not said how many there are to be.
        RunError: The run was begun with others, or the store has changed.
        DataSetError: The user's are wrong.
    """
    before = None if anew else read_folds(run)
    if plan.file is not None:
        folds = own_folds(store, plan.file, plan.count)
    elif before is not None and plan.count in (None, before.count):
        folds = before
    elif plan.count is not None:
        folds = draw_folds(store, plan.count)
    else:
        raise SettingError("it is not said how many folds there are to be", "Pass --folds 5.")
    if before is not None:
        require_whole(store, before, where=str(run))
        if (folds.count, dict(folds.cases)) != (before.count, dict(before.cases)):
            raise RunError(
                f"{run} was begun with other folds: {before.count} of them, {before.origin}", ANEW, file=run / FOLDS
            )
    if plan.only is not None and not 0 <= plan.only < folds.count:
        raise SettingError(f"--fold {plan.only}: the folds are 0 to {folds.count - 1}.")
    return folds


def read_folds(run: Path) -> Folds | None:
    """Return the folds of a cross-validated run; None where none stands there.

    Raises:
        RunError: folds.json is damaged.
    """
    file = run / FOLDS
    if not file.is_file():
        return None
    text = read_text(file, error=RunError, remedy=ANEW)
    folds = from_json(Folds, text, what=f"{file} is damaged", remedy=ANEW, error=RunError)
    if folds.count < 2 or set(folds.cases.values()) != set(range(folds.count)):
        raise RunError(f"{file} is damaged: its cases are not in the folds 0 to {folds.count - 1}", ANEW, file=file)
    return folds


def claim(run: Path, folds: Folds, recipe: Recipe, *, only: int | None, existing: Existing, store: Store) -> None:
    """Write folds.json, after making sure that nothing else stands there.

    Raises:
        RunError: An ordinary run, or folds that are to be kept, stand there; or one is being trained by another process.
        SettingError: Other folds have other settings.
    """
    if (run / "recipe.json").is_file():
        raise RunError(f"{run} holds an ordinary run", "Choose another folder for the cross-validation.")
    there = sorted(folder for folder in run.glob("fold_*") if (folder / "recipe.json").is_file())
    if only is None and existing == "refuse" and there:
        raise RunError(
            f"{run} holds a cross-validated run already",
            "Pass --resume to go on, --overwrite to begin anew, or choose another folder.",
        )
    if only is None and existing == "overwrite":
        _remove(run, there, count=folds.count)
    else:
        _require_same_recipe(there, recipe)
    if existing == "overwrite":
        (run / FOLDER / SCORES).unlink(missing_ok=True)
    if recipe.loss.uses_pseudo_labels and any(store.case(name).pseudo_annotated for name in folds.cases):
        warnings.warn(
            "pseudo-labels may come from networks that learnt from cases which a fold holds out: the scores may be too high. For "
            "honest ones train without them (--loss.pseudo 0)",
            stacklevel=3,
        )
    if read_folds(run) != folds:
        patients = len(group_by_patient(Member.of(store.facts(name)) for name in folds.cases))
        write_json(
            run / FOLDS,
            {"count": folds.count, "origin": folds.origin, "patients": patients, "cases": dict(folds.cases)},
        )


def _remove(run: Path, there: list[Path], *, count: int) -> None:
    """Remove what an earlier cross-validation left that this one will not write over, unless another process is at it."""
    with ExitStack() as locks:
        for folder in there:
            locks.enter_context(locked(folder, what="is being trained", error=RunError))
    (run / FOLDS).unlink(missing_ok=True)
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    for folder in there:
        if folder not in [fold_folder(run, number) for number in range(count)]:
            shutil.rmtree(folder)


def _require_same_recipe(there: list[Path], recipe: Recipe) -> None:
    """Raise SettingError where a fold was begun with other settings: the folds' networks are to answer together."""
    for folder in there:
        file = folder / "recipe.json"
        old = recipe_from_json(read_text(file, error=RunError, remedy=ANEW), where=str(file))
        same = replace(old, training=replace(old.training, epochs=recipe.training.epochs))
        if same != recipe:
            differs = first_difference(asdict(same), asdict(recipe))
            raise SettingError(f"{folder} was begun with other settings: {differs}", f"Say them again. {ANEW}")


def write_scores(
    run: Path, store: Store, folds: Folds, *, watch: Callable[[int, int], None] = lambda done, cases: None
) -> Evaluation:
    """Score what the folds held out, and write scores.json."""
    found = score_held_out(run / FOLDER, store, sorted(folds.cases), workers=usable_cores(), watch=watch)
    write_text(run / FOLDER / SCORES, found.to_json())
    return found
