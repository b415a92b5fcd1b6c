"""A Dask scheduler that answers on this machine only, and two workers, all of them threads of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viscera.io.clusters import Address, Cluster


@contextmanager
def threads() -> Iterator[Cluster]:
    """Yield two workers with a thread each; other clients find them at ``address.url``."""
    from distributed import Client, LocalCluster

    here = "127.0.0.1"
    options = {"host": here, "protocol": "tcp://", "dashboard_address": f"{here}:0"}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **options) as own,
        Client(own, set_as_default=False) as client,
    ):
        yield Cluster(client, Address(url=own.scheduler_address), "")


def files(folder: Path) -> dict[str, bytes]:
    """Return all files beneath a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
