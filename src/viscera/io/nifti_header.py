"""What a NIfTI header says: type, shape and place of the voxels; and the header to write for a volume.

The header itself is nibabel's, which takes a fifth of a second to import: nifti.py imports this module when it first reads
or writes a file.
"""

from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from viscera.errors import FileError, GeometryError
from viscera.io.doors import HeaderDataError, nibabel
from viscera.io.unpacking import Forgiving
from viscera.volume import GRID_TOLERANCE_MM, Volume, check_affine

Header = nibabel.Nifti1Header  # Nifti2Header is a subclass of it.

FORMS_TOLERANCE_MM = 1.0
"""sform and qform that place a corner further apart than this are reported."""
SPACING_TOLERANCE = 0.01
"""Share by which the spacing may differ between sform and pixdim."""
QUATERNION_LENGTH = 1.005
"""Of b, c, d, at most 1: what is longer by more than rounding is damaged."""
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


def describe(stream: BufferedIOBase | Forgiving, path: Path) -> Description:
    """Read a header.

    Args:
        stream: The file's bytes, at their beginning.
        path: For messages.

    Raises:
        FileError: It is not a NIfTI header, or describes something else than one 3D volume of numbers.
        GeometryError: Its affine is not a scanner's.
    """
    header = _read_header(stream, path)
    amended = _repair(header)
    shape = _shape(header, path)
    dtype = _dtype(header, path)
    affine, doubts = _place(header, shape, path)
    return Description(
        header, shape, dtype, affine, int(header["vox_offset"]), _scaling(header, path), (*amended, *doubts)
    )


def _read_header(stream: BufferedIOBase | Forgiving, path: Path) -> Header:
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


def _repair(header: Header) -> tuple[str, ...]:
    """Give fields that the standard lets be 0 the value that it then means, in place; return what else was amended.

    Source:
        nifti1.h (nifti.nimh.nih.gov), of qfac: "If pixdim[0]=0.0 (which should never occur), take qfac=1"; of the other
        axes nifti1_io.c (nifti_convert_nhdr2nim): a dim of 0 after the third is 1, and only the sign of qfac matters.
    """
    dim, qfac = header["dim"], float(header["pixdim"][0])
    if int(dim[0]) <= 7:
        for axis in range(4, int(dim[0]) + 1):
            dim[axis] = dim[axis] or 1
    if qfac in (-1, 1):
        return ()
    header["pixdim"][0] = -1 if qfac < 0 else 1
    if qfac == 0 or int(header["qform_code"]) <= 0:
        return ()
    return (
        f"pixdim[0] is {qfac:g}, but only 1 and -1 are known; it is taken for {header['pixdim'][0]:g}. Check the result.",
    )


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
        affine = _backwards(_chosen_form(header))
        check_affine(affine)
        return affine, _doubts(header, affine, shape)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.what}", error.remedy, file=path) from error
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(
            f"{path}: its qform is not a rotation (quaternion {_quaternion(header)})",
            "Export it again, or set its sform.",
            file=path,
        ) from error


def _chosen_form(header: Header) -> object:
    """Return nibabel's affine: the sform's if it is set, else the qform's, else what the voxel sizes give.

    Raises:
        GeometryError: The spacing is impossible.
        HeaderDataError, ValueError: The quaternion is no rotation.
    """
    if int(header["sform_code"]) > 0:
        return header.get_sform()
    sizes = [float(size) for size in header["pixdim"][1:4]]
    if not (np.isfinite(sizes).all() and min(sizes) > 0):
        text = "x".join(f"{size:g}" for size in sizes)
        raise GeometryError(
            f"its header gives a spacing (pixdim) of {text} mm along x, y, z",
            "Rewrite the file with the true spacing of its voxels.",
        )
    return _qform(header) if int(header["qform_code"]) > 0 else header.get_base_affine()


def _qform(header: Header) -> object:
    """Return the qform; a quaternion that rounding has made slightly too long is shortened, as nifti1_io.c does."""
    quaternion = np.array(_quaternion(header))
    length = float(np.linalg.norm(quaternion))
    if 1 < length <= QUATERNION_LENGTH:
        header = header.copy()
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion / length
    return header.get_qform()


def _quaternion(header: Header) -> tuple[float, float, float]:
    b, c, d = (float(header[f"quatern_{axis}"]) for axis in "bcd")
    return b, c, d


def _doubts(header: Header, affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Say if the place or the spacing of the voxels is given twice and differently, or not at all."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if max(codes) <= 0:
        text = "neither sform nor qform is set, so left and right are a guess (first voxel: right, back, feet)"
        return (f"{text}. Check the result.",)
    if codes[0] > 0 and (doubt := _spacing_doubt(header, affine)):
        return (doubt,)
    if min(codes) > 0:
        with suppress(HeaderDataError, ValueError):  # an unusable qform beside a good sform
            apart_mm = _apart_mm(affine, _backwards(_qform(header)), shape)
            if not apart_mm <= FORMS_TOLERANCE_MM:
                text = f"sform and qform place the volume up to {apart_mm:.1f} mm apart; the sform is used"
                return (f"{text}. Check the result, or correct the header.",)
    return ()


def _spacing_doubt(header: Header, affine: Float[np.ndarray, "4 4"]) -> str:
    """Say that the sform and pixdim give different distances between voxels; "" where they do not."""
    used = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    other = np.abs(header["pixdim"][1:4])
    if np.allclose(used, other, rtol=SPACING_TOLERANCE):
        return ""
    texts = ["x".join(f"{mm:.3g}" for mm in spacing) for spacing in (used, other)]
    text = (
        f"sform and pixdim disagree on the spacing ({texts[0]} against {texts[1]} mm along x, y, z); the sform is used"
    )
    if (used == 1).all():
        likely = "Spacing of exactly 1 mm is most likely what a tool writes that does not know it: the result and all volumes"
        return f"{text}. {likely} are then wrong. Correct the header, and predict again."
    return f"{text}, and volumes rest on it. Check the result, or correct the header."


def _backwards(affine: object) -> Float[np.ndarray, "4 4"]:
    """Turn nibabel's affine of (x, y, z, 1) into one of (z, y, x, 1)."""
    return np.asarray(affine, np.float64)[:, [2, 1, 0, 3]]


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
        header = volume.header.as_byteswapped("=")  # this machine's order
        apart_mm = _apart_mm(_backwards(_chosen_form(header)), volume.affine, volume.shape)
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
    header = kind()  # in this machine's order of bytes
    header.set_data_shape(voxels.shape[::-1])
    affine = _backwards(volume.affine)  # its own inverse
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    if _apart_mm(_backwards(header.get_qform()), volume.affine, volume.shape) > GRID_TOLERANCE_MM:
        header["qform_code"] = 0  # a quaternion cannot hold shear
    header.set_xyzt_units("mm")
    return header
