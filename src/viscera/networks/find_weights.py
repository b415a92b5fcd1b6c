"""Which file a user means by --weights, and which organs it knows. Nothing here imports torch; weights.py reads the file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from viscera.errors import LabelError, WeightsError
from viscera.json_text import load_json, parse_json
from viscera.labels import LabelSpace, label_space_from_json
from viscera.networks.cards import FOLDER, find_shipped, weights_path

DESCRIPTION = "model.json"
"""What `viscera export` wrote of a network, beside its files (exported.py)."""


def is_export(where: Path) -> bool:
    """Say whether a path is the folder of an export, whole or not."""
    return (where / DESCRIPTION).is_file()


def find_weights(where: Path, folder: Path = FOLDER) -> Path:
    """Return the weights file that a user means: the file itself, a run's best (else last) weights, or bundled weights.

    Args:
        where: What a user gave for weights.
        folder: Where the bundled weights are.

    Raises:
        WeightsError: There is none.
    """
    where = weights_path(where, folder)
    if where.is_file():
        return where
    for name in ("best.safetensors", "last.safetensors"):
        if (where / name).is_file():
            return where / name
    if where.is_dir():
        raise WeightsError(
            f"{where} holds no best.safetensors", "Give the folder of a run, or train one: viscera train --help."
        )
    raise WeightsError(f"no weights at {where}", "Give a run's folder or a .safetensors file.")


def known_organs(where: Path | None, folder: Path = FOLDER) -> LabelSpace | None:
    """Return the label space of weights by their header alone, without reading a tensor.

    Args:
        where: What a user gave for weights; None: the bundled starter.
        folder: Where the bundled weights are.

    Returns:
        None where the file is damaged: loading it says how.

    Raises:
        WeightsError: There are no weights.
    """
    try:
        if where is not None and is_export(where):
            facts = load_json(where / DESCRIPTION)
        else:
            file = find_weights(where, folder) if where else find_shipped(folder=folder).file
            with safe_open(file, framework="numpy") as opened:
                facts = parse_json(opened.metadata()["viscera"])
        return label_space_from_json(facts["label_space"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, LabelError):
        return None
