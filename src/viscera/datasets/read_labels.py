"""Read the labels of a source: one file as it is, or many binary masks merged into one volume."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer

from viscera.datasets.sources import Source
from viscera.errors import LabelError
from viscera.io import nifti, scans
from viscera.io.label_values import ROUNDED, whole_labels
from viscera.io.scans import ScanFiles
from viscera.volume import Volume, require_same_grid, with_voxels


class OverlapWarning(UserWarning):
    """Masks of one case claim the same voxels."""


class RoundedWarning(UserWarning):
    """Labels are not quite whole numbers and were rounded."""


def read_labels(source: Source) -> Volume:
    """Read a case's labels as one volume of whole numbers, the values being those of ``source.organs``.

    Mask files are read one at a time, so that two of them at most are in memory. Where they overlap, the later wins.

    Raises:
        LabelError: There are no labels, a value is not a whole number, or a mask is not binary.
        GeometryError: Two masks lie on different grids.
        FileError: A file cannot be read.

    Warns:
        OverlapWarning: Masks overlap.
        RoundedWarning: See ``io.label_values.whole_labels``.
    """
    volume, rounded = read_rounded(source)
    if rounded:
        warnings.warn(f"{source.name}: the labels are {ROUNDED}", RoundedWarning, stacklevel=2)
    return volume


def read_rounded(source: Source) -> tuple[Volume, bool]:
    """Read a case's labels as ``read_labels`` does, and return whether any was rounded instead of warning of it."""
    if source.labels is None:
        raise LabelError(f"{source.name} has no labels", "Leave it out, or add its label file.")
    if isinstance(source.labels, Path):
        volume = nifti.read(source.labels)
        whole, rounded = whole_labels(volume.voxels, where=str(source.labels), file=source.labels)
        return with_voxels(volume, whole), rounded
    if isinstance(source.labels, ScanFiles):
        return scans.read(source.labels), False
    return _merge(source, source.labels)


def _merge(source: Source, masks: Sequence[tuple[str, Path]]) -> tuple[Volume, bool]:
    merged: Volume | None = None
    rounded = False
    overlaps: dict[str, int] = {}
    for value, (organ, path) in enumerate(masks, start=1):
        volume = nifti.read(path)
        if merged is None:
            merged = with_voxels(volume, np.zeros(volume.shape, np.uint8 if len(masks) <= 255 else np.uint16))
        require_same_grid(merged, volume, where=f"{source.name}: {path.name} against {masks[0][1].name}")
        whole, almost = whole_labels(volume.voxels, where=str(path), file=path)
        rounded |= almost
        inside = _inside(whole, path)
        if shared := int(np.count_nonzero(merged.voxels[inside])):
            overlaps[organ] = shared
        merged.voxels[inside] = value
    if merged is None:
        raise LabelError(f"{source.name} has no masks", "Leave it out, or add them.")
    if overlaps:
        text = ", ".join(f"{organ} {count}" for organ, count in overlaps.items())
        what = f"{source.name}: masks overlap; the alphabetically later organ takes the voxels ({text})"
        warnings.warn(what, OverlapWarning, stacklevel=4)
    return merged, rounded


def _inside(voxels: Integer[np.ndarray, "z y x"], path: Path) -> Bool[np.ndarray, "z y x"]:
    inside = voxels != 0
    high = voxels.max()
    if np.count_nonzero(inside) != np.count_nonzero(voxels == high) * bool(high):
        raise LabelError(
            f"{path} is not a binary mask: it holds several values", "Save one mask per organ, 0 outside.", file=path
        )
    return inside
