"""A network of 31 M parameters that segments, without the GPU hours of training one: a trained narrow one within a wide one.

The narrow network's weights become some channels of the wide one; its other channels keep their random weights, and the narrow
one's do not look at them. So the wide network gives the narrow one's logits, but for rounding, and costs what every network of its
width costs: dense convolutions know no zeros. Random weights alone would not do: they label noise, on which no label map is
enlarged, tidied or compressed as on organs.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from viscera.config import UNetShape
from viscera.networks.build import build_network
from viscera.networks.unet import parameter_count
from viscera.networks.weights import Weights, find_weights, load_weights, save_weights


def save_widened(run: Path, file: Path, *, width: int = 64) -> int:
    """Write the weights of a wide network that gives a trained zhang2d's logits; give its parameters."""
    weights = load_weights(find_weights(run))
    shape = weights.recipe.network
    if not isinstance(shape, UNetShape):
        raise SystemExit(f"{run}: only a 2D U-Net can be widened.")
    factor = width // shape.widths[0]
    recipe = replace(weights.recipe, network=replace(shape, widths=tuple(factor * old for old in shape.widths)))
    torch.manual_seed(0)
    network = build_network(recipe.network, classes=len(weights.space.classes))
    tensors = {name: set_in(weights.tensors[name], wide, name) for name, wide in network.state_dict().items()}
    save_weights(file, Weights(recipe, weights.space, tensors, {}))
    return parameter_count(network)


def set_in(narrow: Tensor, wide: Tensor, name: str) -> Tensor:
    """Give a wide tensor with a narrow one in its first channels."""
    result = wide.clone()
    if narrow.ndim == 0:  # how many batches were seen
        return narrow.clone()
    if narrow.ndim == 1:  # biases, and batch normalisation
        result[: len(narrow)] = narrow
        return result
    if name.startswith("raise_"):  # transposed: inputs first
        result[:, : narrow.shape[1]] = 0
        result[: narrow.shape[0], : narrow.shape[1]] = narrow
        return result
    outputs, inputs = narrow.shape[:2]
    result[:outputs] = 0
    if name.startswith("up.") and name.split(".")[2] == "0":  # skipped channels, then raised ones
        half, wide_half = inputs // 2, wide.shape[1] // 2
        result[:outputs, :half] = narrow[:, :half]
        result[:outputs, wide_half : wide_half + half] = narrow[:, half:]
    else:
        result[:outputs, :inputs] = narrow
    return result
