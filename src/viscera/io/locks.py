"""One writer at a time for a folder: a run, a store, a study."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from viscera.errors import FileError, VisceraError
from viscera.io.atomic import writing

LOCK = ".lock"


@contextmanager
def locked(folder: Path, *, what: str, error: type[VisceraError] = FileError) -> Iterator[None]:
    """Keep other processes from writing to a folder; the lock ends with the process, however it ends.

    Args:
        folder: It is made. The lock is its file .lock, which stays.
        what: What the other process does, as in "is being prepared".
        error: What is raised where another process does so.

    Raises:
        VisceraError: Another process holds the lock (``error``), or the folder cannot be written to (FileError).

    Example:
        >>> from viscera.errors import RunError
        >>> with locked(Path("run"), what="is being trained"):
        ...     Path("run/.lock").exists()
        True
    """
    lock = FileLock(folder / LOCK, blocking=False)
    with writing(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as timeout:
            raise error(
                f"{folder} {what} by another process", "Wait until it is done, or choose another folder.", file=folder
            ) from timeout
        except NotImplementedError:
            warnings.warn(f"the disk of {folder} knows no locks: let no second process write there", stacklevel=3)
    try:
        yield
    finally:
        lock.release()
