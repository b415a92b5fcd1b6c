"""Context for a network of slices: its 3D network is trained first, on coarse voxels, and then looks at every scan once.

RUN/context/store     the cases in coarse voxels
RUN/context           an ordinary run of the 3D network on them: `viscera predict --weights RUN/context` segments with it alone
RUN/context/seen      what it sees of each case, uint8, where the network of slices first needs it (5 to 10 MB each)

Both networks end in one weights file.
"""

import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from viscera.config import Recipe, SpacedSlices
from viscera.errors import RunError, SettingError, WeightsError
from viscera.inference.context import DEPTH, ScanContext, see_scan
from viscera.io.atomic import replacing, write_json
from viscera.json_text import load_json
from viscera.learning.synthetic_patients import DATASET, TrainingData, split_supply
from viscera.networks.build import context_network
from viscera.networks.device import release_freed_memory
from viscera.networks.runners import Runner
from viscera.networks.torch_runner import folded_runner
from viscera.networks.weights import context_of, fill_network, find_weights, load_weights
from viscera.networks.weights_header import read_header
from viscera.preparation.coarse import coarse_case, coarse_geometry
from viscera.preparation.store import Case, Store, create_store, remove_leftovers, write_case
from viscera.recipes.viscera25d import alone

FOLDER = "context"
"""Of a run."""
FEW_PERCENT, FEW_SLICES = 30, (8, 12, 16, 24)
"""Of the cases, and what is looked at at once of these."""
OTHER_SEED = 1_000_003
"""Added to the seed of fresh patients: the context network learns from others."""


def context_recipe(recipe: Recipe) -> Recipe:
    """Return the 3D network of a recipe's context as a recipe of its own.

    Raises:
        SettingError: The recipe has no context, or prepares scans in a way that gives none.
    """
    if not isinstance(recipe.preparation, SpacedSlices) or recipe.contrast.method != "none":
        raise SettingError(
            f"recipe '{recipe.name}': context goes with preparation 'spaced' and contrast 'none' only",
            "Change these, or set the recipe's context to null.",
        )
    return replace(alone(recipe), name=f"{recipe.name}-context", about=f"the context network of {recipe.name}")


def coarse_supply(
    supply: Store | TrainingData, run: Path, recipe: Recipe, *, write: bool = True
) -> Store | TrainingData:
    """Return what the context network learns from: the annotated cases of a store in coarse voxels, written to the run's folder.

    Cases that were written before are left alone. Fresh patients are made in coarse voxels, others than the network of slices
    learns from, so that the context that this sees is no better than on any patient.

    Args:
        supply: What the network of slices learns from.
        run: Its folder.
        recipe: Its recipe.
        write: Whether this process writes them; else they stand there, written by another one.
    """
    store, fresh = split_supply(supply)
    folder, pixels = run / FOLDER / "store", recipe.required_context.pixels
    splits = {name: split for name, split in store.splits.items() if split != "test"}
    made = Store(folder, store.space, context_recipe(recipe).preparation)
    if write:
        made = create_store(folder, space=made.space, preparation=made.preparation)
        remove_leftovers(folder)
        there = set(made.names())
        for name in splits:
            facts = store.facts(name)
            if name not in there or made.facts(name).image_sha256 != facts.image_sha256:
                coarse = coarse_case(store.case(name), pixels)
                write_case(folder, coarse, replace(facts, geometry=coarse.geometry))
        write_json(folder / "splits.json", {"cases": splits})
    coarse_store = replace(made, splits=splits)
    return coarse_store if fresh is None else TrainingData(coarse_store, replace(fresh, seed=fresh.seed + OTHER_SEED))


def tensors_of(weights: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Return the context network's tensors from a run of it, or from weights of a network of slices that has one.

    Raises:
        WeightsError: No weights, or of another shape or label space.
    """
    found = load_weights(find_weights(weights))
    tensors = dict(found.tensors) if found.recipe.dimensions == 3 else context_of(found.tensors)
    if not tensors or found.space.organs != recipe.space.organs:
        has = f"context for {', '.join(found.space.organs)}" if tensors else "no context network"
        raise WeightsError(
            f"{weights} has {has}, not context for {', '.join(recipe.space.organs)}",
            "Leave --context-weights out: the run then trains its own.",
        )
    fill_network(context_network(recipe), tensors, where=str(weights))
    return tensors


def has_context(weights: Path) -> bool:
    """Tell whether weights hold a context network."""
    return read_header(find_weights(weights)).recipe.context is not None


@dataclass(frozen=True, eq=False)
class ContextMaps:
    """What the context network sees of each case: computed where it is first needed, then kept.

    Attributes:
        folder: Where it is kept.
        recipe: Of the network of slices.
        runner: The context network.
    """

    folder: Path
    recipe: Recipe
    runner: Runner
    _computing: Lock = field(default_factory=Lock, repr=False)

    @property
    def pixels(self) -> int:
        """Prepared pixels per coarse voxel."""
        return self.recipe.required_context.pixels

    def of(self, case: Case) -> ScanContext:
        """Return the context of a case."""
        grid = coarse_geometry(case.geometry, self.pixels).slice_grid
        file = self.folder / f"{case.name}.npy"
        with self._computing:  # one at a time: each takes some hundred MB
            if not file.is_file():
                depth = seen_depth(case.name)
                seen = see_scan(case.image, case.geometry, runner=self.runner, recipe=self.recipe, depth=depth)
                self.folder.mkdir(parents=True, exist_ok=True)
                with replacing(file) as part, part.open("wb") as opened:
                    np.save(opened, seen.organs)
                release_freed_memory()  # no two scans have the same size, so that what one took would seldom do for the next
        organs = np.load(file, mmap_mode="r", allow_pickle=False)
        return ScanContext(organs, grid, self.pixels)  # type: ignore[arg-type]

    def forget(self, but: Collection[str]) -> None:
        """Remove what was kept of fresh patients other than these."""
        for file in self.folder.glob(f"{DATASET}__*.npy"):
            if file.stem not in but:
                file.unlink(missing_ok=True)


def seen_depth(name: str) -> int:
    """Return how many coarse slices are looked at at once of a case: of some few, as scans of a part of the body have.

    The network of slices so learns what to make of a context that has seen little of the patient.
    """
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return FEW_SLICES[drawn // 100 % len(FEW_SLICES)] if drawn % 100 < FEW_PERCENT else DEPTH


def open_maps(
    run: Path, recipe: Recipe, tensors: Mapping[str, Tensor], device: torch.device, *, keep: bool = False
) -> ContextMaps:
    """Return what gives each case its context, in a run's folder.

    Args:
        run: The folder.
        recipe: Of the network of slices.
        tensors: Of the context network.
        device: Where to run it.
        keep: The network of slices has learnt with the context that lies there; else maps of another network are removed.

    Raises:
        RunError: It has learnt with another context network.
    """
    network = context_network(recipe)
    fill_network(network, tensors, where=f"{run / FOLDER}")
    folder = run / FOLDER / "seen"
    key = hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in sorted(tensors.items()))).hexdigest()
    note = folder / "network.json"
    same = note.is_file() and load_json(note) == {"sha256": key}
    if keep and note.is_file() and not same:
        raise RunError(
            f"{run} was begun with another context network",
            "Give that one with --context-weights, or train anew: --overwrite.",
        )
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(note, {"sha256": key})
    return ContextMaps(folder, recipe, folded_runner(network.eval(), device.type, exact=True))
