"""A store -> a run with weights."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from viscera.config import Accelerator, Machine, Recipe
from viscera.errors import RunError
from viscera.figures.curves import training_curves
from viscera.io.extras import require_train
from viscera.learning.run_folder import read_rows
from viscera.preparation.store import open_store
from viscera.recipes.catalogue import find_recipe

if TYPE_CHECKING:
    from viscera.evaluation.scores import Evaluation

PathLike = str | os.PathLike[str]


def train(
    recipe: Recipe | str,
    store: PathLike,
    run: PathLike,
    *,
    start: PathLike | None = None,
    context: PathLike | None = None,
    distil: PathLike | None = None,
    existing: Literal["refuse", "resume", "overwrite"] = "refuse",
    device: Accelerator = "auto",
    on_epoch: Callable[[Mapping[str, object]], None] | None = None,
) -> Path:
    """Train a recipe's network on the training cases of a store.

    The folder RUN gets best.safetensors (lowest validation loss), last.safetensors, a row per epoch in log.csv and
    log.jsonl, curves.png, and the state from which existing="resume" goes on.

    Args:
        recipe: From ``find_recipe``, where settings are overridden, or its name.
        store: What ``prepare`` wrote for this recipe.
        run: Folder for weights and logs.
        start: Weights to begin with, to fine-tune them: a run's folder, a .safetensors file or "starter"; None: random ones.
        context: For a recipe with context (viscera25d): a context network that is trained already, a run's folder or weights
            that have one; None: the run trains its own first.
        distil: Trained networks to learn from beside the labels: the run of ``cross_validate``, whose networks teach together,
            another run, or weights. It costs their answers in each step; None: labels alone.
        existing: What to do where a run stands: "refuse", "resume" it, or "overwrite" it.
        device: "cpu", "cuda", or "auto": a GPU where there is one. Several GPUs: `viscera train --machine.devices`.
        on_epoch: Called after each epoch with its row of the log: ``epoch``, ``train_loss``, ``val_loss``, ``val_dice`` ...;
            where a context network is trained first, for its epochs, too.

    Returns:
        The best weights. ``load_model``, ``segment`` and ``predict`` take them, or RUN.

    Raises:
        SettingError: A setting is out of its range, or the recipe does not fit the run to be resumed; or viscera[train] is not
            installed.
        StoreError: There is no store, or it is another recipe's.
        RunError: A run stands there already; the loss is not finite; the memory does not suffice.

    Example:
        >>> import viscera
        >>> settings = {"preparation.size": (16, 16), "network.widths": (4, 8), "training.epochs": 1}
        >>> recipe = viscera.find_recipe("zhang2d-small", settings | {"training.visits_per_slice": 0.1})
        >>> cases = viscera.synthesize("patients", cases=3, shape=(16, 16, 16))
        >>> prepared = viscera.prepare("store", {"nnunet": "patients"}, recipe=recipe, jobs=1)
        >>> weights = viscera.train(recipe, "store", "run", device="cpu", on_epoch=lambda row: print("epoch", row["epoch"]))
        epoch 1
        >>> weights.name
        'best.safetensors'
    """
    require_train("viscera.train", "torch", "lightning_fabric")
    from viscera.learning import training
    from viscera.learning.devices import find_world
    from viscera.learning.distillation.settings import Distillation

    best = training.train(
        find_recipe(recipe) if isinstance(recipe, str) else recipe,
        open_store(Path(store)),
        Path(run),
        machine=Machine(device),
        start=None if start is None else Path(start),
        context=None if context is None else Path(context),
        distil=None if distil is None else Distillation(Path(distil)),
        existing=existing,
        watch=training.Watch(epoch=_after_epochs(on_epoch)),
    )
    if existing == "resume" and find_world().is_first:  # it may have been killed before the curves were drawn
        training_curves(Path(run), Path(run) / "curves.png")
    return best


def cross_validate(
    recipe: Recipe | str,
    store: PathLike,
    run: PathLike,
    *,
    folds: int | PathLike = 5,
    start: PathLike | None = None,
    existing: Literal["refuse", "resume", "overwrite"] = "refuse",
    device: Accelerator = "auto",
    on_epoch: Callable[[Mapping[str, object]], None] | None = None,
) -> "Evaluation":
    """Train a network per fold of a store's training and validation cases, and score what each fold held out.

    ``predict``, ``segment`` and ``load_model`` take RUN for all networks together, and RUN/fold_0 for one; ``train(distil=RUN)``
    makes one network of them.

    Args:
        recipe: From ``find_recipe``, or its name.
        store: What ``prepare`` wrote for this recipe.
        run: Folder: RUN/fold_0, RUN/fold_1 ... are ordinary runs, RUN/out_of_fold has the labels and the scores.
        folds: How many, drawn by patient, with data sets and annotated organs spread evenly; or a file of your own: nnU-Net's
            splits_final.json, or {"folds": [[CASE, ...], ...]}, what each holds out.
        start: Weights that each fold begins with, as in ``train``. They must not have learnt from these cases.
        existing: What to do where a run stands: "refuse", "resume" it, or "overwrite" it.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        on_epoch: Called after each epoch with its row of the log and ``fold``.

    Returns:
        Scores of every case by the network that did not learn from it, or from another scan of its patient.

    Raises:
        SettingError, StoreError, RunError: As in ``train``; and folds that cannot be drawn.
        DataSetError: Your own folds leave out a case, hold one out twice, or part a patient.

    Example:
        >>> import viscera
        >>> settings = {"preparation.size": (16, 16), "network.widths": (4, 8), "training.epochs": 1}
        >>> recipe = viscera.find_recipe("zhang2d-small", settings | {"training.visits_per_slice": 0.1})
        >>> cases = viscera.synthesize("patients", cases=3, shape=(16, 16, 16))
        >>> prepared = viscera.prepare("store", {"nnunet": "patients"}, recipe=recipe, jobs=1)
        >>> scores = viscera.cross_validate(recipe, "store", "run", folds=2, device="cpu")
        >>> weights = viscera.train(recipe, "store", "student", distil="run")  # doctest: +SKIP
    """
    require_train("viscera.cross_validate", "torch", "lightning_fabric")
    from viscera.learning.cross_validation.running import FoldPlan, FoldWatch, cross_validate
    from viscera.learning.training import Given, Watch

    at_work: dict[str, object] = {}
    found = cross_validate(
        find_recipe(recipe) if isinstance(recipe, str) else recipe,
        open_store(Path(store)),
        Path(run),
        FoldPlan(
            folds if isinstance(folds, int) else None,
            None if isinstance(folds, int) else Path(folds),
            given=Given(None if start is None else Path(start)),
        ),
        machine=Machine(device),
        existing=existing,
        watch=FoldWatch(
            lambda number, training, held_out: at_work.update(fold=number),
            Watch(epoch=_after_epochs(on_epoch, at_work)),
        ),
    )
    if found is None:
        raise RunError(
            f"{run}: another process is at one of the folds", "Wait for it, then say the same with existing='resume'."
        )
    return found


def _after_epochs(
    on_epoch: Callable[[Mapping[str, object]], None] | None, more: Mapping[str, object] = MappingProxyType({})
) -> Callable[[Path], None]:
    """Return what is done after each epoch of a run in a folder: its curves are drawn, and its row is told, with ``more``."""

    def epoch(folder: Path) -> None:
        training_curves(folder, folder / "curves.png")
        if on_epoch is not None:
            on_epoch({**read_rows(folder)[-1], **more})

    return epoch
