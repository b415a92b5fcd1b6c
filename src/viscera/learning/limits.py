"""What a training cannot do, said before it begins or when it shows: patches that cannot be halved, memory, determinism."""

import torch

from viscera.config import Recipe
from viscera.errors import RunError
from viscera.networks.levels import check_patch
from viscera.networks.upv import check_slices


def check_patches(recipe: Recipe) -> None:
    """Raise SettingError where the network cannot halve the patches that it is to learn from, or the windows of predicting."""
    check_slices(recipe)
    if recipe.dimensions == 2:
        return
    stride = 2 ** (len(recipe.network.widths) - 1)
    for setting, size in (("sampling.size", recipe.sampling.size), ("inference.size", recipe.inference.size)):
        if size is not None:
            check_patch(size, stride=stride, setting=setting)


def out_of_memory(recipe: Recipe, device: torch.device) -> RunError:
    """Say what to do where a device's memory does not suffice."""
    smaller = ", take a smaller --sampling.size" if recipe.sampling.size is not None else ""
    return RunError(
        f"the {device.type} ran out of memory at batch_size {recipe.training.batch_size}",
        f"Halve --training.batch-size and double --training.accumulate{smaller}, or pass --network.checkpointing.",
    )


def not_deterministic(recipe: Recipe, device: torch.device) -> RunError:
    """Say what to do where torch has no deterministic form of what a network needs."""
    return RunError(
        f"network {recipe.network.kind} cannot be trained deterministically on {device.type}: torch knows no way to",
        "Leave --training.deterministic out, or train with --machine.accelerator cpu.",
    )
