"""What a worker of a cluster does with a scan: the networks are loaded once, a scan is segmented at a time.

What holds for any piece of work is in io/cluster_pieces.py; the note of a scan stands beside its label map, as .NAME.nii.gz.begun.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from viscera.errors import SettingError, VisceraError
from viscera.inference.dicom_objects import log_result
from viscera.inference.faults import as_problem
from viscera.inference.identity import runtimes
from viscera.inference.jobs import ScanJob
from viscera.inference.loading import Networks, load_networks
from viscera.inference.model import Model
from viscera.inference.predict import read_scan, segment_scan, write_labels
from viscera.inference.run import DoneMeanwhileError, PredictOptions, Run, begin, outcome_before
from viscera.io.atomic import remove_abandoned
from viscera.io.cluster_pieces import Place, UnfitError, begun, require_place
from viscera.io.clusters import BUDGET, MIB
from viscera.io.cores import usable_cores
from viscera.io.fetching import fetched
from viscera.io.locks import remove_abandoned_lock
from viscera.io.paths_in_text import without_folders


@dataclass(frozen=True)
class Fit:
    """By what a worker knows that it can be used.

    Attributes:
        networks: To load; their paths are absolute.
        sha256s: Of their weights, as the one who asks sees them.
        place: Where label maps go, and some of the scans.
    """

    networks: Networks
    sha256s: tuple[str, ...]
    place: Place


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
        runtimes: What ran the networks.
    """

    how: str = ""
    error: VisceraError | None = None
    runtimes: tuple[str, ...] = ()


def weights_of(model: Model) -> tuple[str, ...]:
    """Return the hashes of a model's weights, in a certain order."""
    return (model.weights_sha256, *(digest for _, digest in sorted(model.sha256s.items())))


def model_of(fit: Fit) -> Model:
    """Return the networks, loaded once, after a look at whether this worker sees what it has to.

    Raises:
        UnfitError: It does not, or the networks cannot be loaded.
    """
    require_place(fit.place)
    return _loaded(fit.networks, fit.sha256s)


def segment_there(order: Order, job: ScanJob) -> Outcome:
    """Segment a scan on a worker, unless that was done; whatever the scan causes is told, nothing is raised.

    Args:
        order: What all scans share.
        job: The scan; its paths are absolute.
    """
    from distributed import get_worker

    model = model_of(order.fit)
    limit_mib = _limit_mib(get_worker().memory_manager.memory_limit, order.max_memory_mib)
    try:
        with begun_scan(job, order.fit.place.token), _on_disk(job) as here:
            found = _segment(here, model, order.options, limit_mib, own=order.max_memory_mib == limit_mib)
    except Exception as error:  # whatever a scan causes is that scan's (docs/promises.md)
        problem = as_problem(job, error)
        found = Outcome(str(problem), problem)
    if found.error is not None:
        found = replace(found, error=_alone(found.error, job))
    return replace(found, runtimes=runtimes(model))


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


def begun_scan(job: ScanJob, token: str) -> AbstractContextManager[None]:
    """Note that a scan has been begun; see ``begun`` (io/cluster_pieces.py)."""
    note = job.output.with_name(f".{job.output.name}.begun")
    return begun(note, token, name=job.scan.name, doing="segmented", clear_up=partial(_clear_up, job))


def _clear_up(job: ScanJob) -> None:
    """Remove what workers that died left of a scan."""
    remove_abandoned_lock(job.output)
    for file in (job.output, job.sidecar):
        with suppress(OSError):
            remove_abandoned(file)


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
