"""Scans on disk -> label maps on disk, with what a reader needs beside them.

    NAME.nii.gz       labels on the grid of the scan
    NAME.json         {index: organ}, statistics on request, how and by what it was made
    labels.ctbl       colours for 3D Slicer; labels.itksnap.txt for ITK-SNAP (one pair per folder)

A label map takes its place after its NAME.json, so where both stand, the case is done. Each scan goes through three functions:
``read_scan``, ``segment_scan`` and ``write_labels``.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from viscera.colours import colour
from viscera.errors import FileError, VisceraError
from viscera.inference.certainty import Certainty, certainty_of, handedness_of
from viscera.inference.jobs import ScanJob, require_place
from viscera.inference.memory import Budget, one_at_a_time
from viscera.inference.model import Model
from viscera.inference.pipeline import run_stages
from viscera.inference.segment import Prepared, Segmentation, only_organs, prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.io.atomic import write_json, write_text
from viscera.labels import LabelSpace
from viscera.networks.device import Stopwatch, peak_memory_mib, release_freed_memory
from viscera.preparation.body import Coarse, coarse_scan
from viscera.preparation.image import prepare_file
from viscera.preparation.intensity import hounsfield
from viscera.quality.certainty import Handedness
from viscera.quality.efficiency import Meter, sample_efficiency
from viscera.quality.glance import scan_doubts
from viscera.quality.judging import trust_to_json
from viscera.quality.measuring import Organ, measure_organs, measure_scan
from viscera.volume import Volume, with_voxels


@dataclass(frozen=True)
class PredictOptions:
    """What to write.

    Attributes:
        organs: Only these, by name; empty for all that the network knows.
        statistics: Also volume, HU and border per organ in NAME.json, and what speaks against the result.
        overwrite: Replace label maps that stand there.
    """

    organs: tuple[str, ...] = ()
    statistics: bool = False
    overwrite: bool = False


def predict_file(
    job: ScanJob,
    model: Model,
    *,
    options: PredictOptions = PredictOptions(),
    max_memory_mib: float | None = None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> dict[str, object]:
    """Segment one scan, file to file.

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
    with _begin(model, options, max_memory_mib=max_memory_mib, watch=watch) as run:
        return write_labels(segment_scan(read_scan(job, run), run), run)


def predict_all(
    jobs: Sequence[ScanJob],
    model: Model,
    *,
    options: PredictOptions = PredictOptions(),
    max_memory_mib: float | None = None,
    done: Callable[[ScanJob, str], None] = lambda job, how: None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> list[tuple[ScanJob, VisceraError]]:
    """Segment scans, the next one being read and the last one written under the network's time (pipeline.py).

    A scan that cannot be used, or whose label map cannot be written, does not stop the rest.

    Args:
        jobs: From ``find_scan_jobs`` (jobs.py).
        model: Loaded once.
        options: What to write.
        max_memory_mib: The most that this process may hold; scans wait for each other where they do not fit together.
        done: Told of each scan, in the order of the jobs, how it went: "segmented", "was done" or the error's message.
        watch: Told of the slices of the present scan.

    Returns:
        The scans that could not be segmented, and why.
    """
    outcomes = {job: outcome for job in jobs if (outcome := _outcome_before(job, model, options))}
    failed: list[tuple[ScanJob, VisceraError]] = []
    left = deque(jobs)

    def tell() -> None:
        """Tell of the next jobs, as far as their outcome is known."""
        while left and left[0] in outcomes:
            job = left.popleft()
            outcome = outcomes[job]
            if isinstance(outcome, VisceraError):
                failed.append((job, outcome))
            done(job, str(outcome))

    def note(job: ScanJob, outcome: object) -> None:
        """Note what became of a job, and tell of it."""
        outcomes[job] = outcome if isinstance(outcome, VisceraError) else "segmented"
        tell()

    with _begin(model, options, max_memory_mib=max_memory_mib, watch=watch) as run:
        tell()
        run_stages(
            [job for job in jobs if job not in outcomes],
            read=partial(read_scan, run=run),
            work=partial(segment_scan, run=run),
            write=partial(write_labels, run=run),
            done=note,
            beside=lambda job: run.budget.admit(job.scan),
        )
    for folder in {job.output.parent for job in jobs if job.output.exists()}:
        write_colours(folder, model.output_space)
    return failed


def is_done(job: ScanJob, model: Model, options: PredictOptions) -> bool:
    """Tell whether the label map stands there already, made by these weights with these options.

    Raises:
        FileError: Something else stands there, and is not to be overwritten.
    """
    if options.overwrite or not job.output.exists():
        return False
    facts: dict = {}
    try:
        facts = json.loads(job.sidecar.read_text())
        run = facts["run"]
        same = run["weights_sha256"] == model.weights_sha256 and run["organs"] == list(options.organs)
        same = same and run.get("other_weights_sha256", {}) == model.sha256s
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise FileError(
            f"{job.output.name} exists already, and not from this command", "Pass --overwrite or choose another output."
        )
    return not options.statistics or "statistics" in facts


def _outcome_before(job: ScanJob, model: Model, options: PredictOptions) -> str | VisceraError | None:
    """Say why a scan needs no work, or must not be worked on; None where it is to be segmented."""
    try:
        return "was done" if is_done(job, model, options) else None
    except VisceraError as error:
        return error


@dataclass(frozen=True, eq=False)
class _Run:
    """What all scans of a run share.

    Attributes:
        model: The networks.
        options: What to write.
        wanted: Indices of the organs that are asked for; empty for all.
        budget: How each scan is to be read.
        meter: What the run costs; each scan that is written ends a lap.
        watch: Told of the slices of the present scan.
    """

    model: Model
    options: PredictOptions
    wanted: tuple[int, ...]
    budget: Budget
    meter: Meter
    watch: Callable[[int, int], None]

    def spare_memory(self) -> None:
        """Return what a stage has left, where there is a limit."""
        if self.budget.most_mib is not None:
            release_freed_memory()


@contextmanager
def _begin(
    model: Model, options: PredictOptions, *, max_memory_mib: float | None, watch: Callable[[int, int], None]
) -> Iterator[_Run]:
    """Begin a run, and measure what it costs."""
    wanted = tuple(model.output_space.index(organ) for organ in options.organs)
    budget = Budget(model, most_mib=max_memory_mib, statistics=options.statistics)
    with sample_efficiency(str(model.device)) as meter:
        yield _Run(model, options, wanted, budget, meter, watch)


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan between reading and the network; ``ct`` holds HU only where statistics are asked for."""

    job: ScanJob
    clock: Stopwatch
    ct: Volume
    prepared: Prepared
    model: Model
    coarse: Coarse


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A scan between the network and writing."""

    job: ScanJob
    clock: Stopwatch
    ct: Volume
    found: Segmentation
    coarse: Coarse
    certainty: Certainty | None = None
    handedness: Handedness | None = None


def read_scan(job: ScanJob, run: _Run) -> _Scan:
    """Read a scan, check it and prepare it."""
    require_place(job.output)
    clock, model = Stopwatch({}), run.model
    if run.budget.plan(job.scan) == "slabs":
        with clock.stage("prepare"):
            prepared, coarse = _prepared_by_slabs(job.scan, model)
        return _Scan(job, clock, prepared.grid, prepared, one_at_a_time(model), coarse)
    with clock.stage("read"):
        ct = nifti.read(job.scan)
        ct = with_voxels(ct, hounsfield(ct, where=job.scan.name))
    with clock.stage("prepare"):
        prepared, coarse = prepare_scan(ct, model), coarse_scan(ct)
    if not run.options.statistics:
        ct = prepared.grid  # HU are for the statistics only
    run.spare_memory()
    return _Scan(job, clock, ct, prepared, model, coarse)


def segment_scan(scan: _Scan, run: _Run) -> _Labelled:
    """Label a scan that was read."""
    clock, model, certainty, handedness = scan.clock, scan.model, None, None
    if run.options.statistics:
        certainty = certainty_of(model)
        with clock.stage("statistics"):
            handedness = handedness_of(scan.prepared.images[model.recipe.preparation][0], model)
    found = segment_prepared(scan.prepared, model, organs=run.wanted, certainty=certainty, clock=clock, watch=run.watch)
    if run.wanted:
        found = replace(found, labels=with_voxels(found.labels, only_organs(found.labels.voxels, run.wanted)))
    run.spare_memory()
    return _Labelled(scan.job, clock, scan.ct, found, scan.coarse, certainty, handedness)


def write_labels(scan: _Labelled, run: _Run) -> dict[str, object]:
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
    if run.options.statistics:
        with clock.stage("statistics"):
            organs, certainty = measure_organs(scan.ct, labels.voxels, names), scan.certainty
            edges = {} if certainty is None else {organ: certainty.edge(index) for index, organ in names.items()}
            facts["statistics"] = organ_statistics(organs)
            facts["trust"] = trust_to_json(organs, measure_scan(scan.ct), edges=edges, handedness=scan.handedness)
    trust = facts.get("trust")
    facts["doubts"] = trust["scan"] if isinstance(trust, dict) else scan_doubts(scan.coarse, labels, names)
    hidden = job.output.with_name(f".part.{job.output.name}")
    try:
        hidden.parent.mkdir(parents=True, exist_ok=True)
        with clock.stage("write"):
            nifti.write(hidden, labels, overwrite=True)
        facts["run"] = _run_facts(scan, run)
        write_json(job.sidecar, facts)
        hidden.replace(job.output)
    except OSError as error:
        raise FileError(f"cannot write {job.output}: {error.strerror or error}", "Check folder and disk.") from error
    finally:
        with suppress(OSError):  # else it would hide the reason
            hidden.unlink(missing_ok=True)
    return facts


def _run_facts(scan: _Labelled, run: _Run) -> dict[str, object]:
    """Say how and by what a scan was segmented, and what that cost.

    Of overlapping scans nobody can say which of them took what memory and CPU; cut into laps, at least their sums are true.
    """
    model, plan = run.model, run.budget.plan(scan.job.scan)
    return {
        "scan": scan.job.scan.name,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "viscera": version("viscera"),
        "torch": torch.__version__,
        "recipe": model.recipe.name,
        "weights": model.card.name if model.card else None,
        "weights_version": model.card.version if model.card else None,
        "weights_sha256": model.weights_sha256,
        "other_weights_sha256": model.sha256s,
        "organs": list(run.options.organs),
        "device": str(model.device),
        "runtime": model.network.name,
        "precision": model.network.precision,
        "plan": plan,
        "max_memory_mib": run.budget.most_mib,
        "seconds": {stage: round(seconds, 3) for stage, seconds in scan.clock.seconds.items()},
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "shape": list(reversed(scan.found.labels.shape)),
        "efficiency": {**run.meter.lap().to_json(), "overlapped": plan == "overlapped"},
    }


def _prepared_by_slabs(scan: Path, model: Model) -> tuple[Prepared, Coarse]:
    """Return what ``prepare_scan`` does, without the scan ever being whole in memory."""
    preparations = {network.recipe.preparation for network in model.networks}
    found = {each: prepare_file(scan, each, where=scan.name) for each in preparations}
    coarse = next(iter(found.values()))[2]
    return Prepared(coarse.grid, {each: (image, geometry) for each, (image, geometry, _) in found.items()}), coarse


def organ_statistics(organs: Mapping[str, Organ]) -> dict[str, dict[str, float | bool | None]]:
    """Return what was measured on organs as NAME.json has it: volume (ml), mean and SD (HU), and whether the border is touched.

    An organ that touches the scan's border may be cut off: its volume is then a lower bound.
    """
    return {
        organ: {
            "volume_ml": round(facts.volume_ml, 3),
            "mean_hu": None if facts.mean_hu is None else round(facts.mean_hu, 2),
            "sd_hu": None if facts.sd_hu is None else round(facts.sd_hu, 2),
            "touches_border": facts.touches_border,
        }
        for organ, facts in organs.items()
    }


def write_colours(folder: Path, space: LabelSpace) -> None:
    """Write the organs' names and colours for 3D Slicer (labels.ctbl) and ITK-SNAP (labels.itksnap.txt)."""
    rows = [(index, organ, *colour(organ)) for index, organ in space.labels.items()]
    slicer = ["# Color table file, 3D Slicer", "0 background 0 0 0 0"]
    slicer += [f"{index} {organ} {r} {g} {b} 255" for index, organ, r, g, b in rows]
    snap = ["# ITK-SNAP label description file: index R G B opacity visible mesh name", '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{index} {r} {g} {b} 1 1 1 "{organ}"' for index, organ, r, g, b in rows]
    write_text(folder / "labels.ctbl", "\n".join(slicer) + "\n")
    write_text(folder / "labels.itksnap.txt", "\n".join(snap) + "\n")
