"""One writer at a time, for a folder (a run, a store, a study) or for a file; a lock ends with its process, however that ends."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from viscera.errors import FileError, VisceraError
from viscera.io.atomic import writing

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What disks answer that know no locks: some that are shared over a network."""


class TakenError(FileError):
    """Another process is writing the same file."""


@contextmanager
def locked(folder: Path, *, what: str, error: type[VisceraError] = FileError) -> Iterator[None]:
    """Keep other processes from writing to a folder; the lock ends with the process, however it ends.

    Args:
        folder: It is made. The lock is its file .lock, which stays.
        what: What the other process does, as in "is being prepared".
        error: What is raised where another process does so.

    Raises:
        VisceraError: Another process holds the lock (``error``), or the folder cannot be written to (FileError). A disk that
            knows no locks is only warned of.

    Example:
        >>> from viscera.errors import RunError
        >>> with locked(Path("run"), what="is being trained"):
        ...     Path("run/.lock").exists()
        True
    """
    lock = FileLock(folder / LOCK, blocking=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as timeout:
            raise error(
                f"{folder} {what} by another process", "Wait until it is done, or choose another folder.", file=folder
            ) from timeout
        except (NotImplementedError, OSError) as problem:
            _go_on_without(folder, problem)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other processes from writing a file while the block lasts; any thread may end it.

    The lock is .NAME.lock in the folder of the file, which must exist; nothing of it is left afterwards.

    Raises:
        TakenError: Another process is writing the file.
        FileError: The folder cannot be written to.
    """
    place = _lock_of(path)
    lock = FileLock(place, blocking=False, thread_local=False)
    with writing(path):
        try:
            lock.acquire()
        except Timeout as error:
            raise _taken(path) from error
        except (OSError, NotImplementedError) as problem:
            _go_on_without(path.parent, problem)
    try:
        if (
            lock.is_locked and not place.exists()
        ):  # another process ended its own between our opening and our locking it
            raise _taken(path)
        yield
    finally:
        with suppress(OSError):  # while it is held, so that nobody else's is removed
            place.unlink(missing_ok=True)
        lock.release()
        if os.name == "nt":  # where no open file can be removed
            with suppress(OSError):
                place.unlink(missing_ok=True)


def _go_on_without(folder: Path, problem: OSError | NotImplementedError) -> None:
    """Warn where a disk knows no locks; raise anything else."""
    if isinstance(problem, OSError) and problem.errno not in NO_LOCKS:
        raise problem
    warnings.warn(f"the disk of {folder} knows no locks: let no second process write there", stacklevel=4)


def remove_abandoned_lock(path: Path) -> None:
    """Remove what a killed process left of ``only_writer``; one that is held, or cannot be removed, stays."""
    if _lock_of(path).exists():
        with suppress(FileError), only_writer(path):
            pass


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _taken(path: Path) -> TakenError:
    """Return the error of a file that another process writes."""
    return TakenError(
        f"{path.name} is being written by another process",
        "Wait until it is done, then run the same command again.",
        file=path,
    )
