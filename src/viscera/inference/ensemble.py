"""An ensemble: several trained networks as one model, whose probabilities are averaged (networks/mean_runner.py).

They may have been trained on other cases, and be of other architectures. How they see a scan, and what their outputs mean, must
be the same: preparation, contrast, intensities, neighbouring slices, whether there is a context, windows, and the label space.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from viscera.config import Accelerator, Recipe
from viscera.config.recipe_json import first_difference
from viscera.errors import WeightsError
from viscera.inference.model import Member, Model, load_model
from viscera.networks.mean_runner import MeanRunner
from viscera.networks.members import Members
from viscera.networks.runners import RuntimeName


def load_ensemble(
    members: Members,
    *,
    accelerator: Accelerator = "auto",
    runtime: Literal["auto"] | RuntimeName | None = None,
    graphs: Path | None = None,
) -> Model:
    """Load several networks as one model, or the one that was chosen.

    Args:
        members: From ``find_members``.
        accelerator: See ``load_model``.
        runtime: Likewise.
        graphs: Likewise.

    Raises:
        WeightsError: One cannot be loaded, or they do not go together.
    """
    models = [load_model(file, accelerator=accelerator, runtime=runtime, graphs=graphs) for file in members.files]
    if len({model.network.name for model in models}) > 1:  # a runtime could not compute one of them
        models = [load_model(file, accelerator=accelerator, runtime="torch") for file in members.files]
    found = mean_model(models, names=members.names) if len(models) > 1 else models[0]
    if members.postprocessing is None:
        return found
    return replace(found, recipe=replace(found.recipe, postprocessing=members.postprocessing))


def mean_model(models: Sequence[Model], *, names: Sequence[str]) -> Model:
    """Return several models as one, whose probabilities are the mean of theirs.

    Args:
        models: On one device; none of them has a second network or a finder.
        names: Of each, for JSON.

    Returns:
        A model with the first one's recipe. Its ``weights_sha256`` is the hash of all of theirs.

    Raises:
        WeightsError: They do not see a scan alike, or mean other organs.
    """
    first = models[0]
    for model, name in zip(models, names, strict=True):
        difference = disagreement(first.recipe, model.recipe)
        if difference:
            raise WeightsError(
                f"{names[0]} and {name} cannot answer together: {difference}",
                "Take one of them alone, or networks of one recipe.",
            )
    organs = len(first.space.organs) if first.context is not None else 0
    runner = MeanRunner([model.network for model in models], heads=first.recipe.network.heads, own_channels=organs)
    hashes = [model.weights_sha256 for model in models]
    return replace(
        first,
        network=runner,
        weights_sha256=joined_sha256(hashes),
        more_contexts=tuple(model.context for model in models[1:] if model.context is not None),
        members=tuple(Member(*pair) for pair in zip(names, hashes, strict=True)),
        card=None,
        calibration=None,
    )


def joined_sha256(hashes: Sequence[str]) -> str:
    """Return the hash by which an ensemble is known: that of its members' hashes, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def disagreement(one: Recipe, other: Recipe) -> str:
    """Say in what two recipes differ of all that an ensemble's networks must share; "" where they go together."""
    seen, also = (_shared(recipe) for recipe in (one, other))
    return first_difference(seen, also).replace(" was ", ": ", 1).replace(", now ", " and ")


def seen_and_said(recipe: Recipe) -> dict[str, object]:
    """Return what of a recipe decides how its network sees a scan, and what its output means, as JSON has it."""
    settings = asdict(recipe)
    shared: dict[str, object] = {name: settings[name] for name in ("preparation", "contrast", "intensity")}
    shared["label_space"] = list(recipe.space.organs)
    network = {"dimensions": recipe.dimensions, "slices": recipe.network.slices, "heads": recipe.network.heads}
    return shared | {"network": network, "context": recipe.context is not None}


def _shared(recipe: Recipe) -> dict[str, object]:
    """Return what of a recipe all networks of an ensemble must have alike, as JSON has it."""
    settings, shared = asdict(recipe), seen_and_said(recipe)
    skipped = ("batch_size", "region")
    shared["inference"] = {key: value for key, value in settings["inference"].items() if key not in skipped}
    if not recipe.inference.whole_slices:
        shared["sampling"] = {key: settings["sampling"][key] for key in ("size", "stride")}
    return shared
