"""Series: the slices of one CT series in order, their place in the world, and their voxels in Hounsfield units.

Series come from finding.py; what makes a volume of slices is in geometry.py, what makes HU of stored values in pixels.py. World
coordinates are viscera's (RAS+ mm); DICOM's are LPS, whose x and y point the other way.
"""

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from viscera.dicom.decoding import parsing_errors
from viscera.dicom.geometry import LPS_TO_RAS as LPS_TO_RAS
from viscera.dicom.pixels import Pixels, read_slices
from viscera.errors import FileError
from viscera.io.cores import usable_cores
from viscera.io.doors import pydicom_module
from viscera.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Slice:
    """One image of a series.

    Attributes:
        file: The file that holds it.
        sop_instance_uid: By which other DICOM objects refer to it.
        frame: Its number in a multi-frame file, from 0; None in a file of one image.
        pixels: How the file stores its values.
    """

    file: Path
    sop_instance_uid: str
    frame: int | None = None
    pixels: Pixels | None = field(default=None, repr=False)


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
        tilt_degrees: By how much the gantry was tilted, positive where the stack leans the way columns run; 0 where the axes
            of the grid are at right angles.
        notes: What the user should know of how it was read.
        cannot_be_referenced: Why no SEG or RTSTRUCT can refer to it, to follow its name: "has no ..."; "" where one can.
        kept: What keeps the files there as long as the series is: a folder into which a ZIP was unpacked.
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
    kept: object = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return its name: messages may hold nothing else of it."""
        return self.name

    def __getstate__(self) -> dict[str, object]:
        """Return what goes to another process: all but what keeps the files, which stays with the process that unpacked them."""
        return {**self.__dict__, "kept": None}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the slices, each once, in their order."""
        return tuple(dict.fromkeys(one.file for one in self.slices))

    def read(self) -> Volume:
        """Read the voxels in HU: int16 where every slice's are whole numbers within it, else float32.

        Raises:
            FileError: A file is damaged.
            SettingError: One needs a decoder that is not installed.
        """
        return Volume(read_slices(self.slices, self.shape), self.affine)

    def headers(self) -> "list[Dataset]":
        """Return the header of each slice, in order and without pixels, for DICOM objects that refer to them.

        Frames of one file share one header.

        Raises:
            FileError: A file is damaged.
        """
        headers = {file: _header(file) for file in self.files}
        return [headers[one.file] for one in self.slices]

    def sha256(self) -> str:
        """Return what tells the series by its contents, however its files are named or ordered.

        Raises:
            FileError: A file cannot be read.
        """
        with ThreadPoolExecutor(usable_cores()) as threads:
            hashes = sorted(threads.map(_sha256, self.files))
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _header(file: Path) -> "Dataset":
    pydicom = pydicom_module()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except parsing_errors() as error:
        raise FileError(f"{file}: its header is damaged", "Export the series again.", file=file) from error


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{file}: cannot be read ({error.strerror})", "Check the disk.", file=file) from error
