"""A weights file -> its network, on torch or on another runtime. What only torch can do when a network is loaded."""

from pathlib import Path
from typing import Literal

import torch

from viscera.networks.build import context_network, network_of
from viscera.networks.device import cores
from viscera.networks.graph_cache import GraphCache
from viscera.networks.precision import autocast_type
from viscera.networks.runners import Runner, RuntimeName
from viscera.networks.torch_runner import TorchRunner, choose_runner
from viscera.networks.weights import context_of, fill_network, load_weights, without_context


def on_runtime(
    file: Path,
    *,
    device: Literal["cpu", "cuda"],
    runtime: Literal["auto"] | RuntimeName | None,
    cache: GraphCache | None,
    context: bool = False,
) -> Runner:
    """Build a trained network, and put it on a runtime.

    Args:
        file: Its weights.
        device: Where to run it.
        runtime: What runs it; auto: the fastest that there is; None: torch's module as it was trained.
        cache: Keeps the graph that is written for a runtime and checked; None: it is not kept.
        context: Build the recipe's context network instead.

    Raises:
        WeightsError: The weights are not for the network of their recipe.
    """
    torch.set_num_threads(cores())  # torch may not have been there when ``use_cores`` was told
    weights = load_weights(file)
    recipe = weights.recipe
    if context:
        network, channels = context_network(recipe), 1
        fill_network(network, context_of(weights.tensors), where=f"{file.name}, context")
    else:
        network, channels = network_of(recipe, classes=len(weights.space.classes)), recipe.channels
        fill_network(network, without_context(weights.tensors), where=file.name)
    network.eval()
    if network.dimensions == 2:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if runtime is None:
        return TorchRunner(network.to(device), autocast_type("auto", device))
    return choose_runner(network, device, channels=channels, wanted=runtime, cache=cache)
