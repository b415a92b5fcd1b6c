"""Label maps of shapes that are easily lost on the way through DICOM, and the orientations in which they are written."""

import numpy as np

from dicom_series import write_series
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker

NAMES = {1: "liver", 2: "kidney_left", 3: "kidney_right", 7: "aorta", 200: "gills", 255: "liver_tumour", 9: "spleen"}
"""The spleen has no voxel in ``shapes``."""
MAKER = Maker("0.1.0", "starter 2", "0123456789abcdef" * 4)

SHAPE = (7, 33, 21)
"""Neither a multiple of 8 pixels, nor square: rows and columns cannot be exchanged, nor do frames begin with a byte."""

TILT = (0.0, 0.6, 2.4)
ORIENTATIONS = {
    "axial": {},
    "feet first": {"step": (0, 0, -2.5)},
    "prone": {"orientation": (-1, 0, 0, 0, -1, 0)},
    "mirrored": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1)},
    "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    "oblique": {"orientation": (0.96, 0.28, 0, -0.28 * 0.8, 0.96 * 0.8, 0.6)},
    "tilted forward": {"step": TILT},
    "tilted back": {"step": (0.0, -0.6, 2.4)},
}


def shapes(shape=SHAPE):
    """Return labels (uint8) in the first and last slices: a ring, single voxels, corners that touch, a label of 255."""
    labels = np.zeros(shape, np.uint8)
    labels[0, 2:12, 3:13] = 1
    labels[0, 5:8, 6:9] = 0  # a hole
    labels[0, 6, 7] = 255  # and an island in it
    labels[1:3, 4:9, 1:6] = 2
    labels[1, 9:12, 6:9] = 3  # touches only at a corner
    labels[3, 0, 0] = labels[3, -1, -1] = labels[3, 0, -1] = 7
    labels[4] = 0  # no organ here
    labels[5, ::2, ::3] = 200
    labels[-1, -3:, -4:] = 1
    labels[-1, 10, 10] = 255
    return labels


def series_at(folder, orientation="axial", shape=SHAPE, **options):
    """Return a series of noise (so that no slice is like another) in one of the orientations."""
    hu = np.random.default_rng(3).integers(-900, 900, shape).astype(np.int16)
    write_series(folder, hu, **(ORIENTATIONS[orientation] | options))
    [series] = find_series(folder).series
    return series
