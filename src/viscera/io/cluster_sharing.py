"""Work shared out among the workers of a cluster: no piece of work is lost with a worker, or with the scheduler.

What ``share_out`` of processes.py is for processes of one machine. The scheduler is never given all pieces, but two for each
worker: that keeps it as quick with a million pieces as with a hundred, and little has to be called back.
"""

import secrets
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from viscera.errors import RunError, SettingError
from viscera.io.atomic import writing
from viscera.io.cluster_pieces import Answer, Place, Work, answer, why_unfit
from viscera.io.clusters import Cluster

if TYPE_CHECKING:
    from distributed import Future

Item = TypeVar("Item")
Result = TypeVar("Result")
NOTES = ".cluster"
"""The folder in which workers note what they begin; it goes with the command."""
LOOK_S = 2.0
"""How often it is looked which workers there are, and whether the scheduler is."""
AHEAD = 2
"""Pieces of work for each worker: the one that it is at, and the next."""
MOST_LOSSES = 5
"""So often Dask may give a piece of work up, because workers died while they had it, before we do; Dask counts those that
were never begun, too."""
MOST_CANCELLED = 100
"""So often a piece may be called back by others, as a scheduler that restarts does."""


class ClusterWarning(UserWarning):
    """Workers of a cluster differ, or one of them cannot be used."""


@dataclass(frozen=True)
class Lost:
    """What became of a piece of work whose workers died again and again."""


@dataclass(eq=False)
class _Sharing(Generic[Item, Result]):
    """What is where; ``share_out_over`` explains the rest."""

    cluster: Cluster
    work: Callable[[Item], Result]
    items: Sequence[Item]
    waiting: "deque[int]"
    is_refused: Callable[[Result], bool]
    ordered: bool
    first: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    pending: "dict[Future, int]" = field(default_factory=dict)
    ended: "SimpleQueue[Future]" = field(default_factory=SimpleQueue)
    losses: "Counter[int]" = field(default_factory=Counter)
    cancelled: "Counter[int]" = field(default_factory=Counter)
    handed: int = 0
    workers: int = 0
    looked: float = float("-inf")

    def hand_out(self) -> None:
        """Hand out as many pieces as the workers can have; of their names the scheduler learns nothing."""
        self.cluster.require_open()
        now = time.monotonic()
        if now - self.looked > LOOK_S:
            self.looked = now
            with suppress(OSError):  # it is away; the client looks for it
                self.workers = len(self.cluster.workers())
        most = AHEAD * max(1, self.workers)
        while self.waiting and len(self.pending) < most and not self.is_far_ahead(self.waiting[0], most):
            index = self.waiting.popleft()
            self.handed += 1
            key = f"viscera-{self.token}-{self.handed}"
            future = self.cluster.client.submit(self.work, self.items[index], key=key, pure=False)
            self.pending[future] = index
            future.add_done_callback(self.ended.put)

    def taken(self, future: "Future") -> tuple[int, Result | Lost] | None:
        """Return the result of a piece; None where it has to be done again."""
        from distributed import CancelledError, KilledWorker

        index = self.pending.pop(future)
        try:
            result = future.result(timeout=AHEAD * LOOK_S)
            if not self.is_refused(result):
                return index, result
        except KilledWorker:
            self.losses[index] += 1
            if self.losses[index] >= MOST_LOSSES:
                return index, Lost()
        except (CancelledError, OSError) as error:  # with the scheduler, or the result's worker, or on Dask's page
            self.cancelled[index] += 1
            if self.cancelled[index] >= MOST_CANCELLED:
                raise RunError("the scheduler calls work back again and again", "Look at its log.") from error
        finally:
            future.release()  # a result that is still wanted when its worker dies is made once more
        self.waiting.appendleft(index)
        return None

    def is_far_ahead(self, index: int, most: int) -> bool:
        """Tell whether the result of a piece would have to be kept for long, until those before it are there."""
        return self.ordered and index >= self.first + most

    def call_back(self) -> None:
        """Call back what is not done; what a worker is at, it ends."""
        with suppress(Exception):  # whatever the scheduler says: this is the end
            self.cluster.client.cancel(list(self.pending))


def share_out_over(
    cluster: Cluster,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    is_refused: Callable[[Result], bool] = lambda result: False,
    ordered: bool = False,
) -> Generator[tuple[int, Result | Lost]]:
    """Yield (number of an item, its result) as each is done. Leaving early calls back what no worker has begun.

    A worker that dies has its pieces done by others. A scheduler that is gone gets them again when it has come back, at the same
    address, so ``work`` must be such that doing it twice is as good as once.

    Args:
        cluster: The workers.
        work: Can be pickled. What it raises is raised here.
        items: Can be pickled, each.
        is_refused: Told each result; where it is True, the piece is given to a worker once more.
        ordered: Yield the items in their order; few results wait for those before them.

    Raises:
        RunError: The scheduler does not come back.
    """
    sharing = _Sharing(cluster, work, items, deque(range(len(items))), is_refused, ordered)
    kept: dict[int, Result | Lost] = {}
    try:
        while sharing.waiting or sharing.pending:
            sharing.hand_out()
            try:
                future = sharing.ended.get(timeout=LOOK_S)
            except Empty:
                continue
            found = sharing.taken(future)
            if found is not None and not ordered:
                yield found
            elif found is not None:
                kept[found[0]] = found[1]
                while sharing.first in kept:
                    sharing.first += 1
                    yield sharing.first - 1, kept.pop(sharing.first - 1)
    finally:
        sharing.call_back()


def do_over(
    cluster: Cluster, work: Work[Item, Result], items: Sequence[Item], *, ordered: bool = False
) -> Generator[tuple[int, Result | Lost]]:
    """Yield what became of each piece, as ``share_out_over``; one that came to a worker that cannot be used is given to others.

    What workers warned of is warned of here.

    Raises:
        SettingError: No worker can be used.
        RunError: The scheduler does not come back.

    Warns:
        ClusterWarning: A worker cannot be used, and is sent away.
    """
    unfit: dict[str, str] = {}

    def is_refused(found: Answer[Result]) -> bool:
        """Send a worker away that cannot be used."""
        if found.unfit:
            _send_away(cluster, found, unfit)
        return bool(found.unfit)

    shared = share_out_over(cluster, partial(answer, work), items, is_refused=is_refused, ordered=ordered)
    with closing(shared):
        for index, found in shared:
            if isinstance(found, Lost):
                yield index, found
                continue
            for kind, text in found.notes:
                warnings.warn(text, kind, stacklevel=2)
            yield index, cast("Result", found.result)


def _send_away(cluster: Cluster, found: Answer, unfit: dict[str, str]) -> None:
    """Let a worker that cannot be used end, and warn of it, once: it would be the quickest to take all pieces, and do none.

    Raises:
        SettingError: No other worker is left.
    """
    told = found.worker in unfit
    unfit[found.worker] = found.unfit
    with suppress(OSError):  # of a scheduler that is away
        workers = cluster.workers().keys()
        if unfit.keys() >= workers:
            raise SettingError(f"no worker can be used: {found.unfit}")
        if found.worker in workers:
            cluster.send_away(found.worker)
    if not told:
        warnings.warn(f"the worker {found.worker} is sent away: {found.unfit}", ClusterWarning, stacklevel=4)


@contextmanager
def shared_place(folder: Path, inputs: Sequence[Path] = ()) -> Iterator[Place]:
    """Yield by what workers know that they see the same files, as long as the file that tells them stands there.

    Args:
        folder: Where results go; it is made.
        inputs: Some of the files that are read.

    Raises:
        FileError: Nothing can be written there.
    """
    token = secrets.token_hex(8)
    probe = folder.absolute() / f".viscera-cluster-{token}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(token, encoding="ascii")
    try:
        yield Place(version("viscera"), probe, token, tuple(file.absolute() for file in inputs if file.exists()))
    finally:
        with writing(probe):
            probe.unlink(missing_ok=True)


@contextmanager
def shared_notes(folder: Path, inputs: Sequence[Path] = ()) -> Iterator[Place]:
    """Yield a ``shared_place`` in a hidden folder of its own, which goes when no worker has anything there."""
    try:
        with shared_place(folder / NOTES, inputs) as place:
            yield place
    finally:
        with suppress(OSError):
            (folder / NOTES).rmdir()


def require_fit(cluster: Cluster, get_ready: Callable[[], object]) -> None:
    """Raise SettingError where a worker that is there cannot be used (``Work.get_ready``); it waits until there is one."""
    for worker, unfit in ask_each_worker(cluster, partial(why_unfit, get_ready)).items():
        if unfit:
            raise SettingError(f"the worker {worker} cannot be used: {unfit}")


def ask_each_worker(cluster: Cluster, question: Callable[[], Result]) -> dict[str, Result]:
    """Return {worker: its answer}, of those that there are now; it waits until there is one.

    Raises:
        RunError: A worker ended over the question; what the question raises.
    """
    while not (workers := list(cluster.workers())):
        cluster.require_open()
        time.sleep(LOOK_S / 4)
    token = secrets.token_hex(4)
    asked = {
        worker: cluster.client.submit(
            question, key=f"viscera-{token}-{number}", workers=[worker], allow_other_workers=False, pure=False
        )
        for number, worker in enumerate(workers)
    }
    answers: dict[str, Result] = {}
    for worker, future in asked.items():
        while not future.done():
            cluster.require_open()
            if worker not in cluster.workers():
                raise RunError(
                    f"the worker {worker} ended while it got ready",
                    "Look at its log; if memory was short, start workers with more (--memory-limit).",
                )
            time.sleep(LOOK_S / 20)
        answers[worker] = future.result()
    return answers
