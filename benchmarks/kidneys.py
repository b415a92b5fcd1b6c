"""Kidneys of the two unlabelled HCC-TACE scans, by their HU alone: a truth that no network had a part in.

The patients got contrast, so that their kidneys are brighter than the fat around them. In a box drawn by hand around each kidney
(interpolated between its key slices; it cuts off what touches the kidney): a bright core, without what is thinner than
4 mm; its neighbours up to halfway between kidney and fat; gaps of less than 9 mm, where they are no fat and no urine; the largest
piece, and of it in each slice what is no crumb. Looked at slice by slice by an engineer, not by a radiologist: vessels at the
hilum are cut off straight.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from scipy import ndimage


@dataclass(frozen=True)
class Kidney:
    """How one kidney is found.

    Attributes:
        core_hu: Above it is kidney, and nothing else in the box but vessels.
        edge_hu: Halfway between kidney and fat.
        keys: {slice, from the feet: first and last row, first and last column}, from the patient's front and right.
    """

    core_hu: float
    edge_hu: float
    keys: dict[int, tuple[int, int, int, int]]


SCANS = {
    "HCC_048_portal_venous": {
        "kidney_right": Kidney(
            150.0,
            50.0,
            {
                5: (235, 400, 100, 212),
                26: (235, 400, 100, 207),
                30: (248, 400, 100, 207),
                34: (252, 400, 100, 205),
                38: (267, 400, 100, 212),
                42: (279, 400, 100, 214),
                47: (285, 400, 100, 214),
            },
        ),
        "kidney_left": Kidney(
            150.0,
            50.0,
            {
                8: (235, 400, 310, 400),
                26: (238, 400, 310, 400),
                30: (245, 400, 315, 400),
                34: (254, 400, 325, 392),
                38: (264, 400, 300, 389),
                42: (256, 400, 300, 384),
                44: (260, 400, 300, 381),
                56: (260, 400, 300, 381),
            },
        ),
    },
    "HCC_006_LIVER_3PHASE": {
        "kidney_right": Kidney(
            95.0,
            40.0,
            {
                15: (255, 400, 70, 190),
                26: (255, 400, 70, 190),
                32: (250, 400, 70, 180),
                40: (249, 400, 70, 176),
                44: (252, 400, 70, 192),
                48: (255, 400, 70, 197),
                54: (262, 400, 70, 197),
                60: (276, 400, 70, 190),
                63: (276, 400, 70, 190),
            },
        ),
        "kidney_left": Kidney(
            95.0,
            40.0,
            {
                7: (286, 420, 300, 405),
                16: (281, 420, 300, 405),
                20: (281, 420, 300, 405),
                26: (286, 420, 300, 405),
                32: (278, 420, 305, 405),
                36: (283, 420, 298, 405),
                40: (290, 420, 290, 405),
                52: (302, 420, 290, 405),
            },
        ),
    },
}


def kidneys(scan: Path, plan: dict[str, Kidney]) -> SimpleITK.Image:
    """Give the label map of a scan, on its grid: 1, 2 ... in the order of the plan."""
    image = SimpleITK.ReadImage(scan)
    axial = SimpleITK.DICOMOrient(image, "LPS")
    hu = SimpleITK.GetArrayFromImage(axial)
    found = np.zeros(hu.shape, np.uint8)
    for value, kidney in enumerate(plan.values(), start=1):
        found[one_kidney(hu, kidney)] = value
    labels = SimpleITK.GetImageFromArray(found)
    labels.CopyInformation(axial)
    return SimpleITK.Resample(labels, image, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)


def one_kidney(hu: np.ndarray, kidney: Kidney) -> np.ndarray:
    """Find one kidney; arrays (z, y, x), axial order."""
    slices = range(min(kidney.keys), max(kidney.keys) + 1)
    boxes = np.array(
        [[np.interp(z, [*kidney.keys], side) for z in slices] for side in zip(*kidney.keys.values(), strict=True)]
    )
    inside = np.zeros(hu.shape, bool)
    for z, (top, bottom, left, right) in zip(slices, boxes.round().astype(int).T, strict=True):
        inside[z, top:bottom, left:right] = True
    smooth = ndimage.median_filter(hu, (1, 3, 3))
    core = ndimage.binary_opening((smooth > kidney.core_hu) & inside, disk(3))
    core = np.stack([large(plane) for plane in large(core, share=1.0)])
    whole = core | (ndimage.binary_dilation(core, disk(2)) & (smooth > kidney.edge_hu) & inside)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(whole, disk(6)), structure=disk(1))
    return whole | (filled & (smooth > kidney.edge_hu) & inside)


def disk(radius: int) -> np.ndarray:
    """Give a disk in the slice's plane."""
    squares = np.arange(-radius, radius + 1) ** 2
    return (np.add.outer(squares, squares) <= radius**2)[None]


def large(mask: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Give the pieces of at least a share of the largest one's size."""
    pieces = np.asarray(ndimage.label(mask)[0])  # type: ignore[index]
    sizes = np.bincount(pieces.ravel())[1:]
    return np.isin(pieces, 1 + np.flatnonzero(sizes >= share * sizes.max())) if sizes.size else mask
