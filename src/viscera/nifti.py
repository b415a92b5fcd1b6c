"""Read and write NIfTI files (.nii, .nii.gz; NIfTI-1 and NIfTI-2).

The header is nibabel's; isal decompresses the bytes straight into the array that is returned, so that a scan costs its
own size in memory and no more. Files store (x, y, z) with x fastest; read backwards that is an array (z, y, x), which
is what a Volume holds. What is written lies on exactly the grid that was read, and carries no free text that could name
a patient. Turning to axial order is in volume.py, DICOM in dicom.py.
"""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from isal import igzip, igzip_threaded
from jaxtyping import Float, Shaped
from nibabel.spatialimages import HeaderDataError

from viscera.errors import FileError, GeometryError
from viscera.files import replacing
from viscera.volume import GRID_TOLERANCE_MM, Volume, check_affine

Header = nibabel.Nifti1Header  # Nifti2Header is a subclass of it.

SUFFIXES = (".nii.gz", ".nii")
FORMS_TOLERANCE_MM = 1.0
"""sform and qform that place a corner further apart than this are reported."""
GZIP_LEVEL = 1
"""isal's. On labels level 2 is no smaller and level 3 larger and five times slower; on CT levels 2 and 3 save 3 %."""
MOST_COMPRESSION = 1032
"""Deflate cannot shrink data further than 1032:1, so a header that asks for more than this is not true to its file."""
TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str")
UNITS = {1: "metres", 3: "micrometres"}
KINDS = {128: "RGB colour", 2304: "RGBA colour", 32: "complex", 1792: "complex", 2048: "complex"}


class GridWarning(UserWarning):
    """The file places its voxels in two different ways, or in none."""


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a file is NIfTI and not hidden (as macOS's ._ companions are)."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """Give the file's name without .nii or .nii.gz.

    Example:
        >>> stem(Path("scans/liver_003.nii.gz"))
        'liver_003'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def find_files(folder: Path) -> list[Path]:
    """List the NIfTI files directly in a folder, sorted by name.

    Raises:
        FileError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder. Check the path.")
    return sorted(path for path in folder.iterdir() if is_nifti(path) and path.is_file())


def read(path: str | Path) -> Volume:
    """Read a scan or a label map.

    Voxels keep the file's type in the machine's byte order, unless the file scales them (scl_slope, scl_inter): then
    they are float32. Values are not checked. The place is the sform's if it is set, else the qform's, else what the
    voxel sizes give. Trailing axes of length 1 are dropped.

    Returns:
        The volume, its header kept for ``write``.

    Raises:
        FileError: The file is missing, damaged, no NIfTI, or holds something else than one 3D volume of numbers.
        GeometryError: Its affine is no scanner's.

    Warns:
        GridWarning: sform and qform disagree by more than FORMS_TOLERANCE_MM, or neither is set.
    """
    path = Path(path)
    with _opened(path) as stream:
        header = _read_header(stream, path)
        shape = _shape(header, path)
        dtype = _dtype(header, path)
        affine = _affine(header, shape, path)
        voxels = _read_voxels(stream, header, shape, dtype, path)
    return Volume(_scaled(voxels, header, path), affine, header)


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
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise FileError(f"{path}: the name must end in .nii.gz or .nii.")
    voxels = np.ascontiguousarray(volume.voxels)
    if voxels.dtype == bool:
        voxels = voxels.view(np.uint8)
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    header = _header_for(volume, voxels, path)
    try:
        with replacing(path, overwrite=overwrite) as part, part.open("wb") as stream:
            if path.name.lower().endswith(".gz"):
                # No file name and no time in the gzip header: equal volumes give equal files.
                with igzip.GzipFile("", "wb", GZIP_LEVEL, stream, 0) as packed:
                    _write_parts(packed, header, voxels)
            else:
                _write_parts(stream, header, voxels)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}. Check the disk.") from error


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """Give the file's decompressed bytes; what goes wrong while they are read becomes a FileError."""
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a NIfTI file.")
    if not path.name.lower().endswith(SUFFIXES):
        pair = " Convert the .hdr/.img pair to one .nii.gz." if path.suffix.lower() in (".hdr", ".img") else ""
        raise FileError(f"{path}: not a NIfTI file by its name, which should end in .nii.gz or .nii.{pair}")
    try:
        with path.open("rb") as file:
            magic = file.read(2)
            file.seek(0)
            named_gz, is_gz = path.name.lower().endswith(".gz"), magic == b"\x1f\x8b"
            if not magic:
                raise FileError(f"{path} is empty. Copy or export it again.")
            if named_gz != is_gz:
                state, name = ("", f"{path.name}.gz") if is_gz else ("not ", path.name[:-3])
                raise FileError(
                    f"{path}: its contents are {state}gzip-compressed. If it is NIfTI, rename it to {name}."
                )
            if not is_gz:
                yield file
                return
            # Decompressing on a second thread while this one copies: 0.26 s against 0.33 s for 144 MB.
            with igzip_threaded.open(file, "rb", threads=1) as stream:
                yield cast("BufferedIOBase", stream)
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file. Check the path.") from error
    except EOFError as error:
        raise FileError(f"{path} is truncated: the gzip data end early. Copy or export it again.") from error
    except (zlib.error, igzip.BadGzipFile) as error:
        raise FileError(f"{path} is damaged: the gzip data are corrupt ({error}). Copy or export it again.") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_header(stream: BufferedIOBase, path: Path) -> Header:
    """Read the header and leave the stream at the first voxel."""
    block = stream.read(348)
    size = int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")
    kind = nibabel.Nifti1Header
    if 540 in size:
        kind = nibabel.Nifti2Header
        block += stream.read(540 - 348)
    if len(block) < kind.sizeof_hdr or kind.sizeof_hdr not in size:
        raise FileError(f"{path} is not NIfTI: it does not begin with a NIfTI header. Export it again as NIfTI.")
    endianness = "<" if size[0] == kind.sizeof_hdr else ">"  # nibabel's own guess trusts a damaged dim
    header = kind(block, endianness, check=False)
    magic = bytes(header["magic"].item())[:3]
    if magic in (b"ni1", b"ni2"):
        raise FileError(f"{path}: this is half of a .hdr/.img pair. Convert the pair to one .nii.gz.")
    if magic not in (b"n+1", b"n+2"):
        raise FileError(f"{path} is not NIfTI: its magic is {magic!r}, not 'n+1' or 'n+2'. Export it again as NIfTI.")
    offset = float(header["vox_offset"])
    if not kind.sizeof_hdr <= offset < 2**31:
        raise FileError(f"{path}: its header puts the voxels at byte {offset:g}. Export it again.")
    skip = int(offset) - kind.sizeof_hdr
    if len(stream.read(skip)) < skip:
        raise FileError(f"{path} is truncated: it ends before its first voxel. Copy or export it again.")
    return header


def _shape(header: Header, path: Path) -> tuple[int, int, int]:
    """Give the voxels along (z, y, x)."""
    dim = [int(n) for n in header["dim"]]
    sizes = dim[1 : 1 + dim[0]]
    if not 1 <= dim[0] <= 7 or min(sizes) < 1:
        raise FileError(f"{path}: its header gives impossible dimensions {dim}. Export it again.")
    text = "x".join(map(str, sizes))
    if len(sizes) < 3:
        raise FileError(
            f"{path} holds a {len(sizes)}D image ({text}). A scan needs three axes: export the whole series."
        )
    if any(n > 1 for n in sizes[3:]):
        raise FileError(
            f"{path} holds a {len(sizes)}D image ({text}). Save one 3D volume of it (one phase, one channel)."
        )
    return sizes[2], sizes[1], sizes[0]


def _dtype(header: Header, path: Path) -> np.dtype:
    """Give the type of the stored numbers, in the file's byte order."""
    code = int(header["datatype"])
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = None
    if code in KINDS:
        raise FileError(
            f"{path} holds {KINDS[code]} voxels. Export the scan's Hounsfield units, or one label per voxel."
        )
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise FileError(f"{path}: voxels of type {code} cannot be read. Save them as int16 (scans) or uint8 (labels).")
    return dtype


def _affine(header: Header, shape: tuple[int, int, int], path: Path) -> Float[np.ndarray, "4 4"]:
    """Give index (z, y, x, 1) -> world RAS+ mm."""
    unit = int(header["xyzt_units"]) & 7
    if unit in UNITS:
        # nibabel ignores the unit and ITK obeys it: a silent choice could be wrong a thousandfold.
        raise GeometryError(f"{path}: its header counts in {UNITS[unit]}. Rewrite it in millimetres (xyzt_units 2).")
    try:
        affine = _backwards(header.get_best_affine())
        check_affine(affine)
        _warn_of_forms(header, shape, path)
    except (GeometryError, HeaderDataError, ValueError) as error:
        raise GeometryError(f"{path}: {error}") from error
    return affine


def _warn_of_forms(header: Header, shape: tuple[int, int, int], path: Path) -> None:
    """Warn if the place of the voxels is given twice and differently, or not at all."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if max(codes) <= 0:
        text = "neither sform nor qform is set, so left and right are a guess (first voxel: right, back, feet)"
        warnings.warn(f"{path}: {text}. Check the result.", GridWarning, stacklevel=5)
    if min(codes) <= 0:
        return
    with suppress(HeaderDataError, ValueError):  # an unusable qform beside a good sform
        apart_mm = _apart_mm(_backwards(header.get_sform()), _backwards(header.get_qform()), shape)
        if not apart_mm <= FORMS_TOLERANCE_MM:
            text = f"sform and qform place the volume up to {apart_mm:.1f} mm apart; the sform is used"
            warnings.warn(f"{path}: {text}. Check the result, or correct the header.", GridWarning, stacklevel=5)


def _backwards(affine: object) -> Float[np.ndarray, "4 4"]:
    """Turn nibabel's affine of (x, y, z, 1) into one of (z, y, x, 1)."""
    return np.asarray(cast("np.ndarray", affine), np.float64)[:, [2, 1, 0, 3]]


def _apart_mm(a: Float[np.ndarray, "4 4"], b: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> float:
    """Give the largest distance between the corners of a volume as two affines place it."""
    corners = np.array([[z, y, x, 1] for z in (0, shape[0]) for y in (0, shape[1]) for x in (0, shape[2])]).T
    return float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())


def _read_voxels(
    stream: BufferedIOBase, header: Header, shape: tuple[int, int, int], dtype: np.dtype, path: Path
) -> Shaped[np.ndarray, "z y x"]:
    """Read the voxels, and the rest of the file, whose end holds the checksum."""
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    on_disk = path.stat().st_size
    text = f"{'x'.join(map(str, shape[::-1]))} voxels of {dtype.itemsize} bytes"
    if expected > on_disk * (MOST_COMPRESSION if path.name.lower().endswith(".gz") else 1):
        raise FileError(f"{path}: its header promises {text}, more than the file holds. Copy or export it again.")
    voxels = np.empty(shape, dtype)
    buffer = voxels.reshape(-1).view(np.uint8).data
    got = 0
    while got < expected:
        count = stream.readinto(buffer[got:])
        if not count:
            raise FileError(
                f"{path}: its header promises {text}, but the file ends after {got} bytes of them. Export it again."
            )
        got += count
    while stream.read(1 << 20):
        pass
    if not dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return voxels


def _scaled(voxels: Shaped[np.ndarray, "z y x"], header: Header, path: Path) -> Shaped[np.ndarray, "z y x"]:
    """Apply scl_slope and scl_inter where the header sets them."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or (slope, inter) == (1, 0):
        return voxels
    if not np.isfinite(inter):
        raise FileError(f"{path}: its header scales voxels by {slope:g} but shifts them by {inter:g}. Export it again.")
    scaled = voxels.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(inter)
    return scaled


def _header_for(volume: Volume, voxels: Shaped[np.ndarray, "z y x"], path: Path) -> Header:
    """Give the header to write: the volume's own without its text, or a new one from the affine."""
    if isinstance(volume.header, Header):
        header = volume.header.as_byteswapped("<" if np.little_endian else ">")
        apart_mm = _apart_mm(_backwards(header.get_best_affine()), volume.affine, volume.shape)
        if _shape(header, path) != volume.shape or not apart_mm <= GRID_TOLERANCE_MM:
            raise GeometryError(f"{path}: the volume's header describes another grid. Make a Volume without a header.")
    else:
        header = _new_header(volume, voxels)
    try:
        header.set_data_dtype(voxels.dtype)
    except HeaderDataError as error:
        raise FileError(f"{path}: NIfTI cannot hold voxels of type {voxels.dtype}. Use int16 or uint8.") from error
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0  # the display window of other voxels
    header["vox_offset"] = header.sizeof_hdr + 4
    for field in set(TEXT_FIELDS) & set(header.keys()):
        header[field] = b""
    return header


def _new_header(volume: Volume, voxels: Shaped[np.ndarray, "z y x"]) -> Header:
    """Describe a grid that came from no file."""
    check_affine(volume.affine)
    kind = nibabel.Nifti1Header if max(voxels.shape) < 2**15 else nibabel.Nifti2Header
    header = kind(endianness="<" if np.little_endian else ">")
    header.set_data_shape(voxels.shape[::-1])
    affine = _backwards(volume.affine)  # its own inverse
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    if _apart_mm(_backwards(header.get_qform()), volume.affine, volume.shape) > GRID_TOLERANCE_MM:
        header["qform_code"] = 0  # a quaternion cannot hold shear
    header.set_xyzt_units("mm")
    return header


def _write_parts(stream: BufferedIOBase, header: Header, voxels: Shaped[np.ndarray, "z y x"]) -> None:
    """Write the header, an empty extension and the voxels, some MiB at a time."""
    stream.write(header.binaryblock + b"\0\0\0\0")
    buffer = voxels.reshape(-1).view(np.uint8).data
    for start in range(0, len(buffer), 1 << 22):
        stream.write(buffer[start : start + (1 << 22)])
