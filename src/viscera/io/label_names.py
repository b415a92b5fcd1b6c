"""What the values of a label file mean: names from the JSON beside it, or from the data set that it lies in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viscera.errors import FileError, LabelError
from viscera.io.nifti import stem
from viscera.json_text import load_json
from viscera.labels import organ_name


@dataclass(frozen=True)
class Names:
    """What the values of a label file mean.

    Attributes:
        labels: {value: organ}, without background.
        annotated: Organs that the file annotates, absent ones included.
        unknown: Values whose voxels may be anything (nnU-Net's ignore).
    """

    labels: Mapping[int, str]
    annotated: tuple[str, ...]
    unknown: tuple[int, ...] = ()


def read_names(path: Path) -> dict[int, str]:
    """Return {value: organ} of a label file; see ``label_names``."""
    return dict(label_names(path).labels)


def label_names(path: Path, *, labels: Path | None = None) -> Names:
    """Find the names of a label file's values.

    Looked for in this order: NAME.json (as viscera predict writes it), NAMEs.json (x_label.nii.gz, x_labels.json),
    NAME_labels.json, dataset.json in the file's folder or the one above (nnU-Net, Decathlon), ``labels``.

    Each holds {"labels": {...}} or only {...}, value to organ or organ to value; "annotated": [organ, ...] beside the
    labels lists the organs that were looked for, otherwise all count.

    Args:
        path: The label file.
        labels: A JSON file for label files that have none beside them.

    Raises:
        FileError: There is no such file, or it is not JSON.
        LabelError: It does not name labels.
    """
    found = names_beside(path)
    if found is not None:
        return found
    if labels is None:
        raise FileError(
            f"{path}: nothing names its labels",
            f'Put {stem(path)}.json beside it, {{"labels": {{"1": "liver", ...}}}}, or give such a file with --labels.',
            file=path,
        )
    names = _names(labels, needed=True)
    if names is None:
        raise LabelError(f"{labels} names no labels", 'Write {"labels": {"1": "liver", ...}}.')
    return names


def names_of_set(path: Path) -> Names | None:
    """Return the data set's own names for a label file, from the dataset.json in its folder or the one above; else None."""
    for folder in (path.parent, path.parent.parent):
        file = folder / "dataset.json"
        if file.is_file() and (names := _names(file, needed=False)):
            return names
    return None


def files_of_names(path: Path) -> list[Path]:
    """Return the files that may name a label file's values, whether or not they exist."""
    return [*_beside(path), *(folder / "dataset.json" for folder in (path.parent, path.parent.parent))]


def _beside(path: Path) -> list[Path]:
    return [path.with_name(stem(path) + end) for end in (".json", "s.json", "_labels.json")]


def names_beside(path: Path) -> Names | None:
    """Find the names in the files that lie beside a label file (see ``label_names``); None without any."""
    for file in _beside(path):
        if file.is_file() and (names := _names(file, needed=False)):
            return names
    return names_of_set(path)


def _names(file: Path, *, needed: bool) -> Names | None:
    """Read a file of names; None if it is about something else."""
    try:
        content = load_json(file)
    except FileNotFoundError as error:
        raise FileError(f"{file}: no such file", "Check the path.", file=file) from error
    except (OSError, ValueError) as error:
        raise FileError(f"{file} is not a JSON file ({error})", "Write it anew.", file=file) from error
    if not isinstance(content, dict):
        return None
    table = content.get("labels", content if needed or file.name.endswith("s.json") else None)
    if not isinstance(table, dict) or not table:
        return None
    values: dict[int, str] = {}
    unknown = []
    for key, entry in table.items():
        value, name = (entry, key) if not str(key).isdecimal() else (key, entry)
        if not isinstance(name, str) or not str(value).isdecimal():
            raise LabelError(
                f"{file}: label {key!r}: {entry!r} is not a pair of a whole number and a name", "Correct it.", file=file
            )
        if organ_name(name) == "ignore":
            unknown.append(int(value))
        elif int(value) != 0:
            values[int(value)] = organ_name(name)
    annotated = content.get("annotated", list(values.values()))
    if not isinstance(annotated, list) or not all(isinstance(organ, str) for organ in annotated):
        raise LabelError(f'{file}: "annotated" is not a list of organs', 'Write ["liver", ...].', file=file)
    return Names(values, tuple(dict.fromkeys(organ_name(organ) for organ in annotated)), tuple(unknown))
