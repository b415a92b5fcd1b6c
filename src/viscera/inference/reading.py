"""A scan -> its voxels in HU, and the SHA-256 that tells it apart; the first one while the network is still being loaded.

Nothing here needs a network, so that reading can begin before the room has been imported.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from viscera.errors import FileError
from viscera.io import scans
from viscera.io.scans import Scan, files_of, sha256_of
from viscera.preparation.intensity import hounsfield
from viscera.volume import Volume, with_voxels


@dataclass(frozen=True, eq=False)
class Read:
    """A scan that was read.

    Attributes:
        ct: HU, as int16.
        sha256: Of its file, or over those of a series.
        seconds: That reading took.
    """

    ct: Volume
    sha256: str
    seconds: float


def read_hu(scan: Scan) -> Read:
    """Read a scan, and check that it is a CT.

    Raises:
        FileError, GeometryError: It cannot be used, or it changed while it was read.
    """
    start, before = time.perf_counter(), state(scan)
    with ThreadPoolExecutor(1) as pool:  # unpacking takes one core
        hashing = pool.submit(scan_sha256, scan)
        ct = scans.read(scan)
        digest = hashing.result()
    require_unchanged(scan, before)
    return Read(with_voxels(ct, hounsfield(ct, where=scan.name)), digest, time.perf_counter() - start)


def state(scan: Scan) -> tuple[tuple[int, int, int], ...] | None:
    """Return what tells that files are others, or were written to; None where one is gone, which reading it tells."""
    try:
        found = [file.stat() for file in files_of(scan)]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def require_unchanged(scan: Scan, before: tuple[tuple[int, int, int], ...] | None) -> None:
    """Raise FileError where a scan that was read and hashed just now is not what ``state`` told before."""
    if state(scan) != before:
        raise FileError(f"{scan} changed while it was read", "Wait until it is whole, then try again.")


def scan_sha256(scan: Scan) -> str:
    """Return the SHA-256 of a scan's file, or over those of a series.

    Raises:
        FileError: One cannot be read.
    """
    try:
        return sha256_of(scan)
    except OSError as error:
        raise FileError(
            f"{scan} cannot be read: {error.strerror or error}",
            "Check the path and its permissions.",
            file=files_of(scan)[0],
        ) from error


class ReadAhead:
    """The first scan of a run, which is read on a thread of its own while the network is loaded."""

    def __init__(self, scan: Scan) -> None:
        """Begin to read.

        Args:
            scan: Which.
        """
        self._scan = scan
        pool = ThreadPoolExecutor(1, "reading ahead")
        self._read: Future[Read] | None = pool.submit(read_hu, scan)
        pool.shutdown(wait=False)

    def take(self, scan: Scan) -> Read:
        """Return a scan: the one that was read ahead, once, and else as ``read_hu``.

        Raises:
            FileError, GeometryError: As ``read_hu``.
        """
        if scan != self._scan or self._read is None:
            return read_hu(scan)
        found, self._read = self._read, None
        return found.result()
