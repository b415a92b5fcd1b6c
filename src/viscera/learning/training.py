"""The training loop: cases of a store -> weights in a run's folder.

    RUN/best.safetensors   lowest validation loss so far; RUN/last.safetensors: after the newest epoch; each with a .json
    RUN/state.safetensors  where a killed run goes on

What is drawn depends only on seed, epoch and step, so a run that was killed and resumed ends with the weights of one that
was not (same machine, same number of threads; on a GPU with training.deterministic), and to rounding on any number of devices
(devices.py). The networks are in networks/, the loss in losses.py, the state in state.py, the run's other files in run_folder.py;
scores on the scanner's own grid in evaluation/evaluate.py.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from viscera.config import Machine, Recipe, Training
from viscera.config.recipe_json import check_recipe
from viscera.errors import RunError, SettingError
from viscera.io.locks import locked
from viscera.learning import run_folder
from viscera.learning.augmentation.changes import Changes, change_batch, draw_changes
from viscera.learning.context import (
    FOLDER,
    coarse_supply,
    context_recipe,
    has_context,
    open_maps,
    tensors_of,
)
from viscera.learning.devices import (
    SavingTimes,
    find_world,
    first_goes_first,
    require_shared,
    share_of,
    without_weight,
)
from viscera.learning.distillation.settings import Distillation
from viscera.learning.limits import check_patches, not_deterministic, out_of_memory
from viscera.learning.lost_process import together
from viscera.learning.progress import Progress, Sums, by_organ, class_counts, dice_and_iou
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import draw_places, read_batch
from viscera.learning.sampling.order import epoch_order, organ_slices
from viscera.learning.sampling.pasting import draw_pasting, with_pasted
from viscera.learning.sampling.reading import read_ahead, step_generator
from viscera.learning.sampling.slices import SliceIndex
from viscera.learning.schedule import learning_rate, plan_change
from viscera.learning.setup import IndexOf, Session, begin, epoch_indices, scaled
from viscera.learning.shared_norm import has_batch_norm
from viscera.learning.state import resume_from, save_progress
from viscera.learning.synthetic_patients import TrainingData, split_supply
from viscera.learning.validation import validate
from viscera.networks.precision import precision_of
from viscera.networks.weights import Weights, as_context, save_weights
from viscera.preparation.store import Store

NOT_DETERMINISTIC = "does not have a deterministic implementation"
"""What torch says of an operation that training.deterministic forbids."""

Existing = Literal["refuse", "resume", "overwrite"]


@dataclass(frozen=True)
class Watch:
    """Whom to tell how far a run is.

    Attributes:
        step: Called with the epoch (from 1), the step and the steps of an epoch.
        epoch: Called with the run's folder when an epoch's row is written.
    """

    step: Callable[[int, int, int], None] = lambda epoch, step, steps: None
    epoch: Callable[[Path], None] = lambda run: None


@dataclass(frozen=True)
class Given:
    """Trained networks that a run begins with or learns from.

    Attributes:
        start: Of its network, and of its context where they have one; None: random ones.
        context: Of a context network that stays as it is; None: the run trains its own.
        distil: Whose probabilities it learns beside the labels; None: nobody's.
    """

    start: Path | None = None
    context: Path | None = None
    distil: Distillation | None = None


def train(
    recipe: Recipe,
    supply: Store | TrainingData,
    run: Path,
    *,
    machine: Machine = Machine(),
    start: Path | None = None,
    context: Path | None = None,
    distil: Distillation | None = None,
    existing: Existing = "refuse",
    watch: Watch = Watch(),
) -> Path:
    """Train a recipe's network on the training cases of a store.

    Args:
        recipe: Every setting.
        supply: A store, prepared with this recipe's preparation and label space, or one with fresh patients for each epoch;
            an epoch has as many steps with them as without.
        run: Folder for weights, log and state.
        machine: Where to train.
        start: Weights to begin with: a run or a file; None: random ones. A run that is resumed goes on from its own.
        context: A trained context network, a run of it or weights that have one; None: a recipe with context trains its own
            first. Where ``start`` has one, it begins with that.
        distil: Trained networks whose probabilities are learnt beside the labels (distillation/); None: labels alone.
        existing: What to do where a run stands: refuse, resume it, or overwrite it. Where none does, a new one is begun.
        watch: Whom to tell.

    Returns:
        The best weights' path.

    Raises:
        RunError: A run stands there already, or is being trained by another process; the store has changed since the run to
            be resumed was begun; the loss is not finite; memory does not suffice; one of several processes is gone.
        SettingError: The recipe fits neither the store nor the run to be resumed.
        FileError: The disk is full, or the folder cannot be written to.
    """
    given = Given(start, context, distil)
    with together(find_world(machine.devices)):
        return train_one(recipe, supply, run, machine=machine, given=given, existing=existing, watch=watch)


def train_one(
    recipe: Recipe,
    supply: Store | TrainingData,
    run: Path,
    *,
    machine: Machine,
    given: Given,
    existing: Existing,
    watch: Watch,
) -> Path:
    """Train as ``train`` does, among processes that are watched already: a network, or the context of one."""
    recipe = check_recipe(recipe)
    if given.context is not None and recipe.context is None:
        raise SettingError(
            f"recipe '{recipe.name}' has no context, but context weights are given",
            "Leave them out, or take viscera25d.",
        )
    recipe = replace(recipe, postprocessing=recipe.postprocessing.fitted(recipe.space))
    check_patches(recipe)
    if recipe.context is not None:
        check_patches(context_recipe(recipe))
    session = begin(recipe, supply, machine, start=given.start, distil=given.distil)
    first = session.fabric.is_global_zero
    with locked(run, what="is being trained", error=RunError) if first else nullcontext():
        return train_in(run, recipe, session, supply, machine=machine, given=given, existing=existing, watch=watch)


def train_in(
    run: Path,
    recipe: Recipe,
    session: Session,
    supply: Store | TrainingData,
    *,
    machine: Machine,
    given: Given,
    existing: Existing,
    watch: Watch,
) -> Path:
    """Train in a folder that is the first process's own; return the best weights' path."""
    fabric, plan = session.fabric, recipe.training
    before = plan
    if fabric.is_global_zero:
        before = run_folder.claim_run(run, recipe, resume=existing == "resume", overwrite=existing == "overwrite")
    require_shared(fabric, run)
    session, progress = resume_from(run / run_folder.STATE, session)
    done = progress.epoch * session.steps + progress.step
    if note := plan_change(before, plan, step=done, steps=session.steps):
        warnings.warn(f"{run}: {note}", stacklevel=3)
    facts = write_facts(run, supply, session) if fabric.is_global_zero else {}
    if recipe.context is not None:
        session = with_context(run, session, supply, machine=machine, given=given, watch=watch)
    logs = [run_folder.open_log(kind, run, recipe) for kind in machine.logs if fabric.is_global_zero]
    with epoch_indices(session, supply, run) as index_of:
        while progress.epoch < plan.epochs and not out_of_patience(progress, plan):
            try:
                run_epoch(session, progress, run, index_of=index_of, save_every_s=machine.save_every_s, watch=watch)
            except torch.OutOfMemoryError as error:
                raise out_of_memory(recipe, fabric.device) from error
            except RuntimeError as error:
                if NOT_DETERMINISTIC not in str(error):
                    raise
                raise not_deterministic(recipe, fabric.device) from error
            row = close_epoch(session, progress)
            if fabric.is_global_zero:
                save_epoch(run, session, progress, facts=facts, row=row)
                for log in logs:
                    log(row)
                watch.epoch(run)
            fabric.barrier()
    return run / "best.safetensors"


def with_context(
    run: Path, session: Session, supply: Store | TrainingData, *, machine: Machine, given: Given, watch: Watch
) -> Session:
    """Train the context network, unless one is given; return the session with it."""
    recipe, trained = session.recipe, given.context
    begun_before = (run / run_folder.STATE).is_file()
    if trained is None:
        if begun_before and not (run / FOLDER / "best.safetensors").is_file():
            raise RunError(f"{run} was begun with a context network that was given", "Say --context-weights again.")
        begun = given.start if given.start is not None and has_context(given.start) else None
        trained = run / FOLDER
        with first_goes_first(session.fabric):
            coarse = coarse_supply(supply, run, recipe, write=session.fabric.is_global_zero)
        of_context = context_recipe(recipe)
        train_one(of_context, coarse, trained, machine=machine, given=Given(begun), existing="resume", watch=watch)
        session.fabric.barrier()
    tensors = tensors_of(trained, recipe)
    with first_goes_first(session.fabric):
        maps = open_maps(run, recipe, tensors, session.fabric.device, keep=begun_before)
    return session.with_context(maps, tensors)


def write_facts(run: Path, supply: Store | TrainingData, session: Session) -> dict[str, object]:
    """Write run.json; return the part of it that goes into the weights."""
    (store, fresh), device = split_supply(supply), session.fabric.device
    return run_folder.write_facts(
        run,
        store,
        training=session.training.cases,
        device=str(device),
        precision=precision_of(session.recipe.training.precision, device.type),
        devices=session.fabric.world_size,
        fresh=None if fresh is None else fresh.facts(),
        distilled=None if session.taught is None else session.taught.facts,
    )


def run_epoch(
    session: Session, progress: Progress, run: Path, *, index_of: IndexOf, save_every_s: float, watch: Watch
) -> None:
    """Train from progress.step to the end of the epoch, saving the state every ``save_every_s`` seconds.

    ``index_of`` an epoch is what it draws from; waiting for it counts as the epoch's time.
    """
    recipe, plan, fabric = session.recipe, session.recipe.training, session.fabric
    saving = SavingTimes(fabric, save_every_s)
    index = index_of(progress.epoch)
    distance = recipe.loss.needed_distance
    order = epoch_order(
        index, recipe.sampling, visits=session.visits, generator=step_generator(plan.seed, progress.epoch)
    )
    pasted = recipe.sampling.paste
    shown = organ_slices(index, recipe.sampling.dataset_power) if pasted and isinstance(index, SliceIndex) else {}

    def read(batch: int) -> tuple[Batch, Changes]:
        """Return a batch from the store and what is to be changed in it."""
        numbers = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        share, _ = share_of(len(numbers), rank=fabric.global_rank, world=fabric.world_size)
        generator = step_generator(plan.seed, progress.epoch, batch)
        changes = draw_changes(recipe.augmentation, len(numbers), generator)
        places = draw_places(index, len(numbers), generator)[share]
        ready = read_batch(index, numbers[share], space=session.space, distance=distance, places=places)
        if recipe.context is not None and ready.context is not None:
            dropped = torch.rand(len(numbers), generator=generator) < recipe.context.dropout
            ready.context[dropped[share]] = 0
        if shown:
            drawn = draw_pasting(shown, pasted, len(numbers), generator).part(share)
            ready = with_pasted(ready, index, drawn, places=places, space=session.space, distance=distance)
        return ready, changes.part(share)

    session.network.train()
    batch_norm, stride = has_batch_norm(session.network), int(session.result.stride)  # type: ignore[arg-type]
    sums = Sums.of(progress if fabric.is_global_zero else Progress(), fabric.device)
    first = progress.step * plan.accumulate
    for number, (batch, changes) in enumerate(
        read_ahead(read, session.batches, first=first, threads=session.threads), first
    ):
        step_ends = (number + 1) % plan.accumulate == 0 or number + 1 == session.batches
        batch = change_batch(scaled(batch.to(fabric.device), session.recipe), changes, stride=stride)
        there = min(plan.batch_size, len(order) - number * plan.batch_size)
        _, stands_in = share_of(there, rank=fabric.global_rank, world=fabric.world_size)
        if stands_in:
            batch = without_weight(batch, batch_norm=batch_norm)
        with fabric.no_backward_sync(session.network, enabled=not step_ends):  # type: ignore[arg-type]
            outputs = session.network(batch.image)
            loss = session.training_loss(outputs, replace(batch, annotated=batch.annotated | session.never_annotated))
            # Each device has its share of the gradient, of which Fabric takes the mean.
            fabric.backward(loss * fabric.world_size / plan.accumulate)
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        sums.add(loss.detach(), class_counts(logits.detach(), batch)[: 0 if stands_in else None])
        if not step_ends:
            continue
        for group in session.optimizer.param_groups:
            group["lr"] = learning_rate(plan, progress.epoch * session.steps + progress.step, steps=session.steps)
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        if session.average is not None:
            session.average.update_parameters(session.network.module)  # type: ignore[arg-type]
        progress.step += 1
        watch.step(progress.epoch + 1, progress.step, session.steps)
        if progress.step == session.steps or saving.due():
            progress.seconds += saving.lap()
            sums.store(progress, fabric)
            if progress.step < session.steps and fabric.is_global_zero:
                save_progress(run, session, progress)


def close_epoch(session: Session, progress: Progress) -> dict[str, object]:
    """Validate, note whether this epoch is the best, set the sums back; return the epoch's row for the log."""
    organs, counts = session.space.organs, np.array(progress.counts)
    started = time.perf_counter()
    train_loss = progress.loss_sum / progress.slices
    val_loss, val_counts = validate(session)
    progress.epoch += 1
    judged = train_loss if val_loss is None else val_loss
    if judged < progress.best_loss:
        progress.best_loss, progress.best_epoch = judged, progress.epoch
    row = {
        "epoch": progress.epoch,
        "step": progress.epoch * session.steps,
        "learning_rate": learning_rate(
            session.recipe.training, progress.epoch * session.steps - 1, steps=session.steps
        ),
        "train_loss": train_loss,
        "val_loss": val_loss,
        "train_dice": by_organ(dice_and_iou(counts[None])[0], organs),
        "val_dice": by_organ(dice_and_iou(val_counts)[0], organs),
        "val_iou": by_organ(dice_and_iou(val_counts)[1], organs),
        "seconds": round(progress.seconds + time.perf_counter() - started, 2),
    }
    progress.step, progress.loss_sum, progress.slices, progress.seconds, progress.counts = 0, 0.0, 0, 0.0, []
    return row


def save_epoch(
    run: Path, session: Session, progress: Progress, *, facts: dict[str, object], row: dict[str, object]
) -> None:
    """Write the weights that an epoch ends with, its row and the state to go on from."""
    tensors = session.result.state_dict() | as_context(session.context)
    weights = Weights(session.recipe, session.space, tensors, facts | row)
    for name in ("last", "best") if progress.best_epoch == progress.epoch else ("last",):
        save_weights(run / f"{name}.safetensors", weights)
    run_folder.write_row(run, row)
    save_progress(run, session, progress)


def out_of_patience(progress: Progress, plan: Training) -> bool:
    """Tell whether patience is at its end."""
    return 0 < plan.patience_epochs <= progress.epoch - progress.best_epoch
