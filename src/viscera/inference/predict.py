"""Scans on disk -> label maps on disk, with what a reader needs beside them.

    NAME.nii.gz       labels on the grid of the scan
    NAME.json         {index: organ}, statistics on request, how and by what it was made
    NAME.failed.json  of several scans: why one has no label map (failures.py)
    labels.ctbl       colours for 3D Slicer; labels.itksnap.txt for ITK-SNAP (one pair per folder)

A label map takes its place after its NAME.json, which holds its hash and the scan's: identity.py tells by them what is done.
Each scan goes through three functions: ``read_scan``, ``segment_scan`` and ``write_labels``.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from viscera.errors import VisceraError
from viscera.inference.certainty import Certainty, certainty_of, handedness_of
from viscera.inference.colour_files import write_colours
from viscera.inference.dicom_objects import Result, log_result, refuse_others, write_objects
from viscera.inference.failures import forget_failure, note_failure
from viscera.inference.faults import as_problem
from viscera.inference.identity import made_with
from viscera.inference.jobs import ScanJob, refuse_scans_as_outputs, require_place
from viscera.inference.memory import one_at_a_time
from viscera.inference.model import Model
from viscera.inference.pipeline import run_stages
from viscera.inference.reading import ReadAhead, read_hu, require_unchanged, scan_sha256, state
from viscera.inference.run import (
    DoneMeanwhileError,
    PredictOptions,
    Run,
    begin,
    disk_key,
    may_be_beside,
    outcome_before,
)
from viscera.inference.segment import Prepared, Segmentation, only_organs, prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.io.atomic import replacing, sha256, write_json
from viscera.networks.device import Stopwatch, peak_memory_mib
from viscera.networks.runners import runner_facts
from viscera.preparation.body import Coarse, coarse_scan
from viscera.preparation.image import prepare_file
from viscera.preparation.shear import shear_of
from viscera.quality.certainty import Handedness
from viscera.quality.contacts import measure_contacts
from viscera.quality.glance import scan_doubts
from viscera.quality.judging import signs, trust_to_json
from viscera.quality.measuring import Organ, measure_organs, measure_scan
from viscera.volume import Volume, with_voxels


def predict_file(
    job: ScanJob,
    model: Model,
    *,
    options: PredictOptions = PredictOptions(),
    max_memory_mib: float | None = None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> dict[str, object]:
    """Segment one scan, file to file, whatever stands there.

    Args:
        job: Which.
        model: From ``load_model``.
        options: What to write.
        max_memory_mib: The most that this process may hold; None: as much as is convenient.
        watch: Told of the slices or windows done, and all of them.

    Returns:
        What was written to NAME.json.

    Raises:
        FileError, GeometryError: The scan cannot be used, or the label map not be written.
        LabelError: An organ is asked for that the network does not know.
        SettingError: The memory does not suffice.
    """
    refuse_scans_as_outputs([job])
    options = replace(options, overwrite=True)
    with begin(model, options, max_memory_mib=max_memory_mib, watch=watch) as run:
        return write_labels(segment_scan(read_scan(job, run), run), run)


def predict_all(
    jobs: Sequence[ScanJob],
    model: Model,
    *,
    options: PredictOptions = PredictOptions(),
    max_memory_mib: float | None = None,
    ahead: ReadAhead | None = None,
    done: Callable[[ScanJob, str], None] = lambda job, how: None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> list[tuple[ScanJob, VisceraError]]:
    """Segment scans, the next one being read and the last one written under the network's time (pipeline.py).

    A scan that cannot be used, or whose label map cannot be written, does not stop the rest, whatever it causes: what is no
    VisceraError becomes one, and its place in the code gets into a log beside the output (faults.py).

    Args:
        jobs: From ``find_scan_jobs`` (jobs.py).
        model: Loaded once.
        options: What to write.
        max_memory_mib: The most that this process may hold; scans wait for each other where they do not fit together.
        ahead: The first scan, if reading it has begun before.
        done: Told of each scan, in the order of the jobs, how it went: "segmented", "was done" or the error's message.
        watch: Told of the slices of the present scan.

    Returns:
        The scans that could not be segmented, and why.

    Raises:
        FileError: Something that is to be written is one of the scans.
        LabelError: An organ is asked for that the network does not know.

    Warns:
        KeptWarning: Colours that viscera did not write stand beside the label maps.
    """
    refuse_scans_as_outputs(jobs)
    failed: list[tuple[ScanJob, VisceraError]] = []
    outcomes: dict[ScanJob, str | VisceraError] = {}
    left = deque(jobs)

    def tell() -> None:
        """Tell of the next jobs, as far as their outcome is known."""
        while left and left[0] in outcomes:
            job = left.popleft()
            outcome = outcomes[job]
            if isinstance(outcome, VisceraError):
                failed.append((job, outcome))
                if len(jobs) > 1:
                    note_failure(job.output, job.scan.name, outcome)
            elif outcome == "was done":
                forget_failure(job.output)
            done(job, str(outcome))

    def note(job: ScanJob, outcome: dict[str, object] | Exception) -> None:
        """Note what became of a job, and tell of it."""
        run.release(job)
        if isinstance(outcome, DoneMeanwhileError):
            outcomes[job] = "was done"
        else:
            ended = as_problem(job, outcome) if isinstance(outcome, Exception) else outcome
            outcomes[job] = ended if isinstance(ended, VisceraError) else "segmented"
            log_result(job, model, ended, secret=options.dicom.secret)
        tell()

    with begin(model, options, max_memory_mib=max_memory_mib, watch=watch, ahead=ahead) as run:
        for job in jobs:
            outcome = outcome_before(job, run)
            if outcome is not None:
                outcomes[job] = outcome
                tell()
        run_stages(
            [job for job in jobs if job not in outcomes],
            read=partial(read_scan, run=run),
            work=partial(segment_scan, run=run),
            write=partial(write_labels, run=run),
            done=note,
            beside=partial(may_be_beside, run=run),
        )
    for folder in {job.output.parent for job in jobs if job.output.exists()}:
        write_colours(folder, model.output_space)
    return failed


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan between reading and the network; ``ct`` holds HU only where statistics are asked for."""

    job: ScanJob
    sha256: str
    clock: Stopwatch
    ct: Volume
    prepared: Prepared
    model: Model
    coarse: Coarse


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A scan between the network and writing."""

    job: ScanJob
    sha256: str
    clock: Stopwatch
    ct: Volume
    found: Segmentation
    coarse: Coarse
    certainty: Certainty | None = None
    handedness: Handedness | None = None


def read_scan(job: ScanJob, run: Run) -> _Scan:
    """Read a scan, check it and prepare it."""
    require_place(job.output)
    refuse_others(job, run.options.dicom, overwrite=run.options.overwrite)
    clock, model = Stopwatch({}), run.model
    plan = run.budget.plan(job.scan)  # which refuses what is no scan
    if plan == "slabs" and isinstance(job.scan, Path):
        before = state(job.scan)
        with clock.stage("prepare"):
            prepared, coarse = _prepared_by_slabs(job.scan, model)
        digest = scan_sha256(job.scan)
        require_unchanged(job.scan, before)
        run.claim(job)
        return _Scan(job, digest, clock, prepared.grid, prepared, one_at_a_time(model), coarse)
    read = read_hu(job.scan) if run.ahead is None else run.ahead.take(job.scan)
    clock.seconds["read"] = read.seconds
    ct, digest = read.ct, read.sha256
    del read
    run.claim(job)
    with clock.stage("prepare"):
        prepared, coarse = prepare_scan(ct, model), coarse_scan(ct)
    if not run.options.measure:
        ct = prepared.grid  # HU are for the statistics only
    run.spare_memory()
    return _Scan(job, digest, clock, ct, prepared, model, coarse)


def segment_scan(scan: _Scan, run: Run) -> _Labelled:
    """Label a scan that was read."""
    clock, model, certainty, handedness = scan.clock, scan.model, None, None
    if run.options.measure:
        certainty = certainty_of(model)
        with clock.stage("statistics"):
            image, geometry = scan.prepared.images[model.recipe.preparation]
            handedness = handedness_of(image, model, geometry)
    found = segment_prepared(scan.prepared, model, organs=run.wanted, certainty=certainty, clock=clock, watch=run.watch)
    if run.wanted:
        found = replace(found, labels=with_voxels(found.labels, only_organs(found.labels.voxels, run.wanted)))
    run.spare_memory()
    return _Labelled(scan.job, scan.sha256, clock, scan.ct, found, scan.coarse, certainty, handedness)


def write_labels(scan: _Labelled, run: Run) -> dict[str, object]:
    """Write a scan's labels and what is to be said of them; return the latter."""
    job, clock, labels, card = scan.job, scan.clock, scan.found.labels, run.model.card
    names = {
        index: organ for index, organ in run.model.output_space.labels.items() if not run.wanted or index in run.wanted
    }
    facts: dict[str, object] = {"labels": {str(index): organ for index, organ in names.items()}}
    if card is not None:
        facts["standing"] = {organ: card.organs[organ].standing for organ in names.values() if organ in card.organs}
    if scan.found.tumours is not None:
        facts["tumours"] = scan.found.tumours
    if run.options.measure:
        with clock.stage("statistics"):
            organs, certainty = measure_organs(scan.ct, labels.voxels, names), scan.certainty
            known = run.model.space.labels.items()  # asked for or not, as a predicted Dice takes them
            edges = {} if certainty is None else {organ: certainty.edge(index) for index, organ in known}
            look, contacts = measure_scan(scan.ct), measure_contacts(scan.ct, labels.voxels, names)
            calibration, handedness = run.model.calibration, scan.handedness
            found = signs(organs, look, edges=edges, handedness=handedness, contacts=contacts, calibration=calibration)
            facts["statistics"] = organ_statistics(organs, predicted_dice=found.predicted_dice)
            facts["trust"] = trust_to_json(found, organs, look, edges=edges, handedness=handedness, contacts=contacts)
    else:
        organs = {}
    trust = facts.get("trust")
    facts["doubts"] = trust["scan"] if isinstance(trust, dict) else scan_doubts(scan.coarse, labels, names)
    with replacing(job.output) as hidden:
        with clock.stage("write"):
            nifti.write_part(hidden, labels, path=job.output)
        objects = _write_objects(scan, run, names=names, organs=organs, facts=facts)
        facts["run"] = {**_run_facts(scan, run), "labels_sha256": sha256(hidden), **objects}
        write_json(job.sidecar, facts)
    forget_failure(job.output)
    run.written[disk_key(job.output)] = job.scan.name
    return facts


def _write_objects(
    scan: _Labelled, run: Run, *, names: Mapping[int, str], organs: Mapping[str, Organ], facts: Mapping[str, object]
) -> dict[str, object]:
    """Write the DICOM objects of a series that are asked for; return what NAME.json says of them under "run"."""
    options = run.options.dicom
    if not options.kinds:
        return {}
    trust = facts.get("trust")
    told = trust["organs"] if isinstance(trust, dict) else {}
    flags = {organ: tuple(sign["message"] for sign in found) for organ, found in told.items()}
    with scan.clock.stage("dicom"):
        result = Result(scan.found.labels, names, scan.ct, organs, flags)
        written = write_objects(scan.job, result, run.model, options)
    return {"dicom": written}


def _run_facts(scan: _Labelled, run: Run) -> dict[str, object]:
    """Say how and by what a scan was segmented, and what that cost.

    Of overlapping scans nobody can say which of them took what memory and CPU; cut into laps, at least their sums are true.
    """
    model, plan = run.model, run.budget.plan(scan.job.scan)
    shear = shear_of(scan.found.labels)
    return {
        "scan": scan.job.scan.name,
        **({} if isinstance(scan.job.scan, Path) else {"notes": list(scan.job.scan.notes)}),
        "scan_sha256": scan.sha256,
        "label_map": scan.job.output.name,
        "made_with": made_with(model, run.wanted),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "viscera": version("viscera"),
        "runtime_version": runner_facts(model.network)["version"],
        "recipe": model.recipe.name,
        "weights": model.card.name if model.card else None,
        "weights_version": model.card.version if model.card else None,
        "weights_sha256": model.weights_sha256,
        "other_weights_sha256": model.sha256s,
        **({"members": [asdict(member) for member in model.members]} if model.members else {}),
        "organs": list(run.options.organs),
        "device": model.device,
        "runtime": model.network.name,
        "precision": model.network.precision,
        "plan": plan,
        "max_memory_mib": run.budget.most_mib,
        "seconds": {stage: round(seconds, 3) for stage, seconds in scan.clock.seconds.items()},
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "shape": list(reversed(scan.found.labels.shape)),
        **({} if shear is None else {"tilt_degrees": round(shear.degrees, 2)}),
        "efficiency": {**run.meter.lap().to_json(), "overlapped": plan == "overlapped"},
    }


def _prepared_by_slabs(scan: Path, model: Model) -> tuple[Prepared, Coarse]:
    """Return what ``prepare_scan`` does, without the scan ever being whole in memory."""
    preparations = {network.recipe.preparation for network in model.networks}
    found = {each: prepare_file(scan, each, where=scan.name) for each in preparations}
    coarse = next(iter(found.values()))[2]
    return Prepared(coarse.grid, {each: (image, geometry) for each, (image, geometry, _) in found.items()}), coarse


def organ_statistics(
    organs: Mapping[str, Organ], *, predicted_dice: Mapping[str, float]
) -> dict[str, dict[str, float | bool | None]]:
    """Return what was measured on organs as NAME.json has it: volume (ml), mean and SD (HU), whether the border is touched.

    An organ that touches the scan's border may be cut off: its volume is then a lower bound.

    Args:
        organs: What was measured.
        predicted_dice: {organ: what Dice it probably has}; None is written for others.
    """
    return {
        organ: {
            "volume_ml": round(facts.volume_ml, 3),
            "mean_hu": None if facts.mean_hu is None else round(facts.mean_hu, 2),
            "sd_hu": None if facts.sd_hu is None else round(facts.sd_hu, 2),
            "touches_border": facts.touches_border,
            "predicted_dice": round(predicted_dice[organ], 3) if organ in predicted_dice else None,
        }
        for organ, facts in organs.items()
    }
