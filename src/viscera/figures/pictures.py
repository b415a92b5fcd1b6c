"""Pictures of single slices as RGB arrays: windowed CT, label overlays, agreement of two label maps.

Only arrays are computed here, nothing is drawn: what is tested is what is seen.
montage.py puts the pictures side by side.
"""

from collections.abc import Collection, Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from viscera.errors import SettingError

RGB = tuple[int, int, int]

SOFT_TISSUE_HU = (-160.0, 240.0)
"""The abdominal window of radiology: level 40, width 400 HU."""

WINDOWS_HU: tuple[tuple[str, int, int], ...] = (
    ("Soft tissue", -160, 240),
    ("Lung", -1350, 150),
    ("Bone", -450, 1050),
    ("Liver", -20, 180),
)
"""Window presets: name, black, white. In the viewer, the keys 1 to 4 choose them."""

AGREE, FALSE, MISSED, OTHER, UNJUDGED = 1, 2, 3, 4, 5
"""Codes of ``agreement``."""

AGREEMENT_COLOURS: dict[int, RGB] = {
    AGREE: (255, 214, 10),
    FALSE: (48, 209, 88),
    MISSED: (255, 59, 48),
    OTHER: (191, 90, 242),
    UNJUDGED: (150, 156, 168),
}

AGREEMENT_NAMES: dict[int, str] = {
    AGREE: "agreement",
    FALSE: "false (predicted only)",
    MISSED: "missed (truth only)",
    OTHER: "another organ",
    UNJUDGED: "organ not annotated",
}


def grey(
    slice_hu: Shaped[np.ndarray, "y x"], window_hu: tuple[float, float] = SOFT_TISSUE_HU
) -> UInt8[np.ndarray, "y x"]:
    """Scale a HU window to grey levels 0..255. NaN becomes black.

    Args:
        slice_hu: One slice, HU.
        window_hu: (black, white), HU.

    Raises:
        SettingError: The window is empty.

    Example:
        >>> grey(np.array([[-1000, 40, 240]]), (-160.0, 240.0)).tolist()
        [[0, 128, 255]]
    """
    require_window(window_hu)
    low, high = window_hu
    scaled = (np.nan_to_num(slice_hu.astype(np.float32), nan=low) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def require_window(window_hu: tuple[float, float]) -> None:
    """Raise SettingError if a window (black, white) is empty."""
    low, high = window_hu
    if not low < high:
        raise SettingError(
            f"window_hu {low:g}..{high:g} HU is empty", "The first value is black, the second, higher one, white."
        )


def outlines(labels: Shaped[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """Tell which labelled pixels touch, by an edge, a pixel of another label; the picture's border does not count."""
    edge = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge & (labels != 0)


def overlay(
    slice_hu: Shaped[np.ndarray, "y x"],
    labels: Shaped[np.ndarray, "rows columns"],
    *,
    colours: Mapping[int, RGB],
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    opacity: float = 0.35,
) -> UInt8[np.ndarray, "y x 3"]:
    """Paint labels on a slice: filled with some opacity, outlined one pixel wide in the full colour.

    Args:
        slice_hu: One slice, HU.
        labels: Its labels, 0 = nothing.
        colours: {label: colour}. A label without a colour is not painted.
        window_hu: (black, white), HU.
        opacity: Of the filling, in [0, 1].

    Raises:
        SettingError: Window or opacity out of range, or slice and labels of different size.
    """
    if slice_hu.shape != labels.shape:
        raise SettingError(
            f"a slice of {slice_hu.shape} pixels and labels of {labels.shape} cannot be laid over each other."
        )
    if not 0 <= opacity <= 1:
        raise SettingError(f"opacity {opacity:g} is outside [0, 1].")
    # One look-up per pixel, by (what is painted, grey level), is five times as quick as painting label after label.
    levels = np.arange(256)[:, None]
    tables = [np.repeat(levels, 3, axis=1)]
    painted = [label for label in colours if label != 0]
    for label in painted:
        filling = np.rint((1 - opacity) * levels + opacity * np.array(colours[label]))
        tables += [filling, np.tile(colours[label], (256, 1))]
    table_of = np.zeros(max([int(labels.max(initial=0)), *painted]) + 1, np.uint16)
    table_of[painted] = np.arange(1, len(tables), 2)
    tables_used = table_of[labels]
    tables_used += outlines(labels) & (tables_used > 0)
    return np.stack(tables).astype(np.uint8)[tables_used, grey(slice_hu, window_hu)]


def agreement(
    truth: Shaped[np.ndarray, "y x"], prediction: Shaped[np.ndarray, "y x"], *, annotated: Collection[int] | None = None
) -> UInt8[np.ndarray, "y x"]:
    """Compare two label maps pixel by pixel.

    Args:
        truth: Labels of the truth, 0 = none of the annotated organs.
        prediction: Predicted labels, same values.
        annotated: Labels that the truth annotates; None for all. Where the truth holds nothing, a predicted organ that
            is not annotated is neither right nor wrong.

    Returns:
        0 where both hold nothing, else AGREE, FALSE (predicted only), MISSED (truth only), OTHER (two different organs)
        or UNJUDGED (not annotated).
    """
    codes = np.zeros(truth.shape, np.uint8)
    codes[(truth == 0) & (prediction != 0)] = FALSE
    codes[(truth != 0) & (prediction == 0)] = MISSED
    codes[(truth != 0) & (prediction != 0)] = OTHER
    codes[(truth != 0) & (prediction == truth)] = AGREE
    if annotated is not None:
        codes[(truth == 0) & (prediction != 0) & ~np.isin(prediction, list(annotated))] = UNJUDGED
    return codes


def resize_slice(slice_hu: Shaped[np.ndarray, "y x"], size: tuple[int, int]) -> Shaped[np.ndarray, "rows columns"]:
    """Resample a CT slice to (rows, columns) for display: cubic when it grows, area means when it shrinks."""
    rows, columns = size
    grows = rows * columns >= slice_hu.size
    finite = np.nan_to_num(np.ascontiguousarray(slice_hu, np.float32), nan=-1024.0)
    return cv2.resize(finite, (columns, rows), interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)


def resize_labels(labels: Shaped[np.ndarray, "y x"], size: tuple[int, int]) -> Shaped[np.ndarray, "rows columns"]:
    """Resample a label slice to (rows, columns): each pixel takes the label of the voxel that it lies in."""
    nearest = [((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, labels.shape, strict=True)]
    return labels[np.ix_(*nearest)]
