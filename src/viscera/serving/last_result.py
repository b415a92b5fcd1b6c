"""The last result, small: for the status page, without anything that names a patient, and gone with the server."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, Shaped

from viscera.volume import Volume

MOST_PIXELS = 256
"""Along each axis of what is kept."""


@dataclass(frozen=True, eq=False)
class Small:
    """A scan and its labels, every n-th voxel of them.

    Attributes:
        ct: HU.
        labels: On its grid.
        names: {label: organ}.
        when: Seconds since 1970.
        number: Of the result, from 1.
    """

    ct: Volume
    labels: Volume
    names: Mapping[int, str]
    when: float
    number: int


class LastResult:
    """Keeps the last result of a server, and the picture and the page that were made of it."""

    def __init__(self) -> None:
        self._small: Small | None = None
        self._made: dict[str, tuple[int, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, ct: Volume, labels: Volume, names: Mapping[int, str]) -> None:
        """Keep a result in the place of the one before.

        Args:
            ct: Of ``thinned``.
            labels: On the scan's whole grid.
            names: {label: organ}.
        """
        small = Volume(_every(np.asarray(labels.voxels, np.uint8), _steps(labels.shape)), ct.affine)
        with self._lock:
            number = 1 if self._small is None else self._small.number + 1
            self._small = Small(ct, small, dict(names), time.time(), number)

    def get(self) -> Small | None:
        """Return the last result; None where there was none."""
        with self._lock:
            return self._small

    def made(self, what: str, number: int) -> bytes | None:
        """Return what was made of a result already, None where it was not."""
        with self._lock:
            kept = self._made.get(what)
        return kept[1] if kept is not None and kept[0] == number else None

    def keep(self, what: str, number: int, content: bytes) -> None:
        """Keep what was made of a result."""
        with self._lock:
            self._made[what] = (number, content)


def thinned(ct: Volume) -> Volume:
    """Return every n-th voxel of a scan, at most MOST_PIXELS along each axis, as a copy.

    The first voxel stays the first, so the place of the scan stays the same.
    """
    steps = _steps(ct.shape)
    affine = ct.affine.copy()
    affine[:, :3] *= np.asarray(steps, float)
    hu: Int16[np.ndarray, "layer row column"] = np.clip(_every(ct.voxels, steps), -1024, 3071).astype(np.int16)
    return Volume(hu, affine)


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, -(-size // MOST_PIXELS)) for size in shape)


def _every(voxels: Shaped[np.ndarray, "z y x"], steps: tuple[int, ...]) -> Shaped[np.ndarray, "layer row column"]:
    z, y, x = steps
    return np.ascontiguousarray(voxels[::z, ::y, ::x])
