"""Series: the slices of one CT series in order, their place in the world, and their voxels in Hounsfield units.

Series come from finding.py. World coordinates are viscera's (RAS+ mm); DICOM's are LPS, whose x and y point the other way.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from viscera.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """One image of a series.

    Attributes:
        file: The file that holds it.
        sop_instance_uid: By which other DICOM objects refer to it.
        frame: Its number in a multi-frame file, from 0; None in a file of one image.
    """

    file: Path
    sop_instance_uid: str
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class Series:
    """One CT series that can be segmented.

    Attributes:
        name: What outputs and messages call it: made from names of folders and numbers, never from what headers say.
        slices: In the order of the volume's first axis, which runs along the normal of the slices.
        affine: Index (z, y, x, 1) -> world RAS+ mm; sheared where the gantry was tilted.
        shape: Voxels along (z, y, x).
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        frame_of_reference_uid: "" where the series has none.
        tilt_degrees: By how much the gantry was tilted; 0 where the axes of the grid are at right angles.
        notes: What the user should know of how it was read.
    """

    name: str
    slices: tuple[Slice, ...]
    affine: Float[np.ndarray, "4 4"]
    shape: tuple[int, int, int]
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    tilt_degrees: float = 0.0
    notes: tuple[str, ...] = ()
    cannot_be_referenced: str = ""

    def __str__(self) -> str:
        """Return its name: messages may hold nothing else of it."""
        return self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the slices, each once, in their order."""
        return tuple(dict.fromkeys(one.file for one in self.slices))

    def read(self) -> Volume:
        """Read the voxels in HU: int16 where every slice's are whole numbers, else float32.

        Raises:
            FileError: A file is damaged, or needs a decoder that is not installed.
        """
        return Volume(read_slices(self.slices, self.shape), self.affine)

    def headers(self) -> "list[Dataset]":
        """Return the header of each slice, in order and without pixels, for DICOM objects that refer to them."""
        import pydicom

        return [pydicom.dcmread(one.file, stop_before_pixels=True) for one in self.slices]

    def sha256(self) -> str:
        """Return what tells the series by its contents, however its files are named or ordered."""
        hashes = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def read_slices(slices: Sequence[Slice], shape: tuple[int, int, int]) -> Shaped[np.ndarray, "z y x"]:
    """Decode slices and turn their stored values into HU, each by its own slope and intercept."""
    import pydicom

    voxels = np.empty(shape, np.float32)
    for place, one in enumerate(slices):
        header = pydicom.dcmread(one.file)
        voxels[place] = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    return voxels.astype(np.int16) if (voxels == np.rint(voxels)).all() else voxels
