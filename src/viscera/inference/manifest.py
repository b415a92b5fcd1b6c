"""A list of scans as a table: CSV or Parquet with the columns ``input`` and, where label maps are to have other names, ``name``.

All of it is checked before any scan is segmented; other columns are not looked at.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.errors import FileError, SettingError, VisceraError, did_you_mean
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.jobs import ScanJob, output_name, refuse_scans_as_outputs, require_folder
from viscera.io.dicom_files import is_dicom_place
from viscera.io.extras import is_installed
from viscera.io.nifti import is_nifti
from viscera.io.remote import is_url, plain, require_reader, url_fault
from viscera.json_text import read_text

ENDINGS = (".csv", ".parquet")
NAMED = 10
"""Of many wrong rows, that a message names."""
FORBIDDEN = frozenset('/\\:*?"<>|')
"""In names: what a file may not be called on some system."""


@dataclass(frozen=True)
class Listed:
    """A row of a manifest.

    Attributes:
        row: Its number; the header is 1.
        scan: The file, folder or ZIP.
        name: Of the label map, without an ending.
        url: Where the scan is, if it is not on the disk; ``scan`` is then what may be shown of it.
    """

    row: int
    scan: Path
    name: str
    url: str = ""


def is_manifest(place: Path) -> bool:
    """Tell whether a path is a list of scans, by its name."""
    return place.suffix.lower() in ENDINGS and place.is_file()


def read_manifest(file: Path) -> list[Listed]:
    """Read a list of scans, and check that each is there and has a name of its own.

    Args:
        file: CSV (commas or semicolons, a header) or Parquet. Relative paths in it are from the folder that it lies in; inputs
            may be URLs of NIfTI files.

    Raises:
        FileError: It cannot be read, lacks the column ``input``, is empty, or rows of it are wrong: all are counted, the first
            ten named.
        SettingError: It is Parquet, and pyarrow is not installed.
    """
    rows = _parquet_rows(file) if file.suffix.lower() == ".parquet" else _csv_rows(file)
    listed, wrong = [], []
    for number, row in enumerate(rows, start=2):
        text, name = (_text(row.get(column)) for column in ("input", "name"))
        url = text if is_url(text) else ""
        if fault := url_fault(url) if url else "":
            wrong.append(f"row {number}: {fault}")
            continue
        scan = plain(url) if url else file.parent / text
        name = name or (output_name(scan).removesuffix(".nii.gz") if text else "")
        fault = "no input" if not text else _fault(scan, name, url)
        if fault:
            wrong.append(f"row {number}: {fault}")
        else:
            listed.append(Listed(number, scan, name, url))
    wrong += [
        *_twice(listed, "name", lambda one: one.name.casefold()),
        *_twice(listed, "input", lambda one: one.url or _place(one.scan)),
    ]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise FileError(
            f"{file.name} has {len(wrong)} fault{'s' * (len(wrong) != 1)}: {'; '.join(wrong[:NAMED])}{more}",
            "Correct the list; nothing was segmented.",
            file=file,
        )
    if not listed:
        raise FileError(f"{file.name} lists no scan", "Give a row for each: its path in the column input.", file=file)
    return listed


def find_manifest_jobs(
    file: Path, output: Path, *, urls: bool = False
) -> tuple[list[ScanJob], dict[str, VisceraError]]:
    """List the scans of a manifest, and where their label maps go.

    Args:
        file: The manifest.
        output: A folder.
        urls: Whether scans may be at URLs, which workers of a cluster fetch.

    Returns:
        The scans, and {name: why a DICOM series among them cannot be segmented}.

    Raises:
        FileError: As ``read_manifest``; or an input is a folder of NIfTI files, or the output cannot be a folder or is a scan.
        SettingError: viscera[dicom] is needed, or what reads URLs, and not installed; or there are URLs.
    """
    require_folder(output, what=file.name)
    jobs: list[ScanJob] = []
    problems: dict[str, VisceraError] = {}
    for one in read_manifest(file):
        target = output / f"{one.name}.nii.gz"
        if one.url and not urls:
            raise SettingError(
                f"{file.name} lists URLs, which viscera predict --cluster fetches", "Add --cluster local:1, or more."
            )
        if one.url:
            require_reader(one.url)
        if one.url or not is_dicom_place(one.scan):
            jobs.append(ScanJob(one.scan, target, one.url))
            continue
        try:
            found, _ = find_dicom_jobs(one.scan, target)
        except FileError as error:
            problems[one.name] = error
        else:
            jobs += found
    refuse_scans_as_outputs(jobs)
    return jobs, problems


def _fault(scan: Path, name: str, url: str) -> str:
    """Say what is wrong with a row; "" where nothing is."""
    if url and not is_nifti(scan):
        return f"{scan.name} is not a .nii or .nii.gz file, which scans at a URL must be"
    if not url and not scan.exists():
        return f"{scan.name} is not there"
    if not url and scan.is_dir() and not is_dicom_place(scan):
        return f"{scan.name} is a folder without DICOM files; give each NIfTI file a row"
    if name != name.strip() or name.startswith(".") or not name or FORBIDDEN & {*name} or not name.isprintable():
        return f"the name {name!r} cannot be a file's"
    return ""


def _twice(listed: Sequence[Listed], what: str, key: Callable[[Listed], object]) -> list[str]:
    """List the rows that have what another row has already."""
    first: dict[object, int] = {}
    return [
        f"row {one.row}: the {what} of row {first[key(one)]} again ({one.name if what == 'name' else one.scan.name})"
        for one in listed
        if first.setdefault(key(one), one.row) != one.row
    ]


def _place(scan: Path) -> object:
    """Return by what the disk knows a scan."""
    found = os.stat(scan)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _csv_rows(file: Path) -> Iterable[Mapping[str, object]]:
    """Return the rows of a CSV file."""
    text = read_text(file, remedy="Save it as CSV in UTF-8.")
    header = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in header and "," not in header else ",")
    _require_column([name.strip() for name in table.fieldnames or ()], file)
    table.fieldnames = [name.strip() for name in table.fieldnames or ()]
    try:
        return [row for row in table if any(map(_text, row.values()))]
    except csv.Error as error:
        raise FileError(f"{file.name} cannot be read as CSV: {error}", "Save it as CSV in UTF-8.", file=file) from error


def _parquet_rows(file: Path) -> Iterable[Mapping[str, object]]:
    """Return the rows of a Parquet file."""
    if not is_installed("pyarrow"):
        raise SettingError(
            f"{file.name} needs pyarrow, which is not installed",
            "Install it (pip install 'viscera[cohort]'), or give CSV.",
        )
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    try:
        names = pq.read_schema(file).names
        _require_column(names, file)
        return pq.read_table(file, columns=[name for name in ("input", "name") if name in names]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FileError(f"{file.name} cannot be read as Parquet", "Write it anew.", file=file) from error


def _require_column(names: Sequence[str], file: Path) -> None:
    if "input" not in names:
        near = did_you_mean("input", names)
        raise FileError(
            f"{file.name} has no column 'input', only {', '.join(names[:NAMED]) or 'none'}",
            f"{near} Name the scans' paths in a column input, and label maps in name.".strip(),
            file=file,
        )


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
