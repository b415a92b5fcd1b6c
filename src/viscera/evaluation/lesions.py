"""Lesion by lesion: how many tumours of a case were found, and how many that were found are none.

Dice of all tumour voxels hides that: one large tumour outweighs ten small ones, and a patient without any has no Dice at all. A
lesion is a connected piece of tumour voxels (by faces, edges or corners). It is found if the predicted pieces that touch it,
taken together, have an IoU of at least 0.1 with it, as in detection of lesions (nnDetection: Baumgartner et al. 2021,
doi:10.1007/978-3-030-87240-3_51). Pieces are taken together since a lesion may be found in fragments. A predicted piece is
false if less than a tenth of it lies in lesions, so that a piece as large as the liver finds nothing and is false.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Integer

from viscera.boxes import pieces_of

SMALLEST_IOU = 0.1
"""Of a lesion with what is predicted there; and the share of a predicted piece that must lie in lesions."""
LARGE_MM = 15.0
"""Diameter of the ball of a large lesion's volume, at least."""
RATES = {
    "lesion_sensitivity": ("lesions_found", "lesions"),
    "large_lesion_sensitivity": ("large_lesions_found", "large_lesions"),
}
"""{metric: values whose sums over cases it divides}: each lesion counts the same."""
LESION_METRICS = (*RATES, "false_lesions", "lesion_dice")
"""Whose means are told."""


def diameter_mm(voxels: Integer[np.ndarray, " lesion"], voxel_ml: float) -> Float[np.ndarray, " lesion"]:
    """Return the diameters of balls of so many voxels."""
    return 2 * (3 * voxels * voxel_ml * 1000 / (4 * math.pi)) ** (1 / 3)


def lesion_scores(
    truth: Bool[np.ndarray, "z y x"], prediction: Bool[np.ndarray, "z y x"], *, voxel_ml: float
) -> dict[str, float]:
    """Count lesions, those found, and false ones.

    Args:
        truth: Voxels of lesions; a box that holds all of truth and prediction is enough.
        prediction: On the same grid.
        voxel_ml: Volume of a voxel.

    Returns:
        ``lesions``, ``lesions_found``, ``large_lesions`` and ``large_lesions_found`` (from LARGE_MM on), ``false_lesions``, and
        ``lesion_dice``: the mean over found lesions of Dice with the predicted pieces that touch them, NaN without any.
    """
    lesions, pieces = (pieces_of(np.ascontiguousarray(mask), connectivity=26)[0] for mask in (truth, prediction))
    sizes, piece_sizes = np.bincount(lesions.ravel()), np.bincount(pieces.ravel())
    both = (lesions > 0) & (pieces > 0)
    pairs, counts = np.unique(np.stack([lesions[both], pieces[both]]), axis=1, return_counts=True)
    shared, touching, within = np.zeros(sizes.size), np.zeros(sizes.size), np.zeros(piece_sizes.size)
    np.add.at(shared, pairs[0], counts)
    np.add.at(touching, pairs[0], piece_sizes[pairs[1]])
    np.add.at(within, pairs[1], counts)
    size, common, there = sizes[1:], shared[1:], touching[1:]
    found = common >= SMALLEST_IOU * (size + there - common)
    large = diameter_mm(size, voxel_ml) >= LARGE_MM
    dice = 2 * common[found] / (size + there)[found]
    return {
        "lesions": float(size.size),
        "lesions_found": float(found.sum()),
        "large_lesions": float(large.sum()),
        "large_lesions_found": float((found & large).sum()),
        "false_lesions": float((within[1:] < SMALLEST_IOU * piece_sizes[1:]).sum()),
        "lesion_dice": float(dice.mean()) if dice.size else math.nan,
    }
