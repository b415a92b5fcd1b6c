"""Weights with all that is needed to use them, and the state from which a killed run goes on.

A weights file is one safetensors file: tensors, and in its header the recipe, the label space and the provenance as JSON,
so that it can be copied alone. Nothing here unpickles. A state file holds the weights, the optimizer's tensors and the
progress of the run; it is replaced in one instant, so that it is always whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from viscera.config import Recipe
from viscera.config.recipe_json import recipe_to_json
from viscera.errors import WeightsError
from viscera.io.atomic import replacing, sha256, write_json
from viscera.labels import LabelSpace
from viscera.networks.find_weights import find_weights as find_weights
from viscera.networks.weights_header import FORMAT, read_facts, read_header, unreadable


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network, ready to be built.

    Attributes:
        recipe: Every setting it was trained with.
        space: What its output channels mean.
        tensors: The network's parameters and buffers.
        provenance: Where it comes from: versions, data sets, epoch, scores.
    """

    recipe: Recipe
    space: LabelSpace
    tensors: Mapping[str, Tensor]
    provenance: Mapping[str, object]


CONTEXT = "context."
"""What the names of a context network's tensors begin with, in the file of the network that it serves."""


NUMBERS, COUNT = "numbers", 64
"""A tensor of bundled weights: 0, 1, 2 ..., where their graphs find the whole numbers that they need besides weights."""


def without_context(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the network itself."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(CONTEXT) and name != NUMBERS}


def context_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the context network, by its own names; nothing where there is none."""
    return {name.removeprefix(CONTEXT): tensor for name, tensor in tensors.items() if name.startswith(CONTEXT)}


def as_context(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's tensors by the names that they have as another's context."""
    return {f"{CONTEXT}{name}": tensor for name, tensor in tensors.items()}


def save_weights(path: Path, weights: Weights) -> None:
    """Write a weights file, and beside it NAME.json with the same facts for people to read."""
    facts = {
        "format": FORMAT,
        "recipe": json.loads(recipe_to_json(weights.recipe)),
        "label_space": {"name": weights.space.name, "organs": list(weights.space.organs)},
        "provenance": dict(weights.provenance),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    _write(path, tensors, metadata={"viscera": json.dumps(facts)})
    write_json(path.with_suffix(".json"), facts | {"sha256": sha256(path)})


def load_weights(path: Path) -> Weights:
    """Read a weights file.

    Raises:
        WeightsError: No safetensors file, damaged, or not written by viscera.
    """
    header = read_header(path)
    return Weights(header.recipe, header.space, _tensors(path), header.provenance)


def save_state(
    path: Path,
    parts: Mapping[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    *,
    progress: Mapping[str, object],
) -> None:
    """Write everything that a killed run needs to go on.

    Args:
        path: The file.
        parts: {name: network}: the network, perhaps the average of its weights. Names have no dot.
        optimizer: With its state.
        progress: What else there is, ready for JSON.
    """
    groups = optimizer.state_dict()
    tensors = {f"{part}.{name}": tensor for part, one in parts.items() for name, tensor in one.state_dict().items()}
    tensors |= {
        f"optimizer.{number}.{name}": value
        for number, state in groups["state"].items()
        for name, value in state.items()
    }
    facts = {"progress": dict(progress), "groups": groups["param_groups"]}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _write(path, whole, metadata={"state": json.dumps(facts)})


def load_state(path: Path, parts: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """Put a saved state into networks and optimizer; return the progress.

    Raises:
        WeightsError: The file is damaged, or belongs to another network.
    """
    facts, tensors = read_facts(path, "state"), _tensors(path)
    state: dict[int, dict[str, Tensor]] = {}
    own: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if part == "optimizer":
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = tensor
        else:
            own.setdefault(part, {})[name] = tensor
    for part, network in parts.items():
        fill_network(network, own[part], where=path.name)
    optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
    return facts["progress"]


def fill_network(network: torch.nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load tensors into a network.

    Raises:
        WeightsError: Names or shapes differ.
    """
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(f"{where}: these weights are for another network: {reason}") from error


def _write(path: Path, tensors: dict[str, Tensor], *, metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    safetensors' own ``save_file`` makes files that only their owner may read, leaves a temporary file of its own where it is
    killed, and says what went wrong in words only.
    """
    with replacing(path) as part:
        part.write_bytes(save(tensors, metadata))


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        WeightsError: It is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
