"""What a worker of a cluster does with a scan: the networks are loaded once, a scan is segmented at a time.

Before it begins a scan, a worker notes that beside the label map, in .NAME.nii.gz.begun, and holds a lock on it. Who finds the
note of the same command, and nobody holding the lock, knows that a worker died of the scan, whatever happened to the scheduler;
who finds it held waits, since two would otherwise write the same label map. The note goes with the scan's end.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from uuid import uuid4

from viscera.errors import RunError, SettingError, VisceraError
from viscera.inference.dicom_objects import log_result
from viscera.inference.faults import as_problem
from viscera.inference.identity import runtimes
from viscera.inference.jobs import ScanJob
from viscera.inference.loading import Networks, load_networks
from viscera.inference.model import Model
from viscera.inference.predict import read_scan, segment_scan, write_labels
from viscera.inference.run import DoneMeanwhileError, PredictOptions, Run, begin, outcome_before
from viscera.io.atomic import remove_abandoned, writing
from viscera.io.clusters import BUDGET, MIB
from viscera.io.cores import usable_cores
from viscera.io.fetching import fetched
from viscera.io.locks import TakenError, only_writer, remove_abandoned_lock
from viscera.io.paths_in_text import without_folders

DEATHS = 2
"""So many workers may die of a scan before it is set aside."""
WAIT_S = 100.0
"""How long a scan is waited for that another worker of the same command still has; network file systems free the locks of a
machine that is gone after about 90 s."""
UNFIT_S = 1.0
"""How long a worker that cannot be used holds on to a scan, so that others are quicker to take it."""

_ONE_SCAN = Lock()
"""Held by who works: a worker with several threads is given several scans, and computes one of them on all of its cores."""


@dataclass(frozen=True)
class Fit:
    """By what a worker knows that it can be used.

    Attributes:
        networks: To load; their paths are absolute.
        sha256s: Of their weights, as the one who asks sees them.
        viscera: The version of who asks.
        probe: A file beside the label maps, that who asks has written.
        token: What stands in it; of one command.
        scans: Files that must be there.
    """

    networks: Networks
    sha256s: tuple[str, ...]
    viscera: str
    probe: Path
    token: str
    scans: tuple[Path, ...]


@dataclass(frozen=True)
class Order:
    """What all scans of a command share.

    Attributes:
        fit: What a worker needs.
        options: What to write.
        max_memory_mib: The most that a worker may take; None: what Dask allows it.
    """

    fit: Fit
    options: PredictOptions
    max_memory_mib: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a scan.

    Attributes:
        how: "segmented" or "was done"; the error's message otherwise.
        error: Why there is no label map.
        unfit: Why this worker can segment none, and another one is to be asked; "" where it can.
        worker: Its address.
        runtimes: What ran the networks.
        notes: (kind, text) of what was warned of.
    """

    how: str = ""
    error: VisceraError | None = None
    unfit: str = ""
    worker: str = ""
    runtimes: tuple[str, ...] = ()
    notes: tuple[tuple[type[Warning], str], ...] = ()


class UnfitError(VisceraError):
    """A worker sees other files than who gave it work, or cannot run the networks."""


def weights_of(model: Model) -> tuple[str, ...]:
    """Return the hashes of a model's weights, in a certain order."""
    return (model.weights_sha256, *(digest for _, digest in sorted(model.sha256s.items())))


def answer_fit(fit: Fit) -> Outcome:
    """Say whether this worker can be used, and load the networks."""
    with _ONE_SCAN:
        try:
            return Outcome(runtimes=runtimes(_model_of(fit)))
        except UnfitError as error:
            return Outcome(unfit=str(error))


def segment_there(order: Order, job: ScanJob) -> Outcome:
    """Segment a scan on a worker, unless that was done; whatever the scan causes is told, nothing is raised.

    Args:
        order: What all scans share.
        job: The scan; its paths are absolute.
    """
    from distributed import get_worker

    where = get_worker()
    with _ONE_SCAN, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model = _model_of(order.fit)
        except UnfitError as error:
            time.sleep(UNFIT_S)
            return Outcome(unfit=str(error), worker=where.address)
        limit_mib = _limit_mib(where.memory_manager.memory_limit, order.max_memory_mib)
        try:
            with _begun(job, order.fit.token), _on_disk(job) as here:
                found = _segment(here, model, order.options, limit_mib, own=order.max_memory_mib == limit_mib)
        except Exception as error:  # whatever a scan causes is that scan's (docs/promises.md)
            problem = as_problem(job, error)
            found = Outcome(str(problem), problem)
    notes = tuple(
        (one.category, str(one.message))
        for one in told
        if one.category is UserWarning or one.category.__module__.startswith("viscera")
    )
    if found.error is not None:
        found = replace(found, error=_alone(found.error, job))
    return replace(found, worker=where.address, runtimes=runtimes(model), notes=notes)


def _alone(error: VisceraError, job: ScanJob) -> VisceraError:
    """Return an error without those that led to it: other libraries' cannot always be sent, and may hold what is not to be told."""
    error.__cause__ = error.__context__ = None
    if job.url:  # the file is gone
        error.what, error.file = without_folders(error.what, str(error.file or "")), job.scan.name
    return error.with_traceback(None)


@contextmanager
def _on_disk(job: ScanJob) -> Iterator[ScanJob]:
    """Yield a job whose scan is on the disk."""
    with fetched(job.url) if job.url else nullcontext(job.scan) as scan:
        yield ScanJob(scan, job.output)


def _segment(job: ScanJob, model: Model, options: PredictOptions, limit_mib: float | None, *, own: bool) -> Outcome:
    """Do what ``predict_all`` does with one scan."""
    with begin(model, options, max_memory_mib=limit_mib, watch=lambda done, slices: None) as run:
        before = outcome_before(job, run)
        if isinstance(before, VisceraError):
            log_result(job, model, before, secret=options.dicom.secret)
            return Outcome(str(before), before)
        if before is not None:
            return Outcome(before)
        try:
            _require_room(job, run, own=own)
            facts = write_labels(segment_scan(read_scan(job, run), run), run)
        except DoneMeanwhileError:
            return Outcome("was done")
        except Exception as error:  # whatever a scan causes is that scan's (docs/promises.md)
            problem = as_problem(job, error)
            log_result(job, model, problem, secret=options.dicom.secret)
            return Outcome(str(problem), problem)
        log_result(job, model, facts, secret=options.dicom.secret)
        return Outcome("segmented")


def _require_room(job: ScanJob, run: Run, *, own: bool) -> None:
    """Raise SettingError where a scan does not fit into the worker's memory; its remedy is the workers', not --max-memory."""
    try:
        run.budget.plan(job.scan)
    except SettingError as error:
        if own:
            raise
        what = error.what.replace(
            f"--max-memory {run.budget.most_mib:g}", f"a worker has {run.budget.most_mib:.0f} MiB"
        )
        raise SettingError(what, "Start workers with more memory (--memory-limit), or fewer on a machine.") from error


def _limit_mib(most_bytes: int | None, asked_mib: float | None) -> float | None:
    """Return what a scan may take of a worker's memory."""
    own_mib = float(int(BUDGET * most_bytes / MIB)) if most_bytes else None
    limits = [limit for limit in (asked_mib, own_mib) if limit is not None]
    return min(limits, default=None)


@contextmanager
def _begun(job: ScanJob, token: str) -> Iterator[None]:
    """Note that a scan has been begun, as long as the block lasts.

    Raises:
        RunError: As many workers died of it as may.
        TakenError: Another worker has it, and does not end.
        FileError: Nothing can be written there.
    """
    note = job.output.with_name(f".{job.output.name}.begun")
    with writing(job.output):
        note.parent.mkdir(parents=True, exist_ok=True)
    with _when_free(note):
        died = _deaths(note, token)
        try:
            if died >= DEATHS:
                _clear_up(job)
                raise RunError(
                    f"{job.scan.name}: {died} workers died while they segmented it",
                    "See their logs for the reason (memory, in most cases); the same command tries it again.",
                )
            with writing(note):
                note.write_text(f"{token} {died + 1}\n", encoding="ascii")
            yield
        finally:
            with writing(note):
                note.unlink(missing_ok=True)


def _clear_up(job: ScanJob) -> None:
    """Remove what workers that died left of a scan."""
    remove_abandoned_lock(job.output)
    for file in (job.output, job.sidecar):
        with suppress(OSError):
            remove_abandoned(file)


def _deaths(note: Path, token: str) -> int:
    """Return how many workers have begun a scan in this command, and not ended it."""
    try:
        whose, count = note.read_text(encoding="ascii").split()
        return int(count) if whose == token else 0
    except (OSError, ValueError):
        return 0


@contextmanager
def _when_free(note: Path) -> Iterator[None]:
    """Hold the lock of a note, as soon as who holds it lets it go."""
    ends = time.monotonic() + WAIT_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(only_writer(note))
                break
            except TakenError:
                if time.monotonic() > ends:
                    raise
                time.sleep(UNFIT_S / 4)
        yield


@lru_cache(maxsize=1)
def _model_of(fit: Fit) -> Model:
    """Return the networks, after a look at whether this worker sees what it has to; both once for each command.

    Raises:
        UnfitError: It does not, or the networks cannot be loaded.
    """
    here = version("viscera")
    if here != fit.viscera:
        raise UnfitError(f"it has viscera {here}, not {fit.viscera}", "Start workers in the same environment.")
    try:
        seen = fit.probe.read_text(encoding="ascii") == fit.token
        own = fit.probe.with_name(f"{fit.probe.name}-{uuid4().hex}")
        own.touch()
        own.unlink()
    except (OSError, ValueError):
        seen = False
    if not seen:
        raise UnfitError(
            f"it cannot write to {fit.probe.parent}, or that is another folder there",
            "Choose an output on a disk that all machines share.",
        )
    gone = next((scan for scan in fit.scans if not scan.exists()), None)
    if gone is not None:
        raise UnfitError(f"it does not see {gone.name}", "Put the scans on a disk that all machines share.")
    return _loaded(fit.networks, fit.sha256s)


@lru_cache(maxsize=1)
def _loaded(networks: Networks, sha256s: tuple[str, ...]) -> Model:
    """Load the networks, once for each process as long as their weights are the same."""
    from distributed import get_worker

    cores = networks.cores or get_worker().state.nthreads
    try:
        model = load_networks(replace(networks, cores=min(cores, usable_cores())))
    except VisceraError as error:
        raise UnfitError(error.what, error.remedy) from error
    except Exception as error:  # of a library that is missing there, of a GPU that is full ...
        raise UnfitError(f"it cannot load the networks ({type(error).__name__})", "See its log.") from error
    if weights_of(model) != sha256s:
        raise UnfitError("it has other weights there (SHA-256)", "Put weights on a disk that all machines share.")
    return model
