"""Montages: CT, truth, prediction and their agreement, on slices chosen where the organs are.

``stills`` computes the pictures, ``montage`` draws them into a PNG. Whatever the orientation of the file, slices are
shown as radiology shows them: the patient's right on the picture's left, front on top; in coronal and sagittal slices,
head on top.
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Integer, Shaped, UInt8

from viscera.colours import ColourScheme, colour
from viscera.errors import LabelError, SettingError
from viscera.figures.pictures import (
    AGREE,
    AGREEMENT_COLOURS,
    AGREEMENT_NAMES,
    FALSE,
    MISSED,
    RGB,
    SOFT_TISSUE_HU,
    agreement,
    grey,
    overlay,
    resize_labels,
    resize_slice,
)
from viscera.figures.sheet import draw_sheet
from viscera.io.label_values import ROUNDED, whole_labels
from viscera.volume import Volume, require_same_grid, to_axial, with_voxels

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
"""In the order of the axes (z, y, x) along which they are stacked."""

TISSUE_HU = -300.0
"""Above: body (or table), not air."""

MARGIN_MM = 12.0
"""Kept around the body, and above and below the organs."""

MOST_LAYERS = 100
"""Axial slices that are looked at to choose upright ones."""

WORTH_SHOWING = 0.05
"""Slices with less than this share of every organ's largest area hold only tips and stray flecks."""

MOST_ORGANS = 255
"""Of more it is not a label map: somebody passed a scan."""


@dataclass(frozen=True)
class Look:
    """What a montage shows and how.

    Attributes:
        axial: Number of axial slices.
        coronal: Number of coronal slices.
        sagittal: Number of sagittal slices.
        window_hu: (black, white), HU.
        opacity: Of the fillings, in [0, 1].
        panel_pixels: Width of the widest picture.
        title: Printed on top.
        colours: Of the organs: viscera's own or 3D Slicer's.
    """

    axial: int = 4
    coronal: int = 1
    sagittal: int = 0
    window_hu: tuple[float, float] = SOFT_TISSUE_HU
    opacity: float = 0.35
    panel_pixels: int = 380
    title: str = ""
    colours: ColourScheme = "viscera"

    def __post_init__(self) -> None:
        """Refuse montages without slices."""
        if min(self.axial, self.coronal, self.sagittal) < 0 or self.axial + self.coronal + self.sagittal == 0:
            raise SettingError("a montage needs at least one slice: set axial, coronal or sagittal to 1 or more.")


@dataclass(frozen=True, eq=False)
class Still:
    """One slice in all its columns.

    Attributes:
        plane: axial, coronal or sagittal.
        position_mm: Where the slice's centre lies along its axis of the world (z, y or x in RAS+).
        pictures: One RGB picture per column, all of the same size.
    """

    plane: Plane
    position_mm: float
    pictures: tuple[UInt8[np.ndarray, "rows columns 3"], ...]


@dataclass(frozen=True, eq=False)
class Stills:
    """Every picture of a montage.

    Attributes:
        columns: Titles of the columns.
        rows: The slices, from top to bottom.
        pixel_mm: Size of a pixel, the same in all pictures.
        legend: Groups of {name: colour} of what is to be seen: organs, then kinds of agreement.
    """

    columns: tuple[str, ...]
    rows: tuple[Still, ...]
    pixel_mm: float
    legend: tuple[dict[str, RGB], ...]


def montage(
    ct: Volume,
    prediction: Volume,
    *,
    truth: Volume | None,
    names: Mapping[int, str],
    out: Path,
    annotated: Collection[str] | None = None,
    look: Look = Look(),
) -> Path:
    """Write a PNG with one slice per row and the columns CT, truth, prediction, agreement (or CT, labels).

    Args:
        ct: The scan, HU, in any orientation.
        prediction: Predicted labels on the scan's grid.
        truth: True labels on the scan's grid, or None.
        names: {label: organ} of both label maps.
        out: The PNG to write.
        annotated: Organs that the truth annotates; None for all. Others are shown as not annotated, not as false,
            and do not decide on the slices.
        look: Number of slices, window, size, title.

    Returns:
        ``out``.

    Raises:
        GeometryError: The grids differ.
        LabelError: Labels that are not labels.
        FileError: The PNG cannot be written.
    """
    pictures = stills(ct, prediction, truth=truth, names=names, annotated=annotated, look=look)
    captions = [
        f"{still.plane}  {'zyx'[PLANES.index(still.plane)]} = {still.position_mm:.0f} mm" for still in pictures.rows
    ]
    sides = [("A", "P") if still.plane == "sagittal" else ("R", "L") for still in pictures.rows]
    return draw_sheet(
        [still.pictures for still in pictures.rows],
        list(zip(captions, sides, strict=True)),
        columns=pictures.columns,
        pixel_mm=pictures.pixel_mm,
        legend=pictures.legend,
        title=look.title,
        out=out,
    )


def stills(
    ct: Volume,
    prediction: Volume,
    *,
    truth: Volume | None,
    names: Mapping[int, str],
    annotated: Collection[str] | None = None,
    look: Look = Look(),
) -> Stills:
    """Compute the pictures of a montage; arguments and errors as in ``montage``."""
    maps = []
    for labels, what in ((truth, "truth"), (prediction, "prediction")):
        if labels is not None:
            require_same_grid(ct, labels, where=what)
            maps.append(to_axial(_whole(labels, what))[0].voxels)
    ct = to_axial(ct)[0]
    found = {value for labels in maps for value in _values(labels)} - {0}
    if len(found) > MOST_ORGANS:
        raise LabelError(f"{len(found)} labels are too many for organs", "Pass the label map, not the scan.")
    values = sorted(set(names) | found)
    organs = {value: names.get(value, f"label_{value}") for value in values}
    judged = None if annotated is None else [value for value, organ in organs.items() if organ in annotated]
    sought = values if judged is None else judged
    cuts: list[tuple[Plane, int]] = [
        (plane, index)
        for plane, amount in zip(PLANES, (look.axial, look.coronal, look.sagittal), strict=True)
        if amount
        for index in choose_slices(_areas(maps, PLANES.index(plane), sought), amount, head_first=plane == "axial")
    ]
    field = field_of(ct, maps)
    widths_mm = {"axial": 2, "coronal": 2, "sagittal": 1}
    pixel_mm = max(_length_mm(ct, field, widths_mm[plane]) for plane, _ in cuts) / look.panel_pixels
    rows, seen, kinds = [], set(), {AGREE, FALSE, MISSED}
    for plane, index in cuts:
        size = _size(ct, field, plane, pixel_mm)
        slice_hu = resize_slice(_cut(ct.voxels, plane, index, field), size)
        labels = [resize_labels(_cut(voxels, plane, index, field), size) for voxels in maps]
        codes = agreement(labels[0], labels[1], annotated=judged) if len(labels) == 2 else None
        rows.append(Still(plane, _position_mm(ct, plane, index), _pictures(slice_hu, labels, codes, organs, look)))
        seen.update(*(np.unique(a).tolist() for a in labels))
        kinds.update(() if codes is None else np.unique(codes).tolist())
    legend = {organ: colour(organ, look.colours) for value, organ in organs.items() if value in seen}
    if truth is None:
        return Stills(("CT", "labels"), tuple(rows), pixel_mm, (legend,))
    compared = {AGREEMENT_NAMES[code]: rgb for code, rgb in AGREEMENT_COLOURS.items() if code in kinds}
    return Stills(("CT", "truth", "prediction", "agreement"), tuple(rows), pixel_mm, (legend, compared))


def choose_slices(areas: Int[np.ndarray, "slices organs"], amount: int, *, head_first: bool = False) -> list[int]:
    """Choose slices that together show every organ well and lie apart.

    Each next slice is the one that adds most to the best view of each organ (the share of its largest area), at least
    half a regular step away from those chosen; when nothing is left to gain, the one farthest from them.

    Args:
        areas: Pixels of each organ in each slice.
        amount: How many; fewer come back if there are fewer slices.
        head_first: Whether the last slice comes first.

    Returns:
        Indices in order. Without any organ they are spread over all slices.
    """
    count = len(areas)
    views = areas / np.maximum(areas.max(axis=0), 1)
    shown = np.flatnonzero((views >= WORTH_SHOWING).any(axis=1))
    first, last = (int(shown[0]), int(shown[-1])) if shown.size else (0, count - 1)
    amount = min(amount, last - first + 1)
    if not shown.size:
        chosen = [int((i + 0.5) * count / amount) for i in range(amount)]
        return chosen[::-1] if head_first else chosen
    best = np.zeros(areas.shape[1])
    places = np.arange(count)
    gap = np.where((places >= first) & (places <= last), float(count), -1.0)  # to the nearest chosen slice
    chosen = []
    for _ in range(amount):
        free = gap >= min((last - first + 1) / (2 * amount), gap.max())
        gain = np.where(free, np.maximum(views - best, 0).sum(axis=1), -1.0)
        index = int(gain.argmax()) if gain.max() > 1e-9 else int(gap.argmax())
        chosen.append(index)
        best = np.maximum(best, views[index])
        gap = np.minimum(gap, np.abs(places - index))
    return sorted(chosen, reverse=head_first)


def _pictures(
    slice_hu: Shaped[np.ndarray, "y x"],
    labels: list[Shaped[np.ndarray, "y x"]],
    codes: UInt8[np.ndarray, "y x"] | None,
    organs: Mapping[int, str],
    look: Look,
) -> tuple[UInt8[np.ndarray, "y x 3"], ...]:
    """Return the columns of one slice; ``labels`` is [truth, prediction] with their ``codes``, or [prediction]."""
    colours = {value: colour(organ, look.colours) for value, organ in organs.items()}
    plain = np.repeat(grey(slice_hu, look.window_hu)[..., None], 3, axis=2)
    painted = [overlay(slice_hu, a, colours=colours, window_hu=look.window_hu, opacity=look.opacity) for a in labels]
    if codes is None:
        return plain, *painted
    compared = overlay(slice_hu, codes, colours=AGREEMENT_COLOURS, window_hu=look.window_hu, opacity=look.opacity)
    return plain, *painted, compared


def _whole(labels: Volume, what: str) -> Volume:
    """Return labels as whole numbers."""
    whole, rounded = whole_labels(labels.voxels, where=what)
    if rounded:
        warnings.warn(f"{what}: the labels are {ROUNDED}", stacklevel=4)
    return with_voxels(labels, whole)


def _values(labels: Integer[np.ndarray, "z y x"]) -> list[int]:
    """Return the labels to be found, without 0."""
    found = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for layer in labels:
        found[layer] = True
    return [int(value) for value in np.flatnonzero(found) if value]


def _areas(maps: list[Shaped[np.ndarray, "z y x"]], axis: int, values: list[int]) -> Int[np.ndarray, "slices organs"]:
    """Count the pixels of each organ in each slice along an axis, over all maps (in some rows, if they are many)."""
    length = max([*values, 0]) + 1
    # Upright slices cut across memory; some of the axial slices tell as much in less time.
    step = max(1, maps[0].shape[0] // MOST_LAYERS) if axis else 1
    layers = [np.moveaxis(labels[::step], axis, 0) for labels in maps]
    counts = [sum(np.bincount(a[i][a[i] < length], minlength=length) for a in layers) for i in range(len(layers[0]))]
    return np.array(counts)[:, values]


def with_margin(wanted: Bool[np.ndarray, "_"], step_mm: float) -> slice:
    """Return the places from the first to the last that is wanted, with a margin; all of them where none is."""
    found = np.flatnonzero(wanted)
    low, high = (int(found[0]), int(found[-1])) if found.size else (0, len(wanted) - 1)
    margin = round(MARGIN_MM / step_mm)
    return slice(max(low - margin, 0), min(high + margin + 1, len(wanted)))


def field_of(ct: Volume, maps: list[Shaped[np.ndarray, "z y x"]]) -> tuple[slice, slice, slice]:
    """Return the part worth showing: the body along y and x, the organs along z, with a margin, and every organ."""
    layers = ct.voxels[:: max(1, ct.shape[0] // 16)] > TISSUE_HU
    # A row counts as body if 2 % of it, in some slice, is not air: wires and noise do not.
    tissue = [
        np.zeros(ct.shape[0], bool),
        layers.mean(axis=2).max(axis=0) > 0.02,
        layers.mean(axis=1).max(axis=0) > 0.02,
    ]
    field = []
    for axis, spacing_mm in enumerate(ct.spacing_mm):
        others = tuple(other for other in range(3) if other != axis)
        field.append(with_margin(np.logical_or.reduce([a.any(axis=others) for a in maps] + [tissue[axis]]), spacing_mm))
    return field[0], field[1], field[2]


def _cut(
    voxels: Shaped[np.ndarray, "z y x"], plane: Plane, index: int, field: tuple[slice, slice, slice]
) -> Shaped[np.ndarray, "rows columns"]:
    """Return one slice of a volume in axial order, as it is looked at."""
    z, y, x = field
    if plane == "axial":
        return voxels[index, y, x]
    upright = voxels[z, index, x] if plane == "coronal" else voxels[z, y, index]
    return upright[::-1]


def _length_mm(ct: Volume, field: tuple[slice, slice, slice], axis: int) -> float:
    return (field[axis].stop - field[axis].start) * ct.spacing_mm[axis]


def _size(ct: Volume, field: tuple[slice, slice, slice], plane: Plane, pixel_mm: float) -> tuple[int, int]:
    """Return rows and columns of a plane's picture."""
    axes = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}[plane]
    rows, columns = (max(1, round(_length_mm(ct, field, axis) / pixel_mm)) for axis in axes)
    return rows, columns


def _position_mm(ct: Volume, plane: Plane, index: int) -> float:
    """Return the world coordinate of a slice's centre along the axis that the plane cuts."""
    axis = PLANES.index(plane)
    centre = np.array([*((n - 1) / 2 for n in ct.shape), 1.0])
    centre[axis] = index
    return float((ct.affine @ centre)[2 - axis])
