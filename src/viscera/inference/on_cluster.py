"""Scans on disk -> label maps on disk, by the workers of a cluster: the same files as predict.py makes on one machine.

A scan is a piece of work (io/cluster_sharing.py), which a worker does as cluster_worker.py says. Scans, weights and label maps
lie on a disk that all machines share; that they see the same files is looked at before any work begins.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from viscera.dicom.elsewhere import absolute_scan
from viscera.errors import RunError, VisceraError
from viscera.inference.cluster_worker import Fit, Order, Outcome, model_of, segment_there, weights_of
from viscera.inference.colour_files import write_colours
from viscera.inference.failures import forget_failure, note_failure
from viscera.inference.jobs import ScanJob, refuse_scans_as_outputs, require_place
from viscera.inference.loading import Networks
from viscera.inference.model import Model
from viscera.inference.run import PredictOptions
from viscera.io.cluster_pieces import Work
from viscera.io.cluster_sharing import ClusterWarning, Lost, do_over, require_fit, shared_place
from viscera.io.clusters import Cluster
from viscera.io.scans import files_of
from viscera.networks.cards import as_shipped


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
    there = [_absolute(job, cluster) for job in jobs]
    failed: dict[int, VisceraError] = {}
    with _fit_for(there, model, networks) as fit:
        require_fit(cluster, partial(model_of, fit))
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


def elsewhere(networks: Networks, model: Model) -> Networks:
    """Return networks by paths that hold for processes in other folders, and in the precision that was the faster one here.

    Bundled weights go by their name. What each worker measured would differ even among machines of one kind.
    """

    def whole(path: Path | None) -> Path | None:
        """Return a path from the root."""
        named = path is not None and not path.exists() and as_shipped(path, networks.shipped)
        return path if path is None or named else path.absolute()

    return replace(
        networks,
        weights=whole(networks.weights),
        tumour=whole(networks.tumour),
        finder=whole(networks.finder),
        precision=model.network.precision if model.card is not None else None,
    )


def _outcomes(cluster: Cluster, order: Order, jobs: Sequence[ScanJob]) -> Iterator[tuple[int, Outcome]]:
    """Yield what became of each scan."""
    ways: set[tuple[str, ...]] = set()
    work = Work(partial(model_of, order.fit), partial(segment_there, order))
    for index, found in do_over(cluster, work, jobs):
        outcome = _lost(jobs[index]) if isinstance(found, Lost) else found
        if outcome.runtimes and outcome.runtimes not in ways:
            ways.add(outcome.runtimes)
            if len(ways) == 2:
                _tell_ways(ways)
        yield index, outcome


def _lost(job: ScanJob) -> Outcome:
    """Return what became of a scan that Dask gave up again and again, since workers die before they can note that they begin."""
    what = f"{job.scan.name}: workers died again and again while they had it"
    problem = RunError(what, "See their logs; the same command tries it again.")
    return Outcome(str(problem), problem)


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
    """Yield by what workers know that they can be used; see ``shared_place``."""
    require_place(jobs[0].output)
    scans = [file for job in (jobs[0], jobs[-1]) for file in files_of(job.scan)[:1]]
    with shared_place(jobs[0].output.parent, scans) as place:
        yield Fit(networks, weights_of(model), place)


def _absolute(job: ScanJob, cluster: Cluster) -> ScanJob:
    """Return a job by paths that hold on any machine with the same disk.

    Raises:
        SettingError: Its files were unpacked on this machine, for as long as this command runs.
    """
    scan = job.scan if job.url else absolute_scan(job.scan, here=bool(cluster.address.local))
    return replace(job, scan=scan, output=job.output.absolute())
