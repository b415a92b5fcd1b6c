"""Cases of data sets -> a store, by the workers of a cluster: the same store as prepare.py makes on one machine.

A case is a piece of work (io/cluster_sharing.py). Data sets and store lie on a disk that all machines share.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from viscera.datasets.elsewhere import absolute_source, first_files
from viscera.datasets.sources import Problem, Source
from viscera.errors import RunError, VisceraError
from viscera.io.cluster_pieces import Place, Work, noted, require_place
from viscera.io.cluster_sharing import Lost, do_over, require_fit, shared_notes
from viscera.io.clusters import Cluster
from viscera.preparation.case import case_name
from viscera.preparation.prepare import attempt, problem_of
from viscera.preparation.store import Store


def prepare_over(cluster: Cluster, store: Store, sources: Sequence[Source]) -> Generator[tuple[Source, Problem | None]]:
    """Prepare sources on workers; yield each as it is done, with what was wrong. Leaving early hands out nothing further.

    Raises:
        SettingError: A worker sees other files than we do, or a case is in a ZIP that only this machine has unpacked.
        RunError: The scheduler is gone, and does not come back.

    Warns:
        ClusterWarning: A worker that came later cannot be used.
    """
    if not sources:
        return
    there = [absolute_source(source, here=bool(cluster.address.local)) for source in sources]
    with shared_notes(store.path, first_files(there)) as place:
        get_ready = partial(require_place, place)
        require_fit(cluster, get_ready)
        work = Work(get_ready, partial(prepare_there, place, replace(store, path=store.path.absolute())))
        with closing(do_over(cluster, work, there)) as outcomes:
            for index, found in outcomes:
                yield sources[index], _lost(sources[index]) if isinstance(found, Lost) else found


def prepare_there(place: Place, store: Store, source: Source) -> Problem | None:
    """Prepare a source on a worker; whatever it causes is told, nothing is raised."""
    try:
        with noted(place, case_name(source), name=source.name, doing="prepared"):
            return attempt(store, source)
    except VisceraError as error:
        return problem_of(error, source)


def _lost(source: Source) -> Problem | None:
    """Return what became of a case that Dask gave up, since workers die before they can note that they begin."""
    return problem_of(RunError("workers died again and again while they had it", "See their logs."), source)
