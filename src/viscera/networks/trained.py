"""A weights file -> its network, on torch or on another runtime. What only torch can do when a network is loaded."""

from pathlib import Path
from typing import Literal

import torch

from viscera.networks.build import build_network
from viscera.networks.device import cores
from viscera.networks.graph_cache import GraphCache
from viscera.networks.precision import autocast_type
from viscera.networks.runners import Runner, RuntimeName, input_channels
from viscera.networks.torch_runner import TorchRunner, choose_runner
from viscera.networks.weights import fill_network, load_weights


def on_runtime(
    file: Path,
    *,
    device: Literal["cpu", "cuda"],
    runtime: Literal["auto"] | RuntimeName | None,
    cache: GraphCache | None,
) -> Runner:
    """Build a trained network, and put it on a runtime.

    Args:
        file: Its weights.
        device: Where to run it.
        runtime: What runs it; auto: the fastest that there is; None: torch's module as it was trained.
        cache: Keeps the graph that is written for a runtime and checked; None: it is not kept.

    Raises:
        WeightsError: The weights are not for the network of their recipe.
    """
    torch.set_num_threads(cores())  # torch may not have been there when ``use_cores`` was told
    weights = load_weights(file)
    recipe = weights.recipe
    network = build_network(recipe.network, classes=len(weights.space.classes), softmax=recipe.softmax)
    fill_network(network, weights.tensors, where=file.name)
    network.eval()
    if recipe.dimensions == 2:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if runtime is None:
        return TorchRunner(network.to(device), autocast_type("auto", device))
    channels = input_channels(recipe.network)
    return choose_runner(network, device, channels=channels, wanted=runtime, cache=cache)
