"""Session: what the steps of a training share, built from a recipe, a store and a machine.

The loop over it is in training.py.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from viscera.config import ForegroundScore, Machine, Precision, Recipe
from viscera.config.recipe_json import recipe_from_json, recipe_to_json
from viscera.errors import SettingError
from viscera.inference.context import CERTAIN
from viscera.labels import LabelSpace
from viscera.learning.cases import chosen_cases, fresh_organs, never_annotated, require_apart, training_cases
from viscera.learning.context import ContextMaps, context_recipe
from viscera.learning.devices import check_world, launch, leave_out_idle_heads, pooled, text_of_first
from viscera.learning.distillation.settings import Distillation
from viscera.learning.distillation.teacher import Taught, open_teacher
from viscera.learning.finetune import start_from
from viscera.learning.foreground_hu import measure_foreground
from viscera.learning.losses import LossFunction, alone, class_weights, loss_for
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import Index, open_training, open_validation
from viscera.learning.sampling.lesions import lesion_labels
from viscera.learning.sampling.slices import SliceIndex
from viscera.learning.schedule import moving_average
from viscera.learning.shared_norm import share_batch_norm
from viscera.learning.synthetic_patients import PatientWorker, TrainingData, open_patients, split_supply
from viscera.networks.build import network_of
from viscera.networks.device import allow_open_files, device_type, keep_freed_memory
from viscera.networks.precision import precision_of
from viscera.networks.weights import find_weights, load_weights
from viscera.preparation.intensity import network_input
from viscera.preparation.store import Case, Store

IndexOf = Callable[[int], Index]
"""What an epoch (from 0) draws from."""


@dataclass(frozen=True, eq=False)
class Session:
    """What the steps of one run share; ``loss`` is of a batch of all devices, ``own_loss`` of what this one has of it."""

    recipe: Recipe
    space: LabelSpace
    fabric: Fabric
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    loss: LossFunction
    own_loss: LossFunction
    never_annotated: Bool[Tensor, " class"]
    training: Index
    validation: Index
    threads: int
    maps: ContextMaps | None = None
    context: Mapping[str, Tensor] = field(default_factory=dict)
    taught: Taught | None = None

    @property
    def training_loss(self) -> LossFunction:
        """What is minimised: the loss of labels, and of a teacher where there is one; cases are validated by labels alone."""
        return self.loss if self.taught is None else self.taught.loss

    def with_context(self, maps: ContextMaps, tensors: Mapping[str, Tensor]) -> "Session":
        """Return the session with what gives each case its context, and the context network's tensors."""
        training, validation = (
            replace(index, maps=maps) if isinstance(index, SliceIndex) else index
            for index in (self.training, self.validation)
        )
        return replace(self, training=training, validation=validation, maps=maps, context=dict(tensors))

    @property
    def result(self) -> torch.nn.Module:
        """The network that is judged and kept: the average of the weights, where one is kept."""
        return self.average.module if self.average is not None else self.network.module  # type: ignore[return-value]

    @property
    def visits(self) -> int:
        """Slices or patches drawn per epoch, on any number of devices."""
        return max(1, round(len(self.training) * self.recipe.training.visits_per_slice))

    @property
    def batches(self) -> int:
        """Forward passes per epoch."""
        return math.ceil(self.visits / self.recipe.training.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(self.batches / self.recipe.training.accumulate)


def begin(
    recipe: Recipe,
    supply: Store | TrainingData,
    machine: Machine,
    *,
    start: Path | None = None,
    distil: Distillation | None = None,
) -> Session:
    """Build the network and the optimizer, and find what to learn from.

    Args:
        recipe: Every setting; the organs' HU are measured where it asks for them.
        supply: The cases.
        machine: Where to train.
        start: Weights to begin with (a run or a file); None: random ones.
        distil: Trained networks whose probabilities are learnt, too; None: labels alone.

    Raises:
        StoreError, RunError: The store is another recipe's, or holds nothing to train on; processes do not find each other; the
            teacher must not teach.
        SettingError, LabelError: The recipe does not fit the machine, its own label space, the fresh patients or the teacher.
        WeightsError: ``start`` is for another network.
    """
    (store, fresh), plan = split_supply(supply), recipe.training
    store.require(space=recipe.space, preparation=recipe.preparation)
    taught = fresh_organs(supply, recipe)
    names = training_cases(store, recipe, taught=distil is not None)
    device = device_type(machine.accelerator)
    world = check_world(recipe, machine, device)
    check_fit(recipe)
    require_apart(store)
    keep_freed_memory()
    allow_open_files()
    torch.use_deterministic_algorithms(plan.deterministic)
    if device == "cuda":
        # Without it torch refuses matrix products where plan.deterministic. Always, since torch looks only once in a process.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precision = precision_of(plan.precision, device)
    fabric = launch(world, device=device, precision=precision)
    torch.manual_seed(plan.seed)
    teacher = None if distil is None else open_teacher(recipe, distil, store, fabric)
    taught |= set() if teacher is None else teacher.taught
    cases = [store.case(name) for name in names]
    own = () if fresh is not None and fresh.only else cases
    recipe = measured_once(fabric, recipe, cases, start if teacher is None else teacher.weights)
    network = network_of(recipe)
    if start is not None:
        start_from(network, recipe, start)
    if fabric.world_size > 1:
        network = share_batch_norm(network, device)
        leave_out_idle_heads(network, recipe.network)
    network = network.to(memory_format=memory_format(recipe, device, precision))  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    wrapped, optimizer = fabric.setup(network, optimizer)
    weights = class_weights(recipe.loss.class_weights, store.voxels("training"))
    loss_of = partial(
        loss_for, recipe.loss, class_weights=weights.to(fabric.device), deep=recipe.network.deep_supervision
    )
    validation = [store.case(name) for name in chosen_cases(store, store.names("validation"), recipe.sampling)]
    own_loss = loss_of()
    return Session(
        recipe=recipe,
        space=recipe.space,
        fabric=fabric,
        network=wrapped,
        optimizer=optimizer,  # type: ignore[arg-type]
        average=moving_average(wrapped.module, plan.average_decay) if plan.average_decay else None,  # type: ignore[arg-type]
        loss=loss_of(pooled=pooled if fabric.world_size > 1 else alone),
        own_loss=own_loss,
        never_annotated=never_annotated(own, recipe.space, taught).to(fabric.device),
        training=training_index(cases, recipe),
        validation=open_validation(
            validation, recipe.sampling, reach=recipe.reach, contrast=recipe.contrast, space=recipe.space
        ),
        threads=machine.threads,
        taught=None if teacher is None else teacher.beside(own_loss, unannotated=recipe.loss.unannotated),
    )


def memory_format(recipe: Recipe, device: str, precision: Precision) -> torch.memory_format:
    """Return how the weights lie in memory, and with them all that passes through: channels innermost where that is faster.

    2D: everywhere. 3D: the plain U-Net in float32 on a CPU, 1.3 times as fast in training (benchmarks/results/training_avx2.json);
    elsewhere it was not measured.
    """
    if recipe.dimensions == 2:
        return torch.channels_last
    on_cpu = device == "cpu" and precision == "32-true"
    return torch.channels_last_3d if on_cpu and recipe.network.kind == "plain3d" else torch.contiguous_format


def training_index(cases: Sequence[Case], recipe: Recipe, maps: ContextMaps | None = None) -> Index:
    """Number what an epoch draws from."""
    return open_training(
        cases, recipe.sampling, reach=recipe.reach, contrast=recipe.contrast, maps=maps, space=recipe.space
    )


@contextmanager
def epoch_indices(session: Session, supply: Store | TrainingData, run: Path) -> Iterator[IndexOf]:
    """Return what each epoch draws from: the store's cases, and patients that are made for it.

    On all devices alike; the first one's process has the patients made, and the others wait for it.
    """
    if isinstance(supply, Store):
        yield lambda epoch: session.training
        return
    kept = () if supply.fresh.only else session.training.cases
    epochs = session.recipe.training.epochs
    with PatientWorker(run, supply, epochs=epochs) if session.fabric.is_global_zero else nullcontext() as maker:

        def index_of(epoch: int) -> Index:
            """Wait for the patients, and number everything."""
            if maker is not None:
                maker.need(epoch)
            session.fabric.barrier()
            fresh = open_patients(run, epoch, supply)
            if session.maps is not None:
                session.maps.forget(but={case.name for case in fresh})
            return training_index([*kept, *fresh], session.recipe, session.maps)

        yield index_of


def check_fit(recipe: Recipe) -> None:
    """Raise SettingError or LabelError where parts of a recipe do not go together: rather now than at the first prediction."""
    tidied = recipe.postprocessing
    tables = (tidied.opening_mm, tidied.closing_mm, tidied.fill_holes, tidied.smallest_ml, tidied.largest_components)
    for organ in (organ for table in tables for organ in table):
        recipe.space.index(organ)
    heads = recipe.network.heads
    if (recipe.loss.kind == "sigmoid") != (heads == "sigmoid"):
        raise SettingError(
            f"network.heads is {heads}, but loss.kind is {recipe.loss.kind}",
            "The sigmoid loss needs sigmoid heads, every other loss softmax.",
        )
    seen = (recipe.sampling.dimensions, 2 if recipe.inference.whole_slices else 3, recipe.augmentation.dimensions)
    if recipe.context is not None:
        check_fit(context_recipe(recipe))
        if recipe.augmentation.kind != "rich":
            raise SettingError(
                f"augmentation '{recipe.augmentation.kind}' knows no context",
                "Take augmentation.kind 'rich', or set the recipe's context to null.",
            )
        if recipe.sampling.paste:
            raise SettingError(
                f"sampling.paste is {recipe.sampling.paste:g}, and the context would not know of what is pasted",
                "Set it to 0, or the recipe's context to null.",
            )
    sampling = recipe.sampling
    if sampling.lesion_fraction and not lesion_labels(recipe.space):
        raise SettingError(
            f"sampling.lesion_fraction is {sampling.lesion_fraction:g}, and '{recipe.label_space}' has no tumour",
            "Set it to 0, or take a label space with tumours.",
        )
    whole = "organ_fraction" if sampling.kind == "slices" else "foreground_fraction"
    if sampling.lesion_fraction and not getattr(sampling, whole):
        raise SettingError(
            f"sampling.lesion_fraction is {sampling.lesion_fraction:g}, a share of sampling.{whole}, which is 0",
            f"Set {whole}, too.",
        )
    if any(dimensions != recipe.dimensions for dimensions in seen):
        raise SettingError(
            f"network {recipe.network.kind} does not go with sampling {recipe.sampling.kind}, inference "
            f"{recipe.inference.kind} and augmentation {recipe.augmentation.kind}",
            "A 2D network takes slices, a 3D one patches, windows and the augmentation of volumes.",
        )


def with_measurements(recipe: Recipe, cases: Sequence[Case], start: Path | None) -> Recipe:
    """Return the recipe with the organs' HU as measured, or as the weights to begin with have them (of the same contrast)."""
    if not isinstance(recipe.intensity, ForegroundScore) or recipe.intensity.measured is not None:
        return recipe
    if start is not None:
        known = load_weights(find_weights(start)).recipe
        if known.intensity.measured is not None and known.contrast == recipe.contrast:
            return replace(recipe, intensity=known.intensity)
    return replace(recipe, intensity=measure_foreground(cases, recipe.intensity, contrast=recipe.contrast))


def measured_once(fabric: Fabric, recipe: Recipe, cases: Sequence[Case], start: Path | None) -> Recipe:
    """Return the recipe with the organs' HU as the first process has measured them, on all processes."""
    if fabric.is_global_zero:
        recipe = with_measurements(recipe, cases, start)
    if fabric.world_size == 1:
        return recipe
    return recipe_from_json(text_of_first(fabric, recipe_to_json(recipe)), where="the first process's recipe")


def scaled(batch: Batch, recipe: Recipe) -> Batch:
    """Return the batch with its HU scaled to the network's input, and its context behind them as further channels."""
    image = network_input(batch.image, recipe.intensity)
    if batch.context is not None:
        sides = [size // small for size, small in zip(image.shape[2:], batch.context.shape[2:], strict=True)]
        known = batch.context.float().div_(CERTAIN).repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
        image = torch.cat([image, known], 1)
    return replace(batch, image=image.contiguous(memory_format=torch.channels_last) if image.ndim == 4 else image)
