"""Session: what the steps of a training share, built from a recipe, a store and a machine.

The loop over it is in training.py.
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from viscera.config import (
    ForegroundScore,
    Loss,
    Machine,
    PartialLoss,
    PatchSampling,
    Recipe,
    Sampling,
    SigmoidLoss,
    UNetShape,
    UpvShape,
)
from viscera.errors import RunError, SettingError, StoreError, WeightsError
from viscera.labels import LabelSpace
from viscera.learning.foreground_hu import measure_foreground
from viscera.learning.losses import class_weights, deep_loss
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import Index, open_training, open_validation
from viscera.learning.schedule import moving_average
from viscera.learning.synthetic_patients import PatientWorker, TrainingData, open_patients, split_supply
from viscera.networks.build import build_network
from viscera.networks.device import allow_open_files, device_type, keep_freed_memory, precision_of
from viscera.networks.weights import fill_network, find_weights, load_weights
from viscera.preparation.intensity import network_input
from viscera.preparation.splits import SPLITS, Member, fold_of, unlabelled_cases
from viscera.preparation.store import Case, Store

IndexOf = Callable[[int], Index]
"""What an epoch (from 0) draws from."""


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
    never_annotated: Bool[Tensor, " class"]
    training: Index
    validation: Index
    threads: int

    @property
    def result(self) -> torch.nn.Module:
        """The network that is judged and kept: the average of the weights, where one is kept."""
        return self.average.module if self.average is not None else self.network.module  # type: ignore[return-value]

    @property
    def visits(self) -> int:
        """Slices or patches drawn per epoch, a multiple of the devices."""
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


def begin(recipe: Recipe, supply: Store | TrainingData, machine: Machine, *, start: Path | None = None) -> Session:
    """Build the network and the optimizer, and find what to learn from.

    Args:
        recipe: Every setting; the organs' HU are measured where it asks for them.
        supply: The cases.
        machine: Where to train.
        start: Weights to begin with (a run or a file); None: random ones.

    Raises:
        StoreError, RunError: The store is another recipe's, or holds nothing to train on.
        SettingError, LabelError: The recipe does not fit the machine, its own label space or the fresh patients.
        WeightsError: ``start`` is for another network.
    """
    (store, fresh), plan = split_supply(supply), recipe.training
    store.require(space=recipe.space, preparation=recipe.preparation)
    taught = fresh_organs(supply, recipe)
    names = training_cases(store, recipe)
    if min(machine.devices, machine.threads) < 1:
        raise SettingError(
            f"machine.devices {machine.devices}, machine.threads {machine.threads}: each must be at least 1."
        )
    check_fit(recipe)
    require_apart(store)
    if plan.batch_size % machine.devices:
        raise SettingError(f"training.batch_size {plan.batch_size} cannot be shared by {machine.devices} devices.")
    keep_freed_memory()
    allow_open_files()
    torch.use_deterministic_algorithms(plan.deterministic)
    device = device_type(machine.accelerator)
    fabric = Fabric(accelerator=device, devices=machine.devices, precision=precision_of(plan.precision, device))
    fabric.launch()
    torch.manual_seed(plan.seed)
    cases = [store.case(name) for name in names]
    own = () if fresh is not None and fresh.only else cases
    recipe = with_measurements(recipe, cases, start)
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
    if start is not None:
        start_from(network, recipe, start)
    network = network.to(memory_format=torch.channels_last) if is_flat(recipe) else network  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    wrapped, optimizer = fabric.setup(network, optimizer)
    weights = class_weights(recipe.loss.class_weights, store.voxels("training"))
    validation = [store.case(name) for name in chosen_cases(store, store.names("validation"), recipe.sampling)]
    return Session(
        recipe=recipe,
        space=recipe.space,
        fabric=fabric,
        network=wrapped,
        optimizer=optimizer,  # type: ignore[arg-type]
        average=moving_average(wrapped.module, plan.average_decay) if plan.average_decay else None,  # type: ignore[arg-type]
        class_weights=weights.to(fabric.device),
        never_annotated=never_annotated(own, recipe.space, taught).to(fabric.device),
        training=training_index(cases, recipe),
        validation=open_validation(validation, recipe.sampling, reach=reach_of(recipe), contrast=recipe.contrast),
        threads=machine.threads,
    )


def reach_of(recipe: Recipe) -> int:
    """Give how many neighbours on either side are seen with a slice."""
    return recipe.network.slices // 2 if isinstance(recipe.network, UNetShape) else 0


def training_index(cases: Sequence[Case], recipe: Recipe) -> Index:
    """Number what an epoch draws from."""
    return open_training(cases, recipe.sampling, reach=reach_of(recipe), contrast=recipe.contrast)


@contextmanager
def epoch_indices(session: Session, supply: Store | TrainingData, run: Path) -> Iterator[IndexOf]:
    """Give what each epoch draws from: the store's cases, and patients that are made for it.

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
            return training_index([*kept, *open_patients(run, epoch, supply)], session.recipe)

        yield index_of


def fresh_organs(supply: Store | TrainingData, recipe: Recipe) -> set[str]:
    """Give the organs that fresh patients annotate.

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
            "store's training cases ask for. Prepare a data set with labels too (viscera synth writes one)."
        )
    complete = isinstance(recipe.sampling, PatchSampling) and recipe.sampling.cases == "complete"
    found = fresh.annotated(recipe.space)
    for number, organs in enumerate(found, start=1):
        missing = [organ for organ in recipe.space.organs if organ not in organs]
        if not organs or (complete and missing):
            who = f"template {number}" if fresh.templates else "procedural anatomy"
            way = "Say --sampling.cases any, or take" if organs else "Take"
            raise SettingError(
                f"fresh patients: {who} does not annotate {', '.join(missing)}. {way} templates that show what is to be "
                "learnt, or a label space that they fit."
            )
    return {organ for organs in found for organ in organs}


def check_fit(recipe: Recipe) -> None:
    """Raise SettingError or LabelError where parts of a recipe do not go together: rather now than at the first prediction."""
    tidied = recipe.postprocessing
    tables = (tidied.opening_mm, tidied.closing_mm, tidied.fill_holes, tidied.smallest_ml, tidied.largest_components)
    for organ in (organ for table in tables for organ in table):
        recipe.space.index(organ)
    heads = recipe.network.heads if isinstance(recipe.network, UNetShape) else "softmax"
    if (recipe.loss.kind == "sigmoid") != (heads == "sigmoid"):
        raise SettingError(
            f"network.heads is {heads}, but loss.kind is {recipe.loss.kind}. The sigmoid loss needs sigmoid "
            "heads, every other loss softmax."
        )
    kinds = (recipe.sampling.kind == "slices", recipe.inference.kind == "slices", recipe.augmentation.kind != "volume")
    if any(kind != is_flat(recipe) for kind in kinds):
        raise SettingError(
            f"network {recipe.network.kind} does not go with sampling {recipe.sampling.kind}, inference "
            f"{recipe.inference.kind} and augmentation {recipe.augmentation.kind}. A 2D network takes slices, a 3D one "
            "patches, windows and the augmentation of volumes."
        )


def is_flat(recipe: Recipe) -> bool:
    """Tell whether the network is a 2D one."""
    return isinstance(recipe.network, UNetShape | UpvShape)


def with_measurements(recipe: Recipe, cases: Sequence[Case], start: Path | None) -> Recipe:
    """Give the recipe with the organs' HU as measured, or as the weights to begin with have them (of the same contrast)."""
    if not isinstance(recipe.intensity, ForegroundScore) or recipe.intensity.measured is not None:
        return recipe
    if start is not None:
        known = load_weights(find_weights(start)).recipe
        if isinstance(known.intensity, ForegroundScore) and known.contrast == recipe.contrast:
            return replace(recipe, intensity=known.intensity)
    return replace(recipe, intensity=measure_foreground(cases, recipe.intensity, contrast=recipe.contrast))


LAST_LAYERS = {"head", "heads", "votes", "sum"}
"""Parts of networks that have a channel for each class; ``sum`` mixes classes, so nothing of it stands for one organ."""


def start_from(network: torch.nn.Module, recipe: Recipe, start: Path) -> None:
    """Fill a network with trained weights; the heads of organs that those do not know keep their random weights.

    Raises:
        WeightsError: They are for another network.
    """
    weights = load_weights(find_weights(start))
    if (weights.recipe.network.kind, weights.recipe.network.widths) != (recipe.network.kind, recipe.network.widths):
        raise WeightsError(
            f"{start}: these weights are for network {_in_words(weights.recipe)}, the recipe for {_in_words(recipe)}. "
            "Begin with weights of the same network."
        )
    tensors = dict(weights.tensors)
    if weights.space.organs != recipe.space.organs:
        old, new = weights.space.classes, recipe.space.classes
        for name, fresh in network.state_dict().items():
            parts = set(name.split("."))
            if not parts & LAST_LAYERS or name not in tensors:
                continue
            known = tensors[name]
            rows = len(known) == len(old) and known.shape[1:] == fresh.shape[1:] and "sum" not in parts
            tensors[name] = fresh.clone()
            for row, organ in enumerate(new):
                if rows and organ in old:
                    tensors[name][row] = known[old.index(organ)]
    fill_network(network, tensors, where=str(start))


def _in_words(recipe: Recipe) -> str:
    return f"{recipe.network.kind} of widths {', '.join(map(str, recipe.network.widths))}"


def training_cases(store: Store, recipe: Recipe) -> list[str]:
    """Name the training cases, then the unlabelled ones with pseudo-labels, where the loss learns from these.

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
            f"{', '.join(store.space.organs)}. Prepare a data set that does, or list them in its annotated.json."
        )
    if not names:
        raise RunError(
            f"{store.path} has no training cases. Prepare a data set with labels first: viscera prepare --help."
        )
    sampling, heeds = recipe.sampling, uses_pseudo_labels(recipe.loss)
    filled = [name for name in unlabelled_cases(store)[0] if heeds and store.case(name).pseudo_annotated]
    labelled, filled = (chosen_cases(store, part, sampling, pseudo=heeds) for part in (names, filled))
    names = [*labelled, *filled]
    if not names:
        raise RunError(
            f"no training case of {store.path} annotates all of {', '.join(store.space.organs)}, which sampling.cases "
            "'complete' asks for. Say --sampling.cases any (what a case does not annotate is then unknown), or prepare a "
            "data set that annotates them."
        )
    if sampling.fold is None:
        return names
    number, folds = sampling.fold
    if not 1 <= number <= folds or folds < 2:
        raise SettingError(f"sampling.fold {number} {folds}: say 1 3, 2 3 or 3 3 to leave out one of three parts.")
    parts = [[Member.of(store.facts(name)) for name in part] for part in (labelled, filled)]
    folds_of_cases = fold_of(parts[0], folds=folds) | fold_of(parts[1], folds=folds)
    return [name for name in names if folds_of_cases[name] != number]


def uses_pseudo_labels(loss: Loss) -> bool:
    """Tell whether a loss learns from pseudo-labels; to one that does not, an unlabelled case is all background."""
    return isinstance(loss, PartialLoss | SigmoidLoss) and loss.pseudo > 0


def chosen_cases(store: Store, names: Sequence[str], sampling: Sampling, *, pseudo: bool = False) -> list[str]:
    """Give the cases that a sampling takes: all, or those of which every organ is known.

    Args:
        store: Where they are.
        names: Of which cases.
        sampling: What it takes.
        pseudo: Whether an organ that teachers filled in is known, too; else only one that is annotated.
    """
    if not isinstance(sampling, PatchSampling) or sampling.cases == "any":
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
                    "nothing. Delete splits.json and run viscera prepare again (every patient is then drawn anew)."
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


def scaled(batch: Batch, recipe: Recipe) -> Batch:
    """Give the batch with its HU scaled to the network's input."""
    image = network_input(batch.image, recipe.intensity)
    return replace(batch, image=image.contiguous(memory_format=torch.channels_last) if image.ndim == 4 else image)


def session_loss(session: Session, outputs: Tensor | Sequence[Tensor], batch: Batch) -> Float[Tensor, ""]:
    """Give the recipe's loss of a batch, over all outputs of deep supervision; organs that no case annotates are background."""
    batch = replace(batch, annotated=batch.annotated | session.never_annotated)
    logits = [outputs] if isinstance(outputs, Tensor) else outputs
    return deep_loss(session.recipe.loss, logits, batch, class_weights=session.class_weights)
