"""Source and Problem: a case of a data set on disk, and what keeps a file from being one.

Here is also what several layouts share: reading their JSON, naming their labels, pairing scans with label files.
Nothing here opens an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viscera import json_text
from viscera.errors import DataSetError
from viscera.io import nifti
from viscera.labels import PART_OF, TUMOUR, organ_name


@dataclass(frozen=True)
class Source:
    """A case on disk, not yet read.

    Attributes:
        name: Unique in the data set, such as "Case_00001".
        dataset: The name of the data set's folder.
        patient: Who it is; the case's name unless the layout says more.
        image: The scan.
        labels: One label file, or (organ, binary mask) files, or None where there are none.
        organs: (value in the label file, organ name); for mask files 1, 2, ... in their order.
        annotated: Organs that were looked for in this case, absent ones included.
        unknown: Label values whose voxels may be anything (nnU-Net's ignore).
    """

    name: str
    dataset: str
    patient: str
    image: Path
    labels: Path | tuple[tuple[str, Path], ...] | None
    organs: tuple[tuple[int, str], ...]
    annotated: tuple[str, ...]
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used, for a table or JSON.

    Attributes:
        case: The case's name.
        file: The file that is wrong or missing.
        what: What is wrong with it.
        remedy: What to do.
    """

    case: str
    file: str
    what: str
    remedy: str


Found = tuple[list[Source], list[Problem]]
"""What a layout finds in a folder."""


def files_by_case(folder: Path, *, suffix: str = "") -> dict[str, list[Path]]:
    """Return {case: its NIfTI files directly in a folder}; ``suffix`` is what file names have after the case's name."""
    cases: dict[str, list[Path]] = {}
    for path in nifti.find_files(folder) if folder.is_dir() else ():
        cases.setdefault(nifti.stem(path).removesuffix(suffix), []).append(path)
    return cases


def pair_files(
    folder: Path,
    images: Mapping[str, list[Path]],
    labels: Mapping[str, list[Path]],
    *,
    organs: Mapping[int, str],
    unknown: tuple[int, ...] = (),
) -> Found:
    """Make a source of each case that has one image and one label file, and a problem of each other case.

    Args:
        folder: The data set's.
        images: {case: its scans}.
        labels: {case: its label files}.
        organs: {label value: organ}, the same in every case; all of them count as annotated.
        unknown: Label values to be ignored.
    """
    sources, problems = [], []
    for name in sorted(images.keys() | labels.keys()):
        scans, maps = images.get(name, []), labels.get(name, [])
        files = [*scans, *maps]
        if len(scans) == 1 and len(maps) == 1:
            annotated = tuple(dict.fromkeys(organs.values()))
            numbers = tuple(sorted(organs.items()))
            sources.append(Source(name, folder.name, name, scans[0], maps[0], numbers, annotated, unknown))
            continue
        if not maps:
            what, remedy = "image without labels", "add its label file, or move the image elsewhere"
        elif not scans:
            what, remedy = "labels without an image", "add its image, or move the label file elsewhere"
        else:
            what, remedy = f"{len(files)} files for one case", "keep one image and one label file"
        shown = [file.relative_to(folder) if file.is_relative_to(folder) else file for file in files]
        problems.append(Problem(name, ", ".join(map(str, shown)), what, remedy))
    return sources, problems


def is_there(file: Path) -> bool:
    """Say whether a file that a descriptor lists is there; what no system takes for a name is not."""
    try:
        return file.is_file()
    except (OSError, ValueError):  # too long, or a zero within
        return False


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON file that holds an object.

    Raises:
        DataSetError: It cannot be read, is not JSON or holds something else.
    """
    return json_text.read_json(path, error=DataSetError)


def section(content: Mapping[str, object], key: str, *, path: Path) -> dict[str, object]:
    """Return an object within a JSON file.

    Raises:
        DataSetError: It is missing or something else.
    """
    value = content.get(key)
    if not isinstance(value, dict):
        raise DataSetError(f"{path}: '{key}' must be an object {{...}}, got {value!r}", "Correct the file.", file=path)
    return value


def named_organs(labels: Mapping[int, str]) -> dict[int, str]:
    """Return a data set's labels viscera's names; a tumour beside one organ alone is that organ's.

    Example:
        >>> named_organs({1: "Liver", 2: "cancer"})
        {1: 'liver', 2: 'liver_tumour'}
        >>> named_organs({1: "liver", 2: "spleen", 3: "cancer"})[3]
        'tumour'
    """
    names = {value: organ_name(text) for value, text in labels.items()}
    others = set(names.values()) - {TUMOUR}
    own = f"{next(iter(others))}_tumour" if len(others) == 1 else TUMOUR
    return {value: own if name == TUMOUR and own in PART_OF else name for value, name in names.items()}
