"""What a NIfTI header says: type, shape and place of the voxels; and the header to write for a volume.

The header itself is nibabel's, which takes a fifth of a second to import: nifti.py imports this module when it first reads
or writes a file.
"""

from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from jaxtyping import Float, Shaped
from nibabel.spatialimages import HeaderDataError

from viscera.errors import FileError, GeometryError
from viscera.volume import GRID_TOLERANCE_MM, Volume, check_affine

Header = nibabel.Nifti1Header  # Nifti2Header is a subclass of it.

FORMS_TOLERANCE_MM = 1.0
"""sform and qform that place a corner further apart than this are reported."""
TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str")
UNITS = {1: "metres", 3: "micrometres"}
KINDS = {128: "RGB colour", 2304: "RGBA colour", 32: "complex", 1792: "complex", 2048: "complex"}


@dataclass(frozen=True, eq=False)
class Description:
    """What a header says of the file's voxels.

    Attributes:
        header: nibabel's.
        shape: Voxels along (z, y, x).
        dtype: Of the stored numbers, in the file's byte order.
        affine: Index (z, y, x, 1) -> world RAS+ mm.
        offset: The byte at which the voxels begin.
        scaling: What to multiply by and what then to add; None where the stored numbers are the values.
        doubts: Why the place may be wrong.
    """

    header: Header
    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: Float[np.ndarray, "4 4"]
    offset: int
    scaling: tuple[float, float] | None
    doubts: tuple[str, ...]


def describe(stream: BufferedIOBase, path: Path) -> Description:
    """Read a header.

    Args:
        stream: The file's bytes, at their beginning.
        path: For messages.

    Raises:
        FileError: It is not a NIfTI header, or describes something else than one 3D volume of numbers.
        GeometryError: Its affine is not a scanner's.
    """
    header = _read_header(stream, path)
    shape = _shape(header, path)
    dtype = _dtype(header, path)
    affine, doubts = _place(header, shape, path)
    return Description(header, shape, dtype, affine, int(header["vox_offset"]), _scaling(header, path), doubts)


def _read_header(stream: BufferedIOBase, path: Path) -> Header:
    """Return the header without nibabel's own checks, which would mend some damage in silence."""
    block = stream.read(348)
    size = int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")
    kind = nibabel.Nifti1Header
    if 540 in size:
        kind = nibabel.Nifti2Header
        block += stream.read(540 - 348)
    if len(block) < kind.sizeof_hdr or kind.sizeof_hdr not in size:
        raise FileError(
            f"{path} is not NIfTI: it does not begin with a NIfTI header", "Export it again as NIfTI.", file=path
        )
    endianness = "<" if size[0] == kind.sizeof_hdr else ">"  # nibabel's own guess trusts a damaged dim
    header = kind(block, endianness, check=False)
    magic = bytes(header["magic"].item())[:3]
    if magic in (b"ni1", b"ni2"):
        raise FileError(f"{path}: this is half of a .hdr/.img pair", "Convert the pair to one .nii.gz.", file=path)
    if magic not in (b"n+1", b"n+2"):
        raise FileError(
            f"{path} is not NIfTI: its magic is {magic!r}, not 'n+1' or 'n+2'", "Export it again as NIfTI.", file=path
        )
    offset = float(header["vox_offset"])
    if not kind.sizeof_hdr <= offset < 2**31:
        raise FileError(f"{path}: its header puts the voxels at byte {offset:g}", "Export it again.", file=path)
    return header


def _shape(header: Header, path: Path) -> tuple[int, int, int]:
    """Return the voxels along (z, y, x)."""
    dim = [int(n) for n in header["dim"]]
    sizes = dim[1 : 1 + dim[0]]
    if not 1 <= dim[0] <= 7 or min(sizes) < 1:
        raise FileError(f"{path}: its header gives impossible dimensions {dim}", "Export it again.", file=path)
    text = "x".join(map(str, sizes))
    if len(sizes) < 3:
        raise FileError(
            f"{path} holds a {len(sizes)}D image ({text})",
            "A scan needs three axes: export the whole series.",
            file=path,
        )
    if any(n > 1 for n in sizes[3:]):
        raise FileError(
            f"{path} holds a {len(sizes)}D image ({text})",
            "Save one 3D volume of it (one phase, one channel).",
            file=path,
        )
    return sizes[2], sizes[1], sizes[0]


def _dtype(header: Header, path: Path) -> np.dtype:
    """Return the type of the stored numbers, in the file's byte order."""
    code = int(header["datatype"])
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = None
    if code in KINDS:
        raise FileError(
            f"{path} holds {KINDS[code]} voxels",
            "Export the scan's Hounsfield units, or one label per voxel.",
            file=path,
        )
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise FileError(
            f"{path}: voxels of type {code} cannot be read", "Save them as int16 (scans) or uint8 (labels).", file=path
        )
    return dtype


def _place(header: Header, shape: tuple[int, int, int], path: Path) -> tuple[Float[np.ndarray, "4 4"], tuple[str, ...]]:
    """Return index (z, y, x, 1) -> world RAS+ mm, and why it may be wrong."""
    unit = int(header["xyzt_units"]) & 7
    if unit in UNITS:
        # nibabel ignores the unit and ITK obeys it: a silent choice could be wrong a thousandfold.
        raise GeometryError(
            f"{path}: its header counts in {UNITS[unit]}", "Rewrite it in millimetres (xyzt_units 2).", file=path
        )
    try:
        affine = _backwards(header.get_best_affine())
        check_affine(affine)
        return affine, _doubts(header, shape)
    except (GeometryError, HeaderDataError, ValueError) as error:
        raise GeometryError(f"{path}: {error}") from error


def _doubts(header: Header, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Say if the place of the voxels is given twice and differently, or not at all."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if max(codes) <= 0:
        text = "neither sform nor qform is set, so left and right are a guess (first voxel: right, back, feet)"
        return (f"{text}. Check the result.",)
    if min(codes) > 0:
        with suppress(HeaderDataError, ValueError):  # an unusable qform beside a good sform
            apart_mm = _apart_mm(_backwards(header.get_sform()), _backwards(header.get_qform()), shape)
            if not apart_mm <= FORMS_TOLERANCE_MM:
                text = f"sform and qform place the volume up to {apart_mm:.1f} mm apart; the sform is used"
                return (f"{text}. Check the result, or correct the header.",)
    return ()


def _backwards(affine: object) -> Float[np.ndarray, "4 4"]:
    """Turn nibabel's affine of (x, y, z, 1) into one of (z, y, x, 1)."""
    return np.asarray(cast("np.ndarray", affine), np.float64)[:, [2, 1, 0, 3]]


def _apart_mm(a: Float[np.ndarray, "4 4"], b: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> float:
    """Return the largest distance between the corners of a volume as two affines place it."""
    corners = np.array([[z, y, x, 1] for z in (0, shape[0]) for y in (0, shape[1]) for x in (0, shape[2])]).T
    return float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())


def _scaling(header: Header, path: Path) -> tuple[float, float] | None:
    """Return scl_slope and scl_inter where the header sets them."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or (slope, inter) == (1, 0):
        return None
    if not np.isfinite(inter):
        raise FileError(
            f"{path}: its header scales voxels by {slope:g} but shifts them by {inter:g}", "Export it again.", file=path
        )
    return slope, inter


def header_for(volume: Volume, voxels: Shaped[np.ndarray, "z y x"], path: Path) -> Header:
    """Return the header to write: the volume's own without its text, or a new one from the affine.

    Args:
        volume: Its grid, and its header if it came from a file.
        voxels: What is to be written on that grid.
        path: For messages.

    Raises:
        FileError: NIfTI cannot hold such voxels.
        GeometryError: The volume's header belongs to another grid.
    """
    if isinstance(volume.header, Header):
        header = volume.header.as_byteswapped("<" if np.little_endian else ">")
        apart_mm = _apart_mm(_backwards(header.get_best_affine()), volume.affine, volume.shape)
        if _shape(header, path) != volume.shape or not apart_mm <= GRID_TOLERANCE_MM:
            raise GeometryError(
                f"{path}: the volume's header describes another grid", "Make a Volume without a header.", file=path
            )
    else:
        header = _new_header(volume, voxels)
    try:
        header.set_data_dtype(voxels.dtype)
    except HeaderDataError as error:
        raise FileError(
            f"{path}: NIfTI cannot hold voxels of type {voxels.dtype}", "Use int16 or uint8.", file=path
        ) from error
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
