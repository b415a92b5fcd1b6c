"""A cluster of worker processes by Dask: on this machine, as jobs of a queue, or at the address of a scheduler that runs elsewhere.

Dask exchanges pickled objects, so a scheduler's address is one to be trusted as much as its machine. How jobs are submitted is in
queue_clusters.py, what is done on a cluster in cluster_sharing.py.
"""

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from viscera.errors import RunError, SettingError
from viscera.io.extras import is_installed
from viscera.io.free_memory import free_memory_mib
from viscera.io.queue_clusters import MOST_JOBS, QUEUES, queue_of_jobs, require_queue

if TYPE_CHECKING:
    from distributed import Client

MIB = 2**20
ANSWER_S = 5.0
"""How long a scheduler may take to answer at all."""
AWAY_S = 60.0
"""How long a scheduler that answered may be gone: what was not done is then handed to the one that has come back."""
BUDGET = 0.75
"""Share of a worker's memory that scans may take: at 0.8 Dask pauses a worker, at 0.95 it kills it (distributed.yaml)."""
MOST_LOCAL = 1024
"""Workers on this machine."""
QUEUE_FORM = "slurm:N[:FILE]"
"""How jobs of a queue are asked for; others likewise."""


@dataclass(frozen=True)
class Address:
    """Where workers are.

    Attributes:
        local: How many are to be started on this machine; 0: a scheduler has them.
        url: Of the scheduler; "" for workers of our own.
        queue: Of which they are jobs; "" for none.
        jobs: How many.
        file: The queue's configuration, beside that in ~/.config/dask.
    """

    local: int = 0
    url: str = ""
    queue: str = ""
    jobs: int = 0
    file: Path | None = None

    @property
    def where(self) -> str:
        """What messages say of the place."""
        return "here" if self.local else f"in jobs of {self.queue}" if self.queue else f"at {self.url}"


@dataclass(frozen=True, eq=False)
class Cluster:
    """Workers that can be given work.

    Attributes:
        client: Dask's.
        address: Where they are.
        dashboard: Dask's page on them; "" where it has none.
    """

    client: "Client"
    address: Address
    dashboard: str

    def workers(self) -> dict[str, int]:
        """Return {address: threads} of the workers that there are now.

        Raises:
            OSError: The scheduler does not answer.
        """
        return dict(cast("dict[str, int]", self.client.nthreads()))

    def send_away(self, worker: str) -> None:
        """Let a worker end; what it has been given, others do.

        Raises:
            OSError: The scheduler does not answer.
        """
        self.client.retire_workers([worker])

    def require_open(self) -> None:
        """Raise RunError where the scheduler has been gone for too long."""
        if self.client.status in ("closed", "closing"):
            raise RunError(
                f"the scheduler {self.address.where} has been gone for {AWAY_S:.0f} s",
                "Start it and its workers again; the same command goes on.",
            )


def parse_address(text: str) -> Address:
    """Return what --cluster says.

    Raises:
        SettingError: It is neither local:N, nor QUEUE:N, nor the address of a scheduler; or Dask is not installed.

    Example:
        >>> parse_address("local:4").local
        4
        >>> parse_address("tcp://node07:8786").url
        'tcp://node07:8786'
        >>> parse_address("slurm:20:site.yaml").jobs
        20
    """
    queued = re.fullmatch(rf"({'|'.join(QUEUES)}):(\d{{1,5}})(?::(.+))?", text)
    local = re.fullmatch(r"local:(\d{1,6})", text)
    if local is None and queued is None and not re.fullmatch(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}", text):
        raise SettingError(
            f"--cluster {text}: neither local:N nor tcp://HOST:PORT nor {QUEUE_FORM}",
            "Give local:4 for four processes here, a Dask scheduler's address, or slurm:20 for twenty jobs of SLURM "
            "(docs/cohorts.md).",
        )
    if local is not None and not 1 <= int(local[1]) <= MOST_LOCAL:
        raise SettingError(f"--cluster {text}: there must be 1 to {MOST_LOCAL} workers", "Give local:4, for instance.")
    if queued is not None and not 1 <= int(queued[2]) <= MOST_JOBS:
        raise SettingError(
            f"--cluster {text}: there must be 1 to {MOST_JOBS} jobs", f"Give {queued[1]}:20, for instance."
        )
    if not is_installed("distributed"):
        raise SettingError(
            f"--cluster {text} needs distributed (Dask), which is not installed",
            "Install it: pip install 'viscera[cluster]'.",
        )
    if queued is not None:
        return Address(queue=queued[1], jobs=int(queued[2]), file=Path(queued[3]) if queued[3] else None)
    return Address(int(local[1])) if local else Address(url=text)


@contextmanager
def joined(address: Address, *, memory_mib: float | None = None) -> Iterator[Cluster]:
    """Start workers on this machine, which end with the block, or join a scheduler; Ctrl-C does not reach the former.

    Args:
        address: Where.
        memory_mib: What the work of each worker on this machine may take; None: its share of what is free.

    Raises:
        SettingError: No scheduler answers there.
    """
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(logging.CRITICAL):
        if address.local:
            yield from _local(address, memory_mib)
            return
        if address.queue:
            yield from _queued(address)
            return
        require_answer(address)
        from distributed import Client

        try:
            client = Client(address.url, timeout=AWAY_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingError(
                f"what answers at {address.url} is not a Dask scheduler of this version",
                "Check the address, and that the scheduler runs in the same environment as this command.",
            ) from error
        try:
            yield Cluster(client, address, str(client.dashboard_link or ""))
        finally:
            with suppress(OSError):
                client.close(timeout=1)


def _local(address: Address, memory_mib: float | None) -> Iterator[Cluster]:
    """Yield workers on this machine, with one thread each, that listen to this machine only."""
    from distributed import Client, LocalCluster

    from viscera.io.processes import no_interrupts

    most = memory_mib / BUDGET if memory_mib else free_memory_mib() * 0.9 / address.local
    here = "127.0.0.1"
    with no_interrupts():  # the processes, and the thread that starts further ones, inherit it
        cluster = LocalCluster(
            n_workers=address.local,
            threads_per_worker=1,
            processes=True,
            host=here,
            dashboard_address=f"{here}:0",
            worker_dashboard_address=f"{here}:0",
            memory_limit=int(most * MIB),
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster, timeout=AWAY_S, set_as_default=False)
    try:
        yield Cluster(client, address, str(cluster.dashboard_link or "") if is_installed("bokeh") else "")
    finally:
        for (
            nanny
        ) in cluster.workers.values():  # a worker would first end its scan; what is half-written, the next one removes
            nanny.auto_restart = False
            with suppress(psutil.Error):
                if nanny.pid is not None:
                    psutil.Process(nanny.pid).kill()
        with suppress(OSError):
            client.close(timeout=1)
        cluster.close(timeout=10)


def _queued(address: Address) -> Iterator[Cluster]:
    """Yield workers in jobs of a queue, which end with the block."""
    from distributed import Client

    from viscera.io.processes import no_interrupts

    with ExitStack() as held:
        with no_interrupts():  # threads, and the programs that submit jobs, inherit it
            cluster = held.enter_context(queue_of_jobs(address.queue, address.jobs, address.file))
            client = Client(cluster, timeout=AWAY_S, set_as_default=False)
        try:
            yield Cluster(client, address, str(cluster.dashboard_link or "") if is_installed("bokeh") else "")
        finally:
            with suppress(OSError):
                client.close(timeout=1)


def require_answer(address: Address) -> None:
    """Raise SettingError where nothing answers at a scheduler's address, or no jobs can be submitted; before any work begins."""
    if address.local:
        return
    if address.queue:
        require_queue(address.queue, address.file)
        return
    host, _, port = address.url.partition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            pass
    except (OSError, OverflowError) as error:
        raise SettingError(
            f"no scheduler answers at {address.url}",
            "Start one (dask scheduler) and workers (dask worker), or check address and firewall.",
        ) from error
