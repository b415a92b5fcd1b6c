"""What a recipe's settings do to a label map."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, prod
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from viscera.boxes import extents_of
from viscera.config.inference import Postprocessing
from viscera.errors import GeometryError, LabelError, SettingError
from viscera.inference.postprocessing.components import select_components_
from viscera.inference.postprocessing.edges_by_hu import Seen, move_edges_
from viscera.inference.postprocessing.morphology import close_organs_, fill_holes_, open_organs_
from viscera.inference.postprocessing.tumours import drop_small_lesions_
from viscera.labels import LabelSpace, has_lesions

Value = TypeVar("Value")


def tidy(
    labels: UInt8[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
    *,
    settings: Postprocessing,
    space: LabelSpace,
    seen: Seen | None = None,
) -> UInt8[np.ndarray, "z y x"]:
    """Tidy a label map: open, close, fill holes, drop small components, keep the largest ones, in this order.

    Small lesions are given to what surrounds them before.

    Then edges move by HU, which may cut off or enclose something: holes and components of those organs are looked at again.

    Args:
        labels: A label map in ``space``.
        spacing_mm: Along the map's axes.
        settings: What to do to which organ, by any of its names.
        space: Gives the organs' labels.
        seen: The scan that was labelled; needed only where edges are moved.

    Returns:
        A new label map; the same one where nothing is asked for.

    Raises:
        LabelError: The settings name an organ that the space does not hold.
        SettingError: A setting names an organ twice; edges are to be moved, and no scan is given.
        GeometryError: The spacing is none.
    """
    if not all(isfinite(step) and step > 0 for step in spacing_mm):
        raise GeometryError(f"post-processing: spacing must be three positive values in mm, got {spacing_mm}.")
    moved = _by_label(settings.edge_by_hu_mm, "edge_by_hu_mm", space=space)
    if moved and seen is None:
        raise SettingError("post-processing: edge_by_hu_mm needs the scan, and only labels are given", "Give both.")
    opening = _by_label(settings.opening_mm, "opening_mm", space=space)
    closing = _by_label(settings.closing_mm, "closing_mm", space=space)
    filled = _labels_of(settings.fill_holes, "fill_holes", space=space)
    smallest_ml = _by_label(settings.smallest_ml, "smallest_ml", space=space)
    largest = _by_label(settings.largest_components, "largest_components", space=space)
    voxel_ml = prod(spacing_mm) / 1000
    smallest_voxels = {label: volume / voxel_ml for label, volume in smallest_ml.items()}
    if not (moved or opening or closing or filled or smallest_ml or largest):
        return labels
    tidied = labels.copy()  # the only one: a map of 824 slices has 216 MB
    lesions = {label: smallest_voxels.pop(label) for label in smallest_ml if has_lesions(space.labels[label])}
    drop_small_lesions_(tidied, lesions)
    open_organs_(tidied, opening, spacing_mm=spacing_mm)
    close_organs_(tidied, closing, spacing_mm=spacing_mm)
    _fill_and_select_(tidied, filled, largest, smallest_voxels)
    if moved and seen is not None:
        move_edges_(tidied, moved, spacing_mm=spacing_mm, seen=seen)
        _fill_and_select_(
            tidied,
            [label for label in filled if label in moved],
            {label: count for label, count in largest.items() if label in moved},
            {label: count for label, count in smallest_voxels.items() if label in moved},
        )
    return tidied


def _fill_and_select_(
    labels: UInt8[np.ndarray, "z y x"],
    filled: Sequence[int],
    largest: Mapping[int, int],
    smallest_voxels: Mapping[int, float],
) -> None:
    """Fill holes of some labels, and drop pieces of some."""
    extents = extents_of(labels, [*filled, *largest, *smallest_voxels])
    fill_holes_(labels, extents, filled)
    select_components_(labels, extents, keep=largest, smallest_voxels=smallest_voxels)


def _by_label(setting: Mapping[str, Value], name: str, *, space: LabelSpace) -> dict[int, Value]:
    """Return a setting by label rather than by organ."""
    return dict(zip(_labels_of(setting, name, space=space), setting.values(), strict=True))


def _labels_of(organs: Iterable[str], name: str, *, space: LabelSpace) -> list[int]:
    """Return the labels of some organs.

    Raises:
        LabelError, SettingError: As ``tidy``.
    """
    labels: list[int] = []
    for organ in organs:
        try:
            label = space.index(organ)
        except LabelError as error:
            raise LabelError(f"post-processing, {name}: {error.what}", error.remedy) from error
        if label in labels:
            raise SettingError(f"post-processing, {name}: '{space.labels[label]}' is named twice", "Name it once.")
        labels.append(label)
    return labels
