"""What the verbs share that take --cluster: the option, what it may say, and the workers with a line on how many there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from viscera.cli.console import counted, say
from viscera.errors import SettingError

if TYPE_CHECKING:
    from viscera.io.clusters import Address, Cluster

HELP = (
    "Do the work by several processes, a case at a time each: local:N starts N of them here, slurm:N[:FILE] submits N SLURM jobs, "
    "tcp://HOST:PORT is a Dask scheduler that has workers on any number of machines (docs/cohorts.md). All that is read and "
    "written lies on a disk that they share. The results are those of one process; a case that two of them died of is set aside."
)
Where = Annotated[str | None, arg(metavar="WHERE", help=HELP)]
"""The type of the option."""


def cluster_at(text: str | None, *, jobs: int = 0) -> "Address | None":
    """Return what --cluster says; None where it is left out.

    Args:
        text: The option.
        jobs: --jobs, of a verb whose processes these are.

    Raises:
        SettingError: It is neither local:N nor the address of a scheduler that answers; --jobs beside it; Dask is not installed.
    """
    if text is None:
        return None
    from viscera.io.clusters import parse_address, require_answer

    if jobs:
        raise SettingError(
            f"--jobs {jobs} is of processes that this command starts, --cluster {text} has others", "Leave one out."
        )
    address = parse_address(text)
    require_answer(address)
    return address


@contextmanager
def workers_at(address: "Address", *, memory_mib: float | None = None) -> "Iterator[Cluster]":
    """Yield the workers of a cluster, and say how many they are.

    Raises:
        SettingError: No scheduler answers there.
    """
    from viscera.io.clusters import joined

    with joined(address, memory_mib=memory_mib) as cluster:
        workers = cluster.workers()
        say(
            f"{counted(len(workers), 'worker')} {address.where}"
            f"{f'; dashboard: {cluster.dashboard}' if cluster.dashboard else ''}"
            f"{'' if workers else ': waiting for the first'}"
        )
        yield cluster
