"""Scans as other libraries hold them in memory <-> Volume, so that ``segment`` gives back the kind that it was given.

    viscera.Volume      voxels (z, y, x), affine to RAS+ mm
    nibabel image       voxels (x, y, z), affine to RAS+ mm
    SimpleITK image     origin, spacing and direction, to LPS+ mm
    (array, affine)     voxels (x, y, z), affine to RAS+ mm, as in nibabel

A kind is known by the name of its library, so SimpleITK is imported for none but its own images.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from jaxtyping import Float

from viscera.errors import FileError, GeometryError, SettingError
from viscera.volume import Volume, check_extent

if TYPE_CHECKING:
    import nibabel.spatialimages
    import SimpleITK

Image = TypeVar("Image")
"""A Volume, a nibabel image, a SimpleITK image, or a tuple of array and affine."""

NAME = "the image"
"""What messages call a scan that came from no file."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_volume(image: object) -> Volume:
    """Return an image of any of the four kinds as a Volume; its voxels are neither copied nor changed where that can be.

    Raises:
        SettingError: It is of another kind.
        FileError: It does not hold one number per voxel of a 3D volume.
        GeometryError: Its place is not a scanner's.
    """
    match _kind(image):
        case "viscera":
            volume = cast("Volume", image)
        case "nibabel":
            volume = _from_nibabel(cast("nibabel.spatialimages.SpatialImage", image))
        case "SimpleITK":
            volume = _from_simpleitk(cast("SimpleITK.Image", image))
        case _:
            volume = _from_arrays(*cast("tuple[object, object]", image))
    try:
        check_extent(volume.affine, volume.shape)
    except GeometryError as error:
        raise GeometryError(f"{NAME}: {error.what}", error.remedy) from error
    return volume


def like(image: Image, labels: Volume) -> Image:
    """Return labels as the kind of image that they are of, on exactly its grid.

    Args:
        image: What ``to_volume`` took.
        labels: uint8, with the grid and header that it gave.
    """
    match _kind(image):
        case "viscera":
            found: object = labels
        case "nibabel":
            found = _to_nibabel(labels, cast("nibabel.spatialimages.SpatialImage", image))
        case "SimpleITK":
            found = _to_simpleitk(labels, cast("SimpleITK.Image", image))
        case _:
            found = (np.ascontiguousarray(labels.voxels.T), cast("tuple[object, object]", image)[1])
    return cast("Image", found)


def _kind(image: object) -> str:
    """Return the library that an image is of, "arrays" for a pair of array and affine.

    Raises:
        SettingError: It is none of the four.
    """
    if isinstance(image, Volume):
        return "viscera"
    if isinstance(image, tuple) and len(image) == 2:
        return "arrays"
    libraries = {one.__module__.partition(".")[0] for one in type(image).__mro__}
    if "nibabel" in libraries and hasattr(image, "dataobj") and hasattr(image, "affine"):
        return "nibabel"
    if "SimpleITK" in libraries and hasattr(image, "GetDirection") and hasattr(image, "CopyInformation"):
        return "SimpleITK"
    if isinstance(image, str | Path):
        raise SettingError(
            f"'{image}' is the name of a file",
            "Read it first (viscera.read), or use viscera.predict, from files to files.",
        )
    hint = " Give (array, affine): without its affine nobody knows where left is." if hasattr(image, "shape") else ""
    raise SettingError(
        f"a {type(image).__module__}.{type(image).__qualname__} is not an image that viscera knows",
        f"{hint} Give a viscera.Volume, a nibabel image, a SimpleITK image or a tuple (array, affine).",
    )


def _from_nibabel(image: "nibabel.spatialimages.SpatialImage") -> Volume:
    """Take a nibabel image; a NIfTI image's header gets the checks that a file's gets, and is kept."""
    from viscera.io.nifti import GridWarning
    from viscera.io.nifti_header import Header, describe

    voxels = np.asanyarray(image.dataobj)
    if not isinstance(image.header, Header):
        return _from_arrays(voxels, image.affine)
    header = image.header.copy()
    header["vox_offset"], header["magic"] = header.sizeof_hdr + 4, b"n+2" if header.sizeof_hdr == 540 else b"n+1"
    found = describe(BytesIO(header.binaryblock), Path(NAME))
    for doubt in found.doubts:
        warnings.warn(f"{NAME}: {doubt}", GridWarning, stacklevel=5)
    return Volume(voxels.reshape(found.shape[::-1]).T, found.affine, found.header)


def _to_nibabel(labels: Volume, image: "nibabel.spatialimages.SpatialImage") -> "nibabel.spatialimages.SpatialImage":
    """Make a NIfTI image with the affine of another, and the header that a file of these labels would have."""
    from viscera.io.doors import nibabel
    from viscera.io.nifti_header import header_for

    header = header_for(labels, labels.voxels, Path(NAME))
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind(labels.voxels.T.reshape(image.shape), image.affine, header)


def _from_simpleitk(image: "SimpleITK.Image") -> Volume:
    """Take a SimpleITK image, whose world is LPS+."""
    import SimpleITK as sitk  # noqa: N813  (as all the world calls it)

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise FileError(
            f"{NAME} has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} numbers per voxel",
            "Give one 3D volume of numbers (one phase, one channel).",
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), _backwards(LPS_TO_RAS @ affine))


def _to_simpleitk(labels: Volume, image: "SimpleITK.Image") -> "SimpleITK.Image":
    """Make a SimpleITK image with the origin, spacing and direction of another, and none of its metadata."""
    import SimpleITK as sitk  # noqa: N813

    made = sitk.GetImageFromArray(np.ascontiguousarray(labels.voxels))
    made.CopyInformation(image)
    return made


def _from_arrays(array: object, affine: object) -> Volume:
    """Take voxels (x, y, z) and the 4x4 matrix from (x, y, z, 1) to RAS+ mm."""
    voxels = np.asarray(array)
    if voxels.ndim != 3:
        text = "x".join(map(str, voxels.shape)) or "one number"
        raise FileError(
            f"{NAME} is an array with {voxels.ndim} axes ({text})", "Give one 3D volume, in the order (x, y, z)."
        )
    try:
        matrix = np.asarray(affine, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(
            f"{NAME}'s affine must be a 4x4 matrix with the last row 0 0 0 1, got {_short(affine)}",
            "Give the matrix from (x, y, z, 1) to millimetres to the right, front and head (nibabel's image.affine).",
        )
    return Volume(voxels.T, _backwards(matrix))


def _short(value: object) -> str:
    shape = getattr(value, "shape", None)
    return f"one of shape {shape} with the last row {np.asarray(value)[-1]}" if shape else type(value).__name__


def _backwards(affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Turn an affine of (x, y, z, 1) into one of (z, y, x, 1)."""
    return affine[:, [2, 1, 0, 3]]
