"""Which file a user means by --weights, and which organs it knows. Nothing here imports torch; weights.py reads the file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from viscera.errors import LabelError, WeightsError
from viscera.json_text import load_json, parse_json
from viscera.labels import LabelSpace, label_space_from_json
from viscera.networks.cards import FOLDER, find_shipped, weights_path

DESCRIPTION = "model.json"
"""What `viscera export` wrote of a network, beside its files (exported.py)."""
FOLDS = "folds.json"
"""What makes a folder a cross-validated run, whose networks are in fold_0, fold_1 ... (members.py)."""
CHOICE_FORMAT = "viscera-choice-1"
"""Of what `viscera choose` writes (members.py)."""


def is_export(where: Path) -> bool:
    """Say whether a path is the folder of an export, whole or not."""
    return (where / DESCRIPTION).is_file()


def fold_folder(run: Path, number: int) -> Path:
    """Return the folder of a fold of a cross-validated run."""
    return run / f"fold_{number}"


def is_choice(where: Path) -> bool:
    """Say whether a path is a file that `viscera choose` wrote."""
    if where.suffix != ".json" or not where.is_file():
        return False
    try:
        found = load_json(where)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("format") == CHOICE_FORMAT


def find_weights(where: Path, folder: Path = FOLDER) -> Path:
    """Return the weights file that a user means: the file itself, a run's best (else last) weights, or bundled weights.

    Args:
        where: What a user gave for weights.
        folder: Where the bundled weights are.

    Raises:
        WeightsError: There is none.
    """
    where = weights_path(where, folder)
    if is_choice(where):
        raise WeightsError(f"{where} is a choice of networks (viscera choose)", "Give the folder of one run.")
    if where.is_file():
        return where
    for name in ("best.safetensors", "last.safetensors"):
        if (where / name).is_file():
            return where / name
    if (where / FOLDS).is_file():
        raise WeightsError(
            f"{where} is a cross-validated run, of several networks", f"Give one of them: {fold_folder(where, 0)}."
        )
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
        elif where is not None and (where / FOLDS).is_file():
            return known_organs(fold_folder(where, 0), folder)
        elif where is not None and is_choice(where):
            return known_organs(where.resolve().parent / load_json(where)["members"][0]["weights"], folder)
        else:
            file = find_weights(where, folder) if where else find_shipped(folder=folder).file
            with safe_open(file, framework="numpy") as opened:
                facts = parse_json(opened.metadata()["viscera"])
        return label_space_from_json(facts["label_space"])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, LabelError):
        return None
