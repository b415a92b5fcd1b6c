"""The layout of DICOM: CT series in any nesting, and as their truth the RTSTRUCTs and SEGs that refer to them.

    roi_names.json                     {"Leber": "liver", ...}: what ROIs mean (or roi_names.csv), where TG-263 does not say it
    PATIENT/STUDY/SERIES/IM0001 ...    slices, whatever they are called
    PATIENT/STUDY/RS.dcm               drawn on one of the series, wherever it lies

A series without truth is a scan without labels. What viscera itself wrote is a result and never a truth. Cases are called
after folders; series with the same Patient ID show one patient, called after the first of them: what headers say goes nowhere.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from viscera.datasets import patients
from viscera.datasets.annotations import AnnotationWarning
from viscera.datasets.sources import Found, Problem, Source
from viscera.dicom import finding
from viscera.dicom.finding import find_series, safe_name
from viscera.dicom.headers import DAMAGED, NOT_DICOM
from viscera.dicom.roi_names import load_roi_organs
from viscera.dicom.series import Series
from viscera.dicom.truth_header import (
    RTSTRUCT,
    SEGS,
    Kind,
    TruthHeader,
    organ_in_table,
    organs_in,
    read_truth_header,
)
from viscera.errors import DataSetError, FileError, LabelError, VisceraError
from viscera.io.atomic import sha256
from viscera.volume import Volume

TABLES = ("roi_names.json", "roi_names.csv")
MOST_NAMES = 12
"""Names of ROIs in a message."""


class TruthWarning(UserWarning):
    """How a truth was understood."""


@dataclass(frozen=True, eq=False)
class Truth:
    """An RTSTRUCT or a SEG of a series, not yet read: what a Source has as its labels.

    Attributes:
        file: The file.
        series: That it was drawn on.
        kind: What it is.
        table: The data set's {ROI name: organ}.
        organs: (value, organ) as ``read`` gives them.
    """

    file: Path
    series: Series
    kind: Kind
    table: Mapping[str, str]
    organs: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        """Return the file's path."""
        return str(self.file)

    @property
    def name(self) -> str:
        """The series' name."""
        return self.series.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.file,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The series' voxels along (z, y, x)."""
        return self.series.shape

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """The series' grid: index (z, y, x, 1) -> world RAS+ mm."""
        return self.series.affine

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing: what is to be known turns up when it is read."""
        return ()

    def read(self) -> Volume:
        """Read the labels on the series' grid, with the values of ``organs``.

        Raises:
            FileError, GeometryError, LabelError: As ``read_rtstruct`` and ``read_seg``; or it is another file by now.
            LabelError: The contours of an organ hold no voxel of the scan, so that it would count as absent.

        Warns:
            TruthWarning: How contours were understood.
        """
        labels, names, notes = self._read()
        for note in notes:
            if not note.startswith("ROI "):  # said of the whole data set when it was found
                warnings.warn(f"{self.name}: {note}", TruthWarning, stacklevel=2)
        values = {organ: value for value, organ in self.organs}
        if strange := sorted(set(names.values()) - values.keys()):
            raise FileError(
                f"{self.file.name} holds other organs than a moment ago ({', '.join(strange)})",
                "Run the command again.",
                file=self.file,
            )
        if lost := sorted(values.keys() - set(names.values())):
            raise LabelError(
                f"{self.file.name}: the contours of {', '.join(lost)} hold no voxel of the scan, so nobody knows where it is",
                "Correct them, or delete the ROI.",
                file=self.file,
            )
        kind = np.uint8 if max(values.values(), default=0) <= np.iinfo(np.uint8).max else np.uint16
        table = np.zeros(256, kind)
        for value, organ in names.items():
            table[value] = values[organ]
        return Volume(table[labels], self.affine)

    def _read(self) -> tuple[UInt8[np.ndarray, "z y x"], Mapping[int, str], tuple[str, ...]]:
        """Return labels, {label: organ} and notes."""
        if self.kind == "rtstruct":
            from viscera.dicom.rtstruct_reading import read_rtstruct

            # A set that names no series came here because no other series has its frame of reference.
            drawn = read_rtstruct(self.file, self.series, names=self.table, needs_series=False)
            return drawn.labels, drawn.names, drawn.notes
        from viscera.dicom.read_seg import read_seg

        found = read_seg(self.file, self.series)
        return (
            found.labels,
            {value: organ_in_table(name, self.table) for value, name in found.names.items()},
            found.notes,
        )

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256(self.file)


def find(folder: Path) -> Found | None:
    """Find the series, or None where the folder holds no CT series.

    Raises:
        SettingError: viscera[dicom] is not installed.
        DataSetError, FileError, LabelError: The table of ROI names cannot be used.

    Warns:
        AnnotationWarning: Series without truth, results of viscera, names of ROIs that are not understood, files that are
            none of all this.
    """
    try:
        found = find_series(folder, by_folders=True)
    except FileError:
        return None
    table = read_table(folder)
    problems = [
        Problem(
            name, _within(folder, str(error.file or name)), _within(folder, error.what), _within(folder, error.remedy)
        )
        for name, error in found.problems.items()
    ]
    problems += [
        Problem(safe_name(file.stem), _within(folder, str(file)), "damaged DICOM file", "export it again, or remove it")
        for file in found.others.get(DAMAGED, ())
    ]
    headers, unreadable = _headers(folder, found)
    problems += unreadable
    truths, orphans = _by_series(folder, found, headers)
    problems += orphans
    sources, unclear = [], Counter[str]()
    for series in found.series:
        own = truths.get(series.name, [])
        if len(own) > 1:
            problems.append(_several(folder, series.name, own))
            continue
        try:
            sources.append(_source(folder, series, own, found, table, unclear))
        except VisceraError as error:
            what = _within(folder, error.what)
            problems.append(Problem(series.name, _within(folder, str(own[0].file)), what, error.remedy))
    _tell(folder, found, headers, sources, unclear)
    return sources, problems


def read_table(folder: Path) -> dict[str, str]:
    """Return the {ROI name: organ} of a data set, empty where there is no table.

    Raises:
        DataSetError: There are two.
        FileError, LabelError: It cannot be used.
    """
    there = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(there) > 1:
        raise DataSetError(f"{folder} has both {' and '.join(TABLES)}", "Keep one of them.", file=there[1])
    return load_roi_organs(there[0]) if there else {}


def _headers(folder: Path, found: finding.Found) -> tuple[list[TruthHeader], list[Problem]]:
    """Read what truths say of themselves."""
    kinds: dict[str, Kind] = {RTSTRUCT: "rtstruct", **dict.fromkeys(SEGS, "seg")}
    headers, problems = [], []
    for name, kind in kinds.items():
        for file in found.others.get(name, ()):
            try:
                headers.append(read_truth_header(file, kind))
            except VisceraError as error:
                what, remedy = _within(folder, error.what), error.remedy
                problems.append(Problem(safe_name(file.stem), _within(folder, str(file)), what, remedy))
    return sorted(headers, key=lambda header: header.file), problems


def _by_series(
    folder: Path, found: finding.Found, headers: Sequence[TruthHeader]
) -> tuple[dict[str, list[TruthHeader]], list[Problem]]:
    """Return {series: truths that were drawn on it}, and a problem for each truth of which that cannot be told."""
    truths: dict[str, list[TruthHeader]] = defaultdict(list)
    problems = []
    for header in headers:
        if header.is_own:
            continue
        names = _drawn_on(found, header)
        if len(names) == 1:
            truths[names[0]].append(header)
            continue
        what, remedy = "it was drawn on a series that is not here", "add the series, or move the file elsewhere"
        if names:
            what = f"it refers to {len(names)} series ({', '.join(names[:4])}{', ...' * (len(names) > 4)})"
            remedy = "export it with the one that it was drawn on"
        problems.append(Problem(safe_name(header.file.stem), _within(folder, str(header.file)), what, remedy))
    return truths, problems


def _drawn_on(found: finding.Found, header: TruthHeader) -> list[str]:
    """Return the names of the series that a truth may have been drawn on: by series, by images if several, else by frame."""
    if not header.series_uids:
        return [name for name, one in found.identities.items() if one.frame_of_reference_uid in header.frames - {""}]
    names = [name for name, one in found.identities.items() if one.series_uid in header.series_uids]
    if len(names) > 1:
        names = [
            series.name
            for series in found.series
            if series.name in names and any(one.sop_instance_uid in header.images for one in series.slices)
        ] or names
    return names


def _several(folder: Path, name: str, headers: Sequence[TruthHeader]) -> Problem:
    """Return the problem of a series with several truths."""
    files = ", ".join(_within(folder, str(header.file)) for header in headers)
    kinds = {header.kind for header in headers}
    word = "structure sets" if kinds == {"rtstruct"} else "SEGs" if kinds == {"seg"} else "structure sets and SEGs"
    return Problem(name, files, f"{len(headers)} {word} for one series", "keep one of them in the folder")


def _source(
    folder: Path,
    series: Series,
    truths: Sequence[TruthHeader],
    found: finding.Found,
    table: Mapping[str, str],
    unclear: Counter[str],
) -> Source:
    """Return the case of a series with one truth or none; count what is not understood.

    Raises:
        LabelError, FileError: The truth's organs cannot be told.
    """
    identity = found.identities[series.name]
    if not truths:
        return Source(series.name, folder.name, identity.first_of_patient, series, None, (), ())
    [header] = truths
    organs, notes = organs_in(header, table, identity.frame_of_reference_uid)
    unclear.update(set(notes))
    truth = Truth(header.file, series, header.kind, table, organs)
    annotated = tuple(dict.fromkeys(organ for _, organ in organs))
    return Source(series.name, folder.name, identity.first_of_patient, series, truth, organs, annotated)


def _tell(
    folder: Path,
    found: finding.Found,
    headers: Sequence[TruthHeader],
    sources: Sequence[Source],
    unclear: Counter[str],
) -> None:
    """Warn of what was left out, once for the data set."""
    for note in _notes(folder, found, headers, sources):
        warnings.warn(f"{folder.name}: {note}", AnnotationWarning, stacklevel=5)
    if unclear:
        lines = [
            f"{text.rstrip('.')} ({count} case{'s' * (count > 1)})" for text, count in unclear.most_common(MOST_NAMES)
        ]
        more = f"; and {len(unclear) - MOST_NAMES} more" if len(unclear) > MOST_NAMES else ""
        text = "".join(letter if letter.isprintable() else "?" for letter in "; ".join(lines) + more)
        warnings.warn(
            f'{folder.name}: {text}. Say what they mean in {TABLES[0]}, {{"ROI name": "organ"}}, if they are organs.',
            AnnotationWarning,
            stacklevel=5,
        )


def _notes(folder: Path, found: finding.Found, headers: Sequence[TruthHeader], sources: Sequence[Source]) -> list[str]:
    """Return what was left out, which series are without truth, and whom the headers say that they show."""
    notes = []
    own = [header for header in headers if header.is_own]
    if own:
        first = _within(folder, str(own[0].file))
        notes.append(
            f"{len(own)} file{'s' * (len(own) > 1)} that viscera wrote ({first}{', ...' * (len(own) > 1)}): a result is not a "
            "truth, so left out"
        )
    bare = sum(source.labels is None for source in sources)
    if bare:
        notes.append(f"{bare} of {len(sources)} series have no RTSTRUCT or SEG, so they are scans without labels")
    kinds = Counter({kind: len(files) for kind, files in found.others.items()})
    for kind in (RTSTRUCT, *SEGS, DAMAGED, NOT_DICOM):
        del kinds[kind]
    notes += finding.left_out(kinds)
    shared = Counter(one.first_of_patient for one in found.identities.values())
    several = [name for name, count in shared.items() if count > 1]
    if several:
        notes.append(
            f"{sum(shared[name] for name in several)} series show {len(several)} patient{'s' * (len(several) > 1)}, by the "
            f"Patient IDs of their headers; {patients.FILE} can say otherwise"
        )
    return notes


def _within(folder: Path, text: str) -> str:
    """Return a text with the paths in it relative to the folder: what stands above may name people."""
    return text.replace(f"{folder}/", "").replace(f"{folder}\\", "")
