"""Scans on disk -> label maps on disk, with what a reader needs beside them.

    NAME.nii.gz       labels on the grid of the scan
    NAME.json         {index: organ}, statistics on request, how and by what it was made
    labels.ctbl       colours for 3D Slicer; labels.itksnap.txt for ITK-SNAP (one pair per folder)

A label map takes its place after its NAME.json, which holds its hash and the scan's: identity.py tells by them what is done.
Each scan goes through three functions: ``read_scan``, ``segment_scan`` and ``write_labels``.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from viscera.colours import colour
from viscera.errors import FileError, VisceraError
from viscera.inference.certainty import Certainty, certainty_of, handedness_of
from viscera.inference.faults import as_problem
from viscera.inference.identity import is_finished, made_with, scan_sha256
from viscera.inference.jobs import COLOUR_FILES, ScanJob, own_facts, refuse_scans_as_outputs, require_place
from viscera.inference.memory import Budget, one_at_a_time
from viscera.inference.model import Model
from viscera.inference.pipeline import run_stages
from viscera.inference.segment import Prepared, Segmentation, only_organs, prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.io.atomic import sha256, write_json, write_text
from viscera.io.locking import only_writer
from viscera.labels import LabelSpace
from viscera.networks.device import Stopwatch, peak_memory_mib, release_freed_memory
from viscera.preparation.image import prepare_file
from viscera.preparation.intensity import hounsfield
from viscera.quality.certainty import Handedness
from viscera.quality.efficiency import Meter, sample_efficiency
from viscera.quality.judging import trust_to_json
from viscera.quality.measuring import Organ, measure_organs, measure_scan
from viscera.volume import Volume, with_voxels


SLICER_HEAD = "# Color table file, 3D Slicer"
SNAP_HEAD = "# ITK-SNAP label description file: index R G B opacity visible mesh name"


@dataclass(frozen=True)
class PredictOptions:
    """What to write.

    Attributes:
        organs: Only these, by name; empty for all that the network knows.
        statistics: Also volume, HU and border per organ in NAME.json, and what speaks against the result.
        overwrite: Replace label maps that stand there, and their NAME.json.
    """

    organs: tuple[str, ...] = ()
    statistics: bool = False
    overwrite: bool = False


class KeptWarning(UserWarning):
    """A file that viscera did not write stands where it would write one, and stays."""


class _DoneMeanwhileError(VisceraError):
    """Another process wrote the same label map since this one began."""


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

    A scan that cannot be used, or whose label map cannot be written, does not stop the rest, whatever it causes: what is no
    VisceraError becomes one, and its place in the code gets into a log beside the output (faults.py).

    Args:
        jobs: From ``find_scan_jobs`` (jobs.py).
        model: Loaded once.
        options: What to write.
        max_memory_mib: The most that this process may hold; scans wait for each other where they do not fit together.
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
        run.release(job)
        if isinstance(outcome, _DoneMeanwhileError):
            outcomes[job] = "was done"
        else:
            outcomes[job] = as_problem(job, outcome) if isinstance(outcome, Exception) else "segmented"
        tell()

    with _begin(model, options, max_memory_mib=max_memory_mib, watch=watch) as run:
        outcomes = {job: outcome for job in jobs if (outcome := _outcome_before(job, run))}
        tell()
        run_stages(
            [job for job in jobs if job not in outcomes],
            read=partial(read_scan, run=run),
            work=partial(segment_scan, run=run),
            write=partial(write_labels, run=run),
            done=note,
            beside=partial(_may_be_beside, run=run),
        )
    for folder in {job.output.parent for job in jobs if job.output.exists()}:
        write_colours(folder, model.output_space)
    return failed


def is_done(job: ScanJob, model: Model, options: PredictOptions) -> bool:
    """Tell whether the label map stands there already, made from this scan, by these weights and with these options.

    Raises:
        FileError: Something else stands there, and is not to be overwritten.
    """
    wanted = made_with(model, [model.output_space.index(organ) for organ in options.organs])
    if not is_finished(job, wanted, overwrite=options.overwrite):
        return False
    return not options.statistics or "statistics" in (own_facts(job.sidecar) or {})


def _outcome_before(job: ScanJob, run: "_Run") -> str | VisceraError | None:
    """Say why a scan needs no work, or must not be worked on; None where it is to be segmented."""
    try:
        return "was done" if is_done(job, run.model, run.options) else None
    except Exception as error:  # as in pipeline.py: whatever a scan causes is that scan's
        return as_problem(job, error)


def _may_be_beside(job: ScanJob, run: "_Run") -> bool:
    """Tell whether a scan may be read while others are worked on; what its header causes is told when it is read."""
    try:
        return run.budget.admit(job.scan)
    except Exception:  # reading causes it again, where it becomes that scan's failure
        return False


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
        claims: Of the label maps that are being made, what keeps other processes from writing them.
        written: Which files were written, by what the disk knows them by.
    """

    model: Model
    options: PredictOptions
    wanted: tuple[int, ...]
    budget: Budget
    meter: Meter
    watch: Callable[[int, int], None]
    claims: dict[ScanJob, ExitStack] = field(default_factory=dict)
    written: dict[tuple[int, int], str] = field(default_factory=dict)

    def claim(self, job: ScanJob) -> None:
        """Keep other processes from writing a scan's label map until it is released.

        Raises:
            FileError: Another process is writing it, something else has come to stand there, or nothing can be written.
        """
        try:
            job.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(job, error) from error
        self.claims[job] = stack = ExitStack()
        stack.enter_context(only_writer(job.output))
        if job.output.exists() and _key(job.output) in self.written:
            raise FileError(
                f"{job.output.name} is the label map of {self.written[_key(job.output)]}: this disk takes both names for one",
                "Rename one of the scans.",
            )
        if is_done(job, self.model, self.options):
            raise _DoneMeanwhileError(f"{job.output.name} was written meanwhile")

    def release(self, job: ScanJob) -> None:
        """Let others write a scan's label map again."""
        if job in self.claims:
            self.claims.pop(job).close()

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
        run = _Run(model, options, wanted, budget, meter, watch)
        try:
            yield run
        finally:
            for job in list(run.claims):
                run.release(job)


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan between reading and the network; ``ct`` holds HU only where statistics are asked for."""

    job: ScanJob
    sha256: str
    clock: Stopwatch
    ct: Volume
    prepared: Prepared
    model: Model


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A scan between the network and writing."""

    job: ScanJob
    sha256: str
    clock: Stopwatch
    ct: Volume
    found: Segmentation
    certainty: Certainty | None = None
    handedness: Handedness | None = None


def read_scan(job: ScanJob, run: _Run) -> _Scan:
    """Read a scan, check it and prepare it."""
    require_place(job.output)
    clock, model = Stopwatch({}), run.model
    plan = run.budget.plan(job.scan)  # which refuses what is no scan
    before = _state(job.scan)
    if plan == "slabs":
        with clock.stage("prepare"):
            prepared = _prepared_by_slabs(job.scan, model)
        digest = _unchanged(job.scan, before)
        run.claim(job)
        return _Scan(job, digest, clock, prepared.grid, prepared, one_at_a_time(model))
    with clock.stage("read"):
        ct = nifti.read(job.scan)
        digest = _unchanged(job.scan, before)
        ct = with_voxels(ct, hounsfield(ct, where=job.scan.name))
    run.claim(job)
    with clock.stage("prepare"):
        prepared = prepare_scan(ct, model)
    if not run.options.statistics:
        ct = prepared.grid  # HU are for the statistics only
    run.spare_memory()
    return _Scan(job, digest, clock, ct, prepared, model)


def _state(scan: Path) -> tuple[int, int, int]:
    """Return what tells that a file is another one, or was written to."""
    found = scan.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unchanged(scan: Path, before: tuple[int, int, int]) -> str:
    """Return the SHA-256 of a scan that was read just now.

    Raises:
        FileError: It cannot be read, or it is not what it was before.
    """
    digest = scan_sha256(scan)
    if _state(scan) != before:
        raise FileError(f"{scan} changed while it was read", "Wait until it is whole, then try again.", file=scan)
    return digest


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
    return _Labelled(scan.job, scan.sha256, clock, scan.ct, found, certainty, handedness)


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
    hidden = job.output.with_name(f".part.{job.output.name}")
    try:
        with clock.stage("write"):
            nifti.write(hidden, labels, overwrite=True)
        facts["run"] = {**_run_facts(scan, run), "labels_sha256": sha256(hidden)}
        write_json(job.sidecar, facts)
        hidden.replace(job.output)
        run.written[_key(job.output)] = job.scan.name
    except OSError as error:
        raise _cannot_write(job, error) from error
    finally:
        with suppress(OSError):  # else it would hide the reason
            hidden.unlink(missing_ok=True)
    return facts


def _cannot_write(job: ScanJob, error: OSError) -> FileError:
    """Return the error of a label map for which there is no place."""
    return FileError(f"cannot write {job.output}: {error.strerror or error}", "Check folder and disk.")


def _key(path: Path) -> tuple[int, int]:
    """Return by what the disk knows a file, whatever its name."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _run_facts(scan: _Labelled, run: _Run) -> dict[str, object]:
    """Say how and by what a scan was segmented, and what that cost.

    Of overlapping scans nobody can say which of them took what memory and CPU; cut into laps, at least their sums are true.
    """
    model, plan = run.model, run.budget.plan(scan.job.scan)
    return {
        "scan": scan.job.scan.name,
        "scan_sha256": scan.sha256,
        "label_map": scan.job.output.name,
        "made_with": made_with(model, run.wanted),
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


def _prepared_by_slabs(scan: Path, model: Model) -> Prepared:
    """Return what ``prepare_scan`` does, without the scan ever being whole in memory."""
    preparations = {network.recipe.preparation for network in model.networks}
    found = {each: prepare_file(scan, each, where=scan.name) for each in preparations}
    grid = next(iter(found.values()))[2]
    return Prepared(grid, {each: (image, geometry) for each, (image, geometry, _) in found.items()})


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
    """Write the organs' names and colours for 3D Slicer (labels.ctbl) and ITK-SNAP (labels.itksnap.txt).

    Files of these names that viscera did not write stay, and no folder is too full for label maps because of its colours.

    Warns:
        KeptWarning: A file was not written, and why.
    """
    rows = [(index, organ, *colour(organ)) for index, organ in space.labels.items()]
    slicer = [SLICER_HEAD, "0 background 0 0 0 0"]
    slicer += [f"{index} {organ} {r} {g} {b} 255" for index, organ, r, g, b in rows]
    snap = [SNAP_HEAD, '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{index} {r} {g} {b} 1 1 1 "{organ}"' for index, organ, r, g, b in rows]
    for name, lines in zip(COLOUR_FILES, (slicer, snap), strict=True):
        file = folder / name
        if os.path.lexists(file) and not _is_own_colours(file, lines[:2]):
            why = "exists already, and viscera did not write it: it stays, and names none of these organs' colours"
            warnings.warn(f"{file} {why}. To have them, choose another output folder.", KeptWarning, stacklevel=3)
            continue
        try:
            write_text(file, "\n".join(lines) + "\n")
        except (OSError, VisceraError) as error:
            warnings.warn(f"{file} was not written: {error}", KeptWarning, stacklevel=3)


def _is_own_colours(file: Path, head: Sequence[str]) -> bool:
    """Tell whether viscera wrote a file of colours, perhaps for another network's organs, by its first two lines."""
    try:
        with file.open(encoding="utf-8") as lines:
            return [lines.readline(200).rstrip("\n") for _ in head] == list(head)
    except (OSError, ValueError):
        return False
