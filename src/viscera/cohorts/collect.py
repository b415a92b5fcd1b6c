"""Folders of results -> a cohort: every scan that is there, read, failed or damaged, and none of them in silence."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.cohorts.columns import COLUMNS, ORGAN, SCAN, SOURCE, Value
from viscera.cohorts.index import Entry, Index, Key
from viscera.cohorts.outliers import robust_z
from viscera.cohorts.results import Found, damaged, read_found
from viscera.errors import FileError, SettingError
from viscera.io import nifti
from viscera.json_text import LARGEST_MIB

ORGAN_AT = {column.name: number for number, column in enumerate(ORGAN)}
SCAN_AT = {column.name: number for number, column in enumerate(SCAN)}
FAILED = ".failed"
"""How the stem of a NAME.failed.json ends."""


@dataclass(frozen=True)
class Source:
    """A folder of results.

    Attributes:
        name: What the table calls it.
        folder: Where it is; no table names it.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class Place:
    """A JSON file in a folder of results, not yet read.

    Attributes:
        source: Whose.
        file: Its path.
        size: In bytes.
        mtime_ns: When it was changed.
    """

    source: Source
    file: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Scan:
    """A scan of a cohort.

    Attributes:
        source: The name of its folder.
        case: The name of its result.
        found: What its NAME.json or NAME.failed.json says.
        label_map_exists: Whether the label map stands there.
        failed_later: Whether a later attempt failed.
        folder: Where its files are; no table names it.
    """

    source: str
    case: str
    found: Found
    label_map_exists: bool
    failed_later: bool
    folder: Path

    @property
    def status(self) -> str:
        """What became of it: read, failed or damaged."""
        return {"result": "read", "failure": "failed"}.get(self.found.what, "damaged")


@dataclass(frozen=True)
class Cohort:
    """All scans of some folders.

    Attributes:
        scans: In the order of folders and names.
        others: JSON files that are not predict's.
        unnamed: NIfTI files without a NAME.json: scans, or label maps of others.
        read: JSON files that were read this time; the others were known.
    """

    scans: tuple[Scan, ...]
    others: int
    unnamed: int
    read: int

    @property
    def counts(self) -> dict[str, int]:
        """How many scans were found, and of these read, failed and damaged."""
        by = Counter(scan.status for scan in self.scans)
        return {"found": len(self.scans), **{status: by[status] for status in ("read", "failed", "damaged")}}

    @property
    def twice(self) -> int:
        """How many scans stand there more than once, by their contents."""
        at = SCAN_AT["scan_sha256"]
        known = Counter(scan.found.scan[at] for scan in self.scans if scan.found.scan)
        return sum(count - 1 for digest, count in known.items() if digest is not None)


def find_places(sources: Sequence[Source]) -> tuple[list[Place], dict[str, frozenset[str]]]:
    """List the JSON files directly in folders of results, without reading any.

    Returns:
        The files, sorted, and {name of a source: the names of all files in it}.

    Raises:
        SettingError: Two folders have one name.
        FileError: A folder is not there, cannot be read or holds no JSON file.
    """
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingError(
            f"two folders are called '{twice}'", "Give each a name of its own: NAME=FOLDER. The table tells them by it."
        )
    places, listed = [], {}
    for source in sources:
        if not source.folder.is_dir():
            raise FileError(
                f"{source.folder}: no such folder", "Give folders that viscera predict wrote.", file=source.folder
            )
        try:
            entries = sorted(os.scandir(source.folder), key=lambda entry: entry.name)
            found = [
                Place(source, Path(entry.path), entry.stat().st_size, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".") and entry.is_file()
            ]
        except OSError as error:
            raise FileError(
                f"{source.folder} cannot be read: {error.strerror}", "Check its permissions.", file=source.folder
            ) from error
        if not found:
            raise FileError(
                f"{source.folder} holds no JSON file",
                "Give the folders that viscera predict wrote; subfolders are not looked into: name each.",
                file=source.folder,
            )
        places += found
        listed[source.name] = frozenset(entry.name for entry in entries)
    return places, listed


def fingerprint_of(places: Sequence[Place], listed: Mapping[str, frozenset[str]]) -> str:
    """Return a hash of all that a table is made of, by names, sizes and times of change."""
    text = hashlib.sha256()
    for place in places:
        text.update(repr((place.source.name, place.file.name, place.size, place.mtime_ns)).encode())
    for name, files in listed.items():
        text.update(repr((name, sorted(file for file in files if not file.startswith(".")))).encode())
    return text.hexdigest()


def key_of(place: Place) -> Key:
    """Return by what an index knows a file: its folder's path is not to be read out of it."""
    return hashlib.sha256(os.fsencode(place.source.folder.resolve())).hexdigest()[:16], place.file.name


def is_known(place: Place, index: Index) -> bool:
    """Tell whether a file was read before and has not been changed since."""
    entry = index.entries.get(key_of(place))
    return entry is not None and (entry.size, entry.mtime_ns) == (place.size, place.mtime_ns)


def collect(
    places: Sequence[Place],
    listed: Mapping[str, frozenset[str]],
    index: Index,
    *,
    watch: Callable[[int, int], None] = lambda done, files: None,
) -> Cohort:
    """Read what is new, and return all scans.

    Args:
        places: From ``find_places``.
        listed: Likewise.
        index: What was read before; it notes what is read now.
        watch: Told of the files done, and all of them.

    Raises:
        FileError: The index cannot be written.
    """
    found: dict[str, dict[str, tuple[Place, Found]]] = defaultdict(dict)
    read = 0
    for number, place in enumerate(places, start=1):
        known = is_known(place, index)
        says = index.entries[key_of(place)].found if known else _read(place, index)
        read += not known
        found[place.source.name][place.file.stem] = place, says
        watch(number, len(places))
    index.flush()
    scans = [scan for name, files in found.items() for scan in _scans(files, listed[name])]
    others = sum(says.what == "other" for files in found.values() for _, says in files.values())
    unnamed = sum(
        nifti.is_nifti(Path(file)) and nifti.stem(Path(file)) not in found[name]
        for name, files in listed.items()
        for file in files
    )
    return Cohort(tuple(scans), others, unnamed, read)


def _read(place: Place, index: Index) -> Found:
    """Read a file, unless its contents are known; note what it says, unless it is damaged."""
    key = key_of(place)
    if place.size > LARGEST_MIB * 2**20:
        return damaged(f"it is larger than {LARGEST_MIB} MiB")
    try:
        content = place.file.read_bytes()
    except OSError as error:
        return damaged(error.strerror or "it cannot be read")
    digest, before = hashlib.sha256(content).hexdigest(), index.entries.get(key)
    found = before.found if before is not None and before.sha256 == digest else read_found(content, place.file)
    if found.what != "damaged":
        index.add(key, Entry(place.size, place.mtime_ns, digest, found))
    return found


def _scans(files: Mapping[str, tuple[Place, Found]], listed: frozenset[str]) -> Iterator[Scan]:
    """Yield the scans of a folder: a failure that stands beside a result is the result's."""
    for stem, (place, found) in files.items():
        if found.what == "other":
            continue
        case = stem.removesuffix(FAILED) if found.what == "failure" else stem
        if found.what == "failure" and files.get(case, (place, Found("other")))[1].what != "other":
            continue
        if found.what == "damaged" and stem.endswith(FAILED):
            case = stem.removesuffix(FAILED)
        later = files.get(stem + FAILED, (place, Found("other")))[1].what == "failure"
        label_map = found.label_map or f"{case}.nii.gz"
        there = found.what != "failure" and label_map in listed
        yield Scan(place.source.name, case, found, there, later, place.file.parent)


def table_rows(cohort: Cohort) -> Iterator[dict[str, Value]]:
    """Yield the rows of the table, one per scan and organ, and one of each scan without a result."""
    far = _far(cohort)
    for scan in cohort.scans:
        found = scan.found
        values = (scan.source, scan.case, scan.status, found.problem_kind or None, found.problem or None,
                  scan.failed_later, scan.label_map_exists)  # fmt: skip
        row: dict[str, Value] = dict.fromkeys(column.name for column in COLUMNS)
        row |= {column.name: value for column, value in zip(SOURCE, values, strict=True)}
        if found.what != "result":
            yield row | {"failed_later": None}
            continue
        row |= {column.name: value for column, value in zip(SCAN, found.scan, strict=True)}
        if not found.organs:
            yield row
        for organ in found.organs:
            volume_z, hu_z = next(far)
            about = {column.name: value for column, value in zip(ORGAN, organ, strict=True)}
            yield row | about | {"volume_robust_z": volume_z, "mean_hu_robust_z": hu_z}


def _far(cohort: Cohort) -> Iterator[tuple[float | None, float | None]]:
    """Yield the robust z of volume and mean HU of each organ of each scan, in the order of the rows.

    An organ that is cut off by the scan's border, or was not found, has no z of its volume and is left out of the median.
    """
    organs = [organ for scan in cohort.scans for organ in scan.found.organs]
    at, volume, hu, cut = (ORGAN_AT[name] for name in ("organ", "volume_ml", "mean_hu", "touches_border"))
    rows: dict[Value, list[int]] = defaultdict(list)
    for number, organ in enumerate(organs):
        rows[organ[at]].append(number)
    far: list[tuple[float | None, float | None]] = [(None, None)] * len(organs)
    for numbers in rows.values():
        whole = [organs[number][volume] if not organs[number][cut] else None for number in numbers]
        volumes = robust_z([float(one) if one else None for one in whole])
        found = [organs[number][hu] for number in numbers]
        values = robust_z([None if one is None else float(one) for one in found])
        for number, *pair in zip(numbers, volumes, values, strict=True):
            far[number] = pair[0], pair[1]
    return iter(far)
