"""viscera view: look at a scan with its labels, in a browser or as a picture."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say
from viscera.colours import ColourScheme
from viscera.errors import FileError, SettingError
from viscera.io.same_file import refuse_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from viscera.evaluation.pairing import Pair, ScoringJob
    from viscera.io.scans import Scan
    from viscera.reports.viewer.scene import Scene

NAMELESS = "Nothing names the labels: they are called label_N, N being the value in the file."


@dataclass(frozen=True)
class Options:
    """Look at a scan with its labels: one HTML page that needs no network, with axial, coronal and sagittal slices and 3D.

    As radiology shows it: the patient's right on the left, front on top. Scans of more than 150 MB (compressed) are not
    embedded: look at those with --serve. Not for diagnosis.
    """

    ct: Annotated[Positional[Path], arg(metavar="CT")]
    """The scan: a .nii or .nii.gz file, or a folder, ZIP or file of DICOM with one CT series."""
    labels: Annotated[Positional[Path], arg(metavar="LABELS")]
    """A label map on its grid. NAME.json beside it names the labels. Of a DICOM series also a SEG or RTSTRUCT file of it."""
    truth: Annotated[Positional[str], arg(metavar="TRUTH")] = ""
    """The true label map (or SEG, RTSTRUCT), as a file or as the data set LAYOUT=DIR that holds the case: adds Dice and IoU
    of the scan and of the slice, and agreement (yellow), false (green) and missed (red)."""
    series: Annotated[str | None, arg(metavar="UID")] = None
    """Of DICOM, this series (its Series Instance UID), where there are several."""
    html: Path | None = None
    """The page; NAME.html, named after LABELS, where neither --html nor --png nor --serve is given."""
    png: Path | None = None
    """Make a montage of slices instead of the page."""
    serve: bool = False
    """Show the page at an address of this machine instead of writing it, for scans of any size. Ctrl-C ends it."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 0
    """Of --serve; 0 takes a free one."""
    colours: ColourScheme = "viscera"
    """Of the organs: viscera's, which the colour-blind can tell apart, or 3D Slicer's."""
    axial: int = 4
    """Axial slices of --png."""
    coronal: int = 1
    """Coronal slices of --png."""
    sagittal: int = 0
    """Sagittal slices of --png."""
    overwrite: bool = False
    """Replace a page or picture that stands there."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera view", config=(FlagCreatePairsOff,))
    if sum((options.html is not None, options.png is not None, options.serve)) > 1:
        raise SettingError("--html, --png and --serve exclude each other", "Choose one of them.")
    scan = scan_of(options)
    refuse_inputs([file for file in (options.html, options.png) if file], inputs_of(options, scan))
    with as_nifti(options, scan) as readable:
        if options.png is not None:
            draw(readable, scan, options.png)
        elif options.serve:
            serve(readable, scan)
        else:
            write(readable, scan)
    return 0


def scan_of(options: Options) -> "Scan":
    """Return the scan: the file, or the DICOM series.

    Raises:
        FileError: The place holds no CT series, or several and none is chosen.
        SettingError: viscera[dicom] is not installed.
    """
    from viscera.io.dicom_files import is_dicom_place

    if options.series is None and not is_dicom_place(options.ct):
        return options.ct
    from viscera.dicom.opening import open_scan

    return open_scan(options.ct, series_uid=options.series)


@contextmanager
def as_nifti(options: Options, scan: "Scan") -> "Iterator[Options]":
    """Yield the options with a NIfTI file and its NAME.json in the place of each SEG and RTSTRUCT, as long as they are needed."""
    from viscera.io.dicom_files import is_dicom

    truth = Path(options.truth)
    given = [file for file in (options.labels, truth) if is_dicom(file)]
    if not given:
        yield options
        return
    from tempfile import TemporaryDirectory

    from viscera.dicom.opening import read_dicom_labels
    from viscera.io import nifti
    from viscera.io.atomic import write_json

    with TemporaryDirectory(prefix="viscera-view-") as folder:
        copies: dict[Path, Path] = {}
        for number, file in enumerate(dict.fromkeys(given)):
            volume, names = read_dicom_labels(file, scan)
            copies[file] = Path(folder, str(number), f"{file.stem}.nii")
            nifti.write(copies[file], volume)
            write_json(
                copies[file].with_suffix(".json"), {"labels": {str(value): organ for value, organ in names.items()}}
            )
        named = str(copies[truth]) if truth in copies else options.truth
        yield replace(options, labels=copies.get(options.labels, options.labels), truth=named)


def draw(options: Options, scan: "Scan", picture: Path) -> None:
    """Write a montage."""
    from viscera.evaluation.pairing import case_name
    from viscera.figures.montage import Look, montage
    from viscera.io import nifti, scans
    from viscera.volume import require_same_grid

    refuse_existing(picture, overwrite=options.overwrite)
    title = case_name(options.labels)
    look = Look(
        axial=options.axial, coronal=options.coronal, sagittal=options.sagittal, title=title, colours=options.colours
    )
    ct = scans.read(scan)
    if options.truth:
        pair, _ = matched(options)
        names, annotated = pair.space.labels, pair.annotated
        montage(ct, pair.prediction, truth=pair.truth, names=names, annotated=annotated, out=picture, look=look)
    else:
        labels = nifti.read(options.labels)
        require_same_grid(ct, labels, where=options.labels.name)
        names, notes = names_of(options.labels)
        montage(ct, labels, truth=None, names=names, out=picture, look=look)
        tell(notes)
    say(f"picture: {picture}")


def write(options: Options, scan: "Scan") -> None:
    """Write the page."""
    from viscera.io.nifti import stem
    from viscera.reports.viewer.page import write_page

    page = options.html or Path(f"{stem(options.labels)}.html")
    if not page.name.lower().endswith((".html", ".htm")):
        raise SettingError(f"--html {page}: the name of the page must end in .html.")
    refuse_inputs([page], inputs_of(options, scan))
    refuse_existing(page, overwrite=options.overwrite)
    write_page(page, scene_of(options, scan), overwrite=options.overwrite)
    say(f"page: {page} ({page.stat().st_size / 1e6:.1f} MB)")


def serve(options: Options, scan: "Scan") -> None:
    """Serve the page until Ctrl-C."""
    from viscera.reports.viewer.page import pack, render
    from viscera.reports.viewer.serve import site

    scene = scene_of(options, scan)
    try:
        with site(render(scene), pack(scene), port=options.port) as running:
            say(f"open {running.url} in a browser on this machine; Ctrl-C ends it")
            running.wait()
    except KeyboardInterrupt:
        say("")


def scene_of(options: Options, scan: "Scan") -> "Scene":
    """Read the files and decide what is shown."""
    from viscera.evaluation.pairing import case_name
    from viscera.io import nifti, scans
    from viscera.reports.viewer.scene import compare_scene, label_scene
    from viscera.volume import require_same_grid

    title, where = case_name(options.labels), options.labels.name
    ct = scans.read(scan)
    if options.truth:
        pair, notes = matched(options)
        require_same_grid(ct, pair.prediction, where=where)
        scene = compare_scene(ct, pair, title=title, colours=options.colours, notes=notes)
    else:
        labels = nifti.read(options.labels)
        require_same_grid(ct, labels, where=where)
        names, _ = names_of(options.labels)  # the scene itself says which labels have no name
        scene = label_scene(ct, labels, names=names, title=title, where=where, colours=options.colours)
    tell(scene.notes)
    return scene


def matched(options: Options) -> "tuple[Pair, tuple[str, ...]]":
    """Read labels and truth in one label space, by the names of the organs, or by value where neither has names."""
    from tempfile import TemporaryDirectory

    from viscera.evaluation.pairing import match
    from viscera.io.atomic import write_json

    task = task_of(options)
    if isinstance(task.truth, Path) and names_of(options.labels)[1] and names_of(task.truth)[1]:
        values = found_values(options.labels) | found_values(task.truth) or {1}
        with TemporaryDirectory(prefix="viscera-view-") as folder:
            numbered = Path(folder) / "names.json"
            write_json(numbered, {"labels": {str(value): f"label_{value}" for value in sorted(values)}})
            pair, _ = match(task, labels=numbered)
        return pair, (NAMELESS,)
    return match(task)


def found_values(labels: Path) -> set[int]:
    """Return the labels that a file holds, without 0; higher ones are left to ``match`` to refuse."""
    import numpy as np

    from viscera.io import nifti
    from viscera.io.label_values import whole_labels

    whole, _ = whole_labels(nifti.read(labels).voxels, where=labels.name)
    return {int(value) for value in np.unique(whole) if 0 < value <= 255}


def names_of(labels: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return {value: organ} of a label file; where nothing names them, none, and a note that says so."""
    from viscera.io.label_names import names_beside

    names = names_beside(labels)
    return ({}, (NAMELESS,)) if names is None else (dict(names.labels), ())


def inputs_of(options: Options, scan: "Scan") -> list[Path]:
    """List the files that are read, so that none is written to."""
    from viscera.io.nifti import stem
    from viscera.io.scans import files_of

    truth = [] if not options.truth or "=" in options.truth else [Path(options.truth)]
    files = [options.ct, options.labels, *truth]
    return [*files, *files_of(scan), *(file.with_name(f"{stem(file)}.json") for file in files)]


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Stop before any work if the result stands there already."""
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists already", "Choose another name or pass --overwrite.", file=path)


def tell(notes: tuple[str, ...]) -> None:
    """Write notes to stderr."""
    for note in notes:
        say(f"note: {note}")


def task_of(options: Options) -> "ScoringJob":
    """Return the label map and its truth.

    Raises:
        FileError: The data set does not hold the case.
    """
    from viscera.cli.inputs import data_sets
    from viscera.evaluation.pairing import ScoringJob, case_name, find_jobs

    if "=" in options.truth and not Path(options.truth).exists():
        jobs, problems, _ = find_jobs(data_sets([options.truth])[0], options.labels)
        if not jobs:
            raise FileError(f"{problems[0].file}: {problems[0].what}", problems[0].remedy)
        return jobs[0]
    return ScoringJob(case_name(options.labels), options.labels, Path(options.truth))
