"""The layout of nnU-Net v2: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz (imagesTs is not read).

Source: github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md.
"""

from collections.abc import Mapping
from pathlib import Path

from viscera.datasets.sources import (
    Found,
    Problem,
    file_within,
    files_by_case,
    missing_files,
    named_organs,
    pair_files,
    read_json,
    require_case_name,
    section,
)
from viscera.errors import DataSetError
from viscera.io import nifti
from viscera.io.atomic import write_json
from viscera.labels import organ_name

CASE_NAME = "case_{:04d}"
IGNORE = "ignore"


def find(folder: Path) -> Found | None:
    """Find the cases, or None where there is no dataset.json in the form of nnU-Net v2.

    Raises:
        DataSetError: dataset.json describes what viscera cannot read: several channels, regions, another file type.
    """
    path = folder / "dataset.json"
    if not path.is_file() or "channel_names" not in (content := read_json(path)):
        return None
    channels = section(content, "channel_names", path=path)
    if len(channels) != 1:
        text = ", ".join(str(name) for name in channels.values())
        raise DataSetError(
            f"{path} has {len(channels)} channels ({text}); viscera reads CT alone", "Keep one channel.", file=path
        )
    ending = content.get("file_ending", ".nii.gz")
    if ending not in nifti.SUFFIXES:
        raise DataSetError(
            f"{path}: file_ending {ending!r} cannot be read", "Convert the data set to .nii.gz.", file=path
        )
    organs, unknown = read_organs(path, content)
    if "dataset" in content:
        images, labels, problems = _listed(folder, section(content, "dataset", path=path))
    else:
        images = files_by_case(folder / "imagesTr", suffix="_0000")
        labels, problems = files_by_case(folder / "labelsTr"), []
    sources, more = pair_files(folder, images, labels, organs=organs, unknown=unknown)
    problems += more
    count = content.get("numTraining")
    if isinstance(count, int) and count != len(images.keys() | labels.keys()):
        what = f"numTraining is {count}, but {len(images.keys() | labels.keys())} cases are there"
        problems.append(Problem("", "dataset.json", what, "copy the missing cases, or correct numTraining"))
    return sources, problems


def read_organs(path: Path, content: Mapping[str, object]) -> tuple[dict[int, str], tuple[int, ...]]:
    """Return {label value: organ} and the values to be ignored, from the content of dataset.json at ``path``.

    Raises:
        DataSetError: A label is a region of several values, or no whole number from 0.
    """
    organs: dict[int, str] = {}
    unknown: list[int] = []
    for name, value in section(content, "labels", path=path).items():
        if isinstance(value, list) and len(value) != 1:
            raise DataSetError(
                f"{path}: label '{name}' is a region of the values {value}; viscera reads one value per organ",
                "Give each value a name of its own.",
                file=path,
            )
        number = value[0] if isinstance(value, list) else value
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise DataSetError(
                f"{path}: label '{name}' must be a whole number from 0, got {value!r}", "Correct the file.", file=path
            )
        if number in organs or number in unknown:
            raise DataSetError(f"{path}: the value {number} stands for two labels", "Give each its own.", file=path)
        if organ_name(name) == IGNORE:
            unknown.append(number)
        elif number:
            organs[number] = name
    if not organs:
        raise DataSetError(f"{path}: 'labels' names no organ", 'List them as {"background": 0, "liver": 1}.', file=path)
    return named_organs(organs), tuple(unknown)


def register(folder: Path, *, organs: Mapping[int, str], cases: int) -> None:
    """Write dataset.json, or bring it up to date."""
    path = folder / "dataset.json"
    content = read_json(path) if path.exists() else {}
    kept = section(content, "labels", path=path) if content else {"background": 0}
    known = set(read_organs(path, content)[0]) if content else set()
    added = {organ: value for value, organ in organs.items() if value not in known}
    own = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    write_json(path, own | content | {"labels": kept | added, "numTraining": cases})


def _listed(
    folder: Path, entries: Mapping[str, object]
) -> tuple[dict[str, list[Path]], dict[str, list[Path]], list[Problem]]:
    """Return the images and labels that dataset.json names itself, and those that are not there."""
    images: dict[str, list[Path]] = {}
    labels: dict[str, list[Path]] = {}
    problems = []
    for name, entry in entries.items():
        where = folder / "dataset.json"
        require_case_name(name, where=where)
        files = section(entries, name, path=where)
        listed, label = files.get("images"), files.get("label")
        if not isinstance(listed, list) or not isinstance(label, str):
            raise DataSetError(f'{where}: case \'{name}\' needs "images": [file] and "label": file, got {entry!r}.')
        if len(listed) != 1:
            raise DataSetError(f"{where}: case '{name}' has {len(listed)} images; viscera reads CT alone", "Keep one.")
        pair = [file_within(folder, file, where=where) for file in (str(listed[0]), label)]
        if problem := missing_files(name, pair, folder=folder):
            problems.append(problem)
        else:
            images[name], labels[name] = [pair[0]], [pair[1]]
    return images, labels, problems
