"""Fine-tuning: a network begins with trained weights, the heads of the organs that those know included."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from viscera.config import Recipe
from viscera.errors import WeightsError
from viscera.networks.weights import context_of, fill_network, find_weights, load_weights, without_context

LAST_LAYERS = {"head", "heads", "votes", "sum"}
"""Parts of networks that have a channel for each class; ``sum`` mixes classes, so nothing of it stands for one organ."""
CONTEXT_CHANNELS = "stem.known.weight"
"""Has a channel for each organ, too: what the context says of it."""
FIRST = "down.0.0.weight"
"""Of a network of slices without stem: its input's channels are the slices, then the context's organs."""


def start_from(network: torch.nn.Module, recipe: Recipe, start: Path) -> None:
    """Fill a network with trained weights; the heads of organs that those do not know keep their random weights.

    A network with context can begin with weights of one without: the context's channels begin at nothing, so that it first
    segments as that one did.

    Raises:
        WeightsError: They are for another network.
    """
    weights = load_weights(find_weights(start))
    known, tensors = weights.recipe.network, without_context(weights.tensors)
    if recipe.dimensions == 3 and weights.recipe.context is not None:  # a context network begins with another's
        known, tensors = weights.recipe.context.network, context_of(weights.tensors)
    if (known.kind, known.widths, known.stem) != (recipe.network.kind, recipe.network.widths, recipe.network.stem):
        raise WeightsError(
            f"{start}: these weights are for network {_in_words(weights.recipe)}, the recipe for {_in_words(recipe)}",
            "Begin with weights of the same network.",
        )
    if weights.space.organs != recipe.space.organs:
        old, new = weights.space.classes, recipe.space.classes
        slices = tuple(map(str, range(known.slices)))  # the first channels of what sees slices and context side by side
        for name, fresh in network.state_dict().items():
            if name not in tensors:
                continue
            parts = set(name.split("."))
            if name == CONTEXT_CHANNELS:
                tensors[name] = _by_class(tensors[name], fresh, old[1:], new[1:], axis=1)
            elif name == FIRST and weights.recipe.context is not None and known.stem == 1:
                tensors[name] = _by_class(tensors[name], fresh, slices + old[1:], slices + new[1:], axis=1)
            elif parts & LAST_LAYERS:
                axis = 1 if known.stem > 1 and name == "head.weight" else 0  # of a transposed convolution
                tensors[name] = _by_class(tensors[name], fresh, () if "sum" in parts else old, new, axis=axis)
    if recipe.context is not None and weights.recipe.context is None and known.slices == recipe.network.slices:
        tensors |= _deaf_to_context(tensors, network.state_dict())
    fill_network(network, tensors, where=str(start))


def _deaf_to_context(known: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what takes a network's context, with zeros, beside what is known of its slices."""
    if CONTEXT_CHANNELS in network:
        return {CONTEXT_CHANNELS: torch.zeros_like(network[CONTEXT_CHANNELS])}
    wider = torch.zeros_like(network[FIRST])
    wider[:, 0 : known[FIRST].shape[1]] = known[FIRST]
    return {FIRST: wider}


def _by_class(known: Tensor, fresh: Tensor, old: Sequence[str], new: Sequence[str], *, axis: int) -> Tensor:
    """Return fresh weights with the known ones of those classes that both know.

    Args:
        known: Trained.
        fresh: Of the network to be filled.
        old: The classes along an axis of ``known``; empty where it has none.
        new: The same of ``fresh``.
        axis: That axis.
    """
    taken, source = fresh.clone().movedim(axis, 0), known.movedim(axis, 0)
    if len(source) == len(old) and source.shape[1:] == taken.shape[1:]:
        for row, organ in enumerate(new):
            if organ in old:
                taken[row] = source[old.index(organ)]
    return taken.movedim(0, axis)


def _in_words(recipe: Recipe) -> str:
    return f"{recipe.network.kind} of widths {', '.join(map(str, recipe.network.widths))}"
