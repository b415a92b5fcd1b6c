"""Workers as jobs of a queue (SLURM, PBS ...): dask-jobqueue submits them, as its own configuration of the site says.

The scheduler runs in this process, and jobs have to reach it over the network, so both sides show keys that are made for the one
command (TLS): Dask exchanges pickled objects, and a port that takes anybody's would be everybody's to run programs by.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, _TemporaryFileWrapper
from typing import TYPE_CHECKING, Any

from viscera.errors import SettingError
from viscera.io.atomic import writing
from viscera.io.extras import is_installed

if TYPE_CHECKING:
    from distributed import SpecCluster

QUEUES = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "sge": ("SGECluster", "qsub"),
    "oar": ("OARCluster", "oarsub"),
    "htcondor": ("HTCondorCluster", "condor_submit"),
}
"""Name in dask-jobqueue's configuration: its class, and the program that it submits jobs with."""
MOST_JOBS = 10_000


class QueueWarning(UserWarning):
    """The queue does not take a job."""


def require_queue(queue: str, file: Path | None) -> None:
    """Raise SettingError where jobs cannot be submitted; call it before any work begins.

    Args:
        queue: One of QUEUES.
        file: A configuration beside that in ~/.config/dask; None for that alone.
    """
    if lacking := [name for name in ("dask_jobqueue", "cryptography") if not is_installed(name)]:
        raise SettingError(
            f"--cluster {queue} needs {' and '.join(lacking)}, which is not installed",
            "Install it: pip install 'viscera[queue]'.",
        )
    import dask.config

    program = QUEUES[queue][1]
    if shutil.which(program) is None:
        raise SettingError(
            f"--cluster {queue} needs {program}, which is not on this machine", "Run it where jobs are submitted."
        )
    with _configured(file):
        for name in ("cores", "memory"):
            if dask.config.get(f"jobqueue.{queue}.{name}", None) is None:
                raise SettingError(
                    f"nothing says how much a job of {queue} takes: jobqueue.{queue}.{name} is not set",
                    f"Write it into {file or '~/.config/dask/jobqueue.yaml'} (https://jobqueue.dask.org, configuration).",
                )


@contextmanager
def queue_of_jobs(queue: str, jobs: int, file: Path | None) -> "Iterator[SpecCluster]":
    """Yield a scheduler whose workers are jobs of a queue; jobs that end are followed by others as long as the block lasts.

    Args:
        queue: One of QUEUES.
        jobs: How many.
        file: As for ``require_queue``.

    Raises:
        SettingError: The queue takes no such jobs.
        FileError: The keys cannot be written where all machines see them.
    """
    import dask.config

    with _configured(file), ExitStack() as held:
        mine = f"jobqueue.{queue}"
        shared = Path(dask.config.get(f"{mine}.shared-temp-directory", None) or Path.cwd()).expanduser().absolute()
        with writing(shared):
            keys = held.enter_context(
                TemporaryDirectory(prefix=".viscera-keys-", dir=shared, ignore_cleanup_errors=True)
            )
        # Dask's page, as everywhere, for this machine only
        scheduler = {"dashboard_address": "127.0.0.1:0", **(dask.config.get(f"{mine}.scheduler-options", {}) or {})}
        refused: list[str] = []
        kind = getattr(import_module("dask_jobqueue"), QUEUES[queue][0])
        cluster = kind(
            job_cls=_noting(kind.job_cls, refused),
            security=True,
            shared_temp_directory=keys,
            scheduler_options=scheduler,
            worker_extra_args=[*(dask.config.get(f"{mine}.worker-extra-args", []) or []), "--no-dashboard"],
            silence_logs=logging.CRITICAL,
        )
        held.callback(_close, cluster)
        cluster.scale(jobs=jobs)
        cluster.sync(_submitted, cluster)
        if refused:
            raise SettingError(
                f"{QUEUES[queue][1]} takes no such jobs: {refused[0]}",
                f"Correct {file or '~/.config/dask/jobqueue.yaml'}.",
            )
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # replaces those whose time is over
        yield cluster


async def _submitted(cluster: "SpecCluster") -> None:
    """Wait until all jobs are submitted."""
    await cluster


def _noting(kind: type, refused: list[str]) -> type:
    """Return a kind of job that notes why the queue does not take it, of which Dask would only log something."""
    from distributed.core import Status

    async def start(job: Any) -> None:  # noqa: ANN401 (classes of dask-jobqueue)
        """Submit a job."""
        try:
            await kind.start(job)  # type: ignore[attr-defined]
        except (RuntimeError, ValueError, OSError) as error:
            refused.append(" ".join(str(error).rpartition("stderr:")[2].split())[:300])
            warnings.warn(f"a job was not taken: {refused[-1]}", QueueWarning, stacklevel=2)
            job.status = Status.running

    return type(kind.__name__, (kind,), {"start": start})


def _close(cluster: "SpecCluster") -> None:
    """End the jobs, and the scheduler."""
    with suppress(OSError, TimeoutError):
        cluster.close(timeout=10)
    for one in vars(cluster).values():  # files of keys, which would else complain that their folder is gone
        if isinstance(one, _TemporaryFileWrapper):
            one.close()


@contextmanager
def _configured(file: Path | None) -> Iterator[None]:
    """Let Dask's configuration hold what a file says, and what dask-jobqueue says of itself.

    Raises:
        SettingError: The file cannot be read, or holds something else.
    """
    import dask.config
    import yaml

    import_module("dask_jobqueue")  # adds its own settings
    found: object = {}
    if file is not None:
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SettingError(f"{file} cannot be read as YAML ({type(error).__name__})", "Check the path.") from error
        if not isinstance(found, Mapping) or not isinstance(found.get("jobqueue"), Mapping):
            raise SettingError(
                f"{file} is not a configuration of dask-jobqueue", "Write jobqueue: {slurm: {cores: 8, memory: 32GiB}}."
            )
    with dask.config.set(dask.config.merge(dask.config.config, dict(found))):
        yield
