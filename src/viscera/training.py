"""The training loop: cases of a store -> weights in a run's folder.

    RUN/best.safetensors   lowest validation loss so far; RUN/last.safetensors: after the newest epoch; each with a .json
    RUN/state.safetensors  where a killed run goes on

What is drawn depends only on seed, epoch and step, so a run that was killed and resumed ends with the weights of one that
was not (same machine, same number of threads; on a GPU with training.deterministic). The networks are in networks/, the
loss in losses.py, the run's other files in runlog.py; scores on the scanner's own grid in evaluation.py.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor

from viscera import runlog
from viscera.augmentation import SliceChanges, change_batch, draw_changes
from viscera.cases import Store
from viscera.checkpoint import Weights, load_state, save_state, save_weights
from viscera.config import Machine, Recipe, Training, check_recipe
from viscera.errors import RunError, SettingError
from viscera.intensity import apply_window
from viscera.labels import LabelSpace
from viscera.losses import boundary_loss, class_weights
from viscera.machine import device_type, keep_pages, precision_of
from viscera.networks.unet import UNet
from viscera.progress import Progress, Sums, by_organ, class_counts, dice_and_iou
from viscera.sampling import Batch, SliceIndex, epoch_order, read_ahead, read_batch, step_generator


@dataclass(frozen=True)
class Watch:
    """Whom to tell how far a run is.

    Attributes:
        step: Called with the epoch (from 1), the step and the steps of an epoch.
        epoch: Called with the run's folder when an epoch's row is written.
    """

    step: Callable[[int, int, int], None] = lambda epoch, step, steps: None
    epoch: Callable[[Path], None] = lambda run: None


@dataclass(frozen=True, eq=False)
class Session:
    """What the steps of one run share."""

    recipe: Recipe
    space: LabelSpace
    fabric: Fabric
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    class_weights: Tensor
    training: SliceIndex
    validation: SliceIndex
    threads: int

    @property
    def visits(self) -> int:
        """Slices drawn per epoch, a multiple of the devices."""
        wanted = max(1, round(len(self.training) * self.recipe.training.visits_per_slice))
        return math.ceil(wanted / self.fabric.world_size) * self.fabric.world_size

    @property
    def batches(self) -> int:
        """Forward passes per epoch."""
        return math.ceil(self.visits / self.recipe.training.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(self.batches / self.recipe.training.accumulate)


def train(
    recipe: Recipe,
    store: Store,
    run: Path,
    *,
    machine: Machine = Machine(),
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = Watch(),
) -> Path:
    """Train a recipe's network on the training cases of a store.

    Args:
        recipe: Every setting.
        store: Prepared with this recipe's preparation and label space.
        run: Folder for weights, log and state.
        machine: Where to train.
        resume: Go on with the run that stands there; begin where none does.
        overwrite: Begin anew where a run stands.
        watch: Whom to tell.

    Returns:
        The best weights' path.

    Raises:
        RunError: A run stands there already; the loss is not finite; the device's memory does not suffice.
        SettingError: The recipe fits neither the store nor the run to be resumed.
    """
    recipe = check_recipe(recipe)
    session = begin(recipe, store, machine)
    fabric, plan = session.fabric, recipe.training
    progress = Progress()
    if fabric.is_global_zero:
        runlog.claim_run(run, recipe, resume=resume, overwrite=overwrite)
    fabric.barrier()
    if (run / runlog.STATE).is_file():
        progress = resume_from(run / runlog.STATE, session)
    facts = runlog.write_facts(
        run, store, device=str(fabric.device), precision=precision_of(plan.precision, fabric.device.type)
    )
    logs = [runlog.open_log(kind, run, recipe) for kind in machine.logs if fabric.is_global_zero]
    while progress.epoch < plan.epochs and not stale(progress, plan):
        try:
            run_epoch(session, progress, run, save_every_s=machine.save_every_s, watch=watch)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"the {fabric.device.type} ran out of memory at batch_size {plan.batch_size}. Halve --training.batch-size and "
                "double --training.accumulate, or say --network.checkpointing."
            ) from error
        row = close_epoch(session, progress)
        if fabric.is_global_zero:
            weights = Weights(recipe, session.space, session.network.state_dict(), facts | row)
            for name in ("last", "best") if progress.best_epoch == progress.epoch else ("last",):
                save_weights(run / f"{name}.safetensors", weights)
            runlog.write_row(run, row)
            save_progress(run, session, progress)
            for log in logs:
                log(row)
            watch.epoch(run)
        fabric.barrier()
    return run / "best.safetensors"


def begin(recipe: Recipe, store: Store, machine: Machine) -> Session:
    """Build the network and the optimizer, and find the slices.

    Raises:
        StoreError, RunError: The store is another recipe's, or holds nothing to train on.
        SettingError, LabelError: The recipe does not fit the machine, or its own label space.
    """
    store.require(space=recipe.space, preparation=recipe.preparation)
    plan, names = recipe.training, store.names("training")
    if not names:
        raise RunError(
            f"{store.path} has no training cases. Prepare a data set with labels first: viscera prepare --help."
        )
    if min(machine.devices, machine.threads) < 1:
        raise SettingError(
            f"machine.devices {machine.devices}, machine.threads {machine.threads}: each must be at least 1."
        )
    for organ in recipe.inference.largest_components:
        recipe.space.index(organ)  # rather now than at the first prediction
    if plan.batch_size % machine.devices:
        raise SettingError(f"training.batch_size {plan.batch_size} cannot be shared by {machine.devices} devices.")
    keep_pages()
    torch.use_deterministic_algorithms(plan.deterministic)
    device = device_type(machine.accelerator)
    fabric = Fabric(accelerator=device, devices=machine.devices, precision=precision_of(plan.precision, device))
    fabric.launch()
    torch.manual_seed(plan.seed)
    network = UNet(recipe.network, in_channels=1, classes=len(recipe.space.classes)).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    wrapped, optimizer = fabric.setup(network, optimizer)
    weights = class_weights(recipe.loss.class_weights, store.voxels("training"))
    return Session(
        recipe=recipe,
        space=recipe.space,
        fabric=fabric,
        network=wrapped,
        optimizer=optimizer,  # type: ignore[arg-type]
        class_weights=weights.to(fabric.device),
        training=SliceIndex.of([store.case(name) for name in names]),
        validation=SliceIndex.of([store.case(name) for name in store.names("validation")]),
        threads=machine.threads,
    )


def run_epoch(session: Session, progress: Progress, run: Path, *, save_every_s: float, watch: Watch) -> None:
    """Train from progress.step to the end of the epoch, saving the state every ``save_every_s`` seconds."""
    plan, fabric = session.recipe.training, session.fabric
    order = epoch_order(
        len(session.training), visits=session.visits, generator=step_generator(plan.seed, progress.epoch)
    )
    share = slice(fabric.global_rank, None, fabric.world_size)

    def read(batch: int) -> tuple[Batch, SliceChanges]:
        """Give a batch from the store and what is to be changed in it."""
        numbers = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        ready = read_batch(session.training, numbers[share], space=session.space, distance=session.recipe.loss.distance)
        changes = draw_changes(
            session.recipe.augmentation, len(numbers), step_generator(plan.seed, progress.epoch, batch)
        )
        return ready, changes.part(share)

    for group in session.optimizer.param_groups:
        group["lr"] = learning_rate(plan, progress.epoch)
    session.network.train()
    sums = Sums.of(progress, fabric.device)
    saved, first = time.perf_counter(), progress.step * plan.accumulate
    for number, (batch, changes) in enumerate(
        read_ahead(read, session.batches, first=first, threads=session.threads), first
    ):
        step_ends = (number + 1) % plan.accumulate == 0 or number + 1 == session.batches
        batch = change_batch(scaled(batch.to(fabric.device), session.recipe), changes)
        with fabric.no_backward_sync(session.network, enabled=not step_ends):  # type: ignore[arg-type]
            logits = session.network(batch.image)
            loss = loss_of(session, logits, batch)
            fabric.backward(loss / plan.accumulate)
        sums.add(loss.detach(), class_counts(logits.detach(), batch))
        if not step_ends:
            continue
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        watch.step(progress.epoch + 1, progress.step, session.steps)
        now = time.perf_counter()
        if now - saved >= save_every_s or progress.step == session.steps:
            progress.seconds, saved = progress.seconds + now - saved, now
            sums.store(progress)
            if progress.step < session.steps and fabric.is_global_zero:
                save_progress(run, session, progress)


def close_epoch(session: Session, progress: Progress) -> dict[str, object]:
    """Validate, note whether this epoch is the best, set the sums back; give the epoch's row for the log."""
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
        "learning_rate": learning_rate(session.recipe.training, progress.epoch - 1),
        "train_loss": train_loss,
        "val_loss": val_loss,
        "train_dice": by_organ(dice_and_iou(counts[None].cpu().numpy())[0], organs),
        "val_dice": by_organ(dice_and_iou(val_counts)[0], organs),
        "val_iou": by_organ(dice_and_iou(val_counts)[1], organs),
        "seconds": round(progress.seconds + time.perf_counter() - started, 2),
    }
    progress.step, progress.loss_sum, progress.slices, progress.seconds, progress.counts = 0, 0.0, 0, 0.0, []
    return row


@torch.no_grad()
def validate(session: Session) -> tuple[float | None, Int[np.ndarray, "case class 3"]]:
    """Give the mean loss over the slices of the validation cases, or None without such cases, and each case's counts."""
    fabric, index = session.fabric, session.validation
    classes = len(session.space.classes)
    sums = torch.zeros((len(index.cases), classes, 3), dtype=torch.int64, device=fabric.device)
    loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
    size = session.recipe.training.batch_size
    parts = np.array_split(np.arange(len(index)), max(1, math.ceil(len(index) / size)))[
        fabric.global_rank :: fabric.world_size
    ]

    def read(number: int) -> Batch:
        return read_batch(index, parts[number], space=session.space, distance=session.recipe.loss.distance)

    session.network.eval()
    network: torch.nn.Module = session.network.module  # type: ignore[assignment]
    for part, batch in zip(
        parts, read_ahead(read, len(parts) if len(index) else 0, threads=session.threads), strict=False
    ):
        batch = scaled(batch.to(fabric.device), session.recipe)
        # The network itself, not its wrapper for several devices, whose every call waits for all of them: they may have
        # different numbers of batches here.
        with fabric.autocast():
            logits = network(batch.image)
        loss += loss_of(session, logits, batch).double() * len(part)
        case = torch.from_numpy(index.positions[part, 0]).to(fabric.device)
        sums.index_add_(0, case, class_counts(logits, batch))
    loss, sums = total(fabric, loss), total(fabric, sums)
    return (loss.item() / len(index) if len(index) else None), sums.cpu().numpy()


def total(fabric: Fabric, part: Tensor) -> Tensor:
    """Give the sum over all devices."""
    return torch.as_tensor(fabric.all_reduce(part, reduce_op="sum"))


def scaled(batch: Batch, recipe: Recipe) -> Batch:
    """Give the batch with its HU scaled to the network's input."""
    image = apply_window(batch.image, recipe.intensity)
    return replace(batch, image=image.contiguous(memory_format=torch.channels_last))


def loss_of(session: Session, logits: Float[Tensor, "batch class y x"], batch: Batch) -> Float[Tensor, ""]:
    """Give the recipe's loss of a batch."""
    return boundary_loss(
        session.recipe.loss,
        logits,
        labels=batch.labels,
        distance=batch.distance,
        known=batch.known,
        class_weights=session.class_weights,
    )


def learning_rate(plan: Training, epoch: int) -> float:
    """Give StepLR's rate in an epoch (from 0)."""
    return plan.learning_rate * plan.step_gamma ** (epoch // plan.step_epochs)


def stale(progress: Progress, plan: Training) -> bool:
    """Tell whether patience is at its end."""
    return 0 < plan.patience_epochs <= progress.epoch - progress.best_epoch


def save_progress(run: Path, session: Session, progress: Progress) -> None:
    """Write the state from which the run can go on."""
    progress.scaler = session.fabric.strategy.precision.state_dict()
    save_state(run / runlog.STATE, session.network, session.optimizer, progress=asdict(progress))


def resume_from(file: Path, session: Session) -> Progress:
    """Load a saved state."""
    progress = Progress(**load_state(file, session.network, session.optimizer))  # type: ignore[arg-type]
    session.fabric.strategy.precision.load_state_dict(progress.scaler)
    return progress
