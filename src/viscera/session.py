"""Session: what the steps of a training share, built from a recipe, a store and a machine.

The loop over it is in training.py.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from viscera.cases import Case, Store
from viscera.config import Machine, Recipe
from viscera.errors import RunError, SettingError, StoreError
from viscera.intensity import apply_window
from viscera.labels import LabelSpace
from viscera.losses import class_weights, loss_of
from viscera.machine import device_type, keep_pages, precision_of
from viscera.networks.unet import UNet
from viscera.sampling import Batch, SliceIndex
from viscera.schedule import moving_average
from viscera.splits import SPLITS, Member, fold_of


@dataclass(frozen=True, eq=False)
class Session:
    """What the steps of one run share."""

    recipe: Recipe
    space: LabelSpace
    fabric: Fabric
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    class_weights: Float[Tensor, " class"]
    unheard_of: Bool[Tensor, " class"]
    training: SliceIndex
    validation: SliceIndex
    threads: int

    @property
    def result(self) -> torch.nn.Module:
        """The network that is judged and kept: the average of the weights, where one is kept."""
        return self.average.module if self.average is not None else self.network.module  # type: ignore[return-value]

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


def begin(recipe: Recipe, store: Store, machine: Machine) -> Session:
    """Build the network and the optimizer, and find the slices.

    Raises:
        StoreError, RunError: The store is another recipe's, or holds nothing to train on.
        SettingError, LabelError: The recipe does not fit the machine, or its own label space.
    """
    store.require(space=recipe.space, preparation=recipe.preparation)
    plan, names = recipe.training, training_cases(store, recipe.sampling.fold)
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
    if (recipe.loss.kind == "sigmoid") != (recipe.network.heads == "sigmoid"):
        raise SettingError(
            f"network.heads is {recipe.network.heads}, but loss.kind is {recipe.loss.kind}. The sigmoid loss needs sigmoid "
            "heads, every other loss softmax."
        )
    require_apart(store)
    if plan.batch_size % machine.devices:
        raise SettingError(f"training.batch_size {plan.batch_size} cannot be shared by {machine.devices} devices.")
    keep_pages()
    torch.use_deterministic_algorithms(plan.deterministic)
    device = device_type(machine.accelerator)
    fabric = Fabric(accelerator=device, devices=machine.devices, precision=precision_of(plan.precision, device))
    fabric.launch()
    torch.manual_seed(plan.seed)
    network = UNet(recipe.network, classes=len(recipe.space.classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    wrapped, optimizer = fabric.setup(network, optimizer)
    weights = class_weights(recipe.loss.class_weights, store.voxels("training"))
    cases, reach = [store.case(name) for name in names], recipe.network.slices // 2
    validation = [store.case(name) for name in store.names("validation")]
    return Session(
        recipe=recipe,
        space=recipe.space,
        fabric=fabric,
        network=wrapped,
        optimizer=optimizer,  # type: ignore[arg-type]
        average=moving_average(wrapped.module, plan.average_decay) if plan.average_decay else None,  # type: ignore[arg-type]
        class_weights=weights.to(fabric.device),
        unheard_of=unheard_of(cases, recipe.space).to(fabric.device),
        training=SliceIndex.of(cases, reach=reach, window=recipe.sampling.window),
        validation=SliceIndex.of(validation, reach=reach),
        threads=machine.threads,
    )


def training_cases(store: Store, fold: tuple[int, int] | None) -> list[str]:
    """Name the training cases, without those of a fold that is to be left out.

    Raises:
        SettingError: There is no such fold.
    """
    names = store.names("training")
    if fold is None:
        return names
    number, folds = fold
    if not 1 <= number <= folds or folds < 2:
        raise SettingError(f"sampling.fold {number} {folds}: say 1 3, 2 3 or 3 3 to leave out one of three parts.")
    folds_of_cases = fold_of([Member.of(store.facts(name)) for name in names], folds=folds)
    return [name for name in names if folds_of_cases[name] != number]


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
                    "nothing. Delete splits.json and run viscera prepare again (every patient is then drawn anew)."
                )


def unheard_of(cases: Sequence[Case], space: LabelSpace) -> Bool[Tensor, " class"]:
    """Tell which organs no case annotates, with a warning: a network cannot learn them, so they count as background."""
    taught = {organ for case in cases for organ in (*case.annotated, *case.pseudo_annotated)}
    missing = [organ for organ in space.organs if organ not in taught]
    if missing:
        warnings.warn(
            f"no training case annotates {', '.join(missing)}: the network will never find them. Add a data set that does, "
            "or take a label space without them.",
            stacklevel=2,
        )
    return torch.tensor([False, *(organ in missing for organ in space.organs)])


def scaled(batch: Batch, recipe: Recipe) -> Batch:
    """Give the batch with its HU scaled to the network's input."""
    image = apply_window(batch.image, recipe.intensity)
    return replace(batch, image=image.contiguous(memory_format=torch.channels_last))


def session_loss(session: Session, logits: Float[Tensor, "batch class y x"], batch: Batch) -> Float[Tensor, ""]:
    """Give the recipe's loss of a batch; organs that no case annotates are background."""
    batch = replace(batch, annotated=batch.annotated | session.unheard_of)
    return loss_of(session.recipe.loss, logits, batch, class_weights=session.class_weights)
