"""Read the labels of a source: one file as it is, or many binary masks merged into one volume."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, Shaped

from viscera.datasets.sources import Source
from viscera.errors import LabelError
from viscera.io import nifti
from viscera.volume import Volume, require_same_grid, with_voxels

ROUNDING = 1e-3
"""By which a label may miss a whole number: tools that scale or resample floating-point labels leave 2.9999998."""


class OverlapWarning(UserWarning):
    """Masks of one case claim the same voxels."""


def read_labels(source: Source) -> Volume:
    """Read a case's labels as one volume of whole numbers, the values being those of ``source.organs``.

    Mask files are read one at a time, so that two of them at most are in memory. Where they overlap, the later wins.

    Raises:
        LabelError: There are no labels, a value is not a whole number, or a mask is not binary.
        GeometryError: Two masks lie on different grids.
        FileError: A file cannot be read.

    Warns:
        OverlapWarning: Masks overlap.
    """
    if source.labels is None:
        raise LabelError(f"{source.name} has no labels", "Leave it out, or add its label file.")
    if isinstance(source.labels, Path):
        volume = nifti.read(source.labels)
        return with_voxels(volume, _whole_numbers(volume.voxels, source.labels))
    return _merge(source, source.labels)


def _whole_numbers(voxels: Shaped[np.ndarray, "z y x"], path: Path) -> Integer[np.ndarray, "z y x"]:
    """Return voxels as integers (many tools save labels as floating-point numbers, and almost whole ones)."""
    if voxels.dtype.kind in "iu":
        return voxels
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high) and abs(low) < 2**31 and abs(high) < 2**31):
        raise LabelError(
            f"{path}: labels reach from {low:g} to {high:g}",
            "Labels are small whole numbers: correct the file.",
            file=path,
        )
    dtype = np.uint8 if low >= 0 and high <= 255 else np.int32
    whole = np.empty(voxels.shape, dtype)
    for index, section in enumerate(voxels):
        whole[index] = np.rint(section)
        far = np.abs(whole[index] - section) > ROUNDING
        if far.any():
            value = section[far][0]
            raise LabelError(
                f"{path} holds {value:g}, but labels are whole numbers",
                "Resample labels with nearest neighbour.",
                file=path,
            )
    return whole


def _merge(source: Source, masks: Sequence[tuple[str, Path]]) -> Volume:
    merged: Volume | None = None
    overlaps: dict[str, int] = {}
    for value, (organ, path) in enumerate(masks, start=1):
        volume = nifti.read(path)
        if merged is None:
            merged = with_voxels(volume, np.zeros(volume.shape, np.uint8 if len(masks) <= 255 else np.uint16))
        require_same_grid(merged, volume, where=f"{source.name}: {path.name} against {masks[0][1].name}")
        inside = _inside(volume.voxels, path)
        if shared := int(np.count_nonzero(merged.voxels[inside])):
            overlaps[organ] = shared
        merged.voxels[inside] = value
    if merged is None:
        raise LabelError(f"{source.name} has no masks", "Leave it out, or add them.")
    if overlaps:
        text = ", ".join(f"{organ} {count}" for organ, count in overlaps.items())
        what = f"{source.name}: masks overlap; the alphabetically later organ takes the voxels ({text})"
        warnings.warn(what, OverlapWarning, stacklevel=3)
    return merged


def _inside(voxels: Shaped[np.ndarray, "z y x"], path: Path) -> Bool[np.ndarray, "z y x"]:
    if voxels.dtype.kind == "f" and np.isfinite(voxels).all() and (np.abs(voxels - np.rint(voxels)) <= ROUNDING).all():
        voxels = np.rint(voxels)
    inside = voxels != 0
    high = voxels.max()
    if high < 0 or np.count_nonzero(inside) != np.count_nonzero(voxels == high) * bool(high):
        raise LabelError(
            f"{path} is not a binary mask: it holds several values", "Save one mask per organ, 0 outside.", file=path
        )
    return inside
