"""The training loop: cases of a store -> weights in a run's folder.

    RUN/best.safetensors   lowest validation loss so far; RUN/last.safetensors: after the newest epoch; each with a .json
    RUN/state.safetensors  where a killed run goes on

What is drawn depends only on seed, epoch and step, so a run that was killed and resumed ends with the weights of one that
was not (same machine, same number of threads; on a GPU with training.deterministic). The networks are in networks/, the
loss in losses.py, the run's other files in run_folder.py; scores on the scanner's own grid in evaluation/evaluate.py.
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from torch import Tensor

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
from viscera.learning.distillation.settings import Distillation
from viscera.learning.limits import check_patches, not_deterministic, out_of_memory
from viscera.learning.progress import Progress, Sums, by_organ, class_counts, dice_and_iou
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import draw_places, read_batch
from viscera.learning.sampling.order import epoch_order, organ_slices
from viscera.learning.sampling.pasting import draw_pasting, with_pasted
from viscera.learning.sampling.reading import read_ahead, step_generator
from viscera.learning.sampling.slices import SliceIndex
from viscera.learning.schedule import learning_rate, plan_change
from viscera.learning.setup import IndexOf, Session, begin, epoch_indices, scaled
from viscera.learning.synthetic_patients import TrainingData, split_supply
from viscera.networks.precision import precision_of
from viscera.networks.weights import Weights, as_context, load_state, save_state, save_weights
from viscera.preparation.store import Store

MEASURED = "measured_hu"
"""Where a run's state keeps the organs' HU (ForegroundScore)."""

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
            be resumed was begun; the loss is not finite; memory does not suffice.
        SettingError: The recipe fits neither the store nor the run to be resumed.
        FileError: The disk is full, or the folder cannot be written to.
    """
    recipe = check_recipe(recipe)
    if context is not None and recipe.context is None:
        raise SettingError(
            f"recipe '{recipe.name}' has no context, but context weights are given",
            "Leave them out, or take viscera25d.",
        )
    recipe = replace(recipe, postprocessing=recipe.postprocessing.fitted(recipe.space))
    check_patches(recipe)
    if recipe.context is not None:
        check_patches(context_recipe(recipe))
    session = begin(recipe, supply, machine, start=start, distil=distil)
    first = session.fabric.is_global_zero
    with locked(run, what="is being trained", error=RunError) if first else nullcontext():
        given = Given(start, context, distil)
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
    """Train in a folder that is this process's own; return the best weights' path."""
    fabric, plan = session.fabric, recipe.training
    before = plan
    if fabric.is_global_zero:
        before = run_folder.claim_run(run, recipe, resume=existing == "resume", overwrite=existing == "overwrite")
    fabric.barrier()
    session, progress = resume_from(run / run_folder.STATE, session)
    done = progress.epoch * session.steps + progress.step
    if note := plan_change(before, plan, step=done, steps=session.steps):
        warnings.warn(f"{run}: {note}", stacklevel=3)
    facts = write_facts(run, supply, session)
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
        if session.fabric.is_global_zero or machine.devices > 1:
            coarse = coarse_supply(supply, run, recipe)
            train(context_recipe(recipe), coarse, trained, machine=machine, start=begun, existing="resume", watch=watch)
        session.fabric.barrier()
    tensors = tensors_of(trained, recipe)
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
    saved = time.perf_counter()
    index = index_of(progress.epoch)
    distance = recipe.loss.needed_distance
    order = epoch_order(
        index, recipe.sampling, visits=session.visits, generator=step_generator(plan.seed, progress.epoch)
    )
    share = slice(fabric.global_rank, None, fabric.world_size)
    pasted = recipe.sampling.paste
    shown = organ_slices(index, recipe.sampling.dataset_power) if pasted and isinstance(index, SliceIndex) else {}

    def read(batch: int) -> tuple[Batch, Changes]:
        """Return a batch from the store and what is to be changed in it."""
        numbers = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
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
    sums = Sums.of(progress, fabric.device)
    first = progress.step * plan.accumulate
    for number, (batch, changes) in enumerate(
        read_ahead(read, session.batches, first=first, threads=session.threads), first
    ):
        step_ends = (number + 1) % plan.accumulate == 0 or number + 1 == session.batches
        batch = change_batch(scaled(batch.to(fabric.device), session.recipe), changes)
        with fabric.no_backward_sync(session.network, enabled=not step_ends):  # type: ignore[arg-type]
            outputs = session.network(batch.image)
            loss = session.training_loss(outputs, replace(batch, annotated=batch.annotated | session.never_annotated))
            fabric.backward(loss / plan.accumulate)
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        sums.add(loss.detach(), class_counts(logits.detach(), batch))
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
        now = time.perf_counter()
        if now - saved >= save_every_s or progress.step == session.steps:
            progress.seconds, saved = progress.seconds + now - saved, now
            sums.store(progress)
            if progress.step < session.steps and fabric.is_global_zero:
                save_progress(run, session, progress)


def close_epoch(session: Session, progress: Progress) -> dict[str, object]:
    """Validate, note whether this epoch is the best, set the sums back; return the epoch's row for the log."""
    organs, fabric = session.space.organs, session.fabric
    started = time.perf_counter()
    sums = torch.tensor([progress.loss_sum, progress.slices], dtype=torch.float64, device=fabric.device)
    loss_sum, slices = total(fabric, sums).tolist()
    counts = total(fabric, torch.tensor(progress.counts, device=fabric.device))
    train_loss = loss_sum / slices
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
        "train_dice": by_organ(dice_and_iou(counts[None].cpu().numpy())[0], organs),
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


@torch.no_grad()
def validate(session: Session) -> tuple[float | None, Int[np.ndarray, "case class 3"]]:
    """Return the mean loss over the slices of the validation cases, or None without such cases, and each case's counts."""
    fabric, index = session.fabric, session.validation
    classes = len(session.space.classes)
    sums = torch.zeros((len(index.cases), classes, 3), dtype=torch.int64, device=fabric.device)
    loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
    size = session.recipe.training.batch_size
    parts = np.array_split(np.arange(len(index)), max(1, math.ceil(len(index) / size)))[
        fabric.global_rank :: fabric.world_size
    ]

    distance = session.recipe.loss.needed_distance

    def read(number: int) -> Batch:
        return read_batch(index, parts[number], space=session.space, distance=distance)

    network = session.result.eval()
    for part, batch in zip(
        parts, read_ahead(read, len(parts) if len(index) else 0, threads=session.threads), strict=False
    ):
        batch = scaled(batch.to(fabric.device), session.recipe)
        # The network itself, not its wrapper for several devices, whose every call waits for all of them: they may have
        # different numbers of batches here.
        with fabric.autocast():
            logits = network(batch.image)
        seen = replace(batch, annotated=batch.annotated | session.never_annotated)
        loss += session.loss(logits, seen).double() * len(part)
        case = torch.from_numpy(index.positions[part, 0]).to(fabric.device)
        sums.index_add_(0, case, class_counts(logits, batch))
    loss, sums = total(fabric, loss), total(fabric, sums)
    return (loss.item() / len(index) if len(index) else None), sums.cpu().numpy()


def total(fabric: Fabric, part: Tensor) -> Tensor:
    """Return the sum over all devices."""
    return torch.as_tensor(fabric.all_reduce(part, reduce_op="sum"))


def out_of_patience(progress: Progress, plan: Training) -> bool:
    """Tell whether patience is at its end."""
    return 0 < plan.patience_epochs <= progress.epoch - progress.best_epoch


def save_progress(run: Path, session: Session, progress: Progress) -> None:
    """Write the state from which the run can go on."""
    progress.scaler = session.fabric.strategy.precision.state_dict()
    facts = asdict(progress) | {MEASURED: session.recipe.intensity.measured}
    save_state(run / run_folder.STATE, parts_of(session), session.optimizer, progress=facts)


def resume_from(file: Path, session: Session) -> tuple[Session, Progress]:
    """Load the saved state, if any; return the session with the organs' HU that the run began with, wherever from."""
    if not file.is_file():
        return session, Progress()
    facts = load_state(file, parts_of(session), session.optimizer)
    measured = facts.pop(MEASURED, None)
    progress = Progress(**facts)  # type: ignore[arg-type]
    session.fabric.strategy.precision.load_state_dict(progress.scaler)
    if measured is None:
        return session, progress
    intensity = replace(session.recipe.intensity, measured=tuple(measured))  # type: ignore[arg-type]
    return replace(session, recipe=replace(session.recipe, intensity=intensity)), progress


def parts_of(session: Session) -> dict[str, torch.nn.Module]:
    """Name the networks of a run's state."""
    return {"network": session.network} | ({"average": session.average} if session.average is not None else {})
