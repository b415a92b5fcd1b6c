"""Pseudo-labels by the workers of a cluster: the same as filling.py gives on one machine.

A case is a piece of work (io/cluster_sharing.py); the teachers are loaded once by each worker. Runs and store lie on a disk that
all machines share.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from viscera.config import Accelerator
from viscera.errors import RunError, VisceraError
from viscera.inference.model import Model
from viscera.io.cluster_pieces import Place, UnfitError, Work, noted, require_place
from viscera.io.cluster_sharing import Lost, do_over, require_fit, shared_notes
from viscera.io.clusters import Cluster
from viscera.io.cores import usable_cores
from viscera.learning.pseudolabels.acceptance import Verdict
from viscera.learning.pseudolabels.filling import Filling, Question, fill_in
from viscera.learning.pseudolabels.teachers import Teacher, find_teacher
from viscera.preparation.store import Store


@dataclass(frozen=True)
class Runs:
    """What a worker loads.

    Attributes:
        paths: Of the teachers, from the root.
        sha256s: Of their weights, as the one who asks sees them.
        device: Where they run.
        place: Where workers note what they begin.
    """

    paths: tuple[Path, ...]
    sha256s: tuple[str, ...]
    device: Accelerator
    place: Place


def fill_over(
    cluster: Cluster,
    paths: Sequence[Path],
    teachers: Sequence[Teacher],
    device: Accelerator,
    store: Store,
    filling: Filling,
    questions: Sequence[Question],
) -> Generator[tuple[str, list[Verdict] | VisceraError]]:
    """Fill in cases on workers; yield each as it is done. Leaving early hands out nothing further.

    Args:
        cluster: The workers.
        paths: Where the teachers are, in their order.
        teachers: As loaded here.
        device: Where workers run them.
        store: Whose cases they are.
        filling: What all cases share.
        questions: What the teachers are asked about each case.

    Raises:
        SettingError: A worker sees other files than we do, or cannot load the teachers.
        RunError: The scheduler is gone, and does not come back.

    Warns:
        ClusterWarning: A worker that came later cannot be used.
    """
    if not questions:
        return
    sha256s = tuple(teacher.model.weights_sha256 for teacher in teachers)
    root = replace(store, path=store.path.absolute())
    inputs = [store.path / "cases" / one.name / "case.json" for one in (questions[0], questions[-1])]
    with shared_notes(store.path, inputs) as place:
        runs = Runs(tuple(path.absolute() for path in paths), sha256s, device, place)
        get_ready = partial(models_of, runs)
        require_fit(cluster, get_ready)
        work = Work(get_ready, partial(fill_there, runs, root, filling))
        with closing(do_over(cluster, work, questions)) as outcomes:
            for index, found in outcomes:
                yield questions[index].name, _lost() if isinstance(found, Lost) else found


def fill_there(runs: Runs, store: Store, filling: Filling, one: Question) -> list[Verdict] | VisceraError:
    """Fill in a case on a worker, or say that workers died of it. What else goes wrong ends the command, as without a cluster."""
    models = models_of(runs)
    with ExitStack() as held:
        try:
            held.enter_context(noted(runs.place, one.name, name=one.name, doing="filled in"))
        except RunError as error:
            return error
        return fill_in(store, models, filling, one)


@lru_cache(maxsize=1)
def models_of(runs: Runs) -> tuple[Model, ...]:
    """Return the teachers' networks, loaded once, after a look at whether this worker sees what it has to.

    Raises:
        UnfitError: It does not, or the networks cannot be loaded.
    """
    from distributed import get_worker

    require_place(runs.place)
    torch.set_num_threads(min(get_worker().state.nthreads, usable_cores()))
    try:
        models = tuple(find_teacher(path, accelerator=runs.device).model for path in runs.paths)
    except VisceraError as error:
        raise UnfitError(error.what, error.remedy) from error
    if tuple(model.weights_sha256 for model in models) != runs.sha256s:
        raise UnfitError("it has other weights there (SHA-256)", "Put runs on a disk that all machines share.")
    return models


def _lost() -> RunError:
    """Return what became of a case that Dask gave up, since workers die before they can note that they begin."""
    return RunError(
        "workers died again and again while they had it", "See their logs; the same command tries it again."
    )
