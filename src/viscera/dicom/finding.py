"""Which CT series a folder or a ZIP holds, whatever its files are called and however they are nested."""

import os
import re
import stat
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viscera.dicom.assembling import assemble
from viscera.dicom.decoding import no_decoder
from viscera.dicom.headers import DICOMDIR, NOT_DICOM, Image, looks_like_dicom, read_images
from viscera.dicom.packed import unpack
from viscera.dicom.series import Series
from viscera.errors import FileError, VisceraError
from viscera.io.doors import pydicom_module

LONGEST_NAME = 80
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}
"""Names of files that Windows keeps for devices, whatever follows behind a dot."""
MOST_SHOWN = 20
"""UIDs in a message."""
MOST_SERIES_NUMBER = 10**6


@dataclass(frozen=True)
class Identity:
    """By what other DICOM objects refer to a CT series, and which series show one patient.

    Attributes:
        series_uid: Series Instance UID, "" where it has none.
        frame_of_reference_uid: "" where it has none.
        first_of_patient: The name of the first series with the same Patient ID; its own where it has none.
    """

    series_uid: str
    frame_of_reference_uid: str
    first_of_patient: str


@dataclass(frozen=True, eq=False)
class Found:
    """What was found.

    Attributes:
        series: The CT series that can be segmented, in the order of their names.
        problems: {name: why a CT series cannot be segmented}.
        notes: What was left out, such as "3 files are not CT slices (RTStructureSetStorage 1, localizer 2)".
        identities: {name: what tells a CT series}, also of those that cannot be segmented.
        others: {what they are: the DICOM files that hold no CT slice}.
    """

    series: tuple[Series, ...]
    problems: Mapping[str, VisceraError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    identities: Mapping[str, Identity] = field(default_factory=dict)
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Group:
    """Images that say they are one series, and the folders below the place that lead to all of them."""

    images: list[Image]
    folders: tuple[str, ...]


def find_series(place: Path, *, series_uid: str | None = None, by_folders: bool = False) -> Found:
    """Find the CT series of a folder (in any nesting) or of a ZIP file.

    Args:
        place: The folder, the ZIP, or a multi-frame file.
        series_uid: Only the series with this Series Instance UID.
        by_folders: The only series, too, is called after the folders that lead to it, so that others may join it.

    Raises:
        FileError: There is no such place, no CT series in it, or not the one that is wanted.
        SettingError: pydicom is not installed.
    """
    try:
        pydicom_module()
    except ImportError as error:
        raise no_decoder(f"{place}: reading DICOM needs pydicom, which is not installed") from error
    files, kept, kinds = _files_of(place)
    groups: dict[object, list[Image]] = defaultdict(list)
    others: dict[str, list[Path]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote what headers hold
        for file, folders in files.items():
            kind, images = read_images(file)
            if kind and kind != DICOMDIR:
                kinds[kind] += 1
                others[kind].append(file)
            for image in images:
                groups[_belongs_to(image, folders)].append(image)
    notes = left_out(kinds)
    if not groups:
        raise FileError(
            f"{place} has no CT series{''.join(f': {note}' for note in notes)}", "Check the path.", file=place
        )
    named = _named(
        place,
        [_Group(images, _common(files[one.file] for one in images)) for images in groups.values()],
        by_folders=by_folders,
    )
    if series_uid is not None:
        named = _only(place, named, series_uid)
    series, problems = [], {}
    for name, images in named.items():
        try:
            series.append(assemble(name, images, kept))
        except VisceraError as error:
            problems[name] = error
    return Found(
        tuple(series),
        problems,
        tuple(notes),
        _identities(named),
        {kind: tuple(files) for kind, files in others.items() if kind != NOT_DICOM},
    )


def _identities(named: Mapping[str, list[Image]]) -> dict[str, Identity]:
    """Return what tells each series; Patient IDs are compared, and do not leave this."""
    first: dict[str, str] = {}
    return {
        name: Identity(
            images[0].series_uid,
            images[0].frame_of_reference_uid,
            first.setdefault(images[0].patient.strip(), name) if images[0].patient.strip() else name,
        )
        for name, images in named.items()
    }


def _files_of(place: Path) -> tuple[dict[Path, tuple[str, ...]], object, Counter[str]]:
    """Return the files of a place with the folders that lead to each, what keeps them there, and a count of what is left out."""
    if place.is_dir():
        unreadable: list[OSError] = []
        files = dict(_walk(place, unreadable))
        return files, None, Counter({"unreadable": len(unreadable)} if unreadable else {})
    if not place.exists():
        raise FileError(f"{place}: no such file or folder", "Check the path.", file=place)
    if not place.is_file():
        raise FileError(f"{place} is neither a folder nor a file", "Check the path.", file=place)
    try:
        with place.open("rb") as stream:
            head = stream.read(1024)
    except OSError as error:
        raise FileError(f"{place}: cannot be read ({error.strerror})", "Check its permissions.", file=place) from error
    if looks_like_dicom(head):
        return {place: ()}, None, Counter()
    if not head.startswith(b"PK"):
        raise FileError(f"{place} is neither a folder, a ZIP nor a DICOM file", "Check the path.", file=place)
    contents = unpack(place)
    return contents.files, contents.kept, Counter({"not DICOM": contents.other} if contents.other else {})


def _walk(place: Path, unreadable: list[OSError]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield regular files with the folders that lead to each: each file and folder once, even if links lead around in circles.

    Args:
        place: Where to begin.
        unreadable: Gets what cannot be looked into.
    """
    seen: set[tuple[int, int]] = set()

    def new(status: os.stat_result) -> bool:
        """Tell whether a file or folder was not met before."""
        key = (status.st_dev, status.st_ino)
        if key in seen and status.st_ino:
            return False
        seen.add(key)
        return True

    for root, folders, names in os.walk(place, onerror=unreadable.append, followlinks=True):
        try:
            if not new(Path(root).stat()):
                folders.clear()
                continue
        except OSError as error:
            unreadable.append(error)
            continue
        folders.sort()
        parts = Path(root).relative_to(place).parts
        for name in sorted(names):
            file = Path(root, name)
            try:
                status = file.stat()
            except OSError as error:  # a link that leads nowhere
                unreadable.append(error)
                continue
            # Pipes and devices would be waited for.
            if stat.S_ISREG(status.st_mode) and new(status):
                yield file, parts


def _belongs_to(image: Image, folders: tuple[str, ...]) -> object:
    """Return what tells the series of an image: its UID, else its folder, orientation and frame of reference."""
    if image.series_uid:
        return image.series_uid
    direction = None if image.orientation is None else tuple(round(value, 3) + 0.0 for value in image.orientation)
    return folders, direction, image.series_number, image.study_uid, image.frame_of_reference_uid


def left_out(kinds: Mapping[str, int]) -> list[str]:
    """Return a note on files that are not CT slices, by their kinds."""
    count = sum(kinds.values())
    if not count:
        return []
    text = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    are = "1 file is not a CT slice and was" if count == 1 else f"{count} files are not CT slices and were"
    return [f"{are} left out ({text})"]


def _only(place: Path, named: Mapping[str, list[Image]], series_uid: str) -> dict[str, list[Image]]:
    """Return the series with a UID."""
    chosen = {name: images for name, images in named.items() if images[0].series_uid == series_uid}
    if not chosen:
        uids = sorted({images[0].series_uid for images in named.values()} - {""})
        more = f" and {len(uids) - MOST_SHOWN} more" if len(uids) > MOST_SHOWN else ""
        count = "1 other" if len(named) == 1 else f"{len(named)} others"
        raise FileError(
            f"{place} has no CT series {_printable(series_uid)}, but {count}",
            f"Choose one of {', '.join(map(_printable, uids[:MOST_SHOWN]))}{more}." if uids else "Leave out --series.",
            file=place,
        )
    return chosen


def _printable(uid: str) -> str:
    """Return a UID, or what is in its place, without characters that no UID has."""
    return re.sub(r"[^0-9A-Za-z.]", "?", uid)[:64]


def _common(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folders that all paths begin with."""
    first, *others = set(folders)
    count = len(first)
    for other in others:
        count = next(
            (i for i, (a, b) in enumerate(zip(first[:count], other, strict=False)) if a != b), min(count, len(other))
        )
    return first[:count]


def _named(place: Path, groups: Sequence[_Group], *, by_folders: bool) -> dict[str, list[Image]]:
    """Return the images of each series under its name, in the order of names.

    The only series is called like the place; others like their folders where these differ, else by their numbers.
    """
    own = place.resolve()
    whole = safe_name(own.stem if own.is_file() else own.name)
    if len(groups) == 1 and not by_folders:
        return {whole: groups[0].images}
    bases = [safe_name("_".join(group.folders)) if group.folders else whole for group in groups]
    times = Counter(base.casefold() for base in bases)
    numbered = sorted(
        zip(bases, groups, strict=True), key=lambda pair: (pair[0], _number(pair[1]), pair[1].images[0].file)
    )
    taken: dict[str, list[Image]] = {}
    used: set[str] = set()
    ordinals: Counter[str] = Counter()
    for base, group in numbered:
        name = base
        if times[base.casefold()] > 1:
            ordinals[base] += 1
            number = _number(group)
            name = f"{base}_series{number}" if number < MOST_SERIES_NUMBER else f"{base}_{ordinals[base]}"
        again, free = 1, name
        while free.casefold() in used:
            again += 1
            free = f"{name}_{again}"
        used.add(free.casefold())
        taken[free] = group.images
    return dict(sorted(taken.items()))


def _number(group: _Group) -> int:
    """Return a series' number, or one beyond all where it has none that could be one."""
    number = group.images[0].series_number
    return number if number is not None and 0 <= number < MOST_SERIES_NUMBER else MOST_SERIES_NUMBER


def safe_name(text: str) -> str:
    """Return a name as one that a file can have on any system.

    Example:
        >>> safe_name("../CON"), safe_name("case 1/CT"), safe_name("")
        ('CON_', 'case 1_CT', 'series')
    """
    name = re.sub(r"[^\w.+() -]+", "_", unicodedata.normalize("NFC", text)).strip(" ._-")[:LONGEST_NAME].strip(" ._-")
    if name.split(".")[0].casefold() in RESERVED:
        name += "_"
    return name or "series"
