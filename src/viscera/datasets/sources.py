"""Source and Problem: a case of a data set on disk, and what keeps a file from being one.

Here is also what several layouts share: reading their JSON, naming their labels, pairing scans with label files.
Nothing here opens an image.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viscera import json_text
from viscera.errors import DataSetError
from viscera.io import nifti
from viscera.io.scans import Scan, ScanFiles, files_of
from viscera.labels import is_known, organ_name, whole_of

LONGEST_CASE, LONGEST_DATASET = 150, 80
"""Bytes of names; a case's folder is named after both, with more around, and 255 are allowed."""


@dataclass(frozen=True)
class Origin:
    """Where a case was found.

    Attributes:
        layout: One of layouts.LAYOUTS.
        folder: The data set's. It may name people: neither a store nor a message to others shows it.
    """

    layout: str
    folder: Path


@dataclass(frozen=True)
class Source:
    """A case on disk, not yet read.

    Attributes:
        name: Unique in the data set, such as "Case_00001".
        dataset: The name of the data set: its folder's, unless it was given one (LAYOUT:NAME=DIR).
        patient: Who it is; the case's name unless patients.json or a BIDS name says more.
        image: The scan: a NIfTI file, or a DICOM series.
        labels: One label file, or (organ, binary mask) files, or None where there are none; of a DICOM series its truth.
        organs: (value in the label file, organ name); for mask files 1, 2, ... in their order.
        annotated: Organs that were looked for in this case, absent ones included.
        unknown: Label values whose voxels may be anything (nnU-Net's ignore).
        origin: Where it was found; None for one that did not come out of ``find_sources``.
    """

    name: str
    dataset: str
    patient: str
    image: Scan
    labels: Scan | tuple[tuple[str, Path], ...] | None
    organs: tuple[tuple[int, str], ...]
    annotated: tuple[str, ...]
    unknown: tuple[int, ...] = ()
    origin: Origin | None = field(default=None, compare=False)


def label_files(source: Source) -> tuple[Path, ...]:
    """Return the files of a source's labels."""
    if source.labels is None:
        return ()
    if isinstance(source.labels, Path | ScanFiles):
        return files_of(source.labels)
    return tuple(path for _, path in source.labels)


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


def file_within(folder: Path, text: str, *, where: Path) -> Path:
    """Return the file that a descriptor names, which must lie in the data set's folder.

    Only the text is judged: a link that lies in the folder is the user's own and is followed, wherever it leads.

    Args:
        folder: The data set's.
        text: The name, relative to the folder.
        where: The descriptor, for messages.

    Raises:
        DataSetError: The name is absolute or empty, climbs, or is one that no file can have everywhere.
    """
    parts = text.split("/")
    if not text or parts[0] == "" or ".." in parts or re.search(r"[\\\x00-\x1f\ud800-\udfff]|^[A-Za-z]:", text):
        raise DataSetError(
            f"{where} names the file {text[:200]!a}, which is not a path within its folder",
            "Write paths relative to the folder, with / and without '..'; put files that lie elsewhere into it, or link them.",
            file=where,
        )
    return folder / text


def wrong_with_name(name: str, *, longest: int = LONGEST_CASE) -> str:
    """Say why files cannot be named after a case or a data set; "" where they can.

    Example:
        >>> wrong_with_name("../case_01")
        "a name may not hold '/'"
        >>> wrong_with_name("case_01")
        ''
    """
    if found := re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", name):
        return f"a name may not hold {found.group()!a}"
    if name.strip() in ("", ".", ".."):
        return "a name needs letters or numbers"
    if len(name.encode()) > longest:
        return f"a name may have {longest} bytes, this one has {len(name.encode())}"
    return ""


def require_case_name(name: str, *, where: Path) -> None:
    """Raise DataSetError unless files can be named after a case that a descriptor lists."""
    if wrong := wrong_with_name(name):
        raise DataSetError(f"{where} lists case {name[:200]!a}: {wrong}", "Rename the case.", file=where)


def missing_files(name: str, files: Sequence[Path], *, folder: Path) -> Problem | None:
    """Return the problem of a case that a descriptor lists while some of its files are not in the folder; None if all are."""
    missing = [str(file.relative_to(folder)) for file in files if not is_there(file)]
    remedy = "copy the file, or take the case out of dataset.json"
    what = "listed in dataset.json, but not there"
    return Problem(name, ", ".join(missing), what, remedy) if missing else None


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
    """Return a data set's labels viscera's names; lesions beside one organ (or its two sides) alone are that organ's.

    Example:
        >>> named_organs({1: "Liver", 2: "cancer"})
        {1: 'liver', 2: 'liver_tumour'}
        >>> named_organs({1: "kidney", 2: "tumor", 3: "cyst"})
        {1: 'kidney', 2: 'kidney_tumour', 3: 'kidney_cyst'}
        >>> named_organs({1: "liver", 2: "spleen", 3: "cancer"})[3]
        'tumour'
    """
    names = {value: organ_name(text) for value, text in labels.items()}
    organs = {whole for name in names.values() if (whole := _outermost(name))}
    if len(organs) != 1 or not is_known(next(iter(organs))):
        return names
    [organ] = organs
    return {value: name if _outermost(name) else f"{organ}_{name}" for value, name in names.items()}


def _outermost(name: str) -> str:
    """Return the organ that a label belongs to in the end, itself where it is one; "" for lesions of no organ named."""
    while whole := whole_of(name):
        name = whole
    return "" if whole == "" else name
