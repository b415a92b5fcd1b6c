"""viscera predict: scans segmented in this process or on a cluster, with a progress bar. Importing it loads what segments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from viscera.cli.clusters import workers_at
from viscera.cli.console import progress
from viscera.errors import VisceraError
from viscera.inference.jobs import ScanJob
from viscera.inference.loading import Networks
from viscera.inference.model import Model
from viscera.inference.predict import predict_all
from viscera.inference.reading import ReadAhead
from viscera.inference.run import PredictOptions
from viscera.io.clusters import Address


@dataclass(frozen=True)
class Limits:
    """What to write, and within which memory.

    Attributes:
        options: What to write.
        max_memory_mib: The most that each process may hold; None: as much as is convenient.
    """

    options: PredictOptions
    max_memory_mib: float | None = None


def predict_here(
    jobs: Sequence[ScanJob],
    model: Model,
    limits: Limits,
    done: Callable[[ScanJob, str], None],
    *,
    ahead: ReadAhead | None,
) -> list[tuple[ScanJob, VisceraError]]:
    """Segment scans in this process, as ``predict_all`` does, and show how it goes."""

    def tell(job: ScanJob, how: str) -> None:
        """Count a scan."""
        bar.advance(scans)
        done(job, how)

    with progress() as bar:
        scans = bar.add_task("scans", total=len(jobs))
        slices = bar.add_task("slices or windows", total=None)
        return predict_all(
            jobs,
            model,
            options=limits.options,
            max_memory_mib=limits.max_memory_mib,
            ahead=ahead,
            done=tell,
            watch=lambda done, total: bar.update(slices, completed=done, total=total),
        )


def predict_there(
    jobs: Sequence[ScanJob],
    model: Model,
    limits: Limits,
    done: Callable[[ScanJob, str], None],
    *,
    address: Address,
    networks: Networks,
) -> list[tuple[ScanJob, VisceraError]]:
    """Segment scans on a cluster, as ``predict_on_cluster`` does, and show how it goes."""
    from viscera.inference.on_cluster import elsewhere, predict_on_cluster  # here, since few need it

    wrong, begun = 0, time.monotonic()

    def tell(job: ScanJob, how: str) -> None:
        """Show the scans so far, what is wrong with how many, and the rate."""
        nonlocal wrong
        wrong += how not in ("segmented", "was done")
        bar.advance(scans)
        count = bar.tasks[scans].completed
        an_hour = 3600 * count / max(time.monotonic() - begun, 0.001)
        bar.update(scans, description=f"scans, {wrong} failed, {an_hour:.0f} an hour")
        done(job, how)

    with workers_at(address, memory_mib=limits.max_memory_mib) as cluster, progress() as bar:
        scans = bar.add_task("scans, 0 failed", total=len(jobs))
        return predict_on_cluster(
            jobs,
            model,
            cluster,
            elsewhere(networks, model),
            options=limits.options,
            max_memory_mib=limits.max_memory_mib,
            done=tell,
        )
