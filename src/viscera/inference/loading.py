"""All networks of a command, loaded from what a user asks for: by this process, or by any other that gets the same ``Networks``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscera.config import Accelerator
from viscera.inference.model import Model, load_model, with_others, with_region
from viscera.networks.cards import FOLDER, as_shipped, find_shipped
from viscera.networks.device import use_cores


@dataclass(frozen=True)
class Networks:
    """Which networks, and how they are run.

    Attributes:
        weights: As ``load_model`` takes them; None for the weights that come with viscera.
        tumour: A second network, for tumours; None without one.
        finder: A network that says where a 3D one is to look; None without one.
        region: Where a 3D network looks instead of what its recipe says; None: what it says.
        device: Where they run.
        runtime: What runs them.
        cores: To compute on; 0: all.
        graphs: Folder of kept graphs; None: none are kept.
        shipped: Where the bundled weights are.
        precision: Of bundled weights, int8 or fp32; None: whichever is faster on this processor.
    """

    weights: Path | None = None
    tumour: Path | None = None
    finder: Path | None = None
    region: Literal["find", "whole", "middle"] | None = None
    device: Accelerator = "auto"
    runtime: Literal["auto", "torch", "openvino", "onnx"] = "auto"
    cores: int = 0
    graphs: Path | None = None
    shipped: Path = FOLDER
    precision: str | None = None


def load_networks(wanted: Networks) -> Model:
    """Load the networks that are asked for.

    Raises:
        WeightsError, SettingError: As ``load_model``.
    """
    use_cores(wanted.cores)
    weights = wanted.weights and (as_shipped(wanted.weights, wanted.shipped) or wanted.weights)
    given = {
        "": weights or find_shipped(folder=wanted.shipped),
        "tumour": wanted.tumour,
        "finder": wanted.finder,
    }
    loaded = {
        name: load_model(
            path,
            accelerator=wanted.device,
            runtime=wanted.runtime,
            graphs=wanted.graphs,
            precision=wanted.precision,
        )
        for name, path in given.items()
        if path
    }
    model = loaded.pop("")
    return with_others(with_region(model, wanted.region) if wanted.region else model, **loaded)
