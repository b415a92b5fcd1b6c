"""Work shared out among the workers of a cluster: no piece of work is lost with a worker, or with the scheduler.

What ``share_out`` of processes.py is for processes of one machine. The scheduler is never given all pieces, but two for each
worker: that keeps it as quick with a million pieces as with a hundred, and little has to be called back.
"""

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from viscera.errors import RunError
from viscera.io.clusters import Cluster

if TYPE_CHECKING:
    from distributed import Future

Item = TypeVar("Item")
Result = TypeVar("Result")
LOOK_S = 2.0
"""How often it is looked which workers there are, and whether the scheduler is."""
AHEAD = 2
"""Pieces of work for each worker: the one that it is at, and the next."""
MOST_LOSSES = 5
"""So often Dask may give a piece of work up, because workers died while they had it, before we do; Dask counts those that
were never begun, too."""
MOST_CANCELLED = 100
"""So often a piece may be called back by others, as a scheduler that restarts does."""


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
        while self.waiting and len(self.pending) < AHEAD * max(1, self.workers):
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
            return index, future.result(timeout=AHEAD * LOOK_S)
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

    def call_back(self) -> None:
        """Call back what is not done; what a worker is at, it ends."""
        with suppress(Exception):  # whatever the scheduler says: this is the end
            self.cluster.client.cancel(list(self.pending))


def share_out_over(
    cluster: Cluster, work: Callable[[Item], Result], items: Sequence[Item]
) -> Generator[tuple[int, Result | Lost]]:
    """Yield (number of an item, its result) as each is done. Leaving early calls back what no worker has begun.

    A worker that dies has its pieces done by others. A scheduler that is gone gets them again when it has come back, at the same
    address, so ``work`` must be such that doing it twice is as good as once.

    Args:
        cluster: The workers.
        work: Can be pickled. What it raises is raised here.
        items: Can be pickled, each.

    Raises:
        RunError: The scheduler does not come back.
    """
    sharing = _Sharing(cluster, work, items, deque(range(len(items))))
    try:
        while sharing.waiting or sharing.pending:
            sharing.hand_out()
            try:
                future = sharing.ended.get(timeout=LOOK_S)
            except Empty:
                continue
            found = sharing.taken(future)
            if found is not None:
                yield found
    finally:
        sharing.call_back()


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
