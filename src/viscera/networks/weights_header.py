"""The header of a weights file: recipe, label space and provenance, which are read without a tensor and without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from viscera.config import Recipe
from viscera.config.recipe_json import recipe_from_json
from viscera.errors import WeightsError
from viscera.json_text import parse_json
from viscera.labels import LabelSpace, label_space_from_json

FORMAT = "viscera-weights-1"
PICKLES = (".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Header:
    """What a weights file says of itself.

    Attributes:
        recipe: Every setting the network was trained with.
        space: What its output channels mean.
        provenance: Where it comes from: versions, data sets, epoch, scores.
    """

    recipe: Recipe
    space: LabelSpace
    provenance: Mapping[str, object]


def read_header(path: Path) -> Header:
    """Read what a weights file says of itself.

    Raises:
        WeightsError: No safetensors file, damaged, or not written by viscera; or its recipe's organs are others.
    """
    facts = read_facts(path, "viscera")
    if facts.get("format") != FORMAT:
        raise WeightsError(
            f"{path.name}: format '{facts.get('format')}' is not '{FORMAT}'", "Update viscera.", file=path
        )
    try:
        found, provenance, settings = facts["label_space"], dict(facts["provenance"]), json.dumps(facts["recipe"])
        space = label_space_from_json(found)
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(path, error) from error
    return Header(recipe_from_json(settings, where=path.name), space, provenance)


def read_facts(path: Path, key: str) -> dict:
    """Read the JSON that stands under a key of a safetensors file's header.

    Raises:
        WeightsError: The file is damaged, or has no such key.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = (file.metadata() or {}).get(key)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
    if facts is None:
        raise WeightsError(
            f"{path}: a safetensors file, but not one of viscera's (its header says nothing of it)",
            "Give a run's folder or its best.safetensors.",
            file=path,
        )
    try:
        found = parse_json(facts, constants=True)  # the best loss of a run that has none yet
    except ValueError as error:
        raise unreadable(path, error) from error
    if not isinstance(found, dict):
        raise unreadable(path, TypeError("its facts are not an object"))
    return found


def unreadable(path: Path, error: Exception) -> WeightsError:
    """Return why a file cannot be read, and what to do."""
    if path.suffix != ".safetensors":
        return WeightsError(
            f"{path}: weights are read from .safetensors only. Pickles (torch.save's {', '.join(PICKLES)}) are never opened: "
            "they can run any program",
            "Give a run's folder or its best.safetensors.",
            file=path,
        )
    return WeightsError(
        f"{path}: not a readable safetensors file, it is damaged or cut off ({error})",
        "Copy it again, or train again.",
        file=path,
    )
