"""Read and write NIfTI files (.nii, .nii.gz; NIfTI-1 and NIfTI-2).

isal decompresses the bytes straight into the array that is returned, so that a scan costs its own size in memory and no
more; ``open_slabs`` gives it part by part, for those who can do with less. Files store (x, y, z) with x fastest; read
backwards that is an array (z, y, x), which is what a Volume holds. What is written lies on exactly the grid that was
read, and carries no free text that could name a patient. What headers say is in nifti_header.py, turning to axial order
in volume.py.
"""

import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from math import prod
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib
from jaxtyping import Float, Shaped

from viscera.errors import FileError, GeometryError
from viscera.io.atomic import replacing
from viscera.io.packing import packed
from viscera.io.unpacking import Forgiving
from viscera.volume import Volume, check_extent

SUFFIXES = (".nii.gz", ".nii")
MOST_BEHIND = 1 << 26
"""Bytes after the voxels that are read for the sake of the checksum, however small the volume is."""
MOST_COMPRESSION = 1032
"""Deflate cannot shrink data further than 1032:1, so a header that asks for more than this is not true to its file."""


class GridWarning(UserWarning):
    """The file places its voxels in two different ways, or in none."""


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a file is NIfTI and not hidden (as macOS's ._ companions are)."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """Return the file's name without .nii or .nii.gz.

    Example:
        >>> stem(Path("scans/liver_003.nii.gz"))
        'liver_003'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def find_files(folder: Path) -> list[Path]:
    """List what is named as a NIfTI file directly in a folder, sorted by name.

    Links to nothing, folders with such names and what cannot be read are listed, too, so that none is left out in silence:
    reading them says what is wrong.

    Raises:
        FileError: There is no such folder, or it cannot be looked into.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder", "Check the path.", file=folder)
    try:
        return sorted(path for path in folder.iterdir() if is_nifti(path))
    except OSError as error:
        raise FileError(
            f"{folder} cannot be looked into: {error.strerror or error}", "Check its permissions.", file=folder
        ) from error


class OpenVolume:
    """A volume in an open file, its voxels not yet read; see ``open_slabs``.

    Attributes:
        grid: Its shape, place and header. The voxels are all 0 and take no memory.
        dtype: Of the voxels that will be read.
    """

    def __init__(self, path: Path, file: BufferedIOBase) -> None:
        """Read the header and check that the file can hold what it promises."""
        from viscera.io.nifti_header import describe

        self._path, self._file, self._packed = path, file, _is_packed(file, path)
        with _unpacked(file, packed=self._packed, threaded=False) as stream:
            found = describe(stream, path)
        self._stored, self._offset, self._scaling = found.dtype, found.offset, found.scaling
        self.dtype = np.dtype(np.float32) if found.scaling else found.dtype.newbyteorder("=")
        self._promise = f"{'x'.join(map(str, found.shape[::-1]))} voxels of {self._stored.itemsize} bytes"
        self._expected = prod(found.shape) * self._stored.itemsize
        most = os.fstat(file.fileno()).st_size * (MOST_COMPRESSION if self._packed else 1)
        if self._expected > most:
            raise FileError(
                f"{path}: its header promises {self._promise}, more than the file holds",
                "Copy or export it again.",
                file=path,
            )
        _require_body(found.affine, found.shape, path)
        self.grid = Volume(np.broadcast_to(np.int16(0), found.shape), found.affine, found.header)
        for doubt in found.doubts:
            warnings.warn(f"{path}: {doubt}", GridWarning, stacklevel=5)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return self.grid.shape

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Index (z, y, x, 1) -> world RAS+ mm."""
        return self.grid.affine

    @property
    def header(self) -> object:
        """What ``write`` needs to write on the same grid."""
        return self.grid.header

    def slabs(self, count: int) -> Iterator[tuple[int, Shaped[np.ndarray, "part y x"]]]:
        """Yield the voxels in order, some planes along the array's first axis at a time.

        They may be asked for several times, one time after the other. Only when the last slab has been asked for more is
        the rest of the file read, whose end holds the checksum.

        Args:
            count: Planes of each slab, at least 1; the last slab may hold fewer.

        Yields:
            The index of the slab's first plane, and a new array with the slab's voxels.

        Raises:
            FileError: The file is damaged or ends early.
        """
        with _reading(self._path):
            self._file.seek(0)
            with _unpacked(self._file, packed=self._packed, threaded=True) as stream:
                if not _skip(stream, self._offset):
                    raise FileError(
                        f"{self._path} is truncated: it ends before its first voxel",
                        "Copy or export it again.",
                        file=self._path,
                    )
                for first in range(0, self.shape[0], count):
                    slab = np.empty((min(count, self.shape[0] - first), *self.shape[1:]), self._stored)
                    self._fill(slab, stream, before=first * slab[0].nbytes)
                    yield first, self._values(slab)
                self._drain(stream)

    def read(self) -> Volume:
        """Read all voxels; see the function ``read``."""
        [(_, voxels)] = self.slabs(self.shape[0])
        return Volume(voxels, self.affine, self.header)

    def _drain(self, stream: BufferedIOBase | Forgiving) -> None:
        """Read what follows the voxels, where nothing should, and then the checksum; tell what was there."""
        behind = 0
        while part := stream.read(1 << 20):
            behind += len(part)
            if behind > max(self._expected, MOST_BEHIND):
                raise FileError(
                    f"{self._path}: its header promises {self._promise}, but the file holds more than twice of that",
                    "Its header is damaged, or it holds several volumes: export it again.",
                    file=self._path,
                )
        if behind >= self._expected // self.shape[0]:
            doubt = f"{behind} bytes follow the {self._promise} that its header promises: slices may be missing"
            warnings.warn(f"{self._path}: {doubt}. Check its header.", GridWarning, stacklevel=5)
        if isinstance(stream, Forgiving) and stream.behind:
            warnings.warn(
                f"{self._path}: {stream.behind} bytes behind the end of its gzip data are left out; the voxels are complete "
                "and their checksum is right",
                GridWarning,
                stacklevel=5,
            )

    def _fill(self, slab: Shaped[np.ndarray, "part y x"], stream: BufferedIOBase | Forgiving, *, before: int) -> None:
        """Read a slab, before which lie so many bytes of voxels."""
        buffer = slab.reshape(-1).view(np.uint8).data
        got = 0
        while got < len(buffer):
            count = stream.readinto(buffer[got:])
            if not count:
                raise FileError(
                    f"{self._path}: its header promises {self._promise}, but the file ends after {before + got} bytes "
                    "of them",
                    "Export it again.",
                    file=self._path,
                )
            got += count

    def _values(self, stored: Shaped[np.ndarray, "part y x"]) -> Shaped[np.ndarray, "part y x"]:
        """Return the machine's byte order to stored numbers, in place, and scale them where the header does."""
        if not self._stored.isnative:
            stored = stored.byteswap(inplace=True).view(self._stored.newbyteorder("="))
        if self._scaling is None:
            return stored
        slope, inter = self._scaling
        scaled = stored.astype(np.float32)
        scaled *= np.float32(slope)
        scaled += np.float32(inter)
        return scaled


@contextmanager
def open_slabs(path: str | Path) -> Iterator[OpenVolume]:
    """Open a scan or a label map whose voxels are to be read slab by slab, so that it is never whole in memory.

    The header is read at once. For what the voxels are, see ``read``.

    Raises:
        FileError: The file is missing, damaged, no NIfTI, or holds something else than one 3D volume of numbers.
        GeometryError: Its affine is not a scanner's.

    Warns:
        GridWarning: See ``read``.

    Example:
        >>> with open_slabs("scan.nii.gz") as scan:  # doctest: +SKIP
        ...     highest = max(slab.max() for _, slab in scan.slabs(16))
    """
    path = Path(path)
    with ExitStack() as opened:
        with _reading(path):  # not what is done between: errors there are not this file's
            volume = OpenVolume(path, opened.enter_context(path.open("rb")))
        yield volume


def read(path: str | Path) -> Volume:
    """Read a scan or a label map.

    Voxels keep the file's type in the machine's byte order, unless the file scales them (scl_slope, scl_inter): then
    they are float32. Values are not checked. The place is the sform's if it is set, else the qform's, else what the
    voxel sizes give. Trailing axes of length 1 are dropped.

    Returns:
        The volume, its header kept for ``write``.

    Raises:
        FileError: The file is missing, damaged, no NIfTI, or holds something else than one 3D volume of numbers.
        GeometryError: Its affine is not a scanner's.

    Warns:
        GridWarning: sform and qform disagree by more than a millimetre, or neither is set.

    Example:
        >>> import numpy as np, viscera
        >>> viscera.write("scan.nii.gz", viscera.Volume(np.zeros((4, 8, 8), np.int16), np.diag([5.0, 1.0, 1.0, 1.0])))
        >>> scan = viscera.read("scan.nii.gz")
        >>> scan.voxels.shape, scan.voxels.dtype.name, scan.spacing_mm  # all in the order z, y, x
        ((4, 8, 8), 'int16', (5.0, 1.0, 1.0))
    """
    with open_slabs(path) as volume:
        return volume.read()


def write(path: str | Path, volume: Volume, *, overwrite: bool = False) -> None:
    """Write a volume in one piece: the file appears complete or not at all.

    A volume that was read keeps its header's shape, sform, qform, codes and units to the bit. Free text and extensions
    are left out, because they may name the patient.

    Args:
        path: Ends in .nii or .nii.gz. Its folder is made.
        volume: Booleans are written as uint8.
        overwrite: Replace an existing file.

    Raises:
        FileError: The name is wrong, the file exists, cannot be written, or cannot hold such voxels.
        GeometryError: The volume's header belongs to another grid than its voxels and affine.

    Example:
        >>> import dataclasses, viscera
        >>> [case] = viscera.synthesize("patients", cases=1, shape=(16, 32, 32))
        >>> scan = viscera.read(case.image)
        >>> bone = dataclasses.replace(scan, voxels=scan.voxels > 300)  # on the same grid
        >>> viscera.write("bone.nii.gz", bone)
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise FileError(f"{path}: the name must end in .nii.gz or .nii.")
    content = _content(volume, path)
    with replacing(path, overwrite=overwrite) as part:
        _write_content(part, *content)


def write_part(part: Path, volume: Volume, *, path: Path) -> None:
    """Write a volume to the temporary file that ``replacing`` yields, for those who have more to do before it takes its place.

    Args:
        part: The temporary file.
        volume: As for ``write``.
        path: The file whose place it takes, which messages name.

    Raises:
        FileError, GeometryError: As ``write``.
    """
    _write_content(part, *_content(volume, path))


def _content(volume: Volume, path: Path) -> tuple[bytes, Shaped[np.ndarray, "z y x"]]:
    """Return the header and the voxels as they are written."""
    from viscera.io.nifti_header import header_for

    voxels = np.ascontiguousarray(volume.voxels)
    if voxels.dtype == bool:
        voxels = voxels.view(np.uint8)
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    return header_for(volume, voxels, path).binaryblock, voxels


def _write_content(part: Path, header: bytes, voxels: Shaped[np.ndarray, "z y x"]) -> None:
    pieces = _pieces(header + b"\0\0\0\0", voxels)  # an empty extension
    with part.open("wb") as stream:
        stream.writelines(packed(pieces) if part.name.lower().endswith(".gz") else pieces)


def _require_body(affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int], path: Path) -> None:
    """Raise GeometryError, with the file's name, unless the grid can be that of a scan of a human body."""
    try:
        check_extent(affine, shape)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.what}", error.remedy, file=path) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a FileError that names it."""
    if path.is_dir():
        raise FileError(
            f"{path} is a folder, not a NIfTI file", "Give the file itself, or rename the folder.", file=path
        )
    if not path.name.lower().endswith(SUFFIXES):
        pair = " Convert the .hdr/.img pair to one .nii.gz." if path.suffix.lower() in (".hdr", ".img") else ""
        raise FileError(f"{path}: not a NIfTI file by its name, which should end in .nii.gz or .nii.{pair}")
    try:
        yield
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FileError(
                f"{path} is a link to a file that is not there", "Correct the link, or remove it.", file=path
            ) from error
        raise FileError(f"{path}: no such file", "Check the path.", file=path) from error
    except EOFError as error:
        raise FileError(
            f"{path} is truncated: the gzip data end early", "Copy or export it again.", file=path
        ) from error
    except (zlib.error, isal_zlib.error, igzip.BadGzipFile) as error:  # pyright: ignore[reportGeneralTypeIssues]
        raise FileError(
            f"{path} is damaged: the gzip data are corrupt ({error})", "Copy or export it again.", file=path
        ) from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from error


def _is_packed(file: BufferedIOBase, path: Path) -> bool:
    """Tell whether a file is gzip-compressed, which its name must say too."""
    magic = file.read(2)
    file.seek(0)
    named_gz, is_gz = path.name.lower().endswith(".gz"), magic == b"\x1f\x8b"
    if not magic:
        raise FileError(f"{path} is empty", "Copy or export it again.", file=path)
    if named_gz != is_gz:
        state, name = ("", f"{path.name}.gz") if is_gz else ("not ", path.name[:-3])
        raise FileError(
            f"{path}: its contents are {state}gzip-compressed", f"If it is NIfTI, rename it to {name}.", file=path
        )
    return is_gz


@contextmanager
def _unpacked(file: BufferedIOBase, *, packed: bool, threaded: bool) -> Iterator[BufferedIOBase | Forgiving]:
    """Return the decompressed bytes of an open file, which stays open."""
    if not packed:
        yield file
    else:
        with Forgiving(file, threaded=threaded) as stream:
            yield stream


def _skip(stream: BufferedIOBase | Forgiving, count: int) -> bool:
    """Read bytes away; tell whether there were so many."""
    while count and (part := stream.read(min(count, 1 << 20))):
        count -= len(part)
    return not count


def _pieces(header: bytes, voxels: Shaped[np.ndarray, "z y x"]) -> Iterator[bytes | memoryview]:
    """Yield the header and the voxels, some MiB at a time."""
    yield header
    buffer = voxels.reshape(-1).view(np.uint8).data
    for start in range(0, len(buffer), 1 << 22):
        yield buffer[start : start + (1 << 22)]
