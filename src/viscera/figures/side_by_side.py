"""One slice of a scan in columns: CT, truth, prediction, agreement, with side marks and a scale bar, as an RGB array.

montage.py chooses slices and draws a sheet; here any slice is drawn, quickly enough to be leafed through (reports/notebook.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from viscera.colours import colour
from viscera.errors import SettingError
from viscera.figures.montage import PLANES, Plane, field_of
from viscera.figures.pictures import (
    AGREEMENT_COLOURS,
    RGB,
    SOFT_TISSUE_HU,
    UNJUDGED,
    agreement,
    grey,
    overlay,
    resize_labels,
    resize_slice,
)
from viscera.figures.sheet import bar_length_mm
from viscera.volume import Volume

LOWEST = 64
"""Pixels: a lower picture, of a thin slab, gets black below, so that marks and scale bar have room."""
GAP = 6
PALE, DARK = (242, 244, 248), (11, 14, 19)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A scan with its labels, all in axial order (feet to head, front to back, the patient's right to left) on one grid.

    Attributes:
        ct: The scan, HU.
        truth: Its true labels, if they are known.
        prediction: Its predicted labels, if there are any.
        names: {label: organ}, of both.
        annotated: Organs that the truth annotates; None: all.
        known: Voxels of which the truth tells anything; None: all.
    """

    ct: Volume
    truth: UInt8[np.ndarray, "z y x"] | None
    prediction: UInt8[np.ndarray, "z y x"] | None
    names: Mapping[int, str]
    annotated: Collection[str] | None = None
    known: Bool[np.ndarray, "z y x"] | None = None

    @property
    def maps(self) -> dict[str, UInt8[np.ndarray, "z y x"]]:
        """The label maps that there are, by their titles."""
        named = {"truth": self.truth, "prediction": self.prediction}
        return {title: labels for title, labels in named.items() if labels is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the pictures, from left to right."""
        return ("CT", *self.maps, *(("agreement",) if len(self.maps) == 2 else ()))

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The labels that either map shows."""
        found = np.zeros(256, bool)
        for labels in self.maps.values():
            for layer in labels:
                found[layer] = True
        return tuple(int(label) for label in np.flatnonzero(found) if label)

    @cached_property
    def organs(self) -> dict[int, str]:
        """{label: organ} of all that is named or shown; what is shown without a name is label_N."""
        labels = sorted({*self.names, *self.present} - {0})
        return {label: self.names.get(label, f"label_{label}") for label in labels}

    @cached_property
    def field(self) -> tuple[slice, slice, slice]:
        """The part worth showing: all slices; of each, the body and every labelled voxel with a margin."""
        _, y, x = field_of(self.ct, list(self.maps.values()))
        return slice(0, self.ct.shape[0]), y, x

    def cut(self, voxels: Shaped[np.ndarray, "z y x"], plane: Plane, index: int) -> Shaped[np.ndarray, "rows columns"]:
        """Give a slice of one of the arrays as it is looked at: of the part worth showing, upright ones head on top."""
        layer = np.moveaxis(voxels, PLANES.index(plane), 0)[index]
        rows, columns = (part for part, other in zip(self.field, PLANES, strict=True) if other != plane)
        return layer[rows, columns] if plane == "axial" else layer[rows, columns][::-1]


@dataclass(frozen=True)
class View:
    """Which slice is seen, and how.

    Attributes:
        plane: axial, coronal or sagittal.
        index: Of the slice: from the feet, the front or the patient's right.
        window_hu: (black, white), HU.
        opacity: Of the fillings, in [0, 1].
        shown: Labels that are painted and compared; None: all.
        panel_pixels: Longer side of each picture.
    """

    plane: Plane = "axial"
    index: int = 0
    window_hu: tuple[float, float] = SOFT_TISSUE_HU
    opacity: float = 0.35
    shown: Collection[int] | None = None
    panel_pixels: int = 384


def picture(scan: LabelledScan, view: View) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draw a slice: the scan's columns side by side, in true proportions.

    Axial and coronal slices have the patient's right on the left, sagittal ones the front; upright ones the head on top.

    Raises:
        SettingError: Window or opacity out of range, or no such slice.
    """
    slices = scan.ct.shape[PLANES.index(view.plane)]
    if not 0 <= view.index < slices:
        raise SettingError(f"there is no {view.plane} slice {view.index}. Choose one of 0 to {slices - 1}.")
    slice_hu = scan.cut(scan.ct.voxels, view.plane, view.index)
    spacing_mm = [mm for mm, plane in zip(scan.ct.spacing_mm, PLANES, strict=True) if plane != view.plane]
    rows_mm, columns_mm = (pixels * mm for pixels, mm in zip(slice_hu.shape, spacing_mm, strict=True))
    pixel_mm = max(rows_mm, columns_mm) / view.panel_pixels
    size = max(1, round(rows_mm / pixel_mm)), max(1, round(columns_mm / pixel_mm))
    slice_hu = resize_slice(slice_hu, size)
    shown = [label for label in scan.organs if view.shown is None or label in view.shown]
    kept = np.zeros(256, np.uint8)
    kept[shown] = shown
    maps = [kept[resize_labels(scan.cut(labels, view.plane, view.index), size)] for labels in scan.maps.values()]
    colours = {label: colour(scan.organs[label]) for label in shown}
    painted: list[tuple[np.ndarray, Mapping[int, RGB]]] = [(labels, colours) for labels in maps]
    if len(maps) == 2:
        judged = [label for label in shown if scan.annotated is None or scan.organs[label] in scan.annotated]
        codes = agreement(maps[0], maps[1], annotated=judged)
        if scan.known is not None:
            known = resize_labels(scan.cut(scan.known, view.plane, view.index), size)
            codes[~known & (maps[1] > 0)] = UNJUDGED
        painted.append((codes, AGREEMENT_COLOURS))
    panels = [np.repeat(grey(slice_hu, view.window_hu)[..., None], 3, axis=2)]
    panels += [
        overlay(slice_hu, labels, colours=table, window_hu=view.window_hu, opacity=view.opacity)
        for labels, table in painted
    ]
    return _joined(panels, pixel_mm, ("A", "P") if view.plane == "sagittal" else ("R", "L"))


def fullest_slice(scan: LabelledScan, plane: Plane) -> int:
    """Give the slice with most labelled voxels, of the truth if it has any; the middle one where there are no labels."""
    axis = PLANES.index(plane)
    for labels in scan.maps.values():
        counts = np.count_nonzero(labels, axis=tuple(other for other in range(3) if other != axis))
        if counts.any():
            return int(counts.argmax())
    return scan.ct.shape[axis] // 2


def position_mm(scan: LabelledScan, view: View) -> float:
    """Give the coordinate of a slice's centre along the axis of the world (z, y or x in RAS+) that its plane cuts."""
    centre = np.array([*((n - 1) / 2 for n in scan.ct.shape), 1.0])
    axis = PLANES.index(view.plane)
    centre[axis] = view.index
    return float((scan.ct.affine @ centre)[2 - axis])


def _joined(
    panels: Sequence[UInt8[np.ndarray, "rows columns 3"]], pixel_mm: float, sides: tuple[str, str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Put pictures of one size beside each other and mark the patient's sides on each; a scale bar on the first."""
    rows, columns = panels[0].shape[:2]
    height = max(rows, LOWEST)
    sheet = np.full((height, len(panels) * columns + (len(panels) - 1) * GAP, 3), DARK, np.uint8)
    for number, panel in enumerate(panels):
        left = number * (columns + GAP)
        sheet[:rows, left : left + columns] = panel
        _write_(sheet, sides[0], (left + 5, rows // 2 + 5))
        _write_(sheet, sides[1], (left + columns - 16, rows // 2 + 5))
    length_mm = bar_length_mm(columns * pixel_mm)
    start, stop, floor = columns - 9 - round(length_mm / pixel_mm), columns - 9, height - 10
    cv2.rectangle(sheet, (start - 1, floor - 1), (stop + 1, floor + 3), DARK, -1)
    cv2.rectangle(sheet, (start, floor), (stop - 1, floor + 2), PALE, -1)
    text = f"{length_mm // 10} cm" if length_mm >= 10 else f"{length_mm} mm"
    _write_(sheet, text, (stop - 9 * len(text), floor - 6), size=0.42)
    return sheet


def _write_(sheet: UInt8[np.ndarray, "height width 3"], text: str, at: tuple[int, int], *, size: float = 0.5) -> None:
    """Write text with a dark rim, its lower left corner at (column, row)."""
    for tint, thickness in ((DARK, 3), (PALE, 1)):
        cv2.putText(sheet, text, at, FONT, size, tint, thickness, cv2.LINE_AA)
