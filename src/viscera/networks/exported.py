"""The folder that `viscera export` writes, as it is read again: what it is called, and that nothing in it has changed.

deployment/export.py writes it, inference/ makes a model of it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from viscera.config import Recipe
from viscera.config.recipe_json import recipe_from_json
from viscera.errors import WeightsError
from viscera.io.atomic import sha256
from viscera.json_text import load_json
from viscera.labels import LabelSpace, label_space_from_json
from viscera.networks.find_weights import DESCRIPTION
from viscera.networks.runners import PACKAGES, Foreign, missing_runtime, shape_of_recipe

FORMAT = "viscera-export-2"
"""1 had no settings and no label_space."""
FILES: dict[Foreign, tuple[str, ...]] = {"onnx": ("network.onnx",), "openvino": ("network.xml", "network.bin")}
"""What holds the network; runtimes are given the first."""
CONTEXT_FILES: dict[Foreign, tuple[str, ...]] = {"onnx": ("context.onnx",), "openvino": ("context.xml", "context.bin")}
"""What holds its context network, where it has one."""


@dataclass(frozen=True)
class Exported:
    """A written network.

    Attributes:
        kind: Which runtime it is for.
        file: What the runtime reads.
        shape: The network's stride and dimensions.
        context: What the runtime reads of the context network, its stride and dimensions; None where there is none.
        recipe: How scans are prepared for it.
        space: What its channels mean.
        sha256: Of the network's file; of several, the hash of their hashes.
    """

    kind: Foreign
    file: Path
    shape: tuple[int, int]
    context: tuple[Path, tuple[int, int]] | None
    recipe: Recipe
    space: LabelSpace
    sha256: str


def read_export(folder: Path) -> Exported:
    """Read what an exported network is, after comparing its files with the hashes that were taken when they were written.

    Raises:
        WeightsError: Another format, damaged, changed, or for a runtime that is not installed.
    """
    where = folder / DESCRIPTION
    try:
        facts = load_json(where)
        found = facts["format"]
        if found != FORMAT:
            raise WeightsError(
                f"{where}: format '{found}' is not '{FORMAT}', which this viscera reads",
                "Export the run again, or update viscera.",
            )
        hashes, every_context = facts["files"], {name for names in CONTEXT_FILES.values() for name in names}
        kind: Foreign = next(kind for kind, names in FILES.items() if set(names) == set(hashes) - every_context)
        shape = (int(facts["input"]["multiple_of"]), len(facts["input"]["axes"]) - 2)
        space = label_space_from_json(facts["label_space"])
        settings = json.dumps(facts["settings"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise WeightsError(f"{where} is damaged", "Copy the folder again, or export the run again.") from error
    recipe = recipe_from_json(settings, where=str(where))
    if recipe.space.organs != space.organs:
        raise WeightsError(f"{where}: its recipe's organs are not the organs of its labels", "Export the run again.")
    if (recipe.context is not None) != bool(every_context & set(hashes)):
        raise WeightsError(f"{where}: its files are not those of its recipe", "Export the run again.")
    context = None
    if recipe.context is not None:
        context = folder / CONTEXT_FILES[kind][0], shape_of_recipe(recipe.context.network)
    for name, expected in hashes.items():
        _require_same(folder / name, expected)
    names = [*FILES[kind], *(() if context is None else CONTEXT_FILES[kind])]
    if missing_runtime(kind):
        raise WeightsError(
            f"{folder} holds a network for {kind}, but {PACKAGES[kind][0]} is not installed",
            f"Install it: pip install 'viscera[{kind}]'.",
            file=folder,
        )
    return Exported(
        kind, folder / FILES[kind][0], shape, context, recipe, space, _joined([hashes[name] for name in names])
    )


def _require_same(file: Path, expected: str) -> None:
    """Raise unless a file is there and has the hash."""
    if not file.is_file():
        raise WeightsError(f"{file} is missing", "Copy the folder again, or export the run again.", file=file)
    if sha256(file) != expected:
        raise WeightsError(
            f"{file} is not the file that {DESCRIPTION} describes: it is damaged or was changed",
            "Copy the folder again, or export the run again.",
            file=file,
        )


def _joined(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
