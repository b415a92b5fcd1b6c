"""A store -> a run with weights."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from viscera.config import Accelerator, Machine, Recipe
from viscera.figures.curves import training_curves
from viscera.io.extras import require_train
from viscera.learning.run_folder import read_rows
from viscera.preparation.store import open_store
from viscera.recipes.catalogue import find_recipe

PathLike = str | os.PathLike[str]


def train(
    recipe: Recipe | str,
    store: PathLike,
    run: PathLike,
    *,
    start: PathLike | None = None,
    context: PathLike | None = None,
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

    def epoch(folder: Path) -> None:
        training_curves(folder, folder / "curves.png")
        if on_epoch is not None:
            on_epoch(read_rows(folder)[-1])

    best = training.train(
        find_recipe(recipe) if isinstance(recipe, str) else recipe,
        open_store(Path(store)),
        Path(run),
        machine=Machine(device),
        start=None if start is None else Path(start),
        context=None if context is None else Path(context),
        existing=existing,
        watch=training.Watch(epoch=epoch),
    )
    if existing == "resume" and find_world().is_first:  # it may have been killed before the curves were drawn
        training_curves(Path(run), Path(run) / "curves.png")
    return best
