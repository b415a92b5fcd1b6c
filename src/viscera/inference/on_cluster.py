"""Scans on disk -> label maps on disk, by the workers of a cluster: the same files as predict.py makes on one machine.

A scan is a piece of work (io/cluster_sharing.py), which a worker does as cluster_worker.py says. Scans, weights and label maps
lie on a disk that all machines share; that they see the same files is looked at before any work begins.
"""

import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from viscera.errors import RunError, SettingError, VisceraError
from viscera.inference.cluster_worker import Fit, Order, Outcome, answer_fit, segment_there, weights_of
from viscera.inference.colour_files import write_colours
from viscera.inference.failures import forget_failure, note_failure
from viscera.inference.jobs import ScanJob, refuse_scans_as_outputs, require_place
from viscera.inference.loading import Networks
from viscera.inference.model import Model
from viscera.inference.run import PredictOptions
from viscera.io.atomic import writing
from viscera.io.cluster_sharing import Lost, ask_each_worker, share_out_over
from viscera.io.clusters import Cluster
from viscera.io.scans import Scan, files_of


class ClusterWarning(UserWarning):
    """Workers of a cluster differ, or one of them cannot be used."""


def predict_on_cluster(
    jobs: Sequence[ScanJob],
    model: Model,
    cluster: Cluster,
    networks: Networks,
    *,
    options: PredictOptions = PredictOptions(),
    max_memory_mib: float | None = None,
    done: Callable[[ScanJob, str], None] = lambda job, how: None,
) -> list[tuple[ScanJob, VisceraError]]:
    """Segment scans on the workers of a cluster; see ``predict_all``.

    A scan whose worker dies is done by another one; one that two workers died of is set aside as one that cannot be segmented.

    Args:
        jobs: From ``find_scan_jobs`` (jobs.py).
        model: As loaded here: says which organs and weights.
        cluster: The workers.
        networks: What workers load.
        options: What to write.
        max_memory_mib: The most that each worker may hold; None: what Dask allows it.
        done: Told of each scan, in whatever order they end, how it went: "segmented", "was done" or the error's message.

    Returns:
        The scans that could not be segmented, and why.

    Raises:
        FileError: Something that is to be written is one of the scans.
        SettingError: A worker sees other files than we do, cannot run the networks, or the paths are no others' (of a ZIP).
        RunError: The scheduler is gone, and does not come back.

    Warns:
        KeptWarning: Colours that viscera did not write stand beside the label maps.
        ClusterWarning: Networks are not run in the same way on all machines; a worker that came later cannot be used.
    """
    refuse_scans_as_outputs(jobs)
    if not jobs:
        return []
    there = [replace(job, scan=_absolute(job, cluster), output=job.output.absolute()) for job in jobs]
    failed: dict[int, VisceraError] = {}
    with _fit_for(there, model, networks) as fit:
        _require_fit(cluster, fit)
        for index, outcome in _outcomes(cluster, Order(fit, options, max_memory_mib), there):
            job, error = jobs[index], outcome.error
            if error is not None:
                failed[index] = error
                if len(jobs) > 1:
                    note_failure(job.output, job.scan.name, error)
            elif outcome.how == "was done":
                forget_failure(job.output)
            done(job, outcome.how)
    for folder in {job.output.parent for job in jobs if job.output.exists()}:
        write_colours(folder, model.output_space)
    return [(jobs[index], error) for index, error in sorted(failed.items(), key=lambda pair: pair[0])]


def _outcomes(cluster: Cluster, order: Order, jobs: Sequence[ScanJob]) -> Iterator[tuple[int, Outcome]]:
    """Yield what became of each scan; one that came to a worker that cannot be used is given to others."""
    left, unfit, ways = list(range(len(jobs))), {}, set()
    while left:
        again = []
        for place, found in share_out_over(cluster, partial(segment_there, order), [jobs[index] for index in left]):
            index = left[place]
            outcome = _lost(jobs[index]) if isinstance(found, Lost) else found
            if outcome.unfit:
                again.append(index)
                _send_away(cluster, outcome, unfit)
                continue
            for kind, text in outcome.notes:
                warnings.warn(text, kind, stacklevel=2)
            if outcome.runtimes and outcome.runtimes not in ways:
                ways.add(outcome.runtimes)
                if len(ways) == 2:
                    _tell_ways(ways)
            yield index, outcome
        left = sorted(again)


def _lost(job: ScanJob) -> Outcome:
    """Return what became of a scan that Dask gave up again and again, since workers die before they can note that they begin."""
    what = f"{job.scan.name}: workers died again and again while they had it"
    problem = RunError(what, "See their logs; the same command tries it again.")
    return Outcome(str(problem), problem)


def _send_away(cluster: Cluster, outcome: Outcome, unfit: dict[str, str]) -> None:
    """Let a worker that cannot be used end, and warn of it, once: it would be the quickest to take all scans, and do none.

    Raises:
        SettingError: No other worker is left.
    """
    if outcome.worker in unfit:
        return
    unfit[outcome.worker] = outcome.unfit
    with suppress(OSError):  # of a scheduler that is away
        if unfit.keys() >= cluster.workers().keys():
            raise SettingError(f"no worker can be used: {outcome.unfit}")
        cluster.send_away(outcome.worker)
    warnings.warn(f"the worker {outcome.worker} is sent away: {outcome.unfit}", ClusterWarning, stacklevel=3)


def _tell_ways(ways: set[tuple[str, ...]]) -> None:
    """Warn that networks are not run in the same way on all machines."""
    named = " and ".join(sorted(", ".join(way) for way in ways))
    warnings.warn(
        f"workers run the networks in different ways ({named}), since their processors or programs differ: label maps may differ "
        "in single voxels. NAME.json says which it was; --runtime openvino, onnx or torch makes them more alike.",
        ClusterWarning,
        stacklevel=3,
    )


@contextmanager
def _fit_for(jobs: Sequence[ScanJob], model: Model, networks: Networks) -> Iterator[Fit]:
    """Yield by what workers know that they see the same files, as long as the file that tells them stands there."""
    token = secrets.token_hex(8)
    require_place(jobs[0].output)
    probe = jobs[0].output.with_name(f".viscera-cluster-{token}")
    with writing(probe.parent):
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text(token, encoding="ascii")
    scans = tuple(file for job in (jobs[0], jobs[-1]) for file in files_of(job.scan)[:1] if file.exists())
    try:
        yield Fit(networks, weights_of(model), version("viscera"), probe, token, scans)
    finally:
        with writing(probe):
            probe.unlink(missing_ok=True)


def _require_fit(cluster: Cluster, fit: Fit) -> None:
    """Raise SettingError where a worker that is there cannot be used."""
    for worker, answer in ask_each_worker(cluster, partial(answer_fit, fit)).items():
        if answer.unfit:
            raise SettingError(f"the worker {worker} cannot be used: {answer.unfit}")


def _absolute(job: ScanJob, cluster: Cluster) -> Scan:
    """Return a job's scan by paths that hold on any machine with the same disk.

    Raises:
        SettingError: Its files were unpacked on this machine, for as long as this command runs.
    """
    scan = job.scan
    if isinstance(scan, Path):
        return scan if job.url else scan.absolute()
    from viscera.dicom.series import Series

    if not isinstance(scan, Series):
        raise SettingError(f"{scan.name} cannot be handed to other processes", "Leave --cluster out.")
    if scan.kept is not None and not cluster.address.local:
        raise SettingError(
            f"{scan.name} is in a ZIP, which only this machine has unpacked", "Unpack it on the shared disk."
        )
    return replace(scan, slices=tuple(replace(one, file=one.file.absolute()) for one in scan.slices))
