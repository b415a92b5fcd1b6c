"""Fine-tuning: a network begins with trained weights, the heads of the organs that those know included."""

from pathlib import Path

import torch

from viscera.config import Recipe
from viscera.errors import WeightsError
from viscera.networks.weights import fill_network, find_weights, load_weights

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
            f"{start}: these weights are for network {_in_words(weights.recipe)}, the recipe for {_in_words(recipe)}",
            "Begin with weights of the same network.",
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
