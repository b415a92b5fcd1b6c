"""Whether voxels are labels at all: whole numbers from 0. The only place where that is decided; names are in label_names.py."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer, Shaped

from viscera.errors import LabelError

LARGEST_LABEL = 65535
"""What uint16 holds; higher values are not labels."""

ROUNDED_WITHIN = 0.001
"""A value so near to a whole number is taken for it. A header that scales float32 leaves labels up to 255 within 5e-5."""

ROUNDED = f"not quite whole numbers, as scaling leaves them: each was rounded to the one within {ROUNDED_WITHIN:g}"
"""Said of labels that were rounded: "the labels of x are ..."."""


def whole_labels(
    voxels: Shaped[np.ndarray, "..."], *, where: str, file: Path | None = None
) -> tuple[Integer[np.ndarray, "..."], bool]:
    """Return labels as whole numbers, and whether any had to be rounded, which the user is to be told (ROUNDED).

    Args:
        voxels: Of any type; many tools save labels as floating-point numbers. Whole types are returned as they are.
        where: What they are, for the message.
        file: The file that holds them, where it is one.

    Raises:
        LabelError: A value is not finite, not in [0, LARGEST_LABEL], or further than ROUNDED_WITHIN from a whole number.

    Example:
        >>> whole_labels(np.array([0, 1.0000001, 2.9999998]), where="x")
        (array([0, 1, 3], dtype=uint8), True)
        >>> whole_labels(np.array([0, 1.5]), where="x")
        Traceback (most recent call last):
        viscera.errors.LabelError: x holds 1.5, but labels are whole numbers. Resample labels with nearest neighbour.
    """
    if voxels.dtype == bool:
        return voxels.view(np.uint8), False
    low, high = (float(voxels.min()), float(voxels.max())) if voxels.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise LabelError(f"{where} holds NaN or infinity, which are not labels", "Write the file anew.", file=file)
    if not (low >= -ROUNDED_WITHIN and high <= LARGEST_LABEL + ROUNDED_WITHIN):
        raise LabelError(
            f"{where} holds values from {low:g} to {high:g}, which are not labels (0 to {LARGEST_LABEL})",
            "Is it a scan?",
            file=file,
        )
    if np.issubdtype(voxels.dtype, np.integer):
        return voxels, False
    whole = np.empty(voxels.shape, np.uint8 if round(high) <= 255 else np.uint16)
    rounded = False
    for index in range(len(voxels)):  # a slice at a time, so that little memory is needed beside the result
        section = voxels[index]
        nearest = np.rint(section)
        whole[index] = nearest
        if not np.array_equal(nearest, section):
            rounded = True
            apart = np.abs(section - nearest)
            if apart.max() > ROUNDED_WITHIN:
                value = np.ravel(section)[apart.argmax()]
                raise LabelError(
                    f"{where} holds {value:g}, but labels are whole numbers",
                    "Resample labels with nearest neighbour.",
                    file=file,
                )
    return whole, rounded
