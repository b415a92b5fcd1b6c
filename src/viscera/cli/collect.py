"""viscera collect: folders of results -> one table, and a page to look at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import counted, progress, say, show_problems
from viscera.errors import FileError, SettingError

if TYPE_CHECKING:
    from viscera.cohorts.collect import Cohort, Source
    from viscera.cohorts.index import Index


@dataclass(frozen=True)
class Options:
    """Gather what `viscera predict` wrote beside its label maps into one table: a row per scan and organ.

    Volumes, HU, quality flags and predicted Dice (of `viscera predict --statistics`), how each was made, and how far each organ
    lies from the cohort's median. Scans that predict could not segment have a row too, with the reason; a NAME.json that is
    damaged is named, and stops no other. The same command again reads only what is new or changed. Read it with pandas, R or
    DuckDB: SELECT organ, median(volume_ml) FROM 'cohort.parquet' GROUP BY organ.
    """

    results: Annotated[Positional[tuple[str, ...]], arg(metavar="OUT")]
    """Folders that `viscera predict` wrote, each as OUT or NAME=OUT. The table calls them NAME, or by the folder's own name
    (column source), and holds no other part of their paths. Subfolders are not looked into."""
    out: Path | None = None
    """The table: .csv, .jsonl, or .parquet (pip install 'viscera[cohort]')."""
    html: Path | None = None
    """A page to look at the cohort in a browser: distributions, outliers, the worst scans first, all rows to sort and filter."""
    overwrite: bool = False
    """Replace the table and the page that stand there."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera collect", config=(FlagCreatePairsOff,))
    outputs = outputs_of(options)
    from viscera.cohorts.collect import collect, find_places, fingerprint_of, is_known, key_of
    from viscera.cohorts.index import open_index
    from viscera.io.atomic import sha256
    from viscera.io.locks import only_writer
    from viscera.io.same_file import refuse_inputs

    places, listed = find_places(sources_of(options.results))
    refuse_inputs(outputs, [place.file for place in places])
    outputs[0].parent.mkdir(parents=True, exist_ok=True)
    with only_writer(outputs[0]):
        index = open_index(outputs[0])
        fingerprint = fingerprint_of(places, listed)
        new = sum(not is_known(place, index) for place in places)
        wanted = [path for path in outputs if not stands(path, index, fingerprint)]
        if not options.overwrite:
            refuse_existing(wanted, new)
        with progress() as bar:
            task = bar.add_task("results", total=len(places))
            cohort = collect(places, listed, index, watch=lambda done, files: bar.update(task, completed=done))
        write(wanted, cohort, overwrite=options.overwrite)
        if wanted:
            index.outputs = {path.name: sha256(path) for path in outputs}
            index.fingerprint = fingerprint
            index.write({key_of(place): None for place in places})
    if not wanted:
        say("nothing is new: what stands there is left as it is")
    return tell(cohort, outputs)


def outputs_of(options: Options) -> list[Path]:
    """Return what is to be written.

    Raises:
        SettingError: Nothing is asked for, or a table or page that cannot be.
    """
    from viscera.cohorts.tables import require_writable

    if not options.results:
        raise SettingError("no folder of results is given", "Give one or more that viscera predict wrote.")
    if options.out is None and options.html is None:
        raise SettingError("nothing is to be written", "Pass --out cohort.csv, --html cohort.html, or both.")
    if options.out is not None:
        require_writable(options.out)
    if options.html is not None and options.html.suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"{options.html.name} does not end in .html", "Give the page such a name.")
    return [path for path in (options.out, options.html) if path is not None]


def sources_of(texts: Sequence[str]) -> list["Source"]:
    """Return folders of results, each given as FOLDER or NAME=FOLDER."""
    from viscera.cohorts.collect import Source

    sources = []
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if not name or "/" in name:
            raise SettingError(f"'{text}' has no name for the table", "Give it one: NAME=FOLDER.")
        sources.append(Source(name, Path(folder)))
    return sources


def stands(path: Path, index: "Index", fingerprint: str) -> bool:
    """Tell whether an output stands there as this verb wrote it of the same files."""
    from viscera.io.atomic import sha256

    return index.fingerprint == fingerprint and path.is_file() and index.outputs.get(path.name) == sha256(path)


def refuse_existing(outputs: Sequence[Path], new: int) -> None:
    """Raise FileError where an output stands there, before anything is read.

    Raises:
        FileError: One does.
    """
    for path in outputs:
        if path.exists():
            raise FileError(
                f"{path.name} exists already, and {counted(new, 'result')} {'is' if new == 1 else 'are'} new or changed",
                "Choose another name or pass --overwrite: only what is new is read.",
                file=path,
            )


def write(outputs: Sequence[Path], cohort: "Cohort", *, overwrite: bool) -> None:
    """Write a table, a page, or both."""
    from viscera.cohorts.collect import table_rows
    from viscera.cohorts.tables import ENDINGS, write_table

    for path in outputs:
        if path.suffix.lower() in ENDINGS:
            write_table(path, table_rows(cohort), counts=cohort.counts, overwrite=overwrite)
        else:
            from viscera.reports.cohort import write_cohort_page

            write_cohort_page(path, cohort, overwrite=overwrite)


def names(paths: Sequence[Path]) -> str:
    """Return the names of files in a sentence."""
    return " and ".join(path.name for path in paths)


def tell(cohort: "Cohort", outputs: Sequence[Path]) -> int:
    """Say what was found, and what is wrong; return the exit code."""
    from viscera.datasets.sources import Problem

    counts = cohort.counts
    if cohort.others:
        say(f"left out: {counted(cohort.others, 'JSON file')} that predict did not write")
    if cohort.unnamed:
        say(
            f"{counted(cohort.unnamed, 'NIfTI file')} without a NAME.json: scans, or label maps that predict did not write"
        )
    if cohort.twice:
        say(f"{counted(cohort.twice, 'scan')} more than once, by the contents: see scan_sha256")
    later = sum(scan.failed_later for scan in cohort.scans if scan.status == "read")
    again = f" ({later} of them failed in a later attempt)" if later else ""
    say(
        f"{counted(counts['found'], 'scan')} found: {counts['read']} read{again}, {counts['failed']} that predict could not "
        f"segment, {counts['damaged']} damaged; {counted(cohort.read, 'file')} read this time. In {names(outputs)}"
    )
    remedy = "Segment the scan anew with --overwrite, or remove the file."
    problems = [
        Problem(scan.case, f"{scan.case}.json", scan.found.problem, remedy)
        for scan in cohort.scans
        if scan.status == "damaged"
    ]
    if problems:
        show_problems(problems)
    return 2 if problems else 0
