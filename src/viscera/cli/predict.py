"""viscera predict: scans -> label maps."""

import json
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.clusters import Where, cluster_at
from viscera.cli.console import counted, progress, say, show_problems, show_table
from viscera.cli.doubts import tell_doubts
from viscera.cli.inputs import data_sets
from viscera.cli.startup import kept_graphs, starting
from viscera.config import Accelerator
from viscera.errors import FileError, SettingError, VisceraError
from viscera.labels import TUMOUR, organ_name
from viscera.networks.cards import FOLDER, STARTER
from viscera.networks.find_weights import known_organs

if TYPE_CHECKING:
    from viscera.datasets.sources import Problem
    from viscera.inference.dicom_objects import DicomOptions
    from viscera.inference.jobs import ScanJob
    from viscera.inference.loading import Networks
    from viscera.inference.model import Model
    from viscera.inference.reading import ReadAhead
    from viscera.io.scans import Scan


@dataclass(frozen=True)
class Options:
    """Segment a scan, a folder of scans, a DICOM series, the scans of a data set, or those that a table lists.

    The label map lies on exactly the scan's grid. NAME.json beside it says which index is which organ and how it was made;
    labels.ctbl and labels.itksnap.txt hold the colours for 3D Slicer and ITK-SNAP. Scans that are done are skipped, so the
    same command goes on after an interruption; a scan that cannot be read stops no other. Done is a scan whose label map was
    made from the same file, with the same weights and options. Of several scans, the next one is read and the last one written
    while the network works.
    """

    scan: Annotated[Positional[str], arg(metavar="SCAN")]
    """A .nii or .nii.gz file, a folder of them, a folder or ZIP of DICOM files, a data set as LAYOUT=DIR, a .csv or .parquet
    file whose column input has the scans' paths (relative ones from its own folder) and, if wanted, name those of label maps;
    or the CT series of an archive as dicomweb:URL[?QUERY] (QIDO's: PatientID=..., StudyInstanceUID=...), whose images are kept in
    OUTPUT/images."""
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """The label map, or a folder for label maps."""
    weights: Path | None = None
    """A run's folder (its best weights), a .safetensors file, or a folder that `viscera export` wrote (int8, for instance).
    Of a cross-validated run (viscera train --folds), or a file that `viscera choose` wrote, all networks answer together: their
    probabilities are averaged, at the time of all of them. Without it: the bundled weights (viscera info weights)."""
    fold: int | None = None
    """Of a cross-validated run, this network alone, counted from 0."""
    tumour: Path | None = None
    """A second run, for tumours (gao2step-tumour): it looks in and around the organs, and its finds override them."""
    finder: Path | None = None
    """A cheap run (gao2step-finder, viscera2d-16 ...) that says where a 3D network is to look."""
    region: Literal["find", "whole", "middle"] | None = None
    """Of 3D networks, instead of the recipe's: find, only the windows that hold organs; whole, all windows; middle, only the
    middle 50 slices, as gao2step published it."""
    organs: tuple[str, ...] = ()
    """Only these organs, or all. Where none is named: all of the network's; of the bundled weights those that were
    tested on real scans. NAME.json marks the others as experimental."""
    statistics: bool = False
    """Also write volume (ml), mean and SD (HU) and whether it touches the scan's border, per organ; and what is doubtful: a
    volume, HU, place or number of pieces that no such organ has, edges of which the network was not sure, no CT of an abdomen."""
    series: Annotated[str | None, arg(metavar="UID")] = None
    """Of DICOM, only this series (its Series Instance UID); without it, every CT series is a scan."""
    write: tuple[Literal["nifti", "seg", "rtstruct", "report", "capture"], ...] = ()
    """Of a DICOM series, beside the label map: seg (NAME.seg.dcm, DICOM SEG), rtstruct (NAME.rtstruct.dcm, RT structure set),
    report (NAME.report.dcm, measurements, DICOM SR), capture (NAME.capture.dcm, a picture). Each is read back before it stands
    there. The label map (nifti) is always written: viscera's other verbs go by it."""
    seg_type: Literal["binary", "labelmap"] = "binary"
    """Of --write seg: binary, which every viewer reads, or labelmap, a hundredth of the size, for those that know it."""
    roi_names: Annotated[Path | None, arg(metavar="FILE")] = None
    """Of --write rtstruct: names of your own, {"liver": "Leber"} as JSON, or CSV lines organ,name. Else TG-263's."""
    send: bool = False
    """Of dicomweb:, store what --write makes in the same archive (STOW)."""
    deidentify: bool = False
    """Leave out of DICOM outputs all that could identify the patient, and replace their UIDs, each by the same one throughout
    the command."""
    split: Literal["all", "training", "validation", "test"] = "all"
    """Of a data set, only the cases of this split of the run: test for an honest score."""
    device: Accelerator = "auto"
    """Where the network runs; auto takes a GPU where there is one."""
    runtime: Literal["auto", "torch", "openvino", "onnx"] = "auto"
    """What runs the network on a CPU: auto takes OpenVINO, and torch where that cannot run it or with a GPU.
    NAME.json says which it was."""
    jobs: int = 0
    """Cores to compute on, with --cluster of each process; 0: all that there are."""
    max_memory: Annotated[float | None, arg(metavar="MIB")] = None
    """The most memory that predicting may take, in MiB; with --cluster each process. Scans are then read one after the other,
    or slab by slab, where that is needed; one that does not fit is refused, and the least that works is said."""
    cluster: Where = None
    overwrite: bool = False
    """Replace label maps that stand there, and their NAME.json."""


def main(arguments: list[str], shipped: Path = FOLDER) -> int:
    """Run the verb.

    Args:
        arguments: After the verb.
        shipped: Where the bundled weights are.
    """
    options = tyro.cli(Options, args=arguments, prog="viscera predict", config=(FlagCreatePairsOff,))
    if options.finder and options.region in ("whole", "middle"):
        raise SettingError(
            f"--finder says where to look, --region {options.region} that it does not matter", "Leave one of them out."
        )
    if options.fold is not None:
        options = replace(options, weights=fold_of(options), fold=None)
    address = cluster_at(options.cluster)
    dicom = dicom_options(options)
    if options.send and not (options.scan.startswith("dicomweb:") and dicom.kinds):
        raise SettingError("--send is of dicomweb:URL with --write seg or another object", "Add them, or leave it out.")
    jobs, problems = jobs_of(options)
    if options.max_memory is not None and not options.max_memory > 0:
        raise SettingError(f"--max-memory must be above 0 MiB, got {options.max_memory:g}.")
    require_known(options, shipped)
    ahead = None if address else read_ahead(options, jobs)
    here = replace(options, device="cpu") if address else options  # workers may have a GPU, this machine need not
    with starting(), ThreadPoolExecutor(1) as pool:  # what is heavy is loaded here, when nothing is left to refuse
        # Bundled graphs beside the imports: half of it is not Python's. Torch's exporter changes warnings for all threads.
        own = options.weights or options.tumour or options.finder or options.runtime not in ("auto", "openvino")
        loading = None if own else pool.submit(loaded_model, here, shipped)
        from viscera.cli.predict_scans import Limits, predict_here, predict_there
        from viscera.inference.run import PredictOptions
        from viscera.io import nifti_header  # noqa: F401 (what reading scans would load anyway)

        model = loaded_model(here, shipped) if loading is None else loading.result()
    if line := weights_line(model):
        say(line)
    organs = () if "all" in options.organs else options.organs or model.default_organs
    before: list[ScanJob] = []

    def done(job: "ScanJob", how: str) -> None:
        if how == "was done":
            before.append(job)

    wanted = PredictOptions(organs, options.statistics, options.overwrite, dicom)
    limits = Limits(wanted, options.max_memory)
    if address:
        failed = predict_there(jobs, model, limits, done, address=address, networks=networks_of(options, shipped))
    else:
        failed = predict_here(jobs, model, limits, done, ahead=ahead)
    note_unusable(options, problems)
    problems += [problem_of(job.scan, error) for job, error in failed]
    if len(jobs) == len(failed) == len(problems) == 1:
        raise failed[0][1]
    if options.send:
        from viscera.pacs.web_jobs import send_results

        bad = {job for job, _ in failed}
        count = send_results(options.scan, [job for job in jobs if job not in bad], dicom.kinds)
        say(f"{counted(count, 'object')} stored in the archive")
    return tell(options, jobs, problems, before=len(before))


def fold_of(options: Options) -> Path:
    """Return the folder of the fold that is asked for.

    Raises:
        SettingError: The weights are not a cross-validated run's, or there is no such fold.
    """
    from viscera.networks.members import one_fold

    if options.weights is None or options.fold is None:
        raise SettingError("--fold is of a cross-validated run", "Say --weights RUN, or leave it out.")
    return one_fold(options.weights, options.fold)


def read_ahead(options: Options, jobs: "Sequence[ScanJob]") -> "ReadAhead | None":
    """Begin to read the first scan while the network is loaded, where nothing stands in its way; half a second of a large one."""
    if not jobs or options.max_memory is not None or jobs[0].output.exists() or not isinstance(jobs[0].scan, Path):
        return None
    from viscera.inference.reading import ReadAhead

    return ReadAhead(jobs[0].scan)


def jobs_of(options: Options) -> tuple[list["ScanJob"], list["Problem"]]:
    """List what is to be segmented, and of a data set what cannot be.

    Raises:
        SettingError: --split without a data set.
        FileError, DataSetError: There are no such scans, or the output cannot be.
    """
    from viscera.inference.dicom_jobs import find_dicom_jobs
    from viscera.inference.jobs import find_scan_jobs
    from viscera.inference.manifest import find_manifest_jobs, is_manifest
    from viscera.io.dicom_files import is_dicom_place

    if options.scan.startswith("dicomweb:"):
        from viscera.datasets.sources import Problem
        from viscera.pacs.web_jobs import find_web_jobs

        with progress() as bar:
            fetched = bar.add_task("series fetched", total=None)
            jobs, wrong = find_web_jobs(
                options.scan, options.output, lambda done, total: bar.update(fetched, completed=done, total=total)
            )
        return jobs, [Problem(name, name, error.what, error.remedy) for name, error in wrong.items()]
    if "=" in options.scan and not Path(options.scan).exists():
        return data_set_jobs(options)
    place = Path(options.scan)
    if is_manifest(place):
        if options.series is not None or options.split != "all":
            raise SettingError("--series and --split are not for a list of scans", "Leave them out.")
        jobs, wrong = find_manifest_jobs(place, options.output, urls=options.cluster is not None)
        return jobs, _problems(wrong)
    if options.series is not None or is_dicom_place(place):
        jobs, wrong = find_dicom_jobs(place, options.output, series_uid=options.series)
        return jobs, _problems(wrong)
    if options.split != "all":
        raise SettingError(f"--split {options.split} needs a data set as LAYOUT=DIR, not '{options.scan}'.")
    return find_scan_jobs(Path(options.scan), options.output), []


def _problems(wrong: Mapping[str, VisceraError]) -> list["Problem"]:
    """Return DICOM series that cannot be segmented as rows of the table of problems."""
    from viscera.datasets.sources import Problem

    return [Problem(name, name, error.what.removeprefix(f"{name}: "), error.remedy) for name, error in wrong.items()]


def note_unusable(options: Options, problems: "Sequence[Problem]") -> None:
    """Write down which scans were not even begun, beside where their label maps would stand."""
    from viscera.inference.failures import note_failure
    from viscera.io import nifti

    for problem in () if nifti.is_nifti(options.output) else problems:
        if Path(problem.case).name != problem.case:  # of a whole data set
            continue
        error = FileError(problem.what, problem.remedy, file=problem.file)
        note_failure(options.output / f"{problem.case}.nii.gz", Path(problem.file).name, error)


def dicom_options(options: Options) -> "DicomOptions":
    """Return what is to be written beside the label maps of DICOM series.

    Raises:
        SettingError: An option needs another one, or a table of names is wrong.
    """
    from viscera.inference.dicom_objects import DicomOptions, kinds_of

    kinds = kinds_of([kind for kind in options.write if kind != "nifti"])
    for given, name, kind in (
        (options.seg_type != "binary", "--seg-type", "seg"),
        (options.roi_names is not None, "--roi-names", "rtstruct"),
    ):
        if given and kind not in kinds:
            raise SettingError(f"{name} is of --write {kind}, which is not asked for", "Leave it out, or add it.")
    if options.deidentify and not kinds:
        raise SettingError("--deidentify is of --write, which asks for no DICOM", "Leave it out, or add --write seg.")
    if not kinds:
        return DicomOptions()
    names = {}
    if options.roi_names is not None:
        from viscera.dicom.roi_names import load_roi_names

        names = load_roi_names(options.roi_names)
    secret = secrets.token_bytes(32) if options.deidentify else None
    draw = None
    if "capture" in kinds:
        from viscera.figures.capture import draw_capture as draw
    return DicomOptions(kinds, options.seg_type == "labelmap", names, secret, draw)


def tell(options: Options, jobs: "Sequence[ScanJob]", problems: "Sequence[Problem]", *, before: int) -> int:
    """Say what became of the scans, of which some were done before; return the exit code."""
    if len(jobs) == 1 and not problems and options.statistics:
        show_statistics(jobs[0].sidecar)
    wrong = {problem.file for problem in problems}
    good = [job.sidecar for job in jobs if str(job.scan) not in wrong]
    doubtful = tell_doubts(good, said=len(jobs) == 1 and options.statistics)
    known = f" ({before} of them before)" if before else ""
    scans = len(jobs) + sum(problem.file not in {str(job.scan) for job in jobs} for problem in problems)
    say(f"{scans - len(problems)} of {counted(scans, 'scan')} segmented, in {options.output}{known}{doubtful}")
    if problems:
        show_problems(problems)
        say("put them right and say the same again: what is done is skipped")
    return 2 if problems else 0


def networks_of(options: Options, folder: Path = FOLDER) -> "Networks":
    """Return which networks are asked for."""
    from viscera.inference.loading import Networks

    return Networks(
        options.weights,
        options.tumour,
        options.finder,
        options.region,
        options.device,
        options.runtime,
        options.jobs,
        kept_graphs(),
        folder,
    )


def loaded_model(options: Options, folder: Path = FOLDER) -> "Model":
    """Load the networks that are asked for, or the one that comes with viscera."""
    from viscera.inference.loading import load_networks

    return load_networks(networks_of(options, folder))


def require_known(options: Options, folder: Path = FOLDER) -> None:
    """Refuse organs that the weights do not know, before they are loaded.

    Raises:
        SettingError: All are asked for, and some by name.
        LabelError: An organ is not one of the network's.
        WeightsError: There are no weights.
    """
    if "all" in options.organs and len(options.organs) > 1:
        raise SettingError(
            f"--organs {' '.join(options.organs)}: 'all' leaves none to be named", "Say all, or the organs' names."
        )
    named = [
        organ for organ in options.organs if organ != "all" and not (options.tumour and organ_name(organ) == TUMOUR)
    ]
    space = known_organs(options.weights, folder) if named else None
    if space is not None:
        for organ in named:
            space.index(organ)


def weights_line(model: "Model") -> str:
    """Say that the weights are those that come with viscera, and what is to be known of them; or what an ensemble costs."""
    card = model.card
    if model.members:
        count = len(model.members)
        return (
            f"weights: {count} networks ({', '.join(member.name for member in model.members)}) whose probabilities are averaged: "
            f"up to {count} times the time of one"
        )
    if card is None:
        return ""
    tested, others = (len(card.of_standing(standing)) for standing in ("shipped", "experimental"))
    more = f", {others} more with --organs all" if others else ""
    return (
        f"weights: {card.name} {card.version} (comes with viscera; {counted(tested, 'organ')}{more}; not a medical device; "
        "viscera info weights)"
    )


def problem_of(scan: "Scan", error: VisceraError) -> "Problem":
    """Return what is wrong with a scan as a row of the table of problems."""
    from viscera.datasets.sources import Problem
    from viscera.io import scans

    what = error.what.removeprefix(f"{scan}: ").removeprefix(f"{scan.name}: ")
    return Problem(scans.stem(scan), str(scan), what, error.remedy)


def data_set_jobs(options: Options) -> tuple[list["ScanJob"], list["Problem"]]:
    """List the scans of a data set, perhaps of one split of the run whose weights are used, and what is wrong with others.

    What is not whole was never in a split, so of a split there are no problems.
    """
    from viscera.inference.jobs import ScanJob, refuse_scans_as_outputs, require_folder
    from viscera.preparation.splits import of_split

    require_folder(options.output, what=options.scan)
    found, problems = data_sets([options.scan])
    sources = of_split(found, options.weights or Path(STARTER), options.split)
    jobs = [ScanJob(source.image, options.output / f"{source.name}.nii.gz") for source in sources]
    refuse_scans_as_outputs(jobs, sources)
    return jobs, problems if options.split == "all" else []


def show_statistics(sidecar: Path) -> None:
    """Show one scan's statistics."""
    rows, found = [], json.loads(sidecar.read_text())
    for organ, facts in found["statistics"].items():
        numbers = ["-" if facts[key] is None else f"{facts[key]:.1f}" for key in ("volume_ml", "mean_hu", "sd_hu")]
        dice = "-" if facts["predicted_dice"] is None else f"{facts['predicted_dice']:.2f}"
        rows.append((organ, *numbers, "yes" if facts["touches_border"] else "", dice))
    show_table("Organs", ("organ", "volume (ml)", "mean (HU)", "SD (HU)", "touches border", "predicted Dice"), rows)
    for sign in [*found["trust"]["scan"], *(sign for signs in found["trust"]["organs"].values() for sign in signs)]:
        if sign["kind"] != "border":
            say(f"doubtful: {sign['message']}")
